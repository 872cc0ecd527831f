import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isInUse } from '../../../agent/restore/history.ts';

test('a Deployment’s ReplicaSet is in use until its controller has seen that it is to have no pods, and says it has none', () => {
  const inUse = (replicas: number, status: object) =>
    isInUse('deployment', { metadata: {} }, { metadata: { generation: 2 }, spec: { replicas }, status });
  assert.equal(inUse(0, { observedGeneration: 2, replicas: 0 }), false);
  assert.equal(inUse(1, { observedGeneration: 2, replicas: 0 }), true);
  assert.equal(inUse(0, { observedGeneration: 2, replicas: 1 }), true);
  assert.equal(inUse(0, { observedGeneration: 1, replicas: 0 }), true, 'its pod is just being made');
  assert.equal(inUse(0, {}), true, 'it has not been looked at');
});
