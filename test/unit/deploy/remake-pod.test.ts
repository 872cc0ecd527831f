import assert from 'node:assert/strict';
import test from 'node:test';
import { agentVolume } from '../../../agent/deploy/agent-container.ts';
import { remakePod } from '../../../agent/deploy/remake-pod.ts';
import { workloadRef } from '../../../agent/deploy/workload.ts';
import { FakeCluster } from '../cli/fake-cluster.ts';

const POD = '/api/v1/namespaces/shop/pods/lpk-s1';
const LEASE = '/apis/coordination.k8s.io/v1/namespaces/shop/leases/lpk-s1';
const MANIFEST = { metadata: { name: 'lpk-s1' }, spec: { containers: [], volumes: [agentVolume('s1')] } };

function lost(withLease = true): FakeCluster {
  const fake = new FakeCluster();
  fake.holdPod('lpk-s1', { id: 's1', owner: 'ann', host: 'box' }, { beside: 'deployment/web' });
  if (!withLease) return fake;
  fake.lease('s1', { holderIdentity: 'ann@box', createdAt: '2026-11-24T10:00:00Z' });
  fake.objects.get(LEASE).metadata.uid = 'uid-lease';
  fake.objects.get('/api/v1/namespaces/shop/configmaps/lpk-s1').metadata.ownerReferences = [
    { kind: 'Lease', name: 'lpk-s1', uid: 'uid-lease' },
  ];
  return fake;
}

function pod(status: object, metadata: object = {}) {
  return { ...MANIFEST, metadata: { ...MANIFEST.metadata, uid: 'uid-before', ...metadata }, status };
}

/** `each`: what happens in the cluster before each look, the first one's first. */
async function remake(fake: FakeCluster, ...each: (() => void)[]) {
  const refused: string[] = [];
  const stop = new AbortController();
  let made = 0;
  let looks = 0;
  const goesOn = await remakePod(
    fake.cluster,
    { ref: workloadRef('pod', 'shop', 'lpk-s1'), session: 's1', manifest: MANIFEST },
    {
      signal: stop.signal,
      made: () => made++,
      refused: ({ code }) => refused.push(code),
      pause: async () => {
        const next = each[looks++];
        if (next) next();
        else stop.abort();
      },
    },
  );
  return { goesOn, made, refused, looks };
}

const runs = (fake: FakeCluster) => () => {
  fake.objects.get(POD).status = { phase: 'Running' };
};
const nothing = () => {};

test('a pod that is gone is made anew, by the manifest of the one before', async () => {
  for (const withLease of [true, false]) {
    const fake = lost(withLease);
    assert.deepEqual(await remake(fake, nothing, runs(fake)), { goesOn: true, made: 1, refused: [], looks: 2 });
    assert.deepEqual(fake.objects.get(POD).spec, MANIFEST.spec);
  }
});

test('one that ends is waited for; one that the kubelet evicted is deleted', async () => {
  const fake = lost();
  fake.objects.set(POD, pod({ phase: 'Running' }, { deletionTimestamp: '2026-11-24T10:00:00Z' }));
  const failed = () => fake.objects.set(POD, pod({ phase: 'Failed' }));
  const { made, looks } = await remake(fake, nothing, failed, nothing, runs(fake));
  assert.deepEqual([made, looks], [1, 4]);
});

test('one that runs is left as it is', async () => {
  const fake = lost();
  fake.objects.set(POD, pod({ phase: 'Running' }));
  assert.deepEqual(await remake(fake, nothing), { goesOn: true, made: 0, refused: [], looks: 1 });
});

test('while it is refused it is tried again, and that is said once', async () => {
  const fake = lost();
  const post = 'POST /api/v1/namespaces/shop/pods';
  fake.refused.add(post);
  const { made, refused } = await remake(fake, nothing, nothing, () => fake.refused.delete(post), runs(fake));
  assert.deepEqual([made, refused], [1, ['forbidden']]);
});

test('nothing is made anew of a session that somebody ended', async () => {
  const ends: ((fake: FakeCluster) => void)[] = [
    (fake) => fake.objects.delete('/api/v1/namespaces/shop/configmaps/lpk-s1'),
    (fake) => fake.objects.delete(LEASE),
    (fake) => {
      fake.objects.get(LEASE).metadata.annotations = { 'lpk.dev/ended-by': '{}' };
    },
  ];
  for (const end of ends) {
    const fake = lost();
    const outcome = await remake(fake, () => end(fake));
    assert.deepEqual([outcome.goesOn, outcome.made, fake.objects.has(POD)], [false, 0, false]);
  }
});

test('one that was just made of a session that was ended at that moment is told to be over', async () => {
  const fake = lost();
  const { goesOn, made } = await remake(fake, nothing, () => fake.objects.delete(LEASE));
  assert.deepEqual([goesOn, made], [false, 1]);
});

test('it ends when the laptop leaves', async () => {
  const fake = lost();
  await assert.rejects(remake(fake), { code: 'cancelled' });
  assert.equal(fake.objects.has(POD), false);
});
