import assert from 'node:assert/strict';
import { test } from 'node:test';
import { rowsOf } from '../faults/rows.ts';
import { format, runTable, summarize, tell } from '../faults/table.ts';
import { SHORT } from '../faults/times.ts';

/** The fault table (`scripts/faults`), each row once, and without the long times. It kills pieces of the cluster, and its node. */

const LANES = 6;

const rows = rowsOf(SHORT);
const outcomes = await runTable(rows, {
  rounds: 1,
  lanes: LANES,
  onOutcome: (outcome, left) => console.log(tell(outcome, left)),
});
console.log(format(summarize(rows, outcomes)));

for (const { name } of rows) {
  test(name, () => {
    const failures = outcomes.filter(({ row, failure }) => row === name && failure !== undefined);
    assert.deepEqual(
      failures.map(({ failure }) => failure),
      [],
    );
    assert.ok(outcomes.some(({ row }) => row === name));
  });
}
