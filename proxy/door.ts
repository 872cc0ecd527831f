import net from 'node:net';
import { LpkError, systemCode } from '../agent/wire/errors.ts';
import { carry, type Request } from './carry.ts';
import { type Credentials, checkCredentials } from './credentials.ts';
import type { Dial } from './flow.ts';
import { clearDeadline, peek, setDeadline } from './handshake.ts';
import { createHttpDoor } from './http.ts';
import { isLoopback } from './loopback.ts';
import type { Pages } from './pages.ts';
import { readSocks4 } from './socks4.ts';
import { type Associate, readSocks5 } from './socks5.ts';
import { UDP_LIMITS, type UdpLimits, UdpRelay } from './socks5-udp.ts';

export type Door = { port: number; close(): Promise<void> };

export type DoorOptions = Partial<UdpLimits> & {
  /** 0: any free one. */
  port: number;
  dial: Dial;
  /** An address to listen on; one that is not loopback wants credentials. */
  host?: string;
  /** What every client must say: SOCKS5 by RFC 1929, HTTP by Proxy-Authorization; SOCKS4 has no word for it and is refused. */
  credentials?: Credentials;
  /** Pages of the door's own, asked for in origin form by programs of this machine. */
  pages?: Pages;
  /** What a client has, from its connection on, to say where it wants to go. */
  handshakeMs?: number;
  /** What an HTTP client's connection may be kept without a request. */
  idleMs?: number;
  /** Silence, both ways, after which a TCP flow is ended with a reset; 0: never. */
  flowIdleMs?: number;
  /** Clients at once; those beyond are closed as they come. */
  maxConnections?: number;
};

/**
 * Opens the laptop's way into the cluster: SOCKS5, SOCKS4, SOCKS4a and HTTP proxy on one port, of loopback unless told otherwise;
 * a client's first byte says which. Rejects with `usage` for an address that others reach without credentials, `port-taken`, or
 * `not-allowed` for a port or address this user may not open.
 */
export async function openDoor(options: DoorOptions): Promise<Door> {
  const { port, host = '127.0.0.1', credentials, maxConnections = 4096 } = options;
  if (credentials) checkCredentials(credentials);
  else if (!isLoopback(host)) {
    throw new LpkError(
      'usage',
      `${host} is not loopback: whoever reaches it is in the cluster, so it wants a password`,
    );
  }
  const { accept, end } = createEntry(options);
  const server = net.createServer({ allowHalfOpen: true, noDelay: true }, accept);
  server.maxConnections = maxConnections;
  await listen(server, port, host);

  return {
    port: (server.address() as net.AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        end();
      }),
  };
}

/** What is behind the door: takes clients' sockets, wherever they come from, and ends them all at the end. */
export function createEntry(options: Omit<DoorOptions, 'port' | 'host' | 'maxConnections'>) {
  const { dial, credentials, pages, handshakeMs = 10_000, idleMs = 120_000, flowIdleMs = 0 } = options;
  const clients = new Set<net.Socket>();
  const http = createHttpDoor({ dial, idleMs, flowIdleMs, credentials, pages });
  const udp = new UdpRelay(dial, { ...UDP_LIMITS, ...options });

  const serve = async (socket: net.Socket) => {
    const first = await peek(socket);
    if (isLetter(first)) {
      http.accept(socket);
      return;
    }
    let request: Request | Associate | undefined;
    if (first === 5) request = await readSocks5(socket, credentials);
    else if (first === 4) request = await readSocks4(socket, { refuse: credentials !== undefined });
    else socket.destroy();
    if (!request) return;
    if ('from' in request) {
      await udp.associate(socket, request);
      return;
    }
    clearDeadline(socket);
    await carry(socket, dial, request, { flowIdleMs });
  };

  return {
    accept: (socket: net.Socket): void => {
      clients.add(socket);
      socket.on('close', () => clients.delete(socket));
      socket.on('error', () => {}); // 'close' follows, and who carries its bytes listens too
      setDeadline(socket, handshakeMs);
      serve(socket).catch(() => socket.destroy());
    },
    end: (): void => {
      for (const socket of clients) socket.destroy();
    },
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
