import assert from 'node:assert/strict';
import { test } from 'node:test';
import { following, indexInStatefulSet, partitionOf } from '../../../agent/restore/follow.ts';

test('how pods come to a changed template', () => {
  const onDelete = { updateStrategy: { type: 'OnDelete' } };
  const rolling = { updateStrategy: { type: 'RollingUpdate', rollingUpdate: { partition: 2 } } };
  const table: [string, object, string][] = [
    ['deployment', {}, 'by-itself'],
    ['daemonset', rolling, 'by-itself'],
    ['daemonset', onDelete, 'when-deleted'],
    ['replicaset', {}, 'when-deleted'],
    ['statefulset', rolling, 'when-ready'],
    ['statefulset', { ...rolling, podManagementPolicy: 'OrderedReady' }, 'when-ready'],
    ['statefulset', { ...rolling, podManagementPolicy: 'Parallel' }, 'by-itself'],
    ['statefulset', { ...onDelete, podManagementPolicy: 'Parallel' }, 'when-deleted'],
  ];
  for (const [kind, spec, expected] of table)
    assert.equal(following(kind, { spec }), expected, `${kind} ${JSON.stringify(spec)}`);
});

test('a partition counts from the first pod, whatever its ordinal', () => {
  assert.equal(partitionOf({ spec: {} }), 0);
  assert.equal(partitionOf({ spec: { updateStrategy: { rollingUpdate: { partition: 3 } } } }), 3);
  assert.equal(indexInStatefulSet({ metadata: { name: 'my-db-7' } }, { spec: { ordinals: { start: 5 } } }), 2);
  assert.equal(indexInStatefulSet({ metadata: { name: 'my-db-7' } }, { spec: {} }), 7);
});
