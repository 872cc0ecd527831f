import http from 'node:http';
import type net from 'node:net';
import type { Duplex } from 'node:stream';
import { acceptWebSocket } from '../wire/carrier.ts';
import { LpkError } from '../wire/errors.ts';
import { proveAsAgent, type Resume } from '../wire/handshake.ts';
import { KEY_BYTES, TIMES, type Times } from '../wire/protocol.ts';
import { Session } from '../wire/session.ts';
import { Unproven } from './unproven.ts';

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
  times?: Times;
};

export type TunnelServer = {
  port: number;
  /** The session in progress, if any. */
  session(): Session | undefined;
  unproven(): number;
  close(): Promise<void>;
};

/**
 * Takes a laptop's websockets, lets it prove the key, and gives it its session back. Rejects with Node's listen error, or
 * LpkError `internal` for a key of another length.
 */
export async function startServer(options: ServerOptions): Promise<TunnelServer> {
  const { times = TIMES } = options;
  if (options.key.length !== KEY_BYTES) throw new LpkError('internal', `the key has ${options.key.length} bytes`);
  const unproven = new Unproven(MAX_UNPROVEN);
  let websockets = 0;
  let newestProven = 0;
  let current: { id: Buffer; session: Session; holdTimer: NodeJS.Timeout | undefined } | undefined;

  const http1 = http.createServer(
    { headersTimeout: times.handshakeMs, requestTimeout: times.handshakeMs },
    (_request, response) => {
      response.writeHead(404).end();
    },
  );
  http1.maxHeadersCount = 100;
  http1.on('connection', (socket: net.Socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => {});
    unproven.add(socket, times.handshakeMs);
  });
  http1.on('upgrade', (request, socket: Duplex, head) => {
    const carrier = acceptWebSocket(request, socket, head);
    const turn = ++websockets;
    let resumeFrom = 0;
    const proven = (resume: Resume) => {
      // A laptop opens several websockets when the network hangs. One that it gave up may deliver its proof late, and must
      // not take the session from the one it took.
      if (turn < newestProven) return undefined;
      newestProven = turn;
      unproven.release(socket as net.Socket);
      const session = resume.resuming ? known(resume) : undefined;
      if (session) resumeFrom = resume.received;
      else begin(resume.sessionId);
      return { peerReceived: session?.link.received ?? 0, resumed: session !== undefined, holdMs: options.holdMs };
    };
    carrier?.once('open', () =>
      proveAsAgent(carrier, options.key, proven, () => current?.session.attach(carrier, resumeFrom), times.handshakeMs),
    );
  });

  function known({ sessionId, received }: Resume): Session | undefined {
    return current?.id.equals(sessionId) && current.session.link.canResume(received) ? current.session : undefined;
  }

  function begin(id: Buffer): void {
    current?.session.close('session-ended', 'a newer session took over');
    const session = new Session('agent', times);
    const entry = { id, session, holdTimer: undefined as NodeJS.Timeout | undefined };
    current = entry;
    session.on('down', () => {
      entry.holdTimer = setTimeout(
        () => session.close('link-lost', 'the laptop did not come back in time'),
        options.holdMs,
      );
    });
    session.on('up', () => clearTimeout(entry.holdTimer));
    session.on('end', () => {
      clearTimeout(entry.holdTimer);
      if (current === entry) current = undefined;
    });
    options.onSession(session);
  }

  await new Promise<void>((resolve, reject) => {
    http1.on('error', reject); // later ones (no descriptors left) are survived
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
        unproven.destroyAll();
      });
    },
  };
}
