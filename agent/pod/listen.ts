import net from 'node:net';
import { LpkError } from '../wire/errors.ts';
import { flowError, pump } from '../wire/pump.ts';
import type { Session } from '../wire/session.ts';

/**
 * The ports of the pod that the agent serves for one session: what connects to them becomes an `accept` stream. Listening
 * only while the laptop has a listener makes "nothing there" a true connection refusal.
 */
export class Listeners {
  #session: Session;
  #servers = new Map<number, net.Server>();

  constructor(session: Session) {
    this.#session = session;
    session.once('end', () => this.closeAll());
  }

  /** Rejects with LpkError `address-in-use` or `not-allowed`. */
  async open(port: number): Promise<void> {
    if (this.#servers.has(port)) return;
    const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#accept(port, socket));
    this.#servers.set(port, server);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen({ port, backlog: 1024 }, resolve);
      });
    } catch (error) {
      this.#servers.delete(port);
      const { code } = flowError(error);
      throw new LpkError(code, `the agent can't listen on the pod's port ${port}`, { cause: error });
    }
  }

  /** Stops taking new connections; those under way go on. */
  close(port: number): void {
    this.#servers.get(port)?.close();
    this.#servers.delete(port);
  }

  closeAll(): void {
    for (const port of [...this.#servers.keys()]) this.close(port);
  }

  #accept(port: number, socket: net.Socket): void {
    socket.on('error', () => {});
    try {
      const stream = this.#session.openAccept(port, socket.remoteAddress ?? '', socket.remotePort ?? 0);
      pump(socket, stream);
    } catch {
      socket.resetAndDestroy();
    }
  }
}
