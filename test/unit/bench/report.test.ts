import assert from 'node:assert/strict';
import test from 'node:test';
import { add, distanceGoals, median, type Samples, summarize, table, throughputGoals } from '../../bench/report.ts';

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
});
