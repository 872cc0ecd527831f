import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Target } from '../../../agent/deploy/find.ts';
import { workloadRef } from '../../../agent/deploy/workload.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import { whenFree } from '../../../cli/make-room.ts';
import type { Output } from '../../../cli/output.ts';
import { FakeCluster } from './fake-cluster.ts';

test('who leaves before the swap has nothing swapped, also after waiting again', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  const leave = new AbortController();
  const target = workloadRef('deployment', 'shop', 'web') as Target;
  const output = { say: () => {} } as unknown as Output;
  const options = { whenHeld: 'wait' as const, output, signal: leave.signal };
  let swaps = 0;
  const held = async () => {
    swaps += 1;
    throw new LpkError('already-held', 'bob was quicker');
  };
  fake.onFollow = () => leave.abort(new LpkError('cancelled', 'stopped by SIGINT'));
  await assert.rejects(whenFree(fake.cluster, target, options, held), { code: 'cancelled' });
  assert.equal(swaps, 1);
  await assert.rejects(whenFree(fake.cluster, target, options, held), { code: 'cancelled' });
  assert.equal(swaps, 1);
});
