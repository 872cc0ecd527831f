import { Duplex } from 'node:stream';
import { type ErrorCode, LpkError } from './errors.ts';
import { LIMITS, MAX_PAYLOAD_BYTES, type StreamKind } from './protocol.ts';
import { flowError } from './pump.ts';

/** What a stream needs of its session; see session.ts. */
export type StreamPort = {
  /** The stream has something to send and credit to send it. */
  schedule(stream: Stream): void;
  sendFin(stream: Stream): void;
  sendReset(stream: Stream, code: ErrorCode, message: string): void;
  sendOpened(stream: Stream): void;
  /** Gives the peer back `bytes`; returns by how much the window grew. */
  sendCredit(stream: Stream, bytes: number): void;
  forget(stream: Stream): void;
};

/** Before a datagram counts as 64 bytes, a flood of empty ones would cost nothing. */
const DATAGRAM_MIN_COST = 64;

/** A reader that takes is asked this often whether it wants more; a whole window may be thousands of pieces. */
const TAKE_BYTES = 256 * 1024;

/**
 * One stream of a session: a Duplex whose two directions end separately. Its reader's pace is the sender's: credit goes back
 * only for what was read. A `udp` stream keeps datagrams whole and drops rather than waits.
 */
export class Stream extends Duplex {
  readonly id: number;
  readonly kind: StreamKind;
  /** As in the OPEN: whom it dials, or who called. */
  readonly host: string;
  readonly port: number;
  readonly peerPort: number;
  /** Settles with the far end's dial result: LpkError `refused`, `unreachable`, … */
  readonly opened: Promise<void>;
  /** Window the peer sends into, bytes; grows (see session.ts). */
  windowBytes: number = LIMITS.initialWindowBytes;
  /** When credit was last given, ms; the growth rule's clock. */
  creditedAt = 0;
  /** Sent lately, bytes, and when: the scheduler's measure of a bulk stream. */
  recentBytes = 0;
  recentAt = 0;

  #port: StreamPort;
  #inbox: Buffer[] = [];
  #take: ((pieces: Buffer[]) => boolean) | undefined;
  #takeHeld = false;
  #inboxBytes = 0;
  #readOwed = 0;
  #wanted = false;
  #finReceived = false;
  #finSent = false;
  #over = false;
  #credit: number;
  #pending: Buffer | undefined;
  #pendingDone: ((error?: Error | null) => void) | undefined;
  #settleOpened: { resolve: () => void; reject: (error: LpkError) => void };

  constructor(
    port: StreamPort,
    init: { id: number; kind: StreamKind; host: string; port: number; peerPort: number; firstSent?: number },
  ) {
    const datagrams = init.kind === 'udp';
    super({
      allowHalfOpen: !datagrams, // a flow of datagrams has no half
      readableObjectMode: datagrams,
      writableObjectMode: datagrams,
      readableHighWaterMark: datagrams ? 16 : MAX_PAYLOAD_BYTES,
      writableHighWaterMark: datagrams ? 16 : MAX_PAYLOAD_BYTES,
    });
    this.#port = port;
    this.id = init.id;
    this.kind = init.kind;
    this.host = init.host;
    this.port = init.port;
    this.peerPort = init.peerPort;
    this.#credit = LIMITS.initialWindowBytes - (init.firstSent ? this.#cost(init.firstSent) : 0);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    promise.catch(() => {}); // who doesn't ask for the result hears of a failure by the stream's 'error'
    this.opened = promise;
    this.#settleOpened = { resolve, reject };
    this.on('error', () => {}); // a reset by the peer is news, never a crash
  }

  /** Agent and laptop alike: tells the peer that what it asked for is connected. */
  accept(): void {
    this.#settleOpened.resolve();
    if (!this.#over) this.#port.sendOpened(this);
  }

  /** Ends both directions at once; the peer hears why. */
  reset(code: ErrorCode, message = ''): void {
    if (this.destroyed) return;
    this.#finish(code, message);
    this.destroy();
  }

  /**
   * Hands what arrives to `take`, many pieces at once, in place of 'data' events: for bulk a third of their cost. `take`
   * returns false to get no more until `takeMore()`. The end still comes as 'end'.
   */
  takeWith(take: (pieces: Buffer[]) => boolean): void {
    const left: Buffer[] = []; // in the Readable's own buffer: an earlier reader's
    for (let piece = this.read(); piece !== null; piece = this.read()) left.push(piece as Buffer);
    this.#take = take;
    if (left.length > 0) this.#takeHeld = !take(left);
    this.resume();
    this.#drain();
  }

  takeMore(): void {
    if (!this.#takeHeld) return;
    this.#takeHeld = false;
    this.#drain();
  }

  /** `write`, then waits until there is room for more, or the stream is closed. Never rejects: whoever writes next finds out. */
  async writeWithRoom(bytes: Buffer): Promise<void> {
    if (this.write(bytes)) return;
    await new Promise<void>((resolve) => {
      const done = () => {
        this.off('drain', done).off('close', done);
        resolve();
      };
      this.once('drain', done).once('close', done);
    });
  }

  /** Bytes received and not yet read. */
  get unreadBytes(): number {
    return this.#inboxBytes;
  }

  // What the session calls.

  /** Next piece to send, within `maxBytes` and the credit; undefined when there is none. */
  takePiece(maxBytes: number): { piece: Buffer; done: (() => void) | undefined } | undefined {
    const pending = this.#pending;
    if (!pending || this.#credit <= 0) return undefined;
    const bytes = this.kind === 'udp' ? pending.length : Math.min(pending.length, this.#credit, maxBytes);
    this.#credit -= this.#cost(bytes);
    if (bytes === pending.length) {
      const done = this.#pendingDone as () => void;
      this.#pending = undefined;
      this.#pendingDone = undefined;
      return { piece: pending, done };
    }
    this.#pending = pending.subarray(bytes);
    return { piece: pending.subarray(0, bytes), done: undefined };
  }

  get hasPiece(): boolean {
    return this.#pending !== undefined && this.#credit > 0;
  }

  receiveOpened(): void {
    this.#settleOpened.resolve();
    this.emit('opened');
  }

  /** Throws LpkError `limit-exceeded` when the peer sends more than it may. */
  receiveData(pieces: Buffer[]): void {
    let bytes = 0;
    for (const piece of pieces) bytes += this.#cost(piece.length);
    if (bytes === 0) throw new LpkError('protocol', `stream ${this.id}: DATA without a byte`); // would cost no credit
    const overdraft = this.kind === 'udp' ? MAX_PAYLOAD_BYTES : 0; // the last datagram need not fit
    if (this.#inboxBytes + this.#readOwed + bytes > this.windowBytes + overdraft) {
      throw new LpkError('limit-exceeded', `stream ${this.id}: the peer sent more than its window`);
    }
    if (this.#finReceived) throw new LpkError('protocol', `stream ${this.id}: data after FIN`);
    for (const piece of pieces) this.#inbox.push(piece);
    this.#inboxBytes += bytes;
    this.#drain();
  }

  receiveFin(): void {
    this.#finReceived = true;
    this.#drain();
    this.#forgetIfDone();
  }

  receiveCredit(bytes: number): void {
    this.#credit += bytes;
    if (this.#pending) this.#port.schedule(this);
  }

  receiveReset(error: LpkError): void {
    this.#over = true;
    this.#settleOpened.reject(error);
    this.#port.forget(this);
    this.destroy(error);
  }

  override _read(): void {
    this.#wanted = true;
    this.#drain();
  }

  /** Passes on what the reader wants of what is there. */
  #drain(): void {
    while (this.#inbox.length > 0 && (this.#take ? !this.#takeHeld : this.#wanted)) {
      if (this.#take) {
        const pieces = this.#slice();
        for (const piece of pieces) this.#consumed(piece.length);
        this.#takeHeld = !this.#take(pieces);
      } else {
        const piece = this.#inbox.shift() as Buffer;
        this.#consumed(this.#cost(piece.length));
        this.#wanted = this.push(piece);
      }
    }
    if (this.#inbox.length === 0 && this.#finReceived && this.#wanted) {
      this.#wanted = false;
      this.push(null);
      this.#forgetIfDone();
    }
  }

  /** As much as `take` gets before it is asked again whether it wants more. */
  #slice(): Buffer[] {
    if (this.#inboxBytes <= TAKE_BYTES) return this.#inbox.splice(0);
    let count = 0;
    for (let bytes = 0; bytes < TAKE_BYTES; count++) bytes += (this.#inbox[count] as Buffer).length;
    return this.#inbox.splice(0, count);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#over || (chunk.length === 0 && this.kind !== 'udp')) return done();
    if (this.kind === 'udp' && (this.#credit <= 0 || chunk.length > MAX_PAYLOAD_BYTES)) {
      return done(); // a datagram that finds no room is dropped, as on any network
    }
    this.#pending = chunk;
    this.#pendingDone = done;
    if (this.#credit > 0) this.#port.schedule(this);
  }

  override _final(done: (error?: Error | null) => void): void {
    if (!this.#over) {
      this.#finSent = true;
      this.#port.sendFin(this);
      this.#forgetIfDone();
    }
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#inbox = [];
    this.#inboxBytes = 0;
    const { code, message } = error ? flowError(error) : new LpkError('cancelled', 'closed');
    this.#finish(code, message);
    const pendingDone = this.#pendingDone;
    this.#pending = undefined;
    this.#pendingDone = undefined;
    pendingDone?.(error);
    done(error);
  }

  #finish(code: ErrorCode, message: string): void {
    this.#settleOpened.reject(new LpkError(code, message));
    if (!this.#over && !(this.#finSent && this.#finReceived)) this.#port.sendReset(this, code, message);
    this.#over = true;
    this.#port.forget(this);
  }

  /** Unread bytes still count against the session, so a stream stays known until they are read. */
  #forgetIfDone(): void {
    if (this.#finSent && this.#finReceived && this.#inbox.length === 0) this.#port.forget(this);
  }

  #consumed(bytes: number): void {
    this.#inboxBytes -= bytes;
    this.#readOwed += bytes;
    if (this.#readOwed * 2 < this.windowBytes || this.#finReceived || this.#over) return;
    const owed = this.#readOwed;
    this.#readOwed = 0;
    this.#port.sendCredit(this, owed);
  }

  #cost(bytes: number): number {
    return this.kind === 'udp' ? Math.max(bytes, DATAGRAM_MIN_COST) : bytes;
  }
}
