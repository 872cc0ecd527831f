/** `2026-11-24T10:00:00.000Z` as a person writes it. */
export function readableTime(since: string): string {
  return since.replace('T', ' ').replace(/(\.\d+)?Z$/, ' UTC');
}

/** How long ago, from seconds to days: `3 s`, `5 min`, `2 h`, `4 days`. */
export function readableSpan(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1_000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}
