import { EventEmitter } from 'node:events';
import type { Carrier } from './carrier.ts';
import { type ErrorCode, LpkError } from './errors.ts';
import {
  decodeCount,
  decodeFrame,
  decodeUint32,
  encodeCount,
  encodeFrame,
  encodeReason,
  encodeUint32,
  type Frame,
  payloadBytes,
} from './frames.ts';
import {
  CLOSE,
  FIRST_UNNUMBERED,
  FRAME,
  type FrameType,
  LIMITS,
  resetName,
  resetValue,
  TIMES,
  type Times,
} from './protocol.ts';

/** What a kept frame costs beside its bytes: objects and array slots. */
const KEPT_OVERHEAD_BYTES = 256;

/** At most; what makes `ready` false must also say when it is true again. */
const WEBSOCKET_HEADER_BYTES = 14;

/** A frame as it was sent. Its bytes never change: the same memory may be sent twice. */
type Kept = { head: Buffer; payload?: Buffer | undefined };

function keptSize({ head, payload }: Kept): number {
  return head.length + (payload?.length ?? 0) + KEPT_OVERHEAD_BYTES;
}

export type LinkEvents = {
  /** A numbered frame, in order, exactly once. */
  frame: [Frame];
  up: [];
  /** The websocket is gone; the link waits for the next `attach`. */
  down: [string];
  /** `ready` became true again. */
  ready: [];
  /** The session is over: the peer said so, or broke the protocol. */
  bye: [LpkError];
};

/**
 * An ordered, exactly-once channel of frames that outlives its websockets. Numbered frames are kept until the peer
 * acknowledges them and sent again on the next websocket; SPEC.md, "Link".
 */
export class Link extends EventEmitter<LinkEvents> {
  #carrier: Carrier | undefined;
  #kept: (Kept | undefined)[] = [];
  #keptFrom = 0; // index of the first kept frame in #kept: a queue without O(n) shifts
  #keptBytes = 0;
  #sent = 0;
  #acked = 0;
  #received = 0;
  #receivedAcked = 0;
  #unackedBytes = 0;
  #ackTimer: NodeJS.Timeout | undefined;
  #watch: NodeJS.Timeout | undefined;
  #lastHeard = 0;
  #lastTick = 0;
  #pingSentAt = 0;
  #pingToken = 0;
  #pingAnswered = true;
  #rttMs = 0;
  #minRttMs = Number.POSITIVE_INFINITY;
  #closed = false;
  #times: Times;

  constructor(times: Times = TIMES) {
    super();
    this.#times = times;
  }

  /** Numbered frames received so far; the peer resumes after this one. */
  get received(): number {
    return this.#received;
  }

  get isUp(): boolean {
    return this.#carrier !== undefined;
  }

  /** Last measured round trip, ms; 0 until known. */
  get rttMs(): number {
    return this.#rttMs;
  }

  /** Smallest round trip seen, ms: the path without queues. Infinity until known. */
  get minRttMs(): number {
    return this.#minRttMs;
  }

  /** Bytes sent and not acknowledged, bookkeeping included. */
  get keptBytes(): number {
    return this.#keptBytes;
  }

  /** Whether stream data may be sent now. OPEN, CREDIT, FIN and RESET may always: other limits bound them. */
  get ready(): boolean {
    return (
      this.#carrier !== undefined &&
      this.#carrier.bufferedAmount < LIMITS.carrierBufferBytes &&
      this.#keptBytes < LIMITS.retainBytes
    );
  }

  noteRtt(ms: number): void {
    this.#rttMs = ms;
    this.#minRttMs = Math.min(this.#minRttMs, ms);
  }

  /** Whether a peer that has `received` of our numbered frames can go on from there. */
  canResume(received: number): boolean {
    return !this.#closed && received >= this.#acked && received <= this.#sent;
  }

  /**
   * Continues on a proven websocket. `peerReceived`: how many of our numbered frames the peer has. Throws LpkError
   * `protocol` when that can't be true.
   */
  attach(carrier: Carrier, peerReceived: number): void {
    if (this.#closed) throw new LpkError('session-ended', 'the session has ended');
    if (!this.canResume(peerReceived)) {
      throw new LpkError(
        'protocol',
        `the peer claims ${peerReceived} frames; ${this.#acked} to ${this.#sent} are possible`,
      );
    }
    this.#drop('replaced by a newer connection', CLOSE.replaced);
    this.#release(peerReceived);
    this.#carrier = carrier;
    carrier.admit();
    this.#lastHeard = performance.now();
    this.#lastTick = this.#lastHeard;
    carrier.on('message', (head, rest) => {
      if (carrier === this.#carrier) this.#receive(head, rest);
    });
    carrier.on('close', (code, reason) => {
      if (carrier === this.#carrier) this.#lost(`websocket closed (${code}${reason ? ` ${reason}` : ''})`);
    });
    carrier.on('error', (error) => {
      if (carrier === this.#carrier) this.#lost(error.message);
    });
    this.#receivedAcked = this.#received;
    this.#unackedBytes = 0;
    this.#ping(); // ahead of all else: windows grow by the round trip
    for (let i = this.#keptFrom; i < this.#kept.length; i++) this.#write(this.#kept[i] as Kept);
    this.#watch = setInterval(() => this.#check(), this.#times.tickMs);
    this.emit('up');
    this.#wake();
  }

  /** Sends a numbered frame now, or keeps it for the next websocket. */
  send(type: FrameType, arg: number, stream: number, fields?: Buffer, payload?: Buffer): void {
    if (this.#closed) return;
    this.#sent += 1;
    const kept: Kept = { head: encodeFrame(type, arg, stream, this.#sent, fields), payload };
    this.#kept.push(kept);
    this.#keptBytes += keptSize(kept);
    if (this.#carrier) this.#write(kept);
    if (this.#keptBytes > 2 * LIMITS.retainBytes) {
      this.#fail(new LpkError('limit-exceeded', 'too much was asked for while the link was down'));
    }
  }

  /** Ends the link on purpose; the peer hears why. Nothing is kept any more. */
  close(code: ErrorCode, message: string): void {
    if (this.#closed) return;
    if (this.#carrier) this.#write({ head: encodeFrame(FRAME.bye, resetValue(code), 0, 0, encodeReason(message)) });
    this.#end(message);
  }

  #end(reason: string): void {
    this.#closed = true;
    this.#drop(reason, CLOSE.ended);
    this.#kept = [];
    this.#keptFrom = 0;
    this.#keptBytes = 0;
  }

  /** A peer that breaks the protocol would break it again on the next websocket: the session ends. */
  #fail(error: LpkError): void {
    this.close(error.code, error.message);
    this.emit('bye', error);
  }

  #write({ head, payload }: Kept): void {
    const carrier = this.#carrier as Carrier;
    const bytes = WEBSOCKET_HEADER_BYTES + head.length + (payload?.length ?? 0);
    if (carrier.bufferedAmount + bytes < LIMITS.carrierBufferBytes) {
      carrier.send(head, payload);
    } else {
      carrier.send(head, payload, () => {
        if (carrier === this.#carrier) this.#wake();
      });
    }
  }

  #wake(): void {
    if (this.ready) this.emit('ready');
  }

  #receive(head: Buffer, rest: Buffer[]): void {
    this.#lastHeard = performance.now();
    try {
      const frame = decodeFrame(head, rest);
      if (frame.type >= FIRST_UNNUMBERED) {
        this.#control(frame);
        return;
      }
      const expected = this.#received + 1;
      if (frame.seq !== expected % 0x1_0000_0000) {
        throw new LpkError('protocol', `frame ${frame.seq} where ${expected} was due`);
      }
      this.#received = expected;
      this.#unackedBytes += head.length + payloadBytes(rest);
      if (this.#unackedBytes >= this.#times.ackBytes) this.#ack();
      else this.#ackTimer ??= setTimeout(() => this.#ack(), this.#times.ackMs);
      this.emit('frame', frame);
    } catch (error) {
      if (!(error instanceof LpkError)) throw error;
      this.#fail(error);
    }
  }

  #control(frame: Frame): void {
    if (frame.type === FRAME.ack) {
      const count = decodeCount(frame.body);
      if (count < this.#acked || count > this.#sent) throw new LpkError('protocol', 'ACK of frames never sent');
      const wasFull = this.#keptBytes >= LIMITS.retainBytes;
      this.#release(count);
      if (wasFull) this.#wake();
    } else if (frame.type === FRAME.ping) {
      if (this.#carrier) this.#write({ head: encodeFrame(FRAME.pong, 0, 0, 0, frame.body) });
    } else if (frame.type === FRAME.pong) {
      if (decodeUint32(frame.body) === this.#pingToken && !this.#pingAnswered) {
        this.#pingAnswered = true;
        this.noteRtt(performance.now() - this.#pingSentAt);
      }
    } else if (frame.type === FRAME.bye) {
      this.#end('the peer ended the session');
      this.emit('bye', new LpkError(resetName(frame.arg), frame.body.toString('utf8') || 'the peer ended the session'));
    }
  }

  #ack(): void {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    this.#unackedBytes = 0;
    if (!this.#carrier || this.#receivedAcked === this.#received) return;
    this.#receivedAcked = this.#received;
    this.#write({ head: encodeFrame(FRAME.ack, 0, 0, 0, encodeCount(this.#received)) });
  }

  #release(count: number): void {
    while (this.#acked < count) {
      this.#keptBytes -= keptSize(this.#kept[this.#keptFrom] as Kept);
      this.#kept[this.#keptFrom] = undefined;
      this.#keptFrom += 1;
      this.#acked += 1;
    }
    if (this.#keptFrom > 1024 && this.#keptFrom * 2 > this.#kept.length) {
      this.#kept = this.#kept.slice(this.#keptFrom);
      this.#keptFrom = 0;
    }
  }

  /** Every tick: is the peer still there? A late tick means this process itself was asleep, which proves nothing. */
  #check(): void {
    const now = performance.now();
    const late = now - this.#lastTick > 3 * this.#times.tickMs;
    this.#lastTick = now;
    if (late) this.#lastHeard = Math.max(this.#lastHeard, now - this.#times.deadMs / 2);
    if (now - this.#lastHeard > this.#times.deadMs) {
      this.#lost(`nothing heard for ${Math.round((now - this.#lastHeard) / 1_000)} s`);
      return;
    }
    if (now - this.#pingSentAt >= this.#times.pingMs) this.#ping();
  }

  #ping(): void {
    this.#pingToken = (this.#pingToken + 1) >>> 0;
    this.#pingSentAt = performance.now();
    this.#pingAnswered = false;
    this.#write({ head: encodeFrame(FRAME.ping, 0, 0, 0, encodeUint32(this.#pingToken)) });
  }

  #lost(reason: string): void {
    if (!this.#carrier) return;
    this.#drop(reason, CLOSE.dead);
    this.emit('down', reason);
  }

  #drop(reason: string, code: number): void {
    const carrier = this.#carrier;
    if (!carrier) return;
    this.#carrier = undefined;
    clearInterval(this.#watch);
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    carrier.on('error', () => {});
    carrier.close(code, reason);
    if (code === CLOSE.dead) carrier.terminate();
  }
}
