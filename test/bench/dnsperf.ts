/** What dnsperf (Debian's, 2.10) found: see dnsperf(1). */
export type DnsperfResult = {
  sent: number;
  /** No answer within its patience. */
  lost: number;
  servfail: number;
  /** Other answers than NOERROR and SERVFAIL. */
  otherErrors: number;
  queriesPerSecond: number;
};

/** Throws when this is not dnsperf's statistics. */
export function parseDnsperf(output: string): DnsperfResult {
  const number = (pattern: RegExp) => {
    const found = pattern.exec(output)?.[1];
    if (found === undefined) throw new Error(`dnsperf did not say ${pattern.source}: ${output.trim()}`);
    return Number(found);
  };
  const [, codes = ''] = /^ *Response codes: +(.*)$/m.exec(output) ?? [];
  const counts = new Map([...codes.matchAll(/([A-Z0-9]+) (\d+) \(/g)].map(([, code, count]) => [code, Number(count)]));
  const servfail = counts.get('SERVFAIL') ?? 0;
  const answers = [...counts.values()].reduce((sum, count) => sum + count, 0);
  return {
    sent: number(/^ *Queries sent: +(\d+)/m),
    lost: number(/^ *Queries lost: +(\d+)/m),
    servfail,
    otherErrors: answers - servfail - (counts.get('NOERROR') ?? 0),
    queriesPerSecond: number(/^ *Queries per second: +([\d.]+)/m),
  };
}

/** Of several runs together: what must not be overlooked beside a good speed. */
export type Tally = Omit<DnsperfResult, 'queriesPerSecond'>;

export const NOTHING: Tally = { sent: 0, lost: 0, servfail: 0, otherErrors: 0 };

export function plus(tally: Tally, result: Tally): Tally {
  return {
    sent: tally.sent + result.sent,
    lost: tally.lost + result.lost,
    servfail: tally.servfail + result.servfail,
    otherErrors: tally.otherErrors + result.otherErrors,
  };
}
