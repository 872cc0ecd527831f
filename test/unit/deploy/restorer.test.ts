import assert from 'node:assert/strict';
import { test } from 'node:test';
import { restore, type SwapSpec, swapIn } from '../../../agent/deploy/apply.ts';
import type { Target } from '../../../agent/deploy/find.ts';
import type { Cluster, Json, RequestOptions } from '../../../agent/deploy/kube.ts';
import { release } from '../../../agent/deploy/release.ts';
import { rightsToLease, rightsToRestorer } from '../../../agent/deploy/restorer.ts';
import { workloadRef } from '../../../agent/deploy/workload.ts';
import { type ErrorCode, LpkError } from '../../../agent/wire/errors.ts';
import { applyPatch } from './workloads.ts';

const SESSION = 'abcdefghij';
const LEASE = `/apis/coordination.k8s.io/v1/namespaces/shop/leases/lpk-${SESSION}`;

/** What a cluster holds by path, and what was asked of it. */
class Recorder {
  readonly objects = new Map<string, Json>();
  readonly asked: string[] = [];
  refuse: (what: string) => ErrorCode | undefined = () => undefined;

  readonly cluster = {
    namespace: 'shop',
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
    if (method === 'GET' && path.endsWith('/pods')) return { items: [] };
    const object = this.objects.get(path);
    if (!object) throw new LpkError('not-found', `${path} is not there`);
    if (method === 'DELETE') this.objects.delete(path);
    if (method === 'PATCH' && Array.isArray(body)) this.objects.set(path, applyPatch(object, body));
    else if (method === 'PATCH')
      object.metadata.annotations = { ...object.metadata.annotations, ...body.metadata.annotations };
    return structuredClone(this.objects.get(path));
  }

  /** `KIND` of all that is there but the workload. */
  get kinds(): string[] {
    return [...this.objects.values()]
      .map(({ kind }) => kind)
      .filter((kind) => !/^(Deployment|StatefulSet)$/.test(kind))
      .toSorted();
  }
}

function scene(kind: 'deployment' | 'statefulset') {
  const recorder = new Recorder();
  const ref = workloadRef(kind, 'shop', 'web');
  const workload = {
    apiVersion: 'apps/v1',
    kind: kind === 'deployment' ? 'Deployment' : 'StatefulSet',
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

async function rulesOf(kind: 'deployment' | 'statefulset'): Promise<Json[]> {
  const { recorder, target, spec } = scene(kind);
  await swapIn(recorder.cluster, target, spec);
  return recorder.objects.get(path(RBAC, 'roles')).rules;
}

test('nobody can grant what they lack: each right of the Role is asked for beforehand', async () => {
  for (const kind of ['deployment', 'statefulset'] as const) {
    const asked = [...rightsToLease(), ...rightsToRestorer({ kind })];
    for (const { apiGroups, resources, verbs } of (await rulesOf(kind)).slice(1)) {
      for (const verb of verbs) {
        const right = asked.find(
          (each) => each.verb === verb && each.resource === resources[0] && (each.group ?? '') === apiGroups[0],
        );
        assert.ok(right, `${verb} ${resources[0]}`);
      }
    }
  }
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
