/** How long what is away stays away. */
export type Times = {
  sleepMs: number;
  shortHoleMs: number;
  longHoleMs: number;
  restoreAfterS: number;
  noApiMs: number;
};

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

/** As the promise says. */
export const PROMISED: Times = {
  sleepMs: 2 * MINUTE,
  shortHoleMs: 30 * SECOND,
  longHoleMs: 3 * MINUTE,
  restoreAfterS: 45,
  noApiMs: 2 * MINUTE,
};

/** Past the same limits, as they can be set; for a test of every commit. */
export const SHORT: Times = {
  sleepMs: 30 * SECOND,
  shortHoleMs: 20 * SECOND,
  longHoleMs: 32 * SECOND,
  restoreAfterS: 15,
  noApiMs: 30 * SECOND,
};
