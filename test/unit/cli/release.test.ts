import assert from 'node:assert/strict';
import test from 'node:test';
import { agentVolume } from '../../../agent/deploy/agent-container.ts';
import { Output, type Sink } from '../../../cli/output.ts';
import { releaseSessions } from '../../../cli/release.ts';
import { FakeCluster } from './fake-cluster.ts';

const ANN = { owner: 'ann', host: 'box' };
const BOB = { owner: 'bob', host: 'mill' };

async function release(fake: FakeCluster, target: string) {
  let out = '';
  let err = '';
  const sink = (write: (text: string) => unknown) => ({ write, on: () => {} }) as unknown as Sink;
  const output = new Output({
    ...{ format: 'text', env: {}, nowMs: () => 0 },
    stdout: sink((text) => (out += text)),
    stderr: sink((text) => (err += text)),
  });
  const code = await releaseSessions(fake.cluster, { target, yes: true }, output);
  return { code, out: out.split('\n').slice(0, -1), err };
}

/** A session with a pod of its own beside those of deployment/web. */
function addBeside(fake: FakeCluster, id: string, person: typeof ANN): void {
  fake.holdPod(`lpk-${id}`, { id, ...person }, { beside: 'deployment/web' });
  const record = fake.objects.get(`/api/v1/namespaces/shop/configmaps/lpk-${id}`).metadata.annotations['lpk.dev/pod'];
  fake.objects.set(`/api/v1/namespaces/shop/pods/lpk-${id}`, {
    metadata: {
      ...{ name: `lpk-${id}`, namespace: 'shop', uid: `uid-${id}` },
      annotations: { 'lpk.dev/session': record },
    },
    spec: { containers: [], volumes: [agentVolume(id)] },
  });
}

const ended = (person: typeof ANN, what: string) =>
  `ended the session of ${person.owner} on ${person.host} since 2026-11-24 10:00:00 UTC: ${what}`;

test('the session that holds the workload is ended, and no other beside it', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  addBeside(fake, 's2', BOB);
  const before = fake.state;
  fake.hold('web', { id: 's1', ...ANN });
  const { code, out } = await release(fake, 'deployment/web');
  assert.equal(code, 0);
  assert.deepEqual(out, [ended(ANN, 'deployment/web in namespace shop is put back')]);
  assert.deepEqual(fake.state, before);
});

test('of a workload that none holds, all with a pod beside its are ended, each named', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  fake.deployment('api');
  fake.holdPod('lpk-s3', { id: 's3', ...ANN }, { beside: 'deployment/api' });
  const before = fake.state;
  addBeside(fake, 's1', ANN);
  addBeside(fake, 's2', BOB);
  const { code, out } = await release(fake, 'deployment/web');
  assert.equal(code, 0);
  assert.deepEqual(out, [
    ended(ANN, 'pod/lpk-s1 beside deployment/web in namespace shop is removed'),
    ended(BOB, 'pod/lpk-s2 beside deployment/web in namespace shop is removed'),
  ]);
  assert.deepEqual(fake.state, before);
});

test('a holder on a busy machine gets its time to read who ended its session', async (t) => {
  const fake = new FakeCluster();
  fake.deployment('web');
  fake.hold('web', { id: 's1', ...ANN });
  fake.lease('s1', { holderIdentity: 'ann@box', createdAt: new Date(fake.nowMs).toISOString() });
  let nowMs = 0;
  t.mock.method(performance, 'now', () => nowMs);
  let signed: string | undefined;
  fake.onLease = ({ metadata }) => {
    if (!metadata.annotations) return;
    nowMs += 5_000;
    if (nowMs < 20_000) return;
    signed = metadata.annotations['lpk.dev/ended-by'];
    fake.objects.delete('/apis/coordination.k8s.io/v1/namespaces/shop/leases/lpk-s1');
  };
  assert.equal((await release(fake, 'deployment/web')).code, 0);
  assert.notEqual(signed, undefined);
});

test('when one of several can’t be ended the others are, and the exit code says so', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  addBeside(fake, 's1', ANN);
  addBeside(fake, 's2', BOB);
  fake.refused.add('DELETE /api/v1/namespaces/shop/pods/lpk-s1');
  const { code, out, err } = await release(fake, 'deployment/web');
  assert.equal(code, 1);
  assert.deepEqual(out, [ended(BOB, 'pod/lpk-s2 beside deployment/web in namespace shop is removed')]);
  assert.match(err, /may not DELETE .*\/lpk-s1/);
});

test('a session beside is found although its pod is gone, by either name', async () => {
  for (const target of ['deployment/web', 'pod/lpk-s1']) {
    const fake = new FakeCluster();
    fake.deployment('web');
    const before = fake.state;
    addBeside(fake, 's1', ANN);
    fake.objects.delete('/api/v1/namespaces/shop/pods/lpk-s1');
    const { out } = await release(fake, target);
    assert.deepEqual(out, [ended(ANN, 'pod/lpk-s1 beside deployment/web in namespace shop is removed')]);
    assert.deepEqual(fake.state, before);
  }
});

test('who may not list ConfigMaps finds sessions beside by their pods', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  addBeside(fake, 's1', ANN);
  fake.refused.add('GET /api/v1/namespaces/shop/configmaps');
  const { out } = await release(fake, 'deployment/web');
  assert.deepEqual(out, [ended(ANN, 'pod/lpk-s1 beside deployment/web in namespace shop is removed')]);
});

test('rights that are missing are named before anything is changed', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  addBeside(fake, 's1', ANN);
  const before = fake.state;
  fake.lacking.add('delete pods in shop');
  await assert.rejects(release(fake, 'deployment/web'), { code: 'forbidden', message: /: delete pods$/ });
  assert.deepEqual(fake.state, before);
});

test('a workload that no session has anything to do with is an error', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  const message = 'deployment/web in namespace shop is not held by any session: nothing to release';
  await assert.rejects(release(fake, 'deployment/web'), { code: 'not-found', message });
});
