import assert from 'node:assert/strict';
import test from 'node:test';
import { agentVolume } from '../../../agent/deploy/agent-container.ts';
import type { Json } from '../../../agent/deploy/kube.ts';
import { Output, type Sink } from '../../../cli/output.ts';
import { restoreSessions } from '../../../cli/restore.ts';
import { type RestoreOptions, readRestoreOptions } from '../../../cli/restore-options.ts';
import { FakeCluster, ownerReference } from './fake-cluster.ts';

const ME = { owner: 'ann', host: 'box' };
const BOB = { owner: 'bob', host: 'mill' };
const LEASE = '/apis/coordination.k8s.io/v1/namespaces/shop/leases/lpk-s1';

async function restore(
  fake: FakeCluster,
  asked: Partial<RestoreOptions>,
  format: 'text' | 'json' = 'text',
  here = new Map<string, number>(),
) {
  const said = { out: '', err: '' };
  const sink = (stream: 'out' | 'err') => {
    const write = (text: string) => {
      said[stream] += text;
    };
    return { write, on: () => {} } as unknown as Sink;
  };
  const output = new Output({ format, stdout: sink('out'), stderr: sink('err'), env: {}, nowMs: () => 0 });
  const options: RestoreOptions = {
    namespace: undefined,
    context: undefined,
    kubeconfig: undefined,
    target: undefined,
    allNamespaces: false,
    everyone: false,
    yes: false,
    wait: true,
    ...asked,
  };
  const code = await restoreSessions(fake.cluster, options, { output, me: ME, here });
  return { code, out: said.out.split('\n').slice(0, -1), err: said.err };
}

test('a target is restored whoever’s session left it, and its holder named', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  const before = fake.state;
  fake.hold('web', { id: 's1', ...BOB });
  assert.notDeepEqual(fake.state, before);
  const { code, out, err } = await restore(fake, { target: 'deployment/web' });
  assert.equal(code, 0);
  assert.deepEqual(out, [
    'restored deployment/web in namespace shop: the session of bob on mill since 2026-11-24 10:00:00 UTC',
  ]);
  assert.match(err, /✔ deployment\/web runs its own pods again/);
  assert.deepEqual(fake.state, before, 'everything as it was, nothing left');
});

/** `web`, held by bob, who was heard of so many seconds ago. */
function heldByBob(agoS: number) {
  const fake = new FakeCluster();
  fake.deployment('web');
  const before = fake.state;
  fake.hold('web', { id: 's1', ...BOB });
  const createdAt = new Date(fake.nowMs - agoS * 1_000).toISOString();
  fake.lease('s1', { holderIdentity: 'bob@mill', createdAt });
  return { fake, before };
}

test('a target whose holder lives is refused, and taken with --yes: signed, and its Lease gone when they have read it', async () => {
  const { fake, before } = heldByBob(3);
  const held = fake.state;
  await assert.rejects(restore(fake, { target: 'deployment/web' }), {
    code: 'session-alive',
    message: 'deployment/web in namespace shop is held by bob on mill, seen 3 s ago',
  });
  assert.deepEqual(fake.state, held);
  let signed: string | undefined;
  fake.onLease = (lease) => {
    signed = lease.metadata.annotations['lpk.dev/ended-by'];
    fake.objects.delete(LEASE);
  };
  const { out } = await restore(fake, { target: 'deployment/web', yes: true });
  assert.match(out[0] ?? '', /^restored deployment\/web in namespace shop: the session of bob on mill since /);
  assert.equal(signed, JSON.stringify(ME));
  assert.deepEqual(fake.state, before);
});

test('a target whose holder is dead, or is oneself, is restored without a word', async () => {
  const dead = heldByBob(46);
  assert.equal((await restore(dead.fake, { target: 'deployment/web' })).code, 0);
  assert.deepEqual(dead.fake.state, dead.before);

  const fake = new FakeCluster();
  fake.deployment('web');
  const before = fake.state;
  fake.hold('web', { id: 's1', ...ME });
  fake.lease('s1', { holderIdentity: 'ann@box', createdAt: new Date(fake.nowMs).toISOString() });
  assert.equal((await restore(fake, { target: 'deployment/web' }, 'text', new Map([['s1', 77]]))).code, 0);
  assert.deepEqual(fake.state, before);
});

test('a target may be a Service', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  fake.objects.set('/api/v1/namespaces/shop/services/front', {
    metadata: { name: 'front', namespace: 'shop' },
    spec: { selector: { app: 'web' }, ports: [{ port: 80 }] },
  });
  fake.hold('web', { id: 's1', ...ME });
  const { out } = await restore(fake, { target: 'front' });
  assert.deepEqual(out, ['restored deployment/web in namespace shop: your session since 2026-11-24 10:00:00 UTC']);
});

test('a target can be restored when it is scaled to zero', async () => {
  const fake = new FakeCluster();
  const workload = fake.deployment('web');
  fake.hold('web', { id: 's1', ...ME });
  const path = '/apis/apps/v1/namespaces/shop/deployments/web';
  fake.objects.get(path).spec.replicas = 0;
  assert.equal((await restore(fake, { target: 'deployment/web', wait: false })).code, 0);
  assert.deepEqual(fake.objects.get(path).spec, { ...workload.spec, replicas: 0 });
});

test('what somebody changed meanwhile stays, and is named', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  fake.hold('web', { id: 's1', ...ME });
  const path = '/apis/apps/v1/namespaces/shop/deployments/web';
  fake.objects.get(path).spec.template.spec.containers[0].image = 'web:2';
  const { err } = await restore(fake, { target: 'deployment/web' });
  assert.match(err, /! somebody changed image of deployment\/web meanwhile; that was left as it is/);
  assert.equal(fake.objects.get(path).spec.template.spec.containers[0].image, 'web:2');
});

test('a target that nobody holds is an error', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  await assert.rejects(restore(fake, { target: 'deployment/web' }), {
    code: 'not-found',
    message: 'deployment/web in namespace shop is not held by any session: nothing to restore',
  });
  await assert.rejects(restore(fake, { target: 'deployment/nowhere' }), { code: 'not-found' });
});

test('a target that nobody holds, but whose session left objects: those are removed', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  const before = fake.state;
  fake.leave('lost', { createdAt: '2026-11-24T11:00:00Z' });
  const { code, out } = await restore(fake, { target: 'deployment/web' });
  assert.equal(code, 0);
  assert.deepEqual(out, ['removed the objects that session lost in namespace shop left']);
  assert.deepEqual(fake.state, before);
});

test('who may not list sessions can still restore a target', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  const before = fake.state;
  fake.hold('web', { id: 's1', ...ME });
  for (const kind of ['daemonsets', 'deployments']) fake.refused.add(`GET /apis/apps/v1/namespaces/shop/${kind}`);
  assert.equal((await restore(fake, { target: 'deployment/web' })).code, 0);
  assert.deepEqual(fake.state, before);
});

test('rights that are missing are named before anything is changed', async () => {
  const fake = new FakeCluster();
  for (const name of ['web', 'api']) fake.deployment(name);
  for (const name of ['web', 'api']) fake.hold(name, { id: `${name}1`, ...ME });
  const held = fake.state;
  for (const right of ['delete secrets in shop', 'watch deployments/web in shop']) fake.lacking.add(right);
  const lacks = 'user "me" lacks rights in namespace shop to restore deployment/web: ';
  await assert.rejects(restore(fake, { target: 'deployment/web' }), {
    code: 'forbidden',
    message: `${lacks}watch deployments.apps "web"; delete secrets`,
  });
  await assert.rejects(restore(fake, { target: 'deployment/web', wait: false }), {
    code: 'forbidden',
    message: `${lacks}delete secrets`,
  });
  fake.lacking.delete('delete secrets in shop');
  assert.equal((await restore(fake, {})).code, 1, 'the other is restored all the same');
  const apart = ([path]: [string, Json]) => !path.includes('api');
  assert.deepEqual(Object.entries(fake.state).filter(apart), Object.entries(held).filter(apart));
});

test('--all restores one’s own sessions, and lists other people’s', async () => {
  const fake = new FakeCluster();
  for (const name of ['api', 'db', 'web']) fake.deployment(name);
  fake.hold('db', { id: 's2', ...BOB });
  const before = fake.state;
  fake.hold('web', { id: 's1', ...ME });
  const { code, out } = await restore(fake, {});
  assert.equal(code, 0);
  assert.deepEqual(out, [
    'left alone deployment/db in namespace shop: the session of bob on mill since 2026-11-24 10:00:00 UTC',
    'restored deployment/web in namespace shop: your session since 2026-11-24 10:00:00 UTC',
  ]);
  assert.deepEqual(fake.state, before);
});

test('--all leaves alone what a process here has, --everyone too', async () => {
  for (const everyone of [false, true]) {
    const fake = new FakeCluster();
    for (const name of ['api', 'web']) fake.deployment(name);
    fake.hold('web', { id: 's1', ...ME });
    const before = fake.state;
    fake.hold('api', { id: 's2', ...ME });
    const { code, out } = await restore(fake, { everyone }, 'text', new Map([['s1', 77]]));
    assert.equal(code, 0);
    const restored = 'restored deployment/api in namespace shop: your session since 2026-11-24 10:00:00 UTC';
    const running =
      'its session runs here as process 77; Ctrl-C there ends it, or `lpk restore deployment/web -n shop`';
    assert.deepEqual(out, [restored, `left alone deployment/web in namespace shop: ${running}`]);
    assert.deepEqual(fake.state, before);
  }
});

test('--all --everyone signs the session of a colleague who lives', async () => {
  const { fake, before } = heldByBob(3);
  let signed: string | undefined;
  fake.onLease = (lease) => {
    signed = lease.metadata.annotations['lpk.dev/ended-by'];
    fake.objects.delete(LEASE);
  };
  assert.equal((await restore(fake, { everyone: true, yes: true })).code, 0);
  assert.equal(signed, JSON.stringify(ME));
  assert.deepEqual(fake.state, before);
});

test('the same user on another machine is somebody else', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  fake.hold('web', { id: 's1', owner: 'ann', host: 'another' });
  const before = fake.state;
  const { code, out } = await restore(fake, {});
  assert.equal(code, 0);
  assert.match(out[0] ?? '', /^left alone deployment\/web .* ann on another/);
  assert.equal(out[1], 'nothing of yours to restore in namespace shop');
  assert.deepEqual(fake.state, before);
});

test('--all --everyone restores them all, -A in every namespace', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  fake.deployment('web', 'other');
  const before = fake.state;
  fake.hold('web', { id: 's1', ...BOB });
  fake.hold('web', { id: 's2', namespace: 'other', ...ME });
  await restore(fake, { everyone: true });
  assert.ok(fake.objects.has('/api/v1/namespaces/other/secrets/lpk-s2'), 'another namespace was not asked for');
  await restore(fake, { everyone: true, allNamespaces: true });
  assert.deepEqual(fake.state, before);
});

test('--all removes what lost sessions left, but not of one that may be about to start', async () => {
  const fake = new FakeCluster();
  fake.leave('old', { createdAt: '2026-11-24T11:58:59Z' });
  fake.leave('young', { createdAt: '2026-11-24T11:59:01Z' });
  const { code, out, err } = await restore(fake, {});
  assert.equal(code, 0);
  assert.deepEqual(out, ['removed the objects that session old in namespace shop left']);
  assert.match(err, /left alone: the objects of session young/);
  assert.deepEqual([...fake.objects.keys()].toSorted(), [
    '/api/v1/namespaces/shop/configmaps/lpk-young',
    '/api/v1/namespaces/shop/secrets/lpk-young',
  ]);
});

test('--all leaves alone the objects of a session that a newer lpk holds', async () => {
  const fake = new FakeCluster();
  const workload = fake.deployment('web');
  workload.metadata.annotations = { 'lpk.dev/session': '{"v":2}' };
  fake.leave('new', { createdAt: '2026-11-24T10:00:00Z', owner: workload });
  const before = fake.state;
  assert.deepEqual((await restore(fake, {})).out, ['nothing to restore in namespace shop']);
  assert.deepEqual(fake.state, before);
  await assert.rejects(restore(fake, { target: 'deployment/web' }), { code: 'version-mismatch' });
});

/** The status of a ReplicaSet whose controller has seen it. */
const SEEN = { observedGeneration: 1 };

/** The workload `web`, held, and what its agents' ReplicaSet is made of. */
function heldWithRevision(fake: FakeCluster) {
  const workload = fake.deployment('web');
  fake.hold('web', { id: 's1', ...ME });
  const template = fake.objects.get('/apis/apps/v1/namespaces/shop/deployments/web').spec.template;
  const path = '/apis/apps/v1/namespaces/shop/replicasets/web-1';
  const ownerReferences = [{ uid: workload.metadata.uid }];
  const metadata = { name: 'web-1', namespace: 'shop', generation: 1, ownerReferences };
  return { path, metadata, template, status: SEEN };
}

test('after the rollout the agent is gone from the workload’s history too', async () => {
  const fake = new FakeCluster();
  const { path, metadata, template, status } = heldWithRevision(fake);
  fake.objects.set(path, { metadata, spec: { replicas: 0, template }, status });
  await restore(fake, { target: 'deployment/web' });
  assert.equal(fake.objects.has(path), false);
});

test('a ReplicaSet of agents that is scaled down only after the rollout goes from the history too', async () => {
  const fake = new FakeCluster();
  const { path, metadata, template, status } = heldWithRevision(fake);
  let reads = 0;
  const spec = {
    template,
    get replicas() {
      return ++reads < 3 ? 1 : 0;
    },
  };
  fake.objects.set(path, { metadata, spec, status });
  assert.equal((await restore(fake, { target: 'deployment/web' })).code, 0);
  assert.equal(fake.objects.has(path), false);
});

/** Of the workload `web`, at an agent's template: what a session leaves that its restorer ended. */
function agentRevision(fake: FakeCluster, replicas: number): string {
  const workload = fake.deployment('web');
  fake.hold('web', { id: 's1', ...ME });
  const { template } = fake.objects.get('/apis/apps/v1/namespaces/shop/deployments/web').spec;
  for (const resource of ['configmaps', 'secrets']) fake.objects.delete(`/api/v1/namespaces/shop/${resource}/lpk-s1`);
  fake.deployment('web');
  const owner = { ...ownerReference(workload), controller: true };
  const metadata = { name: 'web-1', namespace: 'shop', generation: 1, ownerReferences: [owner] };
  const path = '/apis/apps/v1/namespaces/shop/replicasets/web-1';
  fake.objects.set(path, { metadata, spec: { replicas, template }, status: SEEN });
  return path;
}

test('an agent that a restorer had to leave in a workload’s history goes with the next restore', async () => {
  for (const asked of [{ target: 'deployment/web' }, {}]) {
    const fake = new FakeCluster();
    const path = agentRevision(fake, 0);
    const { code, out } = await restore(fake, asked);
    assert.equal(code, 0);
    assert.deepEqual(out, ['removed the agent from the history of deployment/web in namespace shop']);
    assert.equal(fake.objects.has(path), false);
  }
});

test('an agent in the history whose pods still run goes when the rollout is over', async () => {
  for (const asked of [{ target: 'deployment/web' }, {}]) {
    const fake = new FakeCluster();
    const path = agentRevision(fake, 1);
    const workload = fake.objects.get('/apis/apps/v1/namespaces/shop/deployments/web');
    workload.status.updatedReplicas = 0;
    fake.onFollow = () => {
      Object.assign(workload.status, { updatedReplicas: 1 });
      fake.objects.get(path).spec.replicas = 0;
    };
    const { code, out, err } = await restore(fake, asked);
    assert.equal(code, 0);
    assert.deepEqual(out, ['removed the agent from the history of deployment/web in namespace shop']);
    assert.match(err, /✔ deployment\/web runs its own pods again/);
    assert.equal(fake.objects.has(path), false);
  }
});

test('without waiting, an agent in the history whose pods still run stays, which is said', async () => {
  for (const asked of [{ target: 'deployment/web' }, {}]) {
    const fake = new FakeCluster();
    const path = agentRevision(fake, 1);
    const { code, err } = await restore(fake, { ...asked, wait: false });
    assert.equal(code, 0);
    assert.match(err, /the agent stays in the history of deployment\/web while pods of it run/);
    assert.equal(fake.objects.has(path), true);
  }
});

test('pods that do not come are no failure of who only cleans a workload’s history', async () => {
  const fake = new FakeCluster();
  agentRevision(fake, 1);
  fake.refused.add('FOLLOW /apis/apps/v1/namespaces/shop/deployments');
  const { code, err } = await restore(fake, {});
  assert.equal(code, 0);
  assert.match(err, /! the agent stays in the history of deployment\/web while pods of it run: may not FOLLOW/);
});

test('a put-back that was cut short is finished before the session’s objects go', async () => {
  for (const asked of [{ target: 'deployment/web' }, {}]) {
    const fake = new FakeCluster();
    const workload = fake.deployment('web');
    const before = fake.state;
    workload.metadata.managedFields = [{ manager: 'kubectl' }, { manager: 'lpk' }];
    fake.leave('s1', { createdAt: '2026-11-24T11:00:00Z', owner: workload });
    const { code, out } = await restore(fake, asked);
    assert.equal(code, 0);
    assert.deepEqual(out, ['removed the objects that session s1 in namespace shop left']);
    const { metadata } = fake.objects.get('/apis/apps/v1/namespaces/shop/deployments/web');
    assert.deepEqual(metadata.managedFields, [{ manager: 'kubectl' }]);
    delete metadata.managedFields;
    assert.deepEqual(fake.state, before);
  }
});

test('of a workload whose annotation is gone while it has the agent all stays, which is said', async () => {
  const path = '/apis/apps/v1/namespaces/shop/deployments/web';
  const fake = new FakeCluster();
  const { spec } = fake.deployment('web');
  fake.hold('web', { id: 's1', ...ME });
  const held = fake.objects.get(path);
  held.metadata.annotations = {};
  const before = fake.state;
  const said = /deployment\/web has the agent in its template, but somebody removed the annotation lpk\.dev\/session/;
  await assert.rejects(restore(fake, { target: 'deployment/web' }), { code: 'conflict', message: said });
  const { code, err } = await restore(fake, {});
  assert.equal(code, 1);
  assert.match(err, said);
  assert.deepEqual(fake.state, before);
  held.spec = spec;
  assert.equal((await restore(fake, {})).code, 0);
  assert.deepEqual([...fake.objects.keys()], [path]);
});

test('--all goes on after objects that it may not remove', async () => {
  const fake = new FakeCluster();
  for (const id of ['s1', 's2']) fake.leave(id, { createdAt: '2026-11-24T11:00:00Z' });
  fake.refused.add('DELETE /api/v1/namespaces/shop/secrets/lpk-s1');
  const { code, out, err } = await restore(fake, {});
  assert.equal(code, 1);
  assert.deepEqual(out, ['removed the objects that session s2 in namespace shop left']);
  assert.match(err, /^lpk: may not DELETE .*\/lpk-s1\n/);
});

test('a session that died here while it was being started is not waited for', async () => {
  const fake = new FakeCluster();
  fake.leave('dead', { createdAt: '2026-11-24T11:59:59Z' });
  fake.leave('begun', { createdAt: '2026-11-24T11:59:59Z' });
  for (const [id, holder] of [
    ['dead', 'ann@box'],
    ['begun', 'ann@box'],
    ['other', 'ann@another'],
  ] as const)
    fake.lease(id, { holderIdentity: holder, createdAt: '2026-11-24T11:59:59Z' });
  const { out, err } = await restore(fake, {}, 'text', new Map([['begun', 77]]));
  assert.deepEqual(out, ['removed the objects that session dead in namespace shop left']);
  assert.match(err, /left alone: the objects of session begun/);
  assert.match(err, /left alone: the objects of session other/);
});

test('--all with nothing to do says so, and is no error', async () => {
  const fake = new FakeCluster();
  assert.deepEqual(await restore(fake, {}), { code: 0, out: ['nothing to restore in namespace shop'], err: '' });
  assert.deepEqual((await restore(fake, { allNamespaces: true })).out, ['nothing to restore in any namespace']);
});

test('--all goes on after one that fails, says which, and ends with 1', async () => {
  const fake = new FakeCluster();
  fake.deployment('api');
  fake.deployment('web');
  fake.hold('api', { id: 's1', ...ME });
  fake.hold('web', { id: 's2', ...ME });
  fake.refused.add('PATCH /apis/apps/v1/namespaces/shop/deployments/api');
  const { code, out, err } = await restore(fake, {});
  assert.equal(code, 1);
  assert.deepEqual(out, ['restored deployment/web in namespace shop: your session since 2026-11-24 10:00:00 UTC']);
  assert.match(err, /^lpk: may not PATCH .*\/api\n {2}→ /);
});

test('-o json says the same for programs', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  fake.hold('web', { id: 's1', ...ME });
  const { out } = await restore(fake, { wait: false }, 'json');
  const session = { owner: 'ann', host: 'box', since: '2026-11-24T10:00:00.000Z' };
  assert.deepEqual(JSON.parse(out[0] as string), {
    event: 'restored',
    workload: 'deployment/web',
    namespace: 'shop',
    ...session,
    kept: [],
  });
  assert.equal(out.length, 1);
});

test('options that do not go together are refused, and say what to do', () => {
  const table: [Record<string, unknown>, RegExp][] = [
    [{}, /needs a target, or --all/],
    [{ target: 'web', all: true }, /not both/],
    [{ target: 'web', everyone: true }, /--everyone goes with --all/],
    [{ target: 'web', 'all-namespaces': true }, /--all-namespaces goes with --all/],
    [{ all: true, everyone: true }, /confirm it with --yes/],
    [{ all: true, output: 'yaml' }, /--output is text or json, not yaml/],
  ];
  for (const [words, message] of table) {
    assert.throws(() => readRestoreOptions(words), { code: 'usage', message }, JSON.stringify(words));
  }
  assert.throws(() => readRestoreOptions({ target: 'web' }, ['npm']), { code: 'usage', message: /takes no command/ });
  assert.equal(readRestoreOptions({ target: 'web' }).wait, true);
  assert.equal(readRestoreOptions({ all: true, 'no-wait': true }).wait, false);
});

const POD = '/api/v1/namespaces/shop/pods/job-runner';
const MANIFEST = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'job-runner' },
  spec: { containers: [{ name: 'app' }] },
};

test('a bare pod that is gone while it is held comes back: by its name, and with all', async () => {
  for (const asked of [{ target: 'pod/job-runner' }, {}]) {
    const fake = new FakeCluster();
    fake.holdPod('job-runner', { id: 's1', ...ME }, { manifest: MANIFEST });
    const { code, out } = await restore(fake, { ...asked, wait: false });
    assert.equal(code, 0);
    assert.deepEqual(out, ['restored pod/job-runner in namespace shop: your session since 2026-11-24 10:00:00 UTC']);
    assert.deepEqual([...fake.objects.keys()], [POD]);
    assert.deepEqual(fake.objects.get(POD).spec, MANIFEST.spec);
  }
});

test('a pod of somebody’s own, of the name of one that is held, is left alone; the session is over', async () => {
  const fake = new FakeCluster();
  fake.holdPod('job-runner', { id: 's1', ...ME }, { manifest: MANIFEST });
  const theirs = {
    metadata: { name: 'job-runner', namespace: 'shop', uid: 'uid-theirs' },
    spec: { containers: [{ name: 'x' }] },
  };
  fake.objects.set(POD, theirs);
  const { code, out } = await restore(fake, { target: 'pod/job-runner' });
  assert.equal(code, 0);
  assert.deepEqual(out, ['pod/job-runner is another by now and was left alone; removed what session s1 left']);
  assert.deepEqual([...fake.objects], [[POD, theirs]]);
});

test('a pod beside a Deployment’s is removed, and nothing waits for it', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  const before = fake.state;
  fake.holdPod('lpk-s1', { id: 's1', ...ME }, { beside: 'deployment/web' });
  const record = JSON.stringify({
    v: 1,
    id: 's1',
    ...ME,
    since: '2026-11-24T10:00:00.000Z',
    changed: [],
    beside: 'deployment/web',
  });
  fake.objects.set('/api/v1/namespaces/shop/pods/lpk-s1', {
    metadata: { name: 'lpk-s1', namespace: 'shop', uid: 'uid-beside', annotations: { 'lpk.dev/session': record } },
    spec: { containers: [], volumes: [agentVolume('s1')] },
  });
  const held = new Map(fake.objects);
  const { out } = await restore(fake, {});
  const told = [
    'removed pod/lpk-s1 beside deployment/web in namespace shop: your session since 2026-11-24 10:00:00 UTC',
  ];
  assert.deepEqual(out, told);
  assert.deepEqual(fake.state, before);
  for (const [path, object] of held) fake.objects.set(path, object);
  assert.deepEqual((await restore(fake, { target: 'deployment/web' })).out, told, 'by the workload’s name, too');
  assert.deepEqual(fake.state, before);
});

test('while a session holds the workload itself, its restore leaves the pods beside alone', async () => {
  const fake = new FakeCluster();
  fake.deployment('web');
  fake.holdPod('lpk-s2', { id: 's2', ...BOB }, { beside: 'deployment/web' });
  const before = fake.state;
  fake.hold('web', { id: 's1', ...ME });
  assert.equal((await restore(fake, { target: 'deployment/web' })).out.length, 1);
  assert.deepEqual(fake.state, before);
});
