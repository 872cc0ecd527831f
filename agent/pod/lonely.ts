const LOOK_MS = 1_000;

/**
 * Calls `end` once no laptop has been there for `lonelyMs` (from now on, or since the last one's session ended): a pod of
 * lpk's own must not stay for ever because a laptop died.
 */
export function endWhenLonely(hasSession: () => boolean, lonelyMs: number, end: () => void): void {
  let seenAt = performance.now();
  const timer = setInterval(
    () => {
      const now = performance.now();
      if (hasSession()) seenAt = now;
      if (now - seenAt < lonelyMs) return;
      clearInterval(timer);
      end();
    },
    Math.min(LOOK_MS, lonelyMs),
  );
  timer.unref();
}
