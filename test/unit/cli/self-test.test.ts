import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import type { Target } from '../../../agent/deploy/find.ts';
import type { Cluster } from '../../../agent/deploy/kube.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import { Output } from '../../../cli/output.ts';
import { SelfTest } from '../../../cli/self-test.ts';

/** More than a rollout gets before its Services are looked at all the same. */
const LATE_MS = 30_000;

test('a rollout that does not end is looked at, also when something listened before the self-test was there', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const asked: string[] = [];
  const request = async (_: string, path: string) => {
    asked.push(path);
    throw new LpkError('forbidden', 'not for you');
  };
  const selfTest = new SelfTest({
    cluster: { namespace: 'shop', request } as unknown as Cluster,
    target: { kind: 'deployment', name: 'web', namespace: 'shop', workload: {} } as unknown as Target,
    ports: new Map([[80, 8080]]),
    agents: () => [],
    isServed: () => true,
    output: new Output({ format: 'text', stdout: new PassThrough(), stderr: new PassThrough() }),
  });
  t.after(() => selfTest.stop());
  assert.deepEqual(asked, []);
  t.mock.timers.tick(LATE_MS);
  assert.notDeepEqual(asked, []);
});
