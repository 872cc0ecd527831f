import { ClockMap } from './clock.ts';
import type { Answer } from './message.ts';

export type Kept = Answer & {
  /** Whose answer it is. */
  road: 'cluster' | 'host';
  /** When it came. */
  sinceMs: number;
};

export type CacheOptions = {
  maxEntries?: number;
  maxBytes?: number;
  /** Questions being asked at once. */
  maxUnderWay?: number;
};

/** RFC 8767 section 4: a week is what any data may be kept; a laptop's session needs less. */
const MAX_KEPT_S = 86_400;
/** What an entry takes beside its message: key, offsets, map. */
const ENTRY_BYTES = 300;

/** Answers by question, each for its TTL, those not used lately given up first; and one asking at a time for equal questions. */
export class AnswerCache {
  #maxEntries: number;
  #maxBytes: number;
  #maxUnderWay: number;
  #entries = new ClockMap<Kept>();
  #bytes = 0;
  #underWay = new Map<string, Promise<Kept>>();

  constructor({ maxEntries = 10_000, maxBytes = 8 * 1024 * 1024, maxUnderWay = 1_000 }: CacheOptions = {}) {
    this.#maxEntries = maxEntries;
    this.#maxBytes = maxBytes;
    this.#maxUnderWay = maxUnderWay;
  }

  get entries(): number {
    return this.#entries.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get underWay(): number {
    return this.#underWay.size;
  }

  get(key: string, nowMs: number): Kept | undefined {
    const kept = this.#entries.get(key);
    if (!kept) return undefined;
    const ageMs = nowMs - kept.sinceMs;
    // A clock that was set back says nothing of the age.
    if (ageMs < 0 || ageMs >= Math.min(kept.ttlS, MAX_KEPT_S) * 1000) {
      this.#drop(key, kept);
      return undefined;
    }
    return kept;
  }

  /**
   * What `ask` finds, for all who want it meanwhile. Kept when its TTL allows. Rejects as `ask` does, and with code `EBUSY` when
   * too many are being asked for.
   */
  find(key: string, ask: () => Promise<Kept>): Promise<Kept> {
    const underWay = this.#underWay.get(key);
    if (underWay) return underWay;
    if (this.#underWay.size >= this.#maxUnderWay) {
      return Promise.reject(Object.assign(new Error('too many DNS questions at once'), { code: 'EBUSY' }));
    }
    const asking = ask()
      .then((found) => {
        this.#keep(key, found);
        return found;
      })
      .finally(() => this.#underWay.delete(key));
    this.#underWay.set(key, asking);
    return asking;
  }

  #keep(key: string, kept: Kept): void {
    const old = this.#entries.get(key);
    if (old) this.#drop(key, old);
    if (kept.ttlS <= 0) return;
    this.#entries.set(key, kept);
    this.#bytes += cost(kept);
    while (this.#entries.size > this.#maxEntries || this.#bytes > this.#maxBytes) {
      const evicted = this.#entries.evict();
      if (evicted) this.#bytes -= cost(evicted.value);
    }
  }

  #drop(key: string, kept: Kept): void {
    this.#entries.delete(key);
    this.#bytes -= cost(kept);
  }
}

function cost({ message, ttlOffsets }: Kept): number {
  return message.length + ttlOffsets.byteLength + ENTRY_BYTES;
}
