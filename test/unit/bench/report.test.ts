import assert from 'node:assert/strict';
import test from 'node:test';
import { NOTHING } from '../../bench/dnsperf.ts';
import {
  add,
  answeredGoal,
  distanceGoals,
  dnsGoals,
  median,
  memoryGoal,
  type Samples,
  summarize,
  table,
  throughputGoals,
} from '../../bench/report.ts';

const METRICS = [
  { key: 'downMBps', title: 'down', unit: 'MB/s', better: 'more' as const, digits: 0 },
  { key: 'agentCpuDown', title: 'CPU', unit: 's/GB', better: 'less' as const, digits: 2 },
];

function measured(): Samples {
  const samples: Samples = new Map();
  for (const downMBps of [100, 300, 200]) add(samples, 'kubectl port-forward', { downMBps, agentCpuDown: undefined });
  for (const downMBps of [150, 390, 280]) {
    add(samples, 'lpk --transport proxy', { downMBps, upMBps: 1, agentCpuDown: 1.5 });
  }
  return samples;
}

test('the median of rounds, odd and even', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
});

test('a ratio is the median of the rounds’ own ratios, where the first subject has any', () => {
  const { subjects, ratios } = summarize(measured());
  assert.deepEqual(subjects['kubectl port-forward'], { downMBps: { median: 200, rounds: [100, 300, 200] } });
  assert.deepEqual(ratios, { 'lpk --transport proxy': { downMBps: 1.4 } });
});

test('the table has a row per metric and a column per subject', () => {
  assert.equal(
    table(METRICS, summarize(measured())),
    [
      '             kubectl port-forward   lpk --transport proxy',
      'down, MB/s                    200            280  (1.40×)',
      'CPU, s/GB                       –                    1.50',
    ].join('\n'),
  );
});

test('goals hold at their bound, and not beyond', () => {
  const at = (downMBps: number, connectP50Us: number) => {
    const samples: Samples = new Map();
    add(samples, 'kubectl port-forward', { downMBps: 100, upMBps: 100, connectP50Us: 100 });
    add(samples, 'lpk --transport proxy', { downMBps, upMBps: 200, connectP50Us });
    return throughputGoals(summarize(samples)).map(({ holds }) => holds);
  };
  assert.deepEqual(at(140, 50), [true, true, true]);
  assert.deepEqual(at(139, 51), [false, true, false]);
  const samples: Samples = new Map();
  add(samples, 'kubectl port-forward', { clientFirstRtts: 3, serverFirstRtts: 3 });
  add(samples, 'lpk --transport proxy', { clientFirstRtts: 1.3, serverFirstRtts: 1.31 });
  assert.deepEqual(
    distanceGoals(summarize(samples)).map(({ holds }) => holds),
    [true, false],
  );
});

test('what was not measured is no goal reached', () => {
  assert.ok(throughputGoals(summarize(new Map())).every(({ holds }) => !holds));
  assert.ok(dnsGoals(summarize(new Map())).every(({ holds }) => !holds));
  const { holds, vital } = answeredGoal('lpk proxy', NOTHING);
  assert.deepEqual({ holds, vital }, { holds: false, vital: true });
});

test('goals of the DNS server hold at their bound, and not beyond', () => {
  const at = (cachedQps: number, uncachedQps: number) => {
    const samples: Samples = new Map();
    add(samples, 'dnsmasq 2.90', { cachedQps: 1, uncachedQps: 1 });
    add(samples, 'lpk proxy', { cachedQps, uncachedQps });
    return dnsGoals(summarize(samples)).map(({ holds }) => holds);
  };
  assert.deepEqual(at(5_000, 1_000), [true, true]);
  assert.deepEqual(at(4_999, 999), [false, false]);
});

test('memory may grow by a tenth or 8 MiB, whichever is more', () => {
  const grows = (warmMiB: number, afterMiB: number) =>
    memoryGoal({ names: 1_000, first: 100, beforeMiB: 1, warmMiB, afterMiB }).holds;
  assert.deepEqual([grows(200, 220), grows(200, 220.1)], [true, false]);
  assert.deepEqual([grows(50, 58), grows(50, 58.1)], [true, false]);
  assert.equal(grows(200, 100), true);
});

test('one query in a thousand may go wrong, in whatever way', () => {
  const holds = (wrong: object) => answeredGoal('dnsmasq', { ...NOTHING, sent: 3_000, ...wrong }).holds;
  assert.equal(holds({ lost: 1, servfail: 1, otherErrors: 1 }), true);
  assert.equal(holds({ lost: 4 }), false);
  assert.equal(holds({ servfail: 4 }), false);
  assert.equal(holds({ otherErrors: 4 }), false);
});
