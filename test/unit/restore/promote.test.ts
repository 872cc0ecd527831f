import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isInUse } from '../../../agent/restore/history.ts';
import { promote, templateHash } from '../../../agent/restore/promote.ts';
import { putBack } from '../../../agent/restore/put-back.ts';
import { SESSION_ANNOTATION } from '../../../agent/restore/record.ts';

// biome-ignore lint/suspicious/noExplicitAny: Kubernetes objects, untyped as in the code under test.
type Json = any;

const HELD = { kind: 'rollout', namespace: 'shop', apiPath: '/apis/argoproj.io/v1alpha1/namespaces/shop/rollouts/web' };
const record = { v: 1, id: 'abc', owner: 'ann', host: 'box', since: '', container: 'web', changed: [] };

/** An API server with one Rollout, whose controller sees a change at the second look after it. */
function argo(status: object, { session, seen = { 1: {} } }: { session?: object; seen?: Record<number, object> } = {}) {
  const asked: string[] = [];
  let looks = 0;
  const rollout: Json = {
    metadata: {
      ...{ name: 'web', generation: 1, resourceVersion: '1' },
      ...(session ? { annotations: { [SESSION_ANNOTATION]: JSON.stringify(session) } } : {}),
    },
    spec: { template: { spec: { containers: [{ name: 'web' }] } } },
    status: { observedGeneration: '1', ...status },
  };
  const request = async (method: string, path: string, options: Json = {}) => {
    if (method === 'PATCH') {
      asked.push(`${path.slice(HELD.apiPath.length)} ${JSON.stringify(options.body.at(-1))}`);
      if (path === HELD.apiPath) rollout.metadata = { ...rollout.metadata, generation: 2, annotations: {} };
      looks = 0;
    } else if (++looks > 1 && rollout.metadata.generation === 2) {
      Object.assign(rollout.status, { observedGeneration: '2', ...seen[1] });
    }
    return structuredClone(rollout);
  };
  return { api: { request } as Json, asked };
}

const PROMOTED = '/status {"op":"add","path":"/status/promoteFull","value":true}';
const CHANGED = { currentPodHash: 'agent', stableRS: 'own' };

test('a template that is not yet everywhere is promoted to all pods; once', async () => {
  for (const [status, expected] of [
    [CHANGED, [PROMOTED]],
    [{ ...CHANGED, promoteFull: true }, []],
    [{ currentPodHash: 'own', stableRS: 'own' }, []],
  ] as const) {
    const { api, asked } = argo(status);
    await promote(api, HELD);
    assert.deepEqual(asked, expected, JSON.stringify(status));
  }
});

test('put back, the template that was swapped goes to all pods too, when its controller has seen it', async () => {
  const before = { currentPodHash: 'agent', stableRS: 'agent' };
  const { api, asked } = argo(before, {
    session: { ...record, template: 'own' },
    seen: { 1: { currentPodHash: 'own' } },
  });
  const { workload } = await putBack(api, HELD, async () => []);
  assert.equal(workload, 'restored');
  assert.deepEqual(asked.slice(1), [PROMOTED]);
});

test('what somebody else made of it meanwhile goes its own steps', async () => {
  const before = { currentPodHash: 'agent', stableRS: 'agent' };
  const { api, asked } = argo(before, {
    session: { ...record, template: 'own' },
    seen: { 1: { currentPodHash: 'theirs' } },
  });
  await putBack(api, HELD, async () => []);
  assert.deepEqual(asked.slice(1), []);
});

test('whoever put it back may have died before that: the restorer knows the template by itself', async () => {
  const half = { currentPodHash: 'own', stableRS: 'agent' };
  const restorer = argo(half);
  await putBack(restorer.api, { ...HELD, template: 'own' }, async () => []);
  assert.deepEqual(restorer.asked, [PROMOTED]);
  const other = argo(half);
  await putBack(other.api, HELD, async () => []);
  assert.deepEqual(other.asked, [], 'a rollout of others is theirs');
});

test('the template is known of Rollouts only', () => {
  assert.equal(templateHash('rollout', { status: { currentPodHash: 'a' } }), 'a');
  assert.equal(templateHash('rollout', {}), undefined);
  assert.equal(templateHash('deployment', { status: { currentPodHash: 'a' } }), undefined);
});

test('a ReplicaSet that Argo keeps only to go back to it is not in use', () => {
  const revision = { metadata: { labels: { 'rollouts-pod-template-hash': 'agent' } }, spec: { replicas: 2 } };
  const inUse = (status: object) =>
    isInUse('rollout', { metadata: { generation: 3 }, status: { observedGeneration: '3', ...status } }, revision);
  assert.equal(inUse({ currentPodHash: 'own', stableRS: 'own', blueGreen: { activeSelector: 'own' } }), false);
  assert.equal(inUse({ currentPodHash: 'own', stableRS: 'agent' }), true);
  assert.equal(inUse({ currentPodHash: 'own', stableRS: 'own', blueGreen: { activeSelector: 'agent' } }), true);
  assert.equal(inUse({ currentPodHash: 'own', stableRS: 'own', observedGeneration: '2' }), true, 'not seen yet');
});
