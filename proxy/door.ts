import net from 'node:net';
import { LpkError, systemCode } from '../agent/wire/errors.ts';
import { carry } from './carry.ts';
import type { Dial } from './flow.ts';
import { clearDeadline, peek, setDeadline } from './handshake.ts';
import { createHttpDoor } from './http.ts';
import { readSocks4 } from './socks4.ts';
import { readSocks5 } from './socks5.ts';

export type Door = { port: number; close(): Promise<void> };

export type DoorOptions = {
  /** 0: any free one. */
  port: number;
  dial: Dial;
  host?: '127.0.0.1' | '::1';
  /** What a client has, from its connection on, to say where it wants to go. */
  handshakeMs?: number;
  /** What an HTTP client's connection may be kept without a request. */
  idleMs?: number;
  /** Clients at once; those beyond are closed as they come. */
  maxConnections?: number;
};

/**
 * Opens the laptop's way into the cluster: SOCKS5, SOCKS4, SOCKS4a and HTTP proxy on one loopback port; a client's first byte
 * says which. Rejects with `port-taken`, or `not-allowed` for a port this user may not open.
 */
export async function openDoor(options: DoorOptions): Promise<Door> {
  const { port, dial, host = '127.0.0.1', handshakeMs = 10_000, idleMs = 120_000, maxConnections = 4096 } = options;
  const clients = new Set<net.Socket>();
  const http = createHttpDoor({ dial, idleMs });

  const serve = async (socket: net.Socket) => {
    const first = await peek(socket);
    if (isLetter(first)) {
      http.accept(socket);
      return;
    }
    const read = first === 5 ? readSocks5 : first === 4 ? readSocks4 : undefined;
    if (!read) {
      socket.destroy();
      return;
    }
    const request = await read(socket);
    if (!request) return;
    clearDeadline(socket);
    await carry(socket, dial, request);
  };

  const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    clients.add(socket);
    socket.on('close', () => clients.delete(socket));
    socket.on('error', () => {}); // 'close' follows, and who carries its bytes listens too
    setDeadline(socket, handshakeMs);
    serve(socket).catch(() => socket.destroy());
  });
  server.maxConnections = maxConnections;
  await listen(server, port, host);

  return {
    port: (server.address() as net.AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of clients) socket.destroy();
      }),
  };
}

/** Every HTTP method starts with one; SOCKS versions don't. */
function isLetter(byte: number): boolean {
  return (byte >= 0x41 && byte <= 0x5a) || (byte >= 0x61 && byte <= 0x7a);
}

function listen(server: net.Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    // Stays for later: without it a failed accept (no more file descriptors) would end the process.
    server.on('error', (cause) => {
      const taken = systemCode(cause) === 'EADDRINUSE';
      const [code, why] = taken
        ? (['port-taken', 'is taken by another program'] as const)
        : (['not-allowed', `can't be opened (${systemCode(cause)})`] as const);
      reject(new LpkError(code, `port ${port} on ${host} ${why}`, { cause }));
    });
    server.listen(port, host, resolve);
  });
}
