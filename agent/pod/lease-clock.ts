/** What the laptop gets at least to be heard of after the API server was away, ms: two renewals. */
const GRACE_MS = 20_000;

/**
 * When a Lease has lapsed, by this clock alone: what counts is how long ago a renewal was last *seen* here, as the laptop's
 * clock may be wrong. Time in which the API server did not answer proves nothing about the laptop and does not count.
 */
export class LeaseClock {
  #renewTime: string | undefined;
  #deadlineMs = Number.POSITIVE_INFINITY;
  #contactMs: number;
  #lost = false;

  constructor(nowMs: number) {
    this.#contactMs = nowMs;
  }

  /** The Lease was read. A renewal, or the first sight of it, starts the time anew. */
  seen(renewTime: string, silenceMs: number, nowMs: number): void {
    this.contact(nowMs);
    if (renewTime === this.#renewTime) return;
    this.#renewTime = renewTime;
    this.#deadlineMs = nowMs + silenceMs;
  }

  /** The API server answered, or a watch was open until now. */
  contact(nowMs: number): void {
    if (this.#lost) this.#deadlineMs = Math.max(this.#deadlineMs + nowMs - this.#contactMs, nowMs + GRACE_MS);
    this.#lost = false;
    this.#contactMs = nowMs;
  }

  /** The API server did not answer, or not as it should. */
  lost(): void {
    this.#lost = true;
  }

  /** Until the Lease lapses; 0 or less when it has. Infinite before it was first seen. */
  leftMs(nowMs: number): number {
    return this.#deadlineMs - nowMs;
  }
}
