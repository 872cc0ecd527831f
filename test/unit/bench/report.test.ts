import assert from 'node:assert/strict';
import test from 'node:test';
import { NOTHING } from '../../bench/dnsperf.ts';
import {
  add,
  answeredGoal,
  captureGoals,
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

/** A round's values of capture, and the door's beside them. */
function captured(values: Record<string, number>): Record<string, number> {
  return {
    ...{ downMBps: 95, upMBps: 95, loopbackP50Us: 80, clusterP50Us: 1_150, crowdAnswered: 500, startUpMs: 150 },
    ...values,
  };
}
const DOOR = { downMBps: 100, upMBps: 100, loopbackP50Us: 20, clusterP50Us: 1_000, crowdAnswered: 500 };

function captureGoalsOf(rounds: [door: Record<string, number>, captured: Record<string, number>][]) {
  const samples: Samples = new Map();
  for (const [door, values] of rounds) {
    add(samples, 'SOCKS door', door);
    add(samples, 'captured', values);
  }
  return captureGoals(summarize(samples));
}

test('goals of capture hold at their bound, and not beyond', () => {
  const at = (values: Record<string, number>) => captureGoalsOf([[DOOR, captured(values)]]).map(({ holds }) => holds);
  assert.deepEqual(at({}), [true, true, true, true, true, true]);
  const beyond = {
    downMBps: 94,
    upMBps: 94,
    loopbackP50Us: 81,
    clusterP50Us: 1_151,
    crowdAnswered: 499,
    startUpMs: 151,
  };
  assert.deepEqual(at(beyond), [false, false, false, false, false, false]);
  assert.ok(captureGoals(summarize(new Map())).every(({ holds }) => !holds));
});

test('what capture adds is the median of the rounds’ own differences; a connect lost in any round is lost', () => {
  const busy = { ...DOOR, loopbackP50Us: 200, clusterP50Us: 5_000 };
  const goals = captureGoalsOf([
    [DOOR, captured({ loopbackP50Us: 70, clusterP50Us: 990 })],
    [busy, captured({ loopbackP50Us: 240, clusterP50Us: 5_020, crowdAnswered: 498 })],
    [DOOR, captured({ loopbackP50Us: 65, clusterP50Us: 1_400 })],
  ]);
  assert.deepEqual(
    goals.map(({ value }) => value),
    [0.95, 0.95, 45, 20, 2, 150],
  );
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
