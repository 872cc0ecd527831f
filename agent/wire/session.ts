import { EventEmitter } from 'node:events';
import type { Carrier } from './carrier.ts';
import { type ErrorCode, LpkError } from './errors.ts';
import {
  decodeOpen,
  decodeUint32,
  encodeOpen,
  encodeReason,
  encodeUint32,
  type Frame,
  openArg,
  payloadBytes,
} from './frames.ts';
import { Link } from './link.ts';
import { FRAME, LIMITS, MAX_PAYLOAD_BYTES, resetName, resetValue, type StreamKind, type Times } from './protocol.ts';
import { Stream } from './stream.ts';

export type SessionEvents = {
  /** The peer opened a stream: `accept()` it or `reset()` it. */
  stream: [Stream];
  up: [];
  down: [string];
  /** Over for good; every stream has been reset, `connections` of them programs' own. Emitted once. */
  end: [error: LpkError, connections: number];
};

/** Bytes after which a stream that never pauses counts as bulk, and the pause that makes it fresh again, ms. */
const FRESH_BYTES = 16 * 1024;
const FRESH_AFTER_MS = 20;
/** Below this round trip, windows grow as if it were this long: timers and turns of the loop count too. */
const MIN_GROWTH_RTT_MS = 2;

/** Those that programs made; the others are questions of lpk's own. */
const CONNECTIONS: ReadonlySet<StreamKind> = new Set(['tcp', 'udp', 'accept']);

/** Many streams over one link: opening, credit, fairness. SPEC.md, "Streams". Both ends use this class. */
export class Session extends EventEmitter<SessionEvents> {
  readonly link: Link;
  #streams = new Map<number, Stream>();
  #nextId: number;
  #firstPeerId: number;
  #lastPeerId = 0;
  /** Fresh streams (an interactive few bytes) go before bulk ones; within each, round robin. */
  #fresh: Stream[] = [];
  #bulk: Stream[] = [];
  #scheduled = new Set<Stream>();
  #poolBytes: number = LIMITS.windowPoolBytes;
  #ended: LpkError | undefined;
  #bytes = { in: 0, out: 0 };

  constructor(side: 'laptop' | 'agent', times?: Times) {
    super();
    this.link = new Link(times);
    this.#nextId = side === 'laptop' ? 1 : 2;
    this.#firstPeerId = side === 'laptop' ? 2 : 1;
    this.link.on('frame', (frame) => this.#receive(frame));
    this.link.on('ready', () => this.#flush());
    this.link.on('up', () => this.emit('up'));
    this.link.on('down', (reason) => this.emit('down', reason));
    this.link.on('bye', (error) => this.#finish(error));
  }

  get isUp(): boolean {
    return this.link.isUp;
  }

  get ended(): LpkError | undefined {
    return this.#ended;
  }

  get streamCount(): number {
    return this.#streams.size;
  }

  /** Stream bytes received and sent since the start. */
  get bytes(): { in: number; out: number } {
    return { ...this.#bytes };
  }

  attach(carrier: Carrier, peerReceived: number): void {
    this.link.attach(carrier, peerReceived);
  }

  /** Ends the session on purpose and tells the peer. */
  close(code: ErrorCode = 'session-ended', message = 'the session was closed'): void {
    this.link.close(code, message);
    this.#finish(new LpkError(code, message));
  }

  /** Dials in the pod. `first`: bytes that leave together with the OPEN. Throws LpkError. */
  openTcp(host: string, port: number, first?: Buffer): Stream {
    return this.#open({ kind: 'tcp', host, port }, first);
  }

  /** A UDP flow: each chunk written or read is one datagram. Throws LpkError. */
  openUdp(host: string, port: number): Stream {
    return this.#open({ kind: 'udp', host, port });
  }

  /** Hands the laptop a connection that came to the pod's `port`. Throws LpkError. */
  openAccept(port: number, peerAddress: string, peerPort: number): Stream {
    return this.#open({ kind: 'accept', host: peerAddress, port, peerPort });
  }

  /** Asks the pod's own nameserver. `message`: a DNS message (RFC 1035 4.1) without the TCP length. */
  queryDns(message: Buffer): Promise<Buffer> {
    return this.#ask('dns', '', message);
  }

  /** A small request; both arguments and answer are JSON. Rejects with the LpkError the other side answered. */
  async request<T>(operation: string, args: object = {}): Promise<T> {
    const answer = await this.#ask('control', operation, Buffer.from(JSON.stringify(args)));
    try {
      return JSON.parse(answer.toString('utf8')) as T;
    } catch (cause) {
      throw new LpkError('protocol', `the answer to ${operation} is no JSON`, { cause });
    }
  }

  /** A mount of the pod as an archive that goes on with what changes in it: SPEC.md, "Files". `request`: JSON. Throws LpkError. */
  openFiles(request: Buffer): Stream {
    const stream = this.#open({ kind: 'files', host: '', port: 0 }, request);
    stream.end();
    return stream;
  }

  /** Takes an archive of what is to be written into a mount of the pod, and answers entry by entry: SPEC.md, "Files". Throws LpkError. */
  openFileWrites(): Stream {
    return this.#open({ kind: 'files', host: 'write', port: 0 });
  }

  #ask(kind: StreamKind, operation: string, question: Buffer): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const stream = this.#open({ kind, host: operation, port: 0 }, question);
      const pieces: Buffer[] = [];
      let bytes = 0;
      stream.on('data', (piece: Buffer) => {
        bytes += piece.length;
        if (bytes > LIMITS.answerBytes)
          stream.destroy(new LpkError('limit-exceeded', `the answer to ${operation || kind} is too long`));
        else pieces.push(piece);
      });
      stream.on('end', () => resolve(Buffer.concat(pieces)));
      stream.on('error', reject);
      stream.on('close', () => reject(new LpkError('cancelled', `${operation || kind} was not answered`)));
      stream.end();
    });
  }

  #open(fields: { kind: StreamKind; host: string; port: number; peerPort?: number }, first?: Buffer): Stream {
    if (this.#ended) throw this.#ended;
    if (this.#streams.size >= LIMITS.maxStreams) {
      throw new LpkError('too-many-streams', `${LIMITS.maxStreams} streams are open already`);
    }
    if (this.#nextId > 0xffff_ffff) throw new LpkError('limit-exceeded', 'the session has used up its stream numbers');
    const encoded = encodeOpen(fields);
    const id = this.#nextId;
    this.#nextId += 2;
    const start = first?.subarray(0, MAX_PAYLOAD_BYTES);
    const firstSent = start?.length ?? 0;
    const stream = new Stream(this.#port, { id, peerPort: 0, ...fields, firstSent });
    this.#streams.set(id, stream);
    this.#bytes.out += firstSent;
    this.link.send(FRAME.open, openArg(fields.kind), id, encoded, start);
    if (first && first.length > firstSent) stream.write(first.subarray(firstSent));
    return stream;
  }

  #port = {
    schedule: (stream: Stream): void => {
      if (this.#scheduled.has(stream)) return;
      this.#scheduled.add(stream);
      const now = performance.now();
      if (now - stream.recentAt > FRESH_AFTER_MS) stream.recentBytes = 0;
      (stream.recentBytes < FRESH_BYTES ? this.#fresh : this.#bulk).push(stream);
      this.#flush();
    },
    sendFin: (stream: Stream): void => this.link.send(FRAME.fin, 0, stream.id),
    sendReset: (stream: Stream, code: ErrorCode, message: string): void =>
      this.link.send(FRAME.reset, resetValue(code), stream.id, encodeReason(message)),
    sendOpened: (stream: Stream): void => this.link.send(FRAME.opened, 0, stream.id),
    sendCredit: (stream: Stream, bytes: number): void => {
      const grown = this.#growth(stream);
      stream.windowBytes += grown;
      this.#poolBytes -= grown;
      this.link.send(FRAME.credit, 0, stream.id, encodeUint32(bytes + grown));
    },
    forget: (stream: Stream): void => {
      if (!this.#streams.delete(stream.id)) return;
      this.#poolBytes += stream.windowBytes - LIMITS.initialWindowBytes;
      if (this.#scheduled.delete(stream)) {
        this.#fresh = this.#fresh.filter((other) => other !== stream);
        this.#bulk = this.#bulk.filter((other) => other !== stream);
      }
    },
  };

  /** A reader that takes half a window within two round trips is held back by the window: double it, while the pool lasts. */
  #growth(stream: Stream): number {
    const now = performance.now();
    const elapsed = now - stream.creditedAt;
    stream.creditedAt = now;
    const rttMs = Math.max(Number.isFinite(this.link.minRttMs) ? this.link.minRttMs : 0, MIN_GROWTH_RTT_MS);
    if (elapsed > 2 * rttMs || stream.windowBytes >= LIMITS.maxWindowBytes) return 0;
    return Math.min(stream.windowBytes, LIMITS.maxWindowBytes - stream.windowBytes, this.#poolBytes);
  }

  #flushing = false;
  #flush(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    while (this.link.ready) {
      const stream = this.#fresh.shift() ?? this.#bulk.shift();
      if (!stream) break;
      this.#scheduled.delete(stream);
      const taken = stream.takePiece(MAX_PAYLOAD_BYTES);
      if (!taken) continue;
      stream.recentBytes += taken.piece.length;
      stream.recentAt = performance.now();
      this.#bytes.out += taken.piece.length;
      this.link.send(FRAME.data, 0, stream.id, undefined, taken.piece);
      if (taken.done) taken.done();
      else if (stream.hasPiece) this.#port.schedule(stream);
    }
    this.#flushing = false;
  }

  #receive(frame: Frame): void {
    if (frame.type === FRAME.open) return this.#receiveOpen(frame);
    const stream = this.#streams.get(frame.stream);
    if (!stream) return; // ended on this side already; what was under way is of no use
    switch (frame.type) {
      case FRAME.opened:
        return stream.receiveOpened();
      case FRAME.data:
        return this.#receiveData(stream, [frame.body, ...frame.rest]);
      case FRAME.fin:
        return stream.receiveFin();
      case FRAME.credit:
        return stream.receiveCredit(decodeUint32(frame.body));
      case FRAME.reset:
        return stream.receiveReset(
          new LpkError(resetName(frame.arg), frame.body.toString('utf8') || resetName(frame.arg)),
        );
    }
  }

  #receiveOpen(frame: Frame): void {
    const { fields, first } = decodeOpen(frame);
    const { stream: id } = frame;
    if (id % 2 !== this.#firstPeerId % 2 || id <= this.#lastPeerId)
      throw new LpkError('protocol', `OPEN of stream ${id}`);
    this.#lastPeerId = id;
    if (this.#streams.size >= LIMITS.maxStreams) {
      const text = encodeReason(`${LIMITS.maxStreams} streams are open already`);
      this.link.send(FRAME.reset, resetValue('too-many-streams'), id, text);
      return;
    }
    const stream = new Stream(this.#port, { id, ...fields });
    this.#streams.set(id, stream);
    if (payloadBytes(first) > 0) this.#receiveData(stream, first);
    this.emit('stream', stream);
  }

  #receiveData(stream: Stream, pieces: Buffer[]): void {
    this.#bytes.in += payloadBytes(pieces);
    stream.receiveData(stream.kind === 'udp' ? [Buffer.concat(pieces)] : pieces); // a datagram is one chunk
  }

  #finish(error: LpkError): void {
    if (this.#ended) return;
    this.#ended = error;
    const streams = [...this.#streams.values()];
    for (const stream of streams) stream.receiveReset(error);
    this.emit('end', error, streams.filter(({ kind }) => CONNECTIONS.has(kind)).length);
  }
}
