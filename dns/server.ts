import dgram from 'node:dgram';
import net from 'node:net';
import { type DnsStats, Responder, type ResponderOptions } from './responder.ts';

export type DnsServerOptions = ResponderOptions & {
  /** Default 127.0.0.1. */
  host?: string;
  /** 0: any that is free for both UDP and TCP. */
  port: number;
  /** What a TCP client may be idle. */
  idleMs?: number;
  /** TCP clients at once; those beyond are closed as they come. */
  maxConnections?: number;
};

export type DnsServer = {
  port: number;
  stats(): DnsStats;
  /** The same answers without a socket: see `Responder.respond`, as over TCP. */
  respond(message: Buffer, reply: Parameters<Responder['respond']>[2]): void;
  close(): Promise<void>;
};

const IDLE_MS = 30_000;
const MAX_CONNECTIONS = 256;
/** Of one connection, waiting for answers; it is not read from meanwhile. */
const MAX_PENDING = 64;
/** Answers that a TCP client has not taken yet; it is not read from meanwhile. */
const MAX_UNTAKEN_BYTES = 256 * 1024;
/** Of a question over TCP: far more than any has. */
const MAX_QUESTION_BYTES = 4_096;
/** For bursts: the kernel drops what does not fit. */
const RECEIVE_BYTES = 1024 * 1024;
const PORT_ATTEMPTS = 20;

/**
 * Opens a DNS server, UDP and TCP on one port. Rejects with the system's error, `code` `EADDRINUSE` when either is taken.
 *
 * Names take the road that policy.ts finds for them; responder.ts says what is answered.
 */
export async function openDnsServer(options: DnsServerOptions): Promise<DnsServer> {
  const { host = '127.0.0.1', port, idleMs = IDLE_MS, maxConnections = MAX_CONNECTIONS } = options;
  const responder = new Responder(options);
  const { udp, tcp } = await bindBoth(host, port);

  let closed = false;
  udp.on('message', (message, from) => {
    // Nothing can be sent to port 0, which a forged datagram may come from.
    if (from.port === 0) return;
    responder.respond(message, 'udp', (answer) => {
      if (answer && !closed) udp.send(answer, from.port, from.address);
    });
  });

  const connections = new Set<net.Socket>();
  tcp.maxConnections = maxConnections;
  tcp.on('connection', (socket) => {
    connections.add(socket);
    socket.on('close', () => connections.delete(socket));
    serveConnection(socket, responder, idleMs);
  });

  return {
    port: (tcp.address() as net.AddressInfo).port,
    stats: () => ({ ...responder.stats }),
    respond: (message, reply) => responder.respond(message, 'tcp', reply),
    close: async () => {
      if (closed) return;
      closed = true;
      for (const socket of connections) socket.destroy();
      await Promise.all([
        new Promise<void>((resolve) => udp.close(() => resolve())),
        new Promise<void>((resolve) => tcp.close(() => resolve())),
      ]);
    },
  };
}

async function bindBoth(host: string, port: number): Promise<{ udp: dgram.Socket; tcp: net.Server }> {
  for (let attempt = 1; ; attempt++) {
    const tcp = await listen(host, port);
    try {
      return { tcp, udp: await bind(host, (tcp.address() as net.AddressInfo).port) };
    } catch (error) {
      tcp.close();
      const another = port === 0 && (error as NodeJS.ErrnoException).code === 'EADDRINUSE';
      if (!another || attempt === PORT_ATTEMPTS) throw error;
    }
  }
}

function listen(host: string, port: number): Promise<net.Server> {
  return new Promise((resolve, reject) => {
    const server = net.createServer({ allowHalfOpen: true, noDelay: true });
    // Stays for later: without it a failed accept (no more file descriptors) would end the process.
    server.on('error', reject);
    server.listen(port, host, () => resolve(server));
  });
}

function bind(host: string, port: number): Promise<dgram.Socket> {
  return new Promise((resolve, reject) => {
    const socket = dgram.createSocket({
      type: net.isIPv6(host) ? 'udp6' : 'udp4',
      recvBufferSize: RECEIVE_BYTES,
      // Only addresses are sent to, and looking them up costs a turn of the loop.
      lookup: (address, _options, found) => found(null, address, net.isIPv6(address) ? 6 : 4),
    });
    // Stays for later, as above: an ICMP error of a client that is gone is no reason to end.
    socket.on('error', reject);
    socket.bind({ address: host, port }, () => resolve(socket));
  });
}

/** RFC 7766: questions one after the other without waiting (6.2.1.1), answers as they come (7), lengths before both (8). */
function serveConnection(socket: net.Socket, responder: Responder, idleMs: number): void {
  let received: Buffer = Buffer.alloc(0);
  let pending = 0;
  let ended = false;
  // Bytes alone don't count, or a byte now and then would keep a connection for good.
  const idle = setTimeout(() => socket.destroy(), idleMs);
  socket.on('close', () => clearTimeout(idle));
  socket.on('error', () => {}); // 'close' follows

  const isFull = () => pending >= MAX_PENDING || socket.writableLength > MAX_UNTAKEN_BYTES;

  const advance = () => {
    while (!isFull() && received.length >= 2) {
      const end = 2 + received.readUInt16BE(0);
      if (end > 2 + MAX_QUESTION_BYTES) {
        socket.destroy();
        return;
      }
      if (received.length < end) break;
      const message = received.subarray(2, end);
      received = received.subarray(end);
      idle.refresh();
      pending += 1;
      responder.respond(message, 'tcp', (answer) => {
        pending -= 1;
        if (socket.destroyed) return;
        // Who sends what is no question has lost its place in the stream.
        if (!answer) socket.destroy();
        else send(answer);
      });
    }
    if (socket.destroyed) return;
    if (isFull()) socket.pause();
    else if (socket.isPaused()) socket.resume();
    if (ended && pending === 0) socket.end();
  };

  const send = (answer: Buffer) => {
    socket.write(Buffer.concat([Buffer.of(answer.length >> 8, answer.length & 0xff), answer]));
    idle.refresh();
    // Not from within: it may be the loop above that is being answered.
    process.nextTick(advance);
  };

  socket.on('drain', advance);
  socket.on('data', (chunk: Buffer) => {
    received = received.length === 0 ? chunk : Buffer.concat([received, chunk]);
    advance();
  });
  socket.on('end', () => {
    ended = true;
    advance();
  });
}
