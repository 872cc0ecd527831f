import net from 'node:net';
import { LpkError } from '../wire/errors.ts';
import { flowError, pump } from '../wire/pump.ts';
import { resetSocket } from '../wire/reset-socket.ts';
import type { Session } from '../wire/session.ts';
import { ExpectedCalls } from './self-test.ts';

/**
 * The ports of the pod that the agent serves for one session: what connects to them becomes an `accept` stream. Listening
 * only while the laptop has a listener makes "nothing there" a true connection refusal.
 */
export class Listeners {
  /** Calls of the self-test, which are not for the laptop. */
  readonly expected = new ExpectedCalls();
  #session: Session;
  #servers = new Map<number, { server: net.Server; listening: Promise<void> }>();

  constructor(session: Session) {
    this.#session = session;
    session.once('end', () => this.closeAll());
  }

  /** Whether a caller finds any of them. */
  get isAnyOpen(): boolean {
    return [...this.#servers.values()].some(({ server }) => server.listening);
  }

  /** Rejects with LpkError `address-in-use` or `not-allowed`. */
  async open(port: number): Promise<void> {
    const known = this.#servers.get(port);
    if (known) return known.listening;
    const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
      socket.on('error', () => {});
      this.expected.sort(port, socket, () => this.#accept(port, socket));
    });
    const listening = new Promise<void>((resolve, reject) => {
      server.on('error', reject);
      server.once('close', () => reject(new LpkError('cancelled', `port ${port} is no longer wanted`)));
      server.listen({ port, backlog: 1024 }, resolve);
    }).catch((error) => {
      if (this.#servers.get(port)?.server === server) this.#servers.delete(port);
      const { code } = flowError(error);
      throw new LpkError(code, `the agent can't listen on the pod's port ${port}`, { cause: error });
    });
    this.#servers.set(port, { server, listening });
    return listening;
  }

  /** Stops taking new connections; those under way go on. */
  close(port: number): void {
    this.expected.forget(port);
    this.#servers.get(port)?.server.close();
    this.#servers.delete(port);
  }

  closeAll(): void {
    for (const port of [...this.#servers.keys()]) this.close(port);
  }

  #accept(port: number, socket: net.Socket): void {
    try {
      const stream = this.#session.openAccept(port, socket.remoteAddress ?? '', socket.remotePort ?? 0);
      pump(socket, stream);
    } catch {
      resetSocket(socket);
    }
  }
}
