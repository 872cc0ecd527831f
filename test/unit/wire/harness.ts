import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import type { Duplex, Readable } from 'node:stream';
import type { TestContext } from 'node:test';
import { acceptWebSocket, type Carrier, openWebSocket } from '../../../agent/wire/carrier.ts';
import { decodeFrame, encodeCount, encodeFrame, type Frame } from '../../../agent/wire/frames.ts';
import { FIRST_UNNUMBERED, FRAME, type FrameType, type Times } from '../../../agent/wire/protocol.ts';
import { Session } from '../../../agent/wire/session.ts';
import type { Stream } from '../../../agent/wire/stream.ts';

/** A seeded generator (mulberry32): numbers in [0, 1), the same for the same seed. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}

/** Fulfilled when `condition` holds; looked at after every turn of the event loop, so it waits on what happens, not on time. */
export async function until(condition: () => boolean, what: string, patienceMs = 10_000): Promise<void> {
  const end = performance.now() + patienceMs;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`waited ${patienceMs} ms in vain: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Joins laptop and agent ends of websockets over loopback; each test has its own server. */
export type CarrierServer = {
  port: number;
  /** The agent's end of the next websocket. */
  accepted(): Promise<Carrier>;
  /** What an agent's end runs on. */
  socketOf(carrier: Carrier): Duplex;
  /** A new websocket: the laptop's end and the agent's. `port`: of a relay in between. */
  connect(port?: number): Promise<[laptop: Carrier, agent: Carrier]>;
};

export async function carrierServer(t: TestContext): Promise<CarrierServer> {
  const waiting: ((carrier: Carrier) => void)[] = [];
  const carriers = new Set<Carrier>();
  const sockets = new Map<Carrier, Duplex>();
  const server = http.createServer();
  server.on('upgrade', (request, socket, head) => {
    const carrier = acceptWebSocket(request, socket, head);
    carrier?.on('error', () => {});
    carrier?.once('open', () => waiting.shift()?.(carrier));
    if (carrier) carriers.add(carrier);
    if (carrier) sockets.set(carrier, socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const carrier of carriers) carrier.terminate();
    server.close();
  });
  const { port } = server.address() as net.AddressInfo;
  const next = () => new Promise<Carrier>((resolve) => waiting.push(resolve));
  return {
    port,
    accepted: next,
    socketOf: (carrier) => sockets.get(carrier) as Duplex,
    async connect(through = port) {
      const accepted = next();
      const laptop = openWebSocket(`ws://127.0.0.1:${through}/`);
      carriers.add(laptop);
      laptop.on('error', () => {});
      const opened = once(laptop, 'open');
      const agent = await accepted;
      await opened;
      return [laptop, agent];
    },
  };
}

/** Two sessions over a real websocket, without the handshake (which has its own test). */
export class SessionPair {
  readonly laptop: Session;
  readonly agent: Session;
  carriers: [laptop: Carrier, agent: Carrier] | undefined;
  #server: CarrierServer;

  private constructor(server: CarrierServer, times?: Times) {
    this.#server = server;
    this.laptop = new Session('laptop', times);
    this.agent = new Session('agent', times);
  }

  static async open(
    t: TestContext,
    options: { times?: Times; port?: (serverPort: number) => number | Promise<number> } = {},
  ) {
    const server = await carrierServer(t);
    const pair = new SessionPair(server, options.times);
    t.after(() => {
      pair.laptop.close();
      pair.agent.close();
    });
    await pair.connect(await options.port?.(server.port));
    return pair;
  }

  get serverPort(): number {
    return this.#server.port;
  }

  /** Continues both sessions on a new websocket, as the handshake would. */
  async connect(port?: number): Promise<void> {
    const carriers = await this.#server.connect(port);
    const { received } = this.laptop.link;
    this.laptop.attach(carriers[0], this.agent.link.received);
    this.agent.attach(carriers[1], received);
    this.carriers = carriers;
  }

  /** Kills the websocket at both ends; what was under way is lost. */
  cut(): void {
    for (const carrier of this.carriers ?? []) carrier.terminate();
  }

  /** The next stream that `side` is offered. */
  async incoming(side: 'laptop' | 'agent'): Promise<Stream> {
    const [stream] = (await once(this[side], 'stream')) as [Stream];
    return stream;
  }

  /** A `tcp` stream from the laptop, both ends, accepted. */
  async stream(first?: Buffer): Promise<[laptop: Stream, agent: Stream]> {
    const incoming = this.incoming('agent');
    const laptop = this.laptop.openTcp('test', 1, first);
    const agent = await incoming;
    agent.accept();
    return [laptop, agent];
  }
}

/** The far end of a session, frame by frame, as a test wants it: nothing is answered that the test doesn't answer. */
export class ScriptedPeer {
  readonly carrier: Carrier;
  /** The session's own end of the websocket. */
  readonly far: Carrier;
  /** What this end runs on, for one that plays the agent. */
  readonly socket: Duplex | undefined;
  readonly frames: Frame[] = [];
  closed: { code: number; reason: string } | undefined;
  /** Answers PING after so long, ms; undefined: never. */
  pongAfterMs: number | undefined;
  /** Acknowledges every so many numbered frames; undefined: never. */
  ackEvery: number | undefined;
  #sent = 0;
  #received = 0;
  #waiting: { matches: (frame: Frame) => boolean; resolve: (frame: Frame) => void }[] = [];

  constructor(carrier: Carrier, far: Carrier, socket?: Duplex) {
    this.carrier = carrier;
    this.far = far;
    this.socket = socket;
    carrier.admit();
    carrier.on('message', (head, rest) => this.#receive(decodeFrame(Buffer.concat([head, ...rest]))));
    carrier.on('close', (code, reason) => {
      this.closed = { code, reason };
    });
  }

  /** A laptop's session with a scripted agent. */
  static async forLaptop(t: TestContext, times?: Times): Promise<[Session, ScriptedPeer]> {
    const server = await carrierServer(t);
    const [laptop, agent] = await server.connect();
    const session = new Session('laptop', times);
    const peer = new ScriptedPeer(agent, laptop, server.socketOf(agent));
    session.attach(laptop, 0);
    t.after(() => session.close());
    return [session, peer];
  }

  /** An agent's session with a scripted laptop. */
  static async forAgent(t: TestContext, times?: Times): Promise<[Session, ScriptedPeer]> {
    const [laptop, agent] = await (await carrierServer(t)).connect();
    const session = new Session('agent', times);
    const peer = new ScriptedPeer(laptop, agent);
    session.attach(agent, 0);
    t.after(() => session.close());
    return [session, peer];
  }

  get sent(): number {
    return this.#sent;
  }

  /** A numbered frame, or one without a number. */
  send(type: FrameType, arg: number, stream: number, fields?: Buffer, payload?: Buffer): void {
    if (type < FIRST_UNNUMBERED) this.#sent += 1;
    const seq = type < FIRST_UNNUMBERED ? this.#sent : 0;
    this.carrier.send(encodeFrame(type, arg, stream, seq, fields), payload);
  }

  /** The first frame that matches, seen already or still to come. */
  next(matches: (frame: Frame) => boolean): Promise<Frame> {
    const seen = this.frames.find(matches);
    if (seen) return Promise.resolve(seen);
    return new Promise((resolve) => this.#waiting.push({ matches, resolve }));
  }

  of(type: FrameType): Frame[] {
    return this.frames.filter((frame) => frame.type === type);
  }

  #receive(frame: Frame): void {
    this.frames.push(frame);
    if (frame.type < FIRST_UNNUMBERED) {
      this.#received += 1;
      if (this.ackEvery && this.#received % this.ackEvery === 0)
        this.send(FRAME.ack, 0, 0, encodeCount(this.#received));
    }
    if (frame.type === FRAME.ping && this.pongAfterMs !== undefined) {
      setTimeout(() => this.send(FRAME.pong, 0, 0, frame.body), this.pongAfterMs);
    }
    for (const waiter of this.#waiting.filter(({ matches }) => matches(frame))) {
      this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
      waiter.resolve(frame);
    }
  }
}

/**
 * A loopback relay that can wreck what it carries: cut every connection, after an exact number of bytes if asked, or fall
 * silent without closing anything.
 */
export class Relay {
  /** Bytes still to be carried before all connections are cut (once); infinity: never. */
  cutAfterBytes = Number.POSITIVE_INFINITY;
  /** Bytes that way are taken and lost. */
  lossy: 'none' | 'toTarget' | 'toClient' | 'both' = 'none';
  #server: net.Server;
  #sockets = new Set<net.Socket>();

  private constructor(targetPort: number) {
    this.#server = net.createServer((client) => {
      const target = net.connect({ port: targetPort, host: '127.0.0.1', noDelay: true });
      client.setNoDelay(true);
      this.#carry(client, target, 'toTarget');
      this.#carry(target, client, 'toClient');
    });
  }

  static async open(t: TestContext, targetPort: number): Promise<Relay> {
    const relay = new Relay(targetPort);
    relay.#server.listen(0, '127.0.0.1');
    await once(relay.#server, 'listening');
    t.after(() => {
      relay.cut();
      relay.#server.close();
    });
    return relay;
  }

  get port(): number {
    return (this.#server.address() as net.AddressInfo).port;
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  #carry(from: net.Socket, to: net.Socket, way: 'toTarget' | 'toClient'): void {
    this.#sockets.add(from);
    from.on('error', () => {});
    from.on('close', () => {
      this.#sockets.delete(from);
      to.destroy();
    });
    from.on('data', (chunk: Buffer) => {
      if (this.lossy === way || this.lossy === 'both') return;
      const room = this.cutAfterBytes;
      this.cutAfterBytes -= chunk.length;
      if (chunk.length < room) {
        if (!to.write(chunk)) from.pause();
        return;
      }
      this.cutAfterBytes = Number.POSITIVE_INFINITY;
      // A part of a frame still arrives: both ends close only when the kernel has it.
      to.write(chunk.subarray(0, room), () => this.cut());
    });
    to.on('drain', () => from.resume());
  }
}

/** Reads a stream to its end, and leaves its other direction as it is. */
export async function readAll(stream: Readable): Promise<Buffer> {
  const pieces: Buffer[] = [];
  stream.on('data', (piece: Buffer) => pieces.push(piece));
  await once(stream, 'end');
  return Buffer.concat(pieces);
}

/** Two sockets joined over loopback, both half-open. */
export async function socketPair(t: TestContext): Promise<[net.Socket, net.Socket]> {
  const server = net.createServer({ allowHalfOpen: true, noDelay: true });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  const client = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
  const [served] = (await once(server, 'connection')) as [net.Socket];
  if (client.connecting) await once(client, 'connect');
  server.close();
  for (const socket of [client, served]) {
    socket.on('error', () => {});
    t.after(() => socket.destroy());
  }
  return [client, served];
}
