import http from 'node:http';
import type net from 'node:net';
import type { Duplex } from 'node:stream';
import { acceptWebSocket, type Carrier } from '../wire/carrier.ts';
import { proveAsAgent, type Resume } from '../wire/handshake.ts';
import { CLOSE, TIMES } from '../wire/protocol.ts';
import { Session } from '../wire/session.ts';

/** Connections that have proven nothing yet. The oldest makes room, so a flood can't keep the laptop out. */
const MAX_UNPROVEN = 256;

export type ServerOptions = {
  /** Undefined: every address of the pod. */
  host?: string;
  port: number;
  key: Buffer;
  /** How long a session is kept without a websocket, ms. */
  holdMs: number;
  /** A laptop started a new session; the earlier one has ended. */
  onSession: (session: Session) => void;
};

export type TunnelServer = {
  port: number;
  /** The session in progress, if any. */
  session(): Session | undefined;
  unproven(): number;
  close(): Promise<void>;
};

/** Takes a laptop's websockets, lets it prove the key, and gives it its session back. Rejects with Node's listen error. */
export async function startServer(options: ServerOptions): Promise<TunnelServer> {
  const unproven = new Set<Duplex>();
  let current: { id: Buffer; session: Session; holdTimer: NodeJS.Timeout | undefined } | undefined;

  const http1 = http.createServer({ headersTimeout: TIMES.handshakeMs, requestTimeout: TIMES.handshakeMs }, (_request, response) => {
    response.writeHead(404).end();
  });
  http1.maxHeadersCount = 100;
  http1.on('connection', (socket: net.Socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => {});
    unproven.add(socket);
    const timer = setTimeout(() => unproven.has(socket) && socket.destroy(), TIMES.handshakeMs);
    socket.once('close', () => {
      clearTimeout(timer);
      unproven.delete(socket);
    });
    if (unproven.size > MAX_UNPROVEN) {
      const [oldest] = unproven;
      unproven.delete(oldest as Duplex);
      oldest?.destroy();
    }
  });
  http1.on('upgrade', (request, socket: Duplex, head) => {
    const carrier = acceptWebSocket(request, socket, head);
    carrier?.once('open', () => {
      proveAsAgent(
        carrier,
        options.key,
        (resume) => {
          unproven.delete(socket);
          return welcome(resume);
        },
        (resume) => attach(carrier, resume),
      );
    });
  });

  function welcome({ sessionId, resuming }: Resume) {
    const resumed = resuming && current !== undefined && current.id.equals(sessionId) && !current.session.ended;
    if (!resumed) begin(sessionId);
    return { peerReceived: resumed ? (current?.session.link.received ?? 0) : 0, resumed, holdMs: options.holdMs };
  }

  function begin(id: Buffer): void {
    current?.session.close('session-ended', 'a newer session took over');
    const session = new Session('agent');
    const entry = { id, session, holdTimer: undefined as NodeJS.Timeout | undefined };
    current = entry;
    session.on('down', () => {
      entry.holdTimer = setTimeout(() => session.close('link-lost', 'the laptop did not come back in time'), options.holdMs);
    });
    session.on('up', () => clearTimeout(entry.holdTimer));
    session.on('end', () => {
      clearTimeout(entry.holdTimer);
      if (current === entry) current = undefined;
    });
    options.onSession(session);
  }

  function attach(carrier: Carrier, resume: Resume): void {
    try {
      current?.session.attach(carrier, resume.resuming ? resume.received : 0);
    } catch {
      carrier.close(CLOSE.protocol);
    }
  }

  await new Promise<void>((resolve, reject) => {
    http1.once('error', reject);
    http1.listen({ port: options.port, host: options.host }, resolve);
  });
  return {
    port: (http1.address() as net.AddressInfo).port,
    session: () => current?.session,
    unproven: () => unproven.size,
    close: async () => {
      current?.session.close('session-ended', 'the agent is stopping');
      await new Promise<void>((resolve) => {
        http1.close(() => resolve());
        http1.closeAllConnections();
        for (const socket of unproven) socket.destroy();
      });
    },
  };
}
