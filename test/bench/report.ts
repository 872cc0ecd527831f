import type { Tally } from './dnsperf.ts';

/** What was measured, as a table beside the first subject's and as JSON. */

/** `better`: which way is good, for the reader of a ratio. */
export type Metric = { key: string; title: string; unit: string; better: 'more' | 'less'; digits: number };

export const THROUGHPUT_METRICS: Metric[] = [
  { key: 'downMBps', title: 'down', unit: 'MB/s', better: 'more', digits: 0 },
  { key: 'upMBps', title: 'up', unit: 'MB/s', better: 'more', digits: 0 },
  { key: 'echoP50Us', title: 'echo p50', unit: 'µs', better: 'less', digits: 0 },
  { key: 'echoP99Us', title: 'echo p99', unit: 'µs', better: 'less', digits: 0 },
  { key: 'connectP50Us', title: 'connect + first echo p50', unit: 'µs', better: 'less', digits: 0 },
  { key: 'connectP99Us', title: 'connect + first echo p99', unit: 'µs', better: 'less', digits: 0 },
  { key: 'connectByAddressP50Us', title: '… by address p50', unit: 'µs', better: 'less', digits: 0 },
  { key: 'connectByAddressP99Us', title: '… by address p99', unit: 'µs', better: 'less', digits: 0 },
  { key: 'laptopCpuDown', title: 'CPU, laptop, down', unit: 's/GB', better: 'less', digits: 2 },
  { key: 'laptopCpuUp', title: 'CPU, laptop, up', unit: 's/GB', better: 'less', digits: 2 },
  { key: 'agentCpuDown', title: 'CPU, agent, down', unit: 's/GB', better: 'less', digits: 2 },
  { key: 'agentCpuUp', title: 'CPU, agent, up', unit: 's/GB', better: 'less', digits: 2 },
];

export const DISTANCE_METRICS: Metric[] = [
  {
    key: 'clientFirstRtts',
    title: 'connect + first byte, client speaks first',
    unit: 'RTT',
    better: 'less',
    digits: 2,
  },
  {
    key: 'serverFirstRtts',
    title: 'connect + first byte, server speaks first',
    unit: 'RTT',
    better: 'less',
    digits: 2,
  },
  { key: 'echoRtts', title: 'echo', unit: 'RTT', better: 'less', digits: 2 },
];

export const DNS_METRICS: Metric[] = [
  { key: 'cachedQps', title: 'cached', unit: 'queries/s', better: 'more', digits: 0 },
  { key: 'uncachedQps', title: 'uncached, local upstream', unit: 'queries/s', better: 'more', digits: 0 },
  { key: 'clusterQps', title: 'cached, a cluster name', unit: 'queries/s', better: 'more', digits: 0 },
  { key: 'cachedCpuUs', title: 'CPU, cached', unit: 'µs/query', better: 'less', digits: 0 },
  { key: 'uncachedCpuUs', title: 'CPU, uncached', unit: 'µs/query', better: 'less', digits: 0 },
];

/** How many connect at once. */
export const CROWD = 500;

export const CAPTURE_METRICS: Metric[] = [
  { key: 'downMBps', title: 'down', unit: 'MB/s', better: 'more', digits: 0 },
  { key: 'upMBps', title: 'up', unit: 'MB/s', better: 'more', digits: 0 },
  { key: 'loopbackP50Us', title: 'connect to loopback p50', unit: 'µs', better: 'less', digits: 0 },
  { key: 'loopbackP99Us', title: 'connect to loopback p99', unit: 'µs', better: 'less', digits: 0 },
  { key: 'clusterP50Us', title: 'connect to the cluster p50', unit: 'µs', better: 'less', digits: 0 },
  { key: 'clusterP99Us', title: 'connect to the cluster p99', unit: 'µs', better: 'less', digits: 0 },
  { key: 'crowdAnswered', title: `${CROWD} connects at once`, unit: 'answered', better: 'more', digits: 0 },
  { key: 'startUpMs', title: 'added to start-up', unit: 'ms', better: 'less', digits: 0 },
  { key: 'laptopCpuDown', title: 'CPU, laptop, down', unit: 's/GB', better: 'less', digits: 2 },
  { key: 'laptopCpuUp', title: 'CPU, laptop, up', unit: 's/GB', better: 'less', digits: 2 },
];

/** Subject → metric → one value for each round. */
export type Samples = Map<string, Map<string, number[]>>;

export function add(samples: Samples, subject: string, values: Record<string, number | undefined>): void {
  const metrics = samples.get(subject) ?? new Map<string, number[]>();
  samples.set(subject, metrics);
  for (const [key, value] of Object.entries(values)) {
    if (value !== undefined) metrics.set(key, [...(metrics.get(key) ?? []), value]);
  }
}

export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const [low = Number.NaN, high = Number.NaN] = [sorted[middle - 1], sorted[middle]];
  return sorted.length % 2 === 1 ? high : (low + high) / 2;
}

export type Summary = {
  subjects: Record<string, Record<string, { median: number; rounds: number[] }>>;
  /** Against the first subject: the median of the rounds' ratios, so that a machine busy in one round misleads less. */
  ratios: Record<string, Record<string, number>>;
};

export function summarize(samples: Samples): Summary {
  const subjects: Summary['subjects'] = {};
  for (const [subject, metrics] of samples) {
    subjects[subject] = Object.fromEntries(
      [...metrics].map(([key, rounds]) => [key, { median: median(rounds), rounds }]),
    );
  }
  const [base, ...others] = Object.entries(subjects);
  const ratios = others.map(([subject, metrics]) => [
    subject,
    Object.fromEntries(
      Object.entries(metrics).flatMap(([key, { rounds }]) => {
        const of = base?.[1][key]?.rounds;
        return of ? [[key, median(rounds.map((value, round) => value / (of[round] ?? Number.NaN)))]] : [];
      }),
    ),
  ]);
  return { subjects, ratios: Object.fromEntries(ratios) };
}

export function table(metrics: Metric[], { subjects, ratios }: Summary): string {
  const names = Object.keys(subjects);
  const rows = metrics.map(({ key, title, unit, digits }) => [
    `${title}, ${unit}`,
    ...names.map((name) => {
      const value = subjects[name]?.[key]?.median;
      const ratio = ratios[name]?.[key];
      if (value === undefined) return '–';
      return value.toFixed(digits) + (ratio === undefined ? '' : `  (${ratio.toFixed(2)}×)`);
    }),
  ]);
  const all = [['', ...names], ...rows];
  const widths = all[0]?.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0))) ?? [];
  return all
    .map((row) =>
      row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('   '),
    )
    .join('\n');
}

/** A line of the acceptance: what was wanted, what came. */
export type Goal = {
  text: string;
  value: number;
  holds: boolean;
  /** Without it the other numbers mean nothing. */
  vital?: boolean;
};

export function throughputGoals({ ratios }: Summary): Goal[] {
  const of = ratios['lpk --transport proxy'] ?? {};
  const atLeast = (key: string, title: string, bound: number) => ({
    key,
    title,
    bound,
    holds: (value: number) => value >= bound,
  });
  const goals = [
    { ...atLeast('downMBps', 'down at least 1.4× kubectl’s', 1.4) },
    { ...atLeast('upMBps', 'up at least 1.4× kubectl’s', 1.4) },
    {
      ...{ key: 'connectP50Us', title: 'connect + first echo at most half of kubectl’s', bound: 0.5 },
      holds: (value: number) => value <= 0.5,
    },
  ];
  return goals.map(({ key, title, holds }) => {
    const value = of[key] ?? Number.NaN;
    return { text: `over proxy, ${title}: ${value.toFixed(2)}×`, value, holds: holds(value) };
  });
}

export function distanceGoals({ subjects }: Summary): Goal[] {
  return Object.entries(subjects)
    .filter(([name]) => name.startsWith('lpk'))
    .flatMap(([name, metrics]) =>
      (['clientFirstRtts', 'serverFirstRtts'] as const).map((key) => {
        const value = metrics[key]?.median ?? Number.NaN;
        const text = `${name}, ${key === 'clientFirstRtts' ? 'client' : 'server'} speaks first: connect + first byte in at most 1.3 RTT: ${value.toFixed(2)}`;
        return { text, value, holds: value <= 1.3 };
      }),
    );
}

const OF_DOOR = 0.95;
const LOOPBACK_ADDED_US = 60;
const CLUSTER_ADDED_US = 150;
const START_UP_ADDED_MS = 150;

export function captureGoals({ subjects, ratios }: Summary): Goal[] {
  const { 'SOCKS door': door = {}, captured = {} } = subjects;
  const share = (key: string, title: string): Goal => {
    const value = ratios.captured?.[key] ?? Number.NaN;
    const text = `captured, ${title} at least ${OF_DOOR}× the SOCKS door’s: ${value.toFixed(2)}×`;
    return { text, value, holds: value >= OF_DOOR };
  };
  const added = (key: string, title: string, most: number): Goal => {
    const of = door[key]?.rounds ?? [];
    const value = median((captured[key]?.rounds ?? []).map((each, round) => each - (of[round] ?? Number.NaN)));
    return { text: `captured, ${title} at most ${most} µs more: ${value.toFixed(0)} µs`, value, holds: value <= most };
  };
  const lost = CROWD - Math.min(...(captured.crowdAnswered?.rounds ?? [Number.NaN]));
  const startUpMs = captured.startUpMs?.median ?? Number.NaN;
  return [
    share('downMBps', 'down'),
    share('upMBps', 'up'),
    added('loopbackP50Us', 'connect to loopback, p50,', LOOPBACK_ADDED_US),
    added('clusterP50Us', 'connect to the cluster, p50, beside the SOCKS door’s,', CLUSTER_ADDED_US),
    { text: `captured, of ${CROWD} connects at once none lost: ${lost}`, value: lost, holds: lost === 0 },
    {
      text: `captured, at most ${START_UP_ADDED_MS} ms added to start-up: ${startUpMs.toFixed(0)} ms`,
      value: startUpMs,
      holds: startUpMs <= START_UP_ADDED_MS,
    },
  ];
}

const CACHED_QPS = 5_000;
const UNCACHED_QPS = 1_000;

export function dnsGoals({ subjects }: Summary): Goal[] {
  return (
    [
      ['cachedQps', 'cached', CACHED_QPS],
      ['uncachedQps', 'uncached, local upstream', UNCACHED_QPS],
    ] as const
  ).map(([key, title, least]) => {
    const value = subjects['lpk proxy']?.[key]?.median ?? Number.NaN;
    const text = `lpk proxy, ${title}, at least ${least} queries/s: ${value.toFixed(0)}`;
    return { text, value, holds: value >= least };
  });
}

/** Resident memory before the names, after the `first` of them, and after all. */
export type Memory = { names: number; first: number; beforeMiB: number; warmMiB: number; afterMiB: number };

/** What a garbage collector makes of the same heap from one moment to the next. */
const NOISE = { share: 0.1, mib: 8 };

export function memoryGoal({ names, first, warmMiB, afterMiB }: Memory): Goal {
  const value = afterMiB - warmMiB;
  const noiseMiB = Math.max(NOISE.mib, warmMiB * NOISE.share);
  const text = `lpk proxy, no growth of memory from ${first} to ${names} names (noise: ${noiseMiB.toFixed(1)} MiB): ${value.toFixed(1)} MiB`;
  return { text, value, holds: value <= noiseMiB };
}

/** Share of the queries. */
const MAX_UNANSWERED = 0.001;

export function answeredGoal(server: string, { sent, lost, servfail, otherErrors }: Tally): Goal {
  const value = (lost + servfail + otherErrors) / sent;
  const text = `${server}, at most ${MAX_UNANSWERED * 100} % of queries lost or failed: ${(value * 100).toFixed(3)} %`;
  return { text, value, holds: value <= MAX_UNANSWERED, vital: true };
}
