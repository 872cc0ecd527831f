import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import type { Carrier } from '../agent/wire/carrier.ts';
import { type ErrorCode, LpkError } from '../agent/wire/errors.ts';
import { proveAsLaptop, type Welcome } from '../agent/wire/handshake.ts';
import { CLOSE, SESSION_ID_BYTES, TIMES, type Times } from '../agent/wire/protocol.ts';
import { Session } from '../agent/wire/session.ts';

/** A new attempt starts this often while earlier ones hang: a network that comes back is used within a second. */
const ATTEMPT_EVERY_MS = 1_000;
const MAX_ATTEMPTS_AT_ONCE = 8;
const ATTEMPT_LIFE_MS = 10_000;
/** An attempt that has begun its proof keeps the others from beginning theirs for so long. */
const PROOF_MS = 2_000;
const FIRST_RETRY_MS = 100;
/** A link that was up for less is retried with growing pauses, like one that never came up. */
const STABLE_MS = 1_000;

/** Failures that trying again can't mend … */
const FINAL: ReadonlySet<ErrorCode> = new Set(['key-mismatch', 'version-mismatch']);
/** … and those that are final at first; later, an API server that is just starting may say so and mean nothing by it. */
const FINAL_AT_FIRST: ReadonlySet<ErrorCode> = new Set(['forbidden', 'not-found']);

export type TunnelOptions = {
  /** The session's 256-bit key. */
  key: Buffer;
  /** Starts a websocket to the agent. */
  connect: () => Promise<Carrier>;
  /** What a failed websocket means. */
  explain: (error: unknown) => LpkError;
  times?: Times;
};

export type TunnelEvents = {
  /** A new session: the first, or after the old one was lost. Streams of the old one are gone. */
  session: [Session];
  up: [];
  /** The websocket is gone. `holdMs`: how long the agent keeps the streams from now. */
  down: [{ reason: string; holdMs: number }];
  /** A session ended with so many of programs' connections open: they are lost. */
  cut: [{ connections: number; reason: string }];
  /** An attempt failed, and others follow. */
  retry: [LpkError];
  /** Reconnecting is of no use: the agent is gone for good, or refuses. */
  end: [LpkError];
};

/** `abandon` ends it at whatever step it is; `claim` is what its proof says. */
type Attempt = {
  abandon: () => void;
  timer: NodeJS.Timeout;
  claim: { sessionId: Buffer; resuming: boolean } | undefined;
};

/**
 * The laptop's end of one agent: connects, and reconnects for as long as it is wanted. Streams survive while the agent
 * holds the session; after that, a new session begins.
 */
export class Tunnel extends EventEmitter<TunnelEvents> {
  #options: TunnelOptions;
  #session: Session | undefined;
  #sessionId: Buffer | undefined;
  #holdMs: number = TIMES.holdMs;
  #holdTimer: NodeJS.Timeout | undefined;
  #attempts = new Set<Attempt>();
  #nextAttempt: NodeJS.Timeout | undefined;
  #retryMs = FIRST_RETRY_MS;
  #upSince = 0;
  #proving: { attempt: Attempt; since: number } | undefined;
  #lastError: LpkError | undefined;
  #failStart: ((error: LpkError) => void) | undefined;
  #closed = false;
  #reconnects = 0;

  constructor(options: TunnelOptions) {
    super();
    this.#options = options;
  }

  /** The session to open streams on. Throws LpkError `link-lost` when there is none. */
  get session(): Session {
    if (!this.#session || this.#session.ended) {
      throw new LpkError('link-lost', 'the link to the cluster is down', { cause: this.#lastError });
    }
    return this.#session;
  }

  get isUp(): boolean {
    return this.#session?.isUp === true;
  }

  /** Whether there is a session, up or waiting for the link. */
  get isHeld(): boolean {
    return this.#session !== undefined && !this.#session.ended;
  }

  get reconnects(): number {
    return this.#reconnects;
  }

  /**
   * Rejects with the last attempt's LpkError after `timeoutMs`, or at once when trying again is of no use (or `cancelled`, when it
   * is closed meanwhile).
   */
  async start(timeoutMs: number): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      reject(
        this.#lastError ?? new LpkError('agent-unreachable', `the agent did not answer within ${timeoutMs / 1_000} s`),
      );
    }, timeoutMs);
    this.#failStart = reject;
    this.once('up', resolve);
    this.#attempt();
    try {
      await promise;
    } catch (error) {
      this.close();
      throw error;
    } finally {
      clearTimeout(timer);
      this.off('up', resolve);
      this.#failStart = undefined;
    }
  }

  /** Leaves on purpose: the agent drops the session at once. */
  close(reason = 'the laptop left'): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#stopAttempts();
    clearTimeout(this.#holdTimer);
    this.#session?.close('session-ended', reason);
    this.#failStart?.(new LpkError('cancelled', 'the tunnel was closed'));
  }

  #attempt(): void {
    clearTimeout(this.#nextAttempt);
    if (this.#closed || this.isUp) return;
    if (this.#attempts.size < MAX_ATTEMPTS_AT_ONCE) void this.#open();
    this.#schedule(ATTEMPT_EVERY_MS);
  }

  #schedule(ms: number): void {
    clearTimeout(this.#nextAttempt);
    this.#nextAttempt = setTimeout(() => this.#attempt(), ms);
  }

  async #open(): Promise<void> {
    let carrier: Carrier | undefined;
    let abandoned = false;
    const abandon = () => {
      abandoned = true;
      carrier?.terminate();
    };
    const timer = setTimeout(() => {
      abandon();
      this.#failed(attempt, new LpkError('timed-out', `no way to the agent within ${ATTEMPT_LIFE_MS / 1_000} s`));
    }, ATTEMPT_LIFE_MS);
    const attempt: Attempt = { abandon, timer, claim: undefined };
    this.#attempts.add(attempt);
    let failure: LpkError | undefined;
    const sample = () => {
      const now = performance.now();
      if (this.#proving && now - this.#proving.since < PROOF_MS)
        throw new LpkError('cancelled', 'another attempt is ahead');
      this.#proving = { attempt, since: now };
      const session = this.#session?.ended ? undefined : this.#session;
      const sessionId = session && this.#sessionId ? this.#sessionId : randomBytes(SESSION_ID_BYTES);
      attempt.claim = { sessionId, resuming: session !== undefined };
      return { ...attempt.claim, received: session?.link.received ?? 0 };
    };
    try {
      carrier = await this.#options.connect();
      if (abandoned) return carrier.terminate();
      carrier.on('error', (error) => {
        failure ??= this.#options.explain(error);
      });
      const opened = carrier;
      const welcomed = (welcome: Welcome) => this.#welcomed(attempt, opened, welcome);
      await proveAsLaptop(opened, this.#options.key, sample, welcomed, this.#options.times?.handshakeMs);
    } catch (error) {
      if (this.#attempts.has(attempt)) this.#failed(attempt, failure ?? this.#options.explain(error));
    }
  }

  #welcomed(attempt: Attempt, carrier: Carrier, welcome: Welcome): void {
    this.#retire(attempt);
    if (this.#closed || this.isUp || !attempt.claim) return carrier.terminate();
    const { sessionId, resuming } = attempt.claim;
    const resumed = resuming && welcome.resumed && this.#session !== undefined && !this.#session.ended;
    if (resuming && !resumed && welcome.resumed) {
      // The session ran out on this side while the agent still held it: the next attempt starts anew.
      carrier.terminate();
      return this.#schedule(0);
    }
    this.#stopAttempts();
    clearTimeout(this.#holdTimer);
    this.#holdMs = welcome.holdMs;
    this.#upSince = performance.now();
    if (this.#session) this.#reconnects += 1;
    if (!resumed) this.#begin(sessionId);
    const session = this.session;
    session.link.noteRtt(welcome.rttMs);
    try {
      session.attach(carrier, welcome.peerReceived);
    } catch (error) {
      carrier.close(CLOSE.protocol);
      session.close('protocol', (error as Error).message);
    }
  }

  #begin(sessionId: Buffer): void {
    this.#session?.close('link-lost', 'the agent no longer has this session');
    const session = new Session('laptop', this.#options.times);
    this.#session = session;
    this.#sessionId = sessionId;
    session.on('up', () => this.emit('up'));
    session.on('down', (reason) => this.#down(session, reason));
    session.on('end', (error, connections) => {
      if (connections > 0) this.emit('cut', { connections, reason: error.message });
      this.#sessionEnded(session, error);
    });
    this.emit('session', session);
  }

  #down(session: Session, reason: string): void {
    this.#holdTimer = setTimeout(() => {
      session.close('link-lost', `the link did not come back within ${Math.round(this.#holdMs / 1_000)} s`);
    }, this.#holdMs);
    this.emit('down', { reason, holdMs: this.#holdMs });
    if (performance.now() - this.#upSince < STABLE_MS) return this.#retry();
    this.#retryMs = FIRST_RETRY_MS;
    this.#attempt();
  }

  /** Ended by the agent (a bye) or by a broken protocol: it may take a new session. Ended by us: nothing to do. */
  #sessionEnded(session: Session, error: LpkError): void {
    if (this.#closed || session !== this.#session) return;
    this.#lastError = error;
    if (error.code !== 'link-lost') this.emit('down', { reason: error.message, holdMs: 0 });
    this.#retry();
  }

  #failed(attempt: Attempt, error: LpkError): void {
    this.#retire(attempt);
    if (this.#closed || this.isUp || error.code === 'cancelled') return;
    this.#lastError = error;
    if (FINAL.has(error.code) || (FINAL_AT_FIRST.has(error.code) && !this.#session)) {
      this.#failStart?.(error);
      this.close();
      this.emit('end', error);
      return;
    }
    this.emit('retry', error);
    this.#retry();
  }

  #retry(): void {
    this.#schedule(this.#retryMs);
    this.#retryMs = Math.min(this.#retryMs * 1.5, ATTEMPT_EVERY_MS);
  }

  #retire(attempt: Attempt): void {
    clearTimeout(attempt.timer);
    this.#attempts.delete(attempt);
    if (this.#proving?.attempt === attempt) this.#proving = undefined;
  }

  #stopAttempts(): void {
    clearTimeout(this.#nextAttempt);
    for (const attempt of [...this.#attempts]) {
      this.#retire(attempt);
      attempt.abandon();
    }
  }
}
