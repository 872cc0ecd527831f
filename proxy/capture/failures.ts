import { type ErrorCode, type LpkError, systemCode } from '../../agent/wire/errors.ts';
import { flowError } from '../../agent/wire/pump.ts';
import { ERRNO } from './abi.ts';

/** What connect(2) says of a dial that failed. Whatever else it was (no tunnel, a lost link), there is no way there. */
const ERRNOS: { readonly [code in ErrorCode]?: number } = {
  refused: ERRNO.ECONNREFUSED,
  unreachable: ERRNO.EHOSTUNREACH,
  'name-not-found': ERRNO.EHOSTUNREACH,
  'timed-out': ERRNO.ETIMEDOUT,
  'not-allowed': ERRNO.EACCES,
  'connection-reset': ERRNO.ECONNRESET,
  'too-many-streams': ERRNO.ENOBUFS,
};

const REMEMBER_MS = 30_000;
const MAX_DESTINATIONS = 1_024;

/** @returns a negative errno. */
export function connectErrno(error: unknown): number {
  const { code, cause }: LpkError = flowError(error);
  if (code === 'unreachable' && systemCode(cause) === 'ENETUNREACH') return -ERRNO.ENETUNREACH;
  if (code === 'not-allowed' && systemCode(cause) === 'EPERM') return -ERRNO.EPERM;
  return -(ERRNOS[code] ?? ERRNO.ENETUNREACH);
}

/** Whether a dial's error says something about its destination; that its client left does not. */
export function isFailure(error: unknown): boolean {
  return ERRNOS[flowError(error).code] !== undefined;
}

/** Destinations that failed lately: who tries one again is told the truth, even when it costs a moment's wait. */
export class Failures {
  #nowMs: () => number;
  /** By destination, ms; oldest first. */
  #at = new Map<string, number>();

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  add(destination: string): void {
    this.#at.delete(destination);
    this.#at.set(destination, this.#nowMs());
    const [oldest] = this.#at.keys();
    if (this.#at.size > MAX_DESTINATIONS && oldest !== undefined) this.#at.delete(oldest);
  }

  delete(destination: string): void {
    this.#at.delete(destination);
  }

  has(destination: string): boolean {
    const at = this.#at.get(destination);
    return at !== undefined && this.#nowMs() - at < REMEMBER_MS;
  }
}
