import type { Json } from '../agent/deploy/kube.ts';
import { isWatched } from '../agent/deploy/restorer.ts';
import { ENDED_ANNOTATION } from '../agent/restore/lease.ts';
import { LpkError } from '../agent/wire/errors.ts';
import type { Person } from './whoami.ts';

const RENEW_MS = 10_000;
const LOOK_MS = 1_000;
/** What a restorer's pod gets to start: as long as a rollout gets. */
const START_MS = 180_000;
/** What a restorer may take from putting back to the end of the Lease: a slow rollout, and some more. */
const RESTORING_MS = 240_000;

export type LeaseKeeperOptions = {
  /** Renews it; the Lease as it is then. */
  renew: () => Promise<Json>;
  /** How long the laptop may be silent, ms. */
  silenceMs: number;
  /** A restorer is to watch: while none does `unwatched` is called with each renewal, until it has said so (true). */
  restorer: boolean;
  /** `late`: it had the time that a pod takes to start. */
  unwatched: (late: boolean) => Promise<boolean>;
  /** Somebody ended the session, or (undefined) the Lease is gone. Called once. */
  ended: (by: Person | undefined) => void;
  /** Of the clock on the wall: it goes on while the laptop sleeps. */
  nowMs?: () => number;
};

/** Shows the cluster that this laptop lives: renews the session's Lease, and at once after a sleep. */
export class LeaseKeeper {
  #options: LeaseKeeperOptions;
  #nowMs: () => number;
  #startedMs: number;
  #renewedMs: number | undefined;
  /** The last silence that a restorer ends a session for. */
  #gap = { ms: 0, endedMs: Number.NEGATIVE_INFINITY };
  #askedMs = Number.NEGATIVE_INFINITY;
  #asking = false;
  #ending = false;
  #over = false;
  #told = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: LeaseKeeperOptions) {
    this.#options = options;
    this.#nowMs = options.nowMs ?? Date.now;
    this.#startedMs = this.#nowMs();
  }

  /** How long this laptop has not been heard of, ms; or, if a restorer may be at its work for that still, was not just now. */
  get silentMs(): number {
    const now = this.#nowMs();
    const gapMs = now - this.#gap.endedMs < RESTORING_MS ? this.#gap.ms : 0;
    return Math.max(now - (this.#renewedMs ?? this.#startedMs), gapMs);
  }

  start(): void {
    this.#timer = setInterval(() => void this.look(), LOOK_MS);
    this.#timer.unref();
  }

  /** The session is being taken back by its holder: the Lease is renewed while it is there, and that it goes is no news. */
  ending(): void {
    this.#ending = true;
  }

  /** The restorer is gone, which was said. */
  goAlone(): void {
    this.#told = true;
  }

  stop(): void {
    this.#over = true;
    clearInterval(this.#timer);
  }

  /**
   * Renews if it is time. A network that is gone is tried again a second later (the link says so by itself), what is refused when the
   * next renewal is due, and a Lease that is not there no more.
   */
  async look(): Promise<void> {
    const { renew, silenceMs, restorer, unwatched, ended } = this.#options;
    const now = this.#nowMs();
    if (this.#over || this.#asking || now - this.#askedMs < Math.min(RENEW_MS, silenceMs / 3)) return;
    this.#asking = true;
    try {
      const lease = await renew();
      const renewedMs = this.#nowMs();
      const gapMs = renewedMs - (this.#renewedMs ?? this.#startedMs);
      if (gapMs >= silenceMs) this.#gap = { ms: gapMs, endedMs: renewedMs };
      this.#renewedMs = renewedMs;
      this.#askedMs = now;
      const by = endedBy(lease);
      if (by && !this.#ending) {
        this.stop();
        ended(by);
      } else if (restorer && !this.#told && !isWatched(lease)) {
        this.#told = await unwatched(now - this.#startedMs > START_MS);
      }
    } catch (error) {
      const code = error instanceof LpkError ? error.code : undefined;
      if (code === 'cluster-unreachable' || this.#over) return;
      this.#askedMs = now;
      if (code !== 'not-found') return;
      this.stop();
      // Not found from the first time on: it could not be made, which was said.
      if (this.#renewedMs !== undefined && !this.#ending) ended(undefined);
    } finally {
      this.#asking = false;
    }
  }
}

/** Who ended the session in its holder's stead, if somebody did. */
export function endedBy(lease: Json): Person | undefined {
  const text = lease.metadata.annotations?.[ENDED_ANNOTATION];
  try {
    return text === undefined ? undefined : (JSON.parse(text) as Person);
  } catch {
    return undefined;
  }
}
