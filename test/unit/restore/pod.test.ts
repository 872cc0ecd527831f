import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findSessions, restore, type SwapSpec, swapIn } from '../../../agent/deploy/apply.ts';
import { heldTarget } from '../../../agent/deploy/beside.ts';
import type { Target } from '../../../agent/deploy/find.ts';
import type { Cluster, RequestOptions } from '../../../agent/deploy/kube.ts';
import { rightsToServe } from '../../../agent/deploy/preflight.ts';
import { restorerRules, rightsToLease, rightsToRestorer } from '../../../agent/deploy/restorer.ts';
import { asWorkload, workloadRef } from '../../../agent/deploy/workload.ts';
import type { Json } from '../../../agent/restore/api.ts';
import { manifestOf } from '../../../agent/restore/pod.ts';
import { sessionOf, sessionOfPod } from '../../../agent/restore/record.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import { applyPatch } from '../deploy/workloads.ts';

const SESSION = 'abcdefghij';
const PODS = '/api/v1/namespaces/shop/pods';

/** As much of an API server as pods need: uids, versions and their preconditions; pods end at once. */
class World {
  readonly objects = new Map<string, Json>();
  readonly asked: string[] = [];
  /** Requests that are answered; later ones find nobody. */
  lives = Number.POSITIVE_INFINITY;
  /** After this request, what somebody else does. */
  after: { what: RegExp; run: () => void } | undefined;
  #count = 0;

  get cluster(): Cluster {
    const request = async (method: string, path: string, options?: RequestOptions) =>
      this.#answer(method, path, options);
    return { namespace: 'shop', request } as unknown as Cluster;
  }

  put(path: string, object: Json): Json {
    const metadata = {
      ...object.metadata,
      uid: object.metadata.uid ?? `uid-${++this.#count}`,
      resourceVersion: `${++this.#count}`,
    };
    this.objects.set(path, { ...structuredClone(object), metadata });
    return structuredClone(this.objects.get(path));
  }

  #answer(method: string, path: string, { body, query }: { body?: Json; query?: Json } = {}): Json {
    if (--this.lives < 0) throw new LpkError('cluster-unreachable', 'the laptop is dead');
    const what = `${method} ${path}`;
    this.asked.push(what);
    try {
      return this.#do(method, path, body, query);
    } finally {
      const { after } = this;
      if (after?.what.test(what)) {
        this.after = undefined;
        after.run();
      }
    }
  }

  #do(method: string, path: string, body: Json, query: Json): Json {
    if (method === 'POST') {
      const at = `${path}/${body.metadata.name}`;
      if (this.objects.has(at)) throw new LpkError('conflict', `${at} exists`);
      assert.equal(body.metadata.uid, undefined, 'a new object has no uid');
      return this.put(at, { ...body, metadata: { ...body.metadata, namespace: 'shop' } });
    }
    const object = this.objects.get(path);
    if (method === 'GET' && !object && /s$/.test(path)) {
      const items = [...this.objects]
        .filter(([at]) => at.startsWith(`${path}/`))
        .map(([, each]) => structuredClone(each));
      return {
        items: query?.labelSelector ? items.filter(({ metadata }) => metadata.labels?.['lpk.dev/session']) : items,
      };
    }
    if (!object) throw new LpkError('not-found', `${path} is not there`);
    if (method === 'GET') return structuredClone(object);
    if (method === 'DELETE') {
      const uid = body?.preconditions?.uid;
      if (uid && uid !== object.metadata.uid) throw new LpkError('conflict', 'another uid');
      this.objects.delete(path);
      return {};
    }
    const version = body.find((op: Json) => op.path === '/metadata/resourceVersion')?.value;
    if (version && version !== object.metadata.resourceVersion) throw new LpkError('conflict', 'another version');
    return this.put(path, applyPatch(object, body));
  }

  /** All that is there but the pod (or workload) at `path`. */
  others(path: string): string[] {
    return [...this.objects.keys()].filter((each) => each !== path);
  }
}

const POD = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'web', namespace: 'shop', labels: { app: 'web' }, annotations: { note: 'x' } },
  spec: {
    nodeName: 'node-1',
    priority: 0,
    preemptionPolicy: 'PreemptLowerPriority',
    containers: [
      { name: 'web', image: 'web:1' },
      { name: 'side', image: 'side:1' },
    ],
    initContainers: [{ name: 'native', image: 'n:1', restartPolicy: 'Always' }],
    volumes: [{ name: 'kube-api-access-x7k2p', projected: { sources: [] } }],
    tolerations: [
      { key: 'node.kubernetes.io/not-ready', operator: 'Exists', effect: 'NoExecute', tolerationSeconds: 300 },
    ],
  },
  status: { phase: 'Running' },
};

function scene(lease = true) {
  const world = new World();
  const ref = workloadRef('pod', 'shop', 'web');
  const pod = world.put(ref.apiPath, POD);
  const ports = { containerPorts: [], servicePorts: [] };
  const target = {
    ...ref,
    uid: pod.metadata.uid,
    workload: asWorkload(pod),
    container: 'web',
    one: false,
    ...ports,
  } as unknown as Target;
  const spec: SwapSpec = {
    ...{ session: SESSION, listen: 'pod', port: 47_601, probePort: 47_602, holdMs: 60_000, key: 'k', bundle: 'b' },
    ...{ owner: 'ann', host: 'box', ...(lease ? { lease: { silenceMs: 45_000, restorer: true } } : {}) },
  };
  return { world, ref, pod, target, spec, there: () => world.objects.get(ref.apiPath) };
}

test('a manifest makes the same pod again: nothing of the old one’s own, nothing that admission would add twice', () => {
  const live = {
    metadata: {
      ...{ name: 'web', namespace: 'shop', uid: 'u', resourceVersion: '5', generation: 1, creationTimestamp: 't' },
      labels: { app: 'web' },
      annotations: { note: 'x', 'cni.example/podIP': '10.0.0.1' },
      finalizers: ['example.org/keep'],
      managedFields: [
        {
          manager: 'kubectl',
          fieldsV1: { 'f:spec': { 'f:containers': {} }, 'f:metadata': { 'f:annotations': { 'f:note': {} } } },
        },
        {
          manager: 'cni',
          subresource: 'status',
          fieldsV1: { 'f:metadata': { 'f:annotations': { '.': {}, 'f:cni.example/podIP': {} } } },
        },
      ],
    },
    spec: { ...POD.spec, ephemeralContainers: [{ name: 'debugger' }], overhead: {} },
    status: {},
  };
  const { nodeName: _, priority: __, preemptionPolicy: ___, ...spec } = POD.spec;
  const metadata = {
    name: 'web',
    namespace: 'shop',
    labels: { app: 'web' },
    finalizers: ['example.org/keep'],
    annotations: { note: 'x' },
  };
  assert.deepEqual(manifestOf(live), { apiVersion: 'v1', kind: 'Pod', metadata, spec });
  const chosen = { manager: 'me', fieldsV1: { 'f:spec': { 'f:nodeName': {} } } };
  live.metadata.managedFields.push(chosen as never);
  assert.equal(manifestOf(live).spec.nodeName, 'node-1', 'who made it chose the node');
});

test('a bare pod is made anew with the agent in it, and again as it was', async () => {
  const { world, ref, pod, target, spec, there } = scene();
  const held = await swapIn(world.cluster, target, spec);
  const agents = there();
  assert.notEqual(agents.metadata.uid, pod.metadata.uid);
  assert.equal(sessionOfPod(agents.spec), SESSION);
  assert.deepEqual(sessionOf(agents)?.changed, [], 'what it was is elsewhere');
  assert.equal(agents.spec.nodeName, undefined);
  assert.deepEqual(
    [agents.spec.containers[1], agents.spec.initContainers],
    [POD.spec.containers[1], POD.spec.initContainers],
  );
  assert.deepEqual(agents.metadata.labels, POD.metadata.labels);
  const [session] = await findSessions(world.cluster);
  assert.deepEqual([session?.workload?.apiPath, session?.record?.owner], [ref.apiPath, 'ann']);

  assert.equal((await restore(world.cluster, held)).workload, 'restored');
  assert.deepEqual(manifestOf(there()), manifestOf(pod));
  assert.deepEqual(world.others(ref.apiPath), []);
});

test('what the pod was is there before it is deleted, and goes with nothing that somebody may delete', async () => {
  for (const lease of [true, false]) {
    const { world, pod, target, spec } = scene(lease);
    await swapIn(world.cluster, target, spec);
    const saved = world.asked.indexOf('POST /api/v1/namespaces/shop/configmaps');
    assert.ok(saved >= 0 && saved < world.asked.indexOf(`DELETE ${PODS}/web`), world.asked.join('\n'));
    const configMap = world.objects.get(`/api/v1/namespaces/shop/configmaps/lpk-${SESSION}`);
    assert.equal(configMap.metadata.ownerReferences, undefined, 'neither the pod nor the Lease owns it');
    assert.deepEqual(JSON.parse(configMap.data['pod.json']), { uid: pod.metadata.uid, manifest: manifestOf(pod) });
    const owners = [...world.objects.values()].filter(({ metadata }) => metadata.ownerReferences);
    const root = owners
      .filter(({ metadata }) => metadata.ownerReferences[0].kind === 'ConfigMap')
      .map(({ kind }) => kind);
    assert.deepEqual(root, [lease ? 'Lease' : 'Secret']);
  }
});

test('whichever request is the last of a laptop that dies, at either end, a restore ends at the pod as it was', async () => {
  let [swaps, restores] = [0, 0];
  for (let last = 1; ; last++) {
    const { world, ref, pod, target, spec, there } = scene();
    world.lives = last;
    const whole = await swapIn(world.cluster, target, spec).catch(() => undefined);
    world.lives = Number.POSITIVE_INFINITY;
    await restore(world.cluster, { ...ref, session: SESSION });
    assert.deepEqual(manifestOf(there()), manifestOf(pod), `after ${last} requests`);
    assert.deepEqual(world.others(ref.apiPath), [], `after ${last} requests`);
    if (whole) break;
    swaps++;
  }
  for (let last = 1; ; last++) {
    const { world, ref, pod, target, spec, there } = scene();
    const held = await swapIn(world.cluster, target, spec);
    world.lives = last;
    const whole = await restore(world.cluster, held).catch(() => undefined);
    world.lives = Number.POSITIVE_INFINITY;
    await restore(world.cluster, held);
    assert.deepEqual(manifestOf(there()), manifestOf(pod), `after ${last} requests of the restore`);
    assert.deepEqual(world.others(ref.apiPath), [], `after ${last} requests of the restore`);
    if (whole) break;
    restores++;
  }
  assert.ok(swaps > 12 && restores > 6, `${swaps} and ${restores} steps`);
});

test('of two that take it at once, one wins; the other undoes nothing of the winner’s', async () => {
  for (const moment of [/^PATCH/, /^DELETE .*pods\/web$/]) {
    const { world, ref, pod, target, spec, there } = scene();
    const winner = { ...spec, session: 'winwinwinw', owner: 'bob' };
    let lost: Promise<unknown> | undefined;
    world.after = {
      what: moment,
      run: () => {
        lost = swapIn(world.cluster, target, spec).then(
          () => assert.fail('both have it'),
          (error: LpkError) => assert.ok(['already-held', 'not-found'].includes(error.code), error.message),
        );
      },
    };
    const held = await swapIn(world.cluster, target, winner);
    await lost;
    assert.equal(sessionOfPod(there().spec), 'winwinwinw');
    await restore(world.cluster, held);
    assert.deepEqual(manifestOf(there()), manifestOf(pod));
    assert.deepEqual(world.others(ref.apiPath), [], `${moment}`);
  }
});

test('who comes too late to take it makes none in the winner’s stead, who is about to', async () => {
  const { world, ref, target, spec, there } = scene();
  world.after = { what: /^POST .*configmaps$/, run: () => world.objects.delete(ref.apiPath) };
  await assert.rejects(swapIn(world.cluster, target, spec), { code: 'not-found' });
  assert.equal(there(), undefined);
  assert.deepEqual(world.others(ref.apiPath), []);
});

test('one that somebody made of its name is never overwritten, neither by the swap nor by the restore', async () => {
  const theirs = { ...POD, spec: { containers: [{ name: 'theirs', image: 'x:1' }] } };
  const during = scene();
  during.world.after = { what: /^DELETE .*pods\/web$/, run: () => during.world.put(during.ref.apiPath, theirs) };
  await assert.rejects(swapIn(during.world.cluster, during.target, during.spec), {
    code: 'conflict',
    message: /somebody else made pod\/web anew/,
  });
  assert.deepEqual(during.there().spec, theirs.spec);
  assert.deepEqual(during.world.others(during.ref.apiPath), []);

  const meanwhile = scene();
  const held = await swapIn(meanwhile.world.cluster, meanwhile.target, meanwhile.spec);
  meanwhile.world.put(meanwhile.ref.apiPath, theirs);
  assert.equal((await restore(meanwhile.world.cluster, held)).workload, 'held-by-another');
  assert.deepEqual(meanwhile.there().spec, theirs.spec);

  const deleted = scene();
  const gone = await swapIn(deleted.world.cluster, deleted.target, deleted.spec);
  deleted.world.objects.delete(deleted.ref.apiPath);
  assert.equal((await restore(deleted.world.cluster, gone)).workload, 'restored', 'the agent’s was deleted');
  assert.deepEqual(manifestOf(deleted.there()), manifestOf(deleted.pod));
});

test('a pod that is changed between looking and taking is not taken', async () => {
  const { world, ref, target, spec, there } = scene();
  const label = () =>
    world.put(ref.apiPath, applyPatch(there(), [{ op: 'add', path: '/metadata/labels/team', value: 'blue' }]));
  world.after = { what: /^POST .*configmaps$/, run: label };
  await assert.rejects(swapIn(world.cluster, target, spec), {
    code: 'conflict',
    message: /was changed by somebody else/,
  });
  assert.equal(there().metadata.labels.team, 'blue');
  assert.deepEqual(world.others(ref.apiPath), []);
});

function besideScene() {
  const world = new World();
  const ref = workloadRef('deployment', 'shop', 'web');
  const template = {
    metadata: { labels: { app: 'web' }, annotations: { a: 'b' } },
    spec: { containers: [{ name: 'web', image: 'web:1' }] },
  };
  const spec = { replicas: 3, selector: { matchLabels: { app: 'web' } }, template };
  const deployment = world.put(ref.apiPath, {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: 'web', namespace: 'shop' },
    spec,
  });
  const asked = {
    ...ref,
    uid: 'u',
    workload: deployment,
    container: 'web',
    one: true,
    containerPorts: [],
    servicePorts: [],
  } as unknown as Target;
  return { world, ref, deployment, asked, target: heldTarget(asked, SESSION), spec: scene().spec };
}

test('one more pod beside a Deployment’s: of its make, its controller’s, and the Deployment is not touched', async () => {
  const { world, ref, deployment, target, spec } = besideScene();
  const held = await swapIn(world.cluster, target, spec);
  assert.equal(held.apiPath, `${PODS}/lpk-${SESSION}`);
  const pod = world.objects.get(held.apiPath);
  assert.deepEqual(pod.metadata.labels, { app: 'web', 'lpk.dev/session': SESSION });
  assert.equal(pod.metadata.annotations.a, 'b');
  const owner = {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    name: 'web',
    uid: deployment.metadata.uid,
    controller: true,
  };
  assert.deepEqual(pod.metadata.ownerReferences, [owner]);
  assert.equal(sessionOfPod(pod.spec), SESSION);
  assert.deepEqual(world.objects.get(ref.apiPath), deployment);
  const [session] = await findSessions(world.cluster);
  assert.deepEqual([session?.workload?.name, session?.record?.beside], [`lpk-${SESSION}`, 'deployment/web']);
  assert.equal((await restore(world.cluster, held)).workload, 'removed');
  assert.equal((await restore(world.cluster, held)).workload, 'gone', 'once more there is nothing to do');
  assert.deepEqual(world.others(ref.apiPath), []);
  assert.deepEqual(world.objects.get(ref.apiPath), deployment);
});

test('only a Deployment’s one pod is beside it', () => {
  const { asked, target } = besideScene();
  assert.deepEqual([target.kind, target.beside?.apiPath], ['pod', asked.apiPath]);
  assert.equal(heldTarget({ ...asked, one: false }, SESSION).kind, 'deployment');
  assert.equal(heldTarget({ ...asked, kind: 'statefulset' }, SESSION).kind, 'statefulset');
});

test('a dead laptop’s pod beside a Deployment’s is removed, whichever request was its last', async () => {
  for (let last = 1; ; last++) {
    const { world, ref, target, spec } = besideScene();
    world.lives = last;
    const whole = await swapIn(world.cluster, target, spec).catch(() => undefined);
    world.lives = Number.POSITIVE_INFINITY;
    await restore(world.cluster, { ...workloadRef('pod', 'shop', target.name), session: SESSION });
    assert.deepEqual(world.others(ref.apiPath), [], `after ${last} requests`);
    if (whole) break;
  }
});

test('the restorer of a pod gets the rights to that pod and its record; each is asked for beforehand', () => {
  const bare = scene().target;
  const beside = besideScene().target;
  for (const [target, verbs] of [
    [bare, ['get', 'patch', 'delete', 'create', 'get', 'delete']],
    [beside, ['get', 'delete']],
  ] as const) {
    const rules = restorerRules(target, { session: SESSION, pods: [] });
    assert.deepEqual(
      rules.slice(0, -1).flatMap((rule) => rule.verbs),
      verbs,
    );
    for (const { resources, resourceNames, verbs: all } of rules) {
      assert.ok(resourceNames?.length === 1 || all.join() === 'create', 'by name, but for what can’t be');
      const asked = [...rightsToLease(), ...rightsToRestorer(target)];
      for (const verb of all)
        assert.ok(
          asked.some((each) => each.verb === verb && each.resource === resources[0]),
          `${verb} ${resources}`,
        );
    }
  }
  const served = (target: Target) =>
    rightsToServe(target)
      .filter(({ resource }) => resource === 'pods')
      .map(({ verb }) => verb);
  assert.deepEqual(served(bare), ['create', 'get', 'list', 'watch', 'patch', 'delete']);
  assert.deepEqual(served(beside), ['create', 'get', 'list', 'watch', 'delete']);
});
