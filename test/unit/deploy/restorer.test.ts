import assert from 'node:assert/strict';
import { test } from 'node:test';
import { agentVolume } from '../../../agent/deploy/agent-container.ts';
import { restore, type SwapSpec, swapIn } from '../../../agent/deploy/apply.ts';
import type { Target } from '../../../agent/deploy/find.ts';
import type { Cluster, Json, RequestOptions } from '../../../agent/deploy/kube.ts';
import { release } from '../../../agent/deploy/release.ts';
import {
  nameToRestorer,
  restorerRules,
  rightsToLease,
  rightsToNamePods,
  rightsToRestorer,
} from '../../../agent/deploy/restorer.ts';
import { apiVersionOf, workloadRef } from '../../../agent/deploy/workload.ts';
import { type ErrorCode, LpkError } from '../../../agent/wire/errors.ts';
import { applyPatch, mergePatch } from './workloads.ts';

const SESSION = 'abcdefghij';
const LEASE = `/apis/coordination.k8s.io/v1/namespaces/shop/leases/lpk-${SESSION}`;

/** What a cluster holds by path, and what was asked of it. */
class Recorder {
  readonly objects = new Map<string, Json>();
  readonly asked: string[] = [];
  pods: Json[] = [];
  refuse: (what: string) => ErrorCode | undefined = () => undefined;

  readonly cluster = {
    namespace: 'shop',
    nowMs: Date.now,
    request: async (method: string, path: string, options?: RequestOptions) =>
      this.#answer(method, path, options?.body),
  } as unknown as Cluster;

  #answer(method: string, path: string, body: Json): Json {
    const what = `${method} ${path}`;
    this.asked.push(what);
    const code = this.refuse(what);
    if (code) throw new LpkError(code, `${what}: ${code}`);
    if (method === 'POST') {
      const at = `${path}/${body.metadata.name}`;
      if (this.objects.has(at)) throw new LpkError('conflict', `${at} exists`);
      this.objects.set(at, { ...body, metadata: { ...body.metadata, uid: `uid of ${body.kind}` } });
      return this.objects.get(at);
    }
    if (method === 'GET' && path.endsWith('/pods')) return { items: structuredClone(this.pods) };
    if (method === 'DELETE' && path.includes('/pods/')) return {};
    const object = this.objects.get(path);
    if (!object) throw new LpkError('not-found', `${path} is not there`);
    if (method === 'DELETE') this.objects.delete(path);
    if (method === 'PATCH' && Array.isArray(body)) this.objects.set(path, applyPatch(object, body));
    else if (method === 'PATCH') this.objects.set(path, mergePatch(object, body));
    return structuredClone(this.objects.get(path));
  }

  /** `KIND` of all that is there but the workload. */
  get kinds(): string[] {
    return [...this.objects.values()]
      .map(({ kind }) => kind)
      .filter((kind) => !/^(Deployment|StatefulSet|ReplicaSet)$/.test(kind))
      .toSorted();
  }
}

type Kind = 'deployment' | 'statefulset' | 'replicaset' | 'rollout';
const KINDS = { deployment: 'Deployment', statefulset: 'StatefulSet', replicaset: 'ReplicaSet', rollout: 'Rollout' };

function scene(kind: Kind) {
  const recorder = new Recorder();
  const ref = workloadRef(kind, 'shop', 'web');
  const workload = {
    apiVersion: apiVersionOf(kind),
    kind: KINDS[kind],
    metadata: { name: 'web', namespace: 'shop', uid: 'uid-web', resourceVersion: '1', generation: 1 },
    spec: {
      replicas: 2,
      selector: { matchLabels: { app: 'web' } },
      template: {
        metadata: {},
        spec: { containers: [{ name: 'web', image: 'web:1' }], tolerations: [{ key: 'own' }] },
      },
    },
    status: { observedGeneration: 99 },
  };
  recorder.objects.set(ref.apiPath, workload);
  const target = { ...ref, uid: 'uid-web', workload, container: 'web', containerPorts: [], servicePorts: [] };
  const spec: SwapSpec = {
    ...{ session: SESSION, listen: 'pod', port: 47_601, probePort: 47_602, holdMs: 60_000, key: 'k', bundle: 'b' },
    ...{ owner: 'ann', host: 'box', lease: { silenceMs: 45_000, restorer: true } },
  };
  return { recorder, ref, workload, target: target as unknown as Target, spec };
}

const path = (group: string, resource: string) => `${group}/namespaces/shop/${resource}/lpk-${SESSION}`;
const RBAC = '/apis/rbac.authorization.k8s.io/v1';

test('the workload owns the Lease, and the Lease all else: if the Lease goes, nothing stays', async () => {
  const { recorder, target, spec, workload } = scene('deployment');
  await swapIn(recorder.cluster, target, spec);
  const lease = recorder.objects.get(LEASE);
  assert.deepEqual(lease.metadata.ownerReferences, [
    { apiVersion: 'apps/v1', kind: 'Deployment', name: 'web', uid: workload.metadata.uid },
  ]);
  assert.equal(lease.spec.holderIdentity, 'ann@box');
  assert.equal(lease.spec.leaseDurationSeconds, 45);
  assert.match(lease.spec.renewTime, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
  const others = [...recorder.objects.values()].filter(
    ({ metadata }) => metadata.name === `lpk-${SESSION}` && metadata.uid !== lease.metadata.uid,
  );
  assert.equal(others.length, 6);
  for (const { kind, metadata } of others) {
    assert.deepEqual(
      metadata.ownerReferences,
      [{ apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', name: `lpk-${SESSION}`, uid: 'uid of Lease' }],
      kind,
    );
    assert.equal(metadata.labels['lpk.dev/session'], SESSION, kind);
  }
});

test('everything that would restore is there before anything is changed', async () => {
  const { recorder, ref, target, spec } = scene('deployment');
  await swapIn(recorder.cluster, target, spec);
  const patched = recorder.asked.indexOf(`PATCH ${ref.apiPath}`);
  const posts = recorder.asked.flatMap((what, i) => (what.startsWith('POST') ? [i] : []));
  assert.equal(posts.length, 7);
  assert.ok(
    posts.every((i) => i < patched),
    recorder.asked.join('\n'),
  );
  assert.equal(posts[0], recorder.asked.indexOf(`POST ${LEASE.slice(0, LEASE.lastIndexOf('/'))}`), 'the Lease first');
});

test('the restorer’s Role names exactly the objects of the session', async () => {
  const apps = await rulesOf('deployment');
  const lease = {
    apiGroups: ['coordination.k8s.io'],
    resources: ['leases'],
    resourceNames: [`lpk-${SESSION}`],
    verbs: ['get', 'list', 'watch', 'patch', 'delete'],
  };
  assert.deepEqual(apps, [
    { apiGroups: ['apps'], resources: ['deployments'], resourceNames: ['web'], verbs: ['get', 'patch'] },
    lease,
  ]);
  const stateful = await rulesOf('statefulset');
  assert.deepEqual(stateful.slice(0, 2), [{ ...apps[0], resources: ['statefulsets'] }, lease]);
  const pods = Array.from({ length: 12 }, (_, i) => `web-${i}`);
  assert.deepEqual(stateful.slice(2), [
    { apiGroups: [''], resources: ['pods'], resourceNames: pods, verbs: ['get', 'delete'] },
  ]);
});

test('of an Argo Rollout the restorer may promote it too, and knows the template to promote', async () => {
  const { recorder, ref, target, spec, workload } = scene('rollout');
  Object.assign(workload.status, { currentPodHash: 'own', stableRS: 'own' });
  await swapIn(recorder.cluster, target, spec);
  const [rollout, status] = recorder.objects.get(path(RBAC, 'roles')).rules;
  const itself = { apiGroups: ['argoproj.io'], resourceNames: ['web'] };
  assert.deepEqual(rollout, { ...itself, resources: ['rollouts'], verbs: ['get', 'patch'] });
  assert.deepEqual(status, { ...itself, resources: ['rollouts/status'], verbs: ['patch'] });
  const deployment = recorder.objects.get(path('/apis/apps/v1', 'deployments'));
  const [{ value }] = deployment.spec.template.spec.containers[0].env;
  assert.equal(JSON.parse(value).template, 'own');
  assert.equal(recorder.objects.get(LEASE).metadata.ownerReferences[0].apiVersion, 'argoproj.io/v1alpha1');
  const { annotations } = recorder.objects.get(ref.apiPath).metadata;
  assert.equal(JSON.parse(annotations['lpk.dev/session']).template, 'own');
});

async function rulesOf(kind: Kind): Promise<Json[]> {
  const { recorder, target, spec } = scene(kind);
  await swapIn(recorder.cluster, target, spec);
  return recorder.objects.get(path(RBAC, 'roles')).rules;
}

test('nobody can grant what they lack: each right of the Role is asked for beforehand', async () => {
  for (const kind of ['deployment', 'statefulset', 'replicaset'] as const) {
    const { workload, ref } = scene(kind);
    const asked = [...rightsToLease(), ...rightsToRestorer({ kind, workload })];
    const named = restorerRules(ref, { session: SESSION, pods: ['web-x7k2p'] });
    for (const { apiGroups, resources, verbs } of kind === 'replicaset' ? named : (await rulesOf(kind)).slice(1)) {
      if (resources[0] === `${kind}s`) continue; // of the rights to serve it
      for (const verb of verbs) {
        const right = asked.find(
          (each) => each.verb === verb && each.resource === resources[0] && (each.group ?? '') === apiGroups[0],
        );
        assert.ok(right, `${verb} ${resources[0]}`);
      }
    }
  }
});

test('pods whose names come later are named to the restorer as they do, first in its Role, which does not grow', async () => {
  const { recorder, target, spec, workload } = scene('replicaset');
  assert.deepEqual(rightsToNamePods(target), [
    { verb: 'patch', group: 'rbac.authorization.k8s.io', resource: 'roles' },
  ]);
  for (const known of ['deployment', 'statefulset'] as const)
    assert.deepEqual(rightsToNamePods(scene(known).target), []);
  const onDelete = { ...workload, spec: { ...workload.spec, updateStrategy: { type: 'OnDelete' } } };
  assert.equal(rightsToNamePods({ kind: 'daemonset', workload: onDelete }).length, 1);
  await swapIn(recorder.cluster, target, spec);
  const role = path(RBAC, 'roles');
  assert.ok(!JSON.stringify(recorder.objects.get(role).rules).includes('pods'), 'none yet');
  recorder.asked.length = 0;
  const rules = recorder.objects.get(role).rules;
  const revisions: string[] = [];
  let before = { pods: [] as string[], revisions };
  for (const pods of [['web-a'], ['web-a', 'web-b'], ['web-b'], ['web-b', 'web-c']]) {
    await nameToRestorer(recorder.cluster, target, SESSION, { named: { pods, revisions }, before });
    before = { pods, revisions };
  }
  const both = [`PATCH ${role}`, `PATCH ${LEASE}`];
  assert.deepEqual(recorder.asked, [...both, ...both, `PATCH ${LEASE}`, ...both]);
  assert.deepEqual(
    recorder.objects.get(role).rules,
    [...rules, { apiGroups: [''], resources: ['pods'], resourceNames: ['web-b', 'web-c'], verbs: ['get', 'delete'] }],
    'web-a is no more',
  );
  assert.equal(recorder.objects.get(LEASE).metadata.annotations['lpk.dev/pods'], 'web-b,web-c');
});

/** A workload's pods: its own uid as theirs, running or not, an agent's or not. */
function podsOf(workload: Json, ...pods: [name: string, ready: boolean, session?: string][]): Json[] {
  return pods.map(([name, ready, session]) => ({
    metadata: { name, uid: `uid of ${name}`, ownerReferences: [{ uid: workload.metadata.uid, controller: true }] },
    spec: { volumes: session ? [agentVolume(session)] : [] },
    status: { conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
  }));
}

test('pods that follow only when they are deleted are deleted: the old ones by the swap, the agents’ by the restore', async () => {
  const { recorder, target, spec, workload } = scene('replicaset');
  const deleted = () =>
    recorder.asked.filter((what) => /^DELETE .*\/pods\//.test(what)).map((what) => what.split('/').at(-1));
  recorder.pods = podsOf(workload, ['web-a', true], ['web-b', false], ['web-c', true, SESSION]);
  recorder.pods.push({ ...recorder.pods[0], metadata: { name: 'stranger', ownerReferences: [{ uid: 'other' }] } });
  const held = await swapIn(recorder.cluster, target, spec);
  assert.deepEqual(deleted(), ['web-a', 'web-b']);
  recorder.asked.length = 0;
  const { deleted: told } = await restore(recorder.cluster, held);
  assert.deepEqual(deleted(), ['web-c']);
  assert.deepEqual(told, ['web-c']);
});

test('of one pod alone the others are left, and a second try takes no second one', async () => {
  const { recorder, target, spec, workload } = scene('replicaset');
  const deleted = () => recorder.asked.filter((what) => /^DELETE .*\/pods\//.test(what)).length;
  recorder.pods = podsOf(workload, ['web-a', true], ['web-b', true]);
  await swapIn(recorder.cluster, { ...target, one: true }, spec);
  assert.equal(deleted(), 1);

  const again = scene('replicaset');
  again.recorder.pods = podsOf(again.workload, ['web-a', true], ['web-b', true, SESSION]);
  await swapIn(again.recorder.cluster, { ...again.target, one: true }, again.spec);
  assert.ok(!again.recorder.asked.some((what) => /^DELETE .*\/pods\//.test(what)));
});

test('of a partitioned StatefulSet only pods beyond the partition are in the way', async () => {
  const { recorder, target, spec, workload } = scene('statefulset');
  workload.spec.replicas = 3;
  Object.assign(workload.spec, { updateStrategy: { type: 'RollingUpdate', rollingUpdate: { partition: 1 } } });
  recorder.pods = podsOf(workload, ['web-0', false], ['web-1', false], ['web-2', true]);
  await swapIn(recorder.cluster, target, spec);
  const deleted = recorder.asked.filter((what) => /^DELETE .*\/pods\//.test(what));
  assert.deepEqual(deleted, ['DELETE /api/v1/namespaces/shop/pods/web-1']);
});

test('where a Role is refused the session goes on without, and says why; nothing is left when it ends', async () => {
  const { recorder, ref, target, spec, workload } = scene('deployment');
  recorder.refuse = (what) => (what === `POST ${RBAC}/namespaces/shop/roles` ? 'forbidden' : undefined);
  const held = await swapIn(recorder.cluster, target, spec);
  assert.equal(held.refused?.code, 'forbidden');
  assert.ok(!recorder.objects.has(path('/apis/apps/v1', 'deployments')), 'no restorer without its rights');
  assert.ok(recorder.objects.has(LEASE), 'still seen to live');
  await restore(recorder.cluster, held);
  assert.deepEqual(recorder.kinds, []);
  assert.deepEqual(recorder.objects.get(ref.apiPath).spec, workload.spec);
});

test('an API server that does not know the new Role yet is asked again to bind it', async () => {
  const { recorder, target, spec } = scene('deployment');
  let tries = 0;
  recorder.refuse = (what) =>
    what === `POST ${RBAC}/namespaces/shop/rolebindings` && ++tries < 3 ? 'not-found' : undefined;
  const held = await swapIn(recorder.cluster, target, spec);
  assert.deepEqual([held.refused, tries], [undefined, 3]);
  const posts = recorder.asked.filter((what) => /^POST .*roles$|^POST .*rolebindings$/.test(what));
  assert.match(posts[0] as string, /roles$/, 'what is bound is there');
});

test('where Leases are refused the workload owns ConfigMap and Secret itself', async () => {
  const { recorder, target, spec } = scene('deployment');
  recorder.refuse = (what) => (what.includes('/leases') ? 'forbidden' : undefined);
  const held = await swapIn(recorder.cluster, target, spec);
  assert.equal(held.refused?.code, 'forbidden');
  assert.deepEqual(recorder.kinds, ['ConfigMap', 'Secret']);
  assert.equal(recorder.objects.get(path('/api/v1', 'secrets')).metadata.ownerReferences[0].name, 'web');
  await restore(recorder.cluster, held);
  assert.deepEqual(recorder.kinds, []);
});

test('an API server that goes away in the middle is no reason to go on without', async () => {
  const { recorder, ref, target, spec, workload } = scene('deployment');
  recorder.refuse = (what) => (what.includes('/roles') && what.startsWith('POST') ? 'cluster-unreachable' : undefined);
  await assert.rejects(swapIn(recorder.cluster, target, spec), { code: 'cluster-unreachable' });
  assert.deepEqual(recorder.kinds, [], 'what was made is undone');
  assert.deepEqual(recorder.objects.get(ref.apiPath).spec, workload.spec);
});

test('leaving removes the Lease first, so that what comes then goes with it even if lpk dies', async () => {
  const { recorder, target, spec } = scene('deployment');
  const held = await swapIn(recorder.cluster, target, spec);
  recorder.refuse = (what) =>
    /DELETE .*(roles|rolebindings|serviceaccounts|deployments)\//.test(what) ? 'forbidden' : undefined;
  recorder.asked.length = 0;
  await restore(recorder.cluster, held);
  const deletions = recorder.asked.filter((what) => what.startsWith('DELETE'));
  assert.ok(
    deletions.indexOf(`DELETE ${LEASE}`) < deletions.indexOf(`DELETE ${path('/apis/apps/v1', 'deployments')}`),
    deletions.join('\n'),
  );
});

test('release signs the Lease before it puts back, and waits only for a holder that lives', async () => {
  const { recorder, ref, target, spec, workload } = scene('deployment');
  await swapIn(recorder.cluster, target, spec);
  recorder.objects.get(LEASE).spec.renewTime = '2020-01-01T00:00:00.000000Z';
  recorder.asked.length = 0;
  await release(recorder.cluster, { ...ref, session: SESSION }, { owner: 'bob', host: 'mill' });
  assert.deepEqual(recorder.asked.filter((what) => /^PATCH/.test(what)).slice(0, 2), [
    `PATCH ${LEASE}`,
    `PATCH ${ref.apiPath}`,
  ]);
  assert.deepEqual(recorder.kinds, []);
  assert.deepEqual(recorder.objects.get(ref.apiPath).spec, workload.spec);

  const alive = scene('deployment');
  await swapIn(alive.recorder.cluster, alive.target, alive.spec);
  let reads = 0;
  alive.recorder.refuse = (what) => {
    // The holder has read who did it, and takes the Lease away by itself.
    if (what === `GET ${LEASE}` && ++reads === 2) alive.recorder.objects.delete(LEASE);
    return undefined;
  };
  await release(alive.recorder.cluster, { ...alive.ref, session: SESSION }, { owner: 'bob', host: 'mill' });
  assert.equal(reads, 2);
  assert.deepEqual(alive.recorder.kinds, []);
});

test('a holder whose clock is behind lives, by when the API server saw it renew', async () => {
  const { recorder, ref, target, spec } = scene('deployment');
  await swapIn(recorder.cluster, target, spec);
  const lease = recorder.objects.get(LEASE);
  lease.spec.renewTime = '2020-01-01T00:00:00.000000Z';
  lease.metadata.managedFields = [
    { manager: 'lpk-release', time: '2020-01-01T00:00:00Z', fieldsV1: { 'f:metadata': { 'f:annotations': {} } } },
    { manager: 'lpk', time: new Date().toISOString(), fieldsV1: { 'f:spec': { 'f:renewTime': {} } } },
  ];
  let reads = 0;
  recorder.refuse = (what) => {
    if (what === `GET ${LEASE}` && ++reads === 2) recorder.objects.delete(LEASE);
    return undefined;
  };
  await release(recorder.cluster, { ...ref, session: SESSION }, { owner: 'bob', host: 'mill' });
  assert.equal(reads, 2, 'it waited for the holder to read who did it');
});

test('whichever request is the last of a laptop that dies in a swap, a restore ends at what was', async () => {
  let steps = 0;
  for (let last = 1; ; last++) {
    const { recorder, ref, target, spec, workload } = scene('statefulset');
    recorder.refuse = () => (recorder.asked.length > last ? 'cluster-unreachable' : undefined);
    const whole = await swapIn(recorder.cluster, target, spec).catch(() => undefined);
    recorder.refuse = () => undefined;
    await restore(recorder.cluster, { ...ref, session: SESSION });
    assert.deepEqual(recorder.kinds, [], `after ${last} requests`);
    assert.deepEqual(recorder.objects.get(ref.apiPath).spec, workload.spec, `after ${last} requests`);
    if (whole) break;
    steps++;
  }
  assert.ok(steps > 8, `${steps} steps`);
});

test('a swap whose answer did not come is not made later, when nothing would know of it', async () => {
  for (const labels of [undefined, { app: 'web' }]) {
    const { recorder, ref, target, spec } = scene('deployment');
    const workload = recorder.objects.get(ref.apiPath);
    if (labels) workload.metadata.labels = labels;
    workload.metadata.managedFields = [{ manager: 'kubectl' }];
    const before = structuredClone(workload);
    const late: { body: Json; version: string }[] = [];
    const { request } = recorder.cluster;
    let version = 1;
    recorder.cluster.request = async (method, path, options) => {
      if (method !== 'PATCH' || path !== ref.apiPath) return await request(method, path, options);
      const body = options?.body as Json;
      if (late.push({ body, version: body[0].value }) === 1) throw new LpkError('cluster-unreachable', 'no answer');
      assert.equal(body[0].value, recorder.objects.get(path).metadata.resourceVersion);
      await request(method, path, options);
      const { metadata } = recorder.objects.get(path);
      if (metadata.managedFields.length === 1 && metadata.labels?.['lpk.dev/overtaken'] !== undefined)
        metadata.managedFields.push({ manager: 'lpk' });
      metadata.resourceVersion = `${++version}`;
      return metadata;
    };
    await assert.rejects(swapIn(recorder.cluster, target, spec), { code: 'cluster-unreachable', message: 'no answer' });
    assert.deepEqual(recorder.kinds, []);
    const { metadata, spec: now } = recorder.objects.get(ref.apiPath);
    assert.notEqual(metadata.resourceVersion, late[0]?.version, 'the API server answers 409 to it');
    assert.deepEqual({ ...metadata, resourceVersion: '1' }, before.metadata);
    assert.deepEqual(now, before.spec);
  }
});
