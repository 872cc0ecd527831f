import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Json } from '../../agent/deploy/kube.ts';
import { sessionOfPod } from '../../agent/restore/record.ts';
import { endAll, type Lpk } from './lpk.ts';
import { connectSocks } from './scene.ts';
import { eventually, type Listener, listen, Shop, service, sidecar, workload } from './shop.ts';

/** Every kind of workload, served and put back, by the real CLI on the real cluster. */

let shop: Shop;
const laptops: Listener[] = [];

before(async () => {
  shop = await Shop.open('kinds');
  await shop.deployCaller();
});

after(async () => {
  endAll();
  for (const each of laptops) await each.close();
  await shop?.close();
});

type Kind = Parameters<typeof workload>[0];

/** A session under way on a new workload; `spec` and `pods`: what was before. */
async function session(kind: Kind, name: string, spec: object, ...args: string[]) {
  const target = `${kind.toLowerCase()}/${name}`;
  await shop.deploy(workload(kind, name, { spec, sidecar: sidecar('side', 8090) }), service(name, [8080, 8090]));
  const port = await answers('the laptop');
  const before = { spec: await shop.specOf(target), pods: await shop.pods(target) };
  const lpk = shop.lpk('connect', target, '--container', 'app', '-p', `${port}:8080`, ...args);
  await leadsHere(lpk);
  return { lpk, target, name, ...before };
}

/** All pods that are to be the agent's are, and ready. */
async function leadsHere(lpk: Lpk): Promise<void> {
  await lpk.event('ready');
  await lpk.event('serving', ({ state }) => state === 'done');
}

/** A program on the laptop that says this to whoever calls. */
async function answers(text: string): Promise<number> {
  const laptop = await listen(0, (socket) => socket.once('data', () => socket.end(text)));
  laptops.push(laptop);
  return laptop.port;
}

type Session = Awaited<ReturnType<typeof session>>;

function isAgent({ spec }: Json): boolean {
  return sessionOfPod(spec) !== undefined;
}

function uids(pods: Json[]): string[] {
  return pods.map(({ metadata }) => metadata.uid).toSorted();
}

async function assertPutBack({ lpk, target, spec }: Session): Promise<void> {
  assert.equal(await shop.specOf(target), spec, `${target} is not as it was; ${lpk}`);
  assert.deepEqual(await shop.leftOf(target), [], `${lpk}`);
}

async function leave(given: Session): Promise<void> {
  given.lpk.signal('SIGINT');
  assert.deepEqual(await given.lpk.exit(), { code: 0, signal: null }, `${given.lpk}`);
  await assertPutBack(given);
}

/** What calls of the Service get: that the laptop answers, and the sidecar still does. */
async function assertServed({ lpk, name }: Pick<Session, 'lpk' | 'name'>): Promise<void> {
  // Of the pods before, a node may know a moment longer.
  await eventually(`the laptop answers; ${lpk}`, async () => {
    const { received } = await shop.call({ host: name, port: 8080, send: 'x' });
    return String(received) === 'the laptop';
  });
  await eventually(`the sidecar stays; ${lpk}`, async () => {
    const { received } = await shop.callHttp(name, 8090);
    return received?.includes('side in pod');
  });
}

describe('all pods', { concurrency: 3 }, () => {
  const table: [string, Kind, object][] = [
    ['a ReplicaSet, whose pods follow no change by themselves', 'ReplicaSet', { replicas: 2 }],
    ['a StatefulSet with OnDelete', 'StatefulSet', { replicas: 2, updateStrategy: { type: 'OnDelete' } }],
    ['a DaemonSet with OnDelete', 'DaemonSet', { updateStrategy: { type: 'OnDelete' } }],
  ];
  for (const [what, kind, spec] of table) {
    test(what, async () => {
      const given = await session(kind, `all-${kind.toLowerCase()}`, spec);
      const pods = await shop.pods(given.target);
      assert.deepEqual(
        pods.map(isAgent),
        given.pods.map(() => true),
        `${given.lpk}`,
      );
      await assertServed(given);
      await leave(given);
      assert.deepEqual(
        (await shop.pods(given.target)).map(isAgent),
        given.pods.map(() => false),
        `${given.lpk}`,
      );
    });
  }

  test('of a partitioned StatefulSet those beyond the partition; the others are not touched', async () => {
    const updateStrategy = { type: 'RollingUpdate', rollingUpdate: { partition: 1 } };
    const given = await session('StatefulSet', 'parted', { replicas: 2, updateStrategy });
    const [first, second] = (await shop.pods(given.target)).toSorted((a, b) =>
      a.metadata.name < b.metadata.name ? -1 : 1,
    );
    assert.deepEqual([isAgent(first), isAgent(second)], [false, true], `${given.lpk}`);
    assert.ok(uids(given.pods).includes(first.metadata.uid), `${given.lpk}`);
    assert.match(given.lpk.stderr, /: parted-1 of its 2 pods \(update partition 1\)/, `${given.lpk}`);
    await leave(given);
    const left = uids(await shop.pods(given.target)).filter((uid) => uids(given.pods).includes(uid));
    assert.deepEqual(left, [first.metadata.uid], 'put back without a touch to the first');

    const nobody = [{ op: 'replace', path: '/spec/updateStrategy/rollingUpdate/partition', value: 2 }];
    await shop.patch(given.target, nobody);
    const refused = shop.lpk('connect', given.target, '--container', 'app');
    assert.equal((await refused.exit()).code, 1, `${refused}`);
    assert.match(
      refused.stderr,
      /has the update partition 2, which none of its 2 pods is beyond: lower it/,
      `${refused}`,
    );
  });

  test('a ReplicaSet, when the laptop dies: the restorer was told the pods to delete', async () => {
    const given = await session('ReplicaSet', 'orphaned', { replicas: 2 }, '--restore-after', '15');
    await eventually('the restorer knows its pods', async () => {
      const { items } = await leases(given.name);
      return items[0]?.metadata.annotations?.['lpk.dev/pods']?.split(',').length === 2;
    });
    await eventually(
      'the restorer watches',
      async () => (await leases(given.name)).items[0]?.metadata.annotations?.['lpk.dev/watching-since'],
    );
    given.lpk.signal('SIGKILL');
    await given.lpk.exit();
    await eventually('its own pods again', async () => {
      const pods = await shop.pods(given.target);
      return pods.length === 2 && !pods.some(isAgent) && (await shop.objectsOf(given.target)).length === 0;
    });
    await assertPutBack(given);
  });
});

describe('one pod', { concurrency: 3 }, () => {
  for (const [kind, name] of [
    ['StatefulSet', 'one-db'],
    ['ReplicaSet', 'one-rs'],
  ] as const) {
    test(`of a ${kind}: the other is not touched, from beginning to end`, async () => {
      const given = await session(kind, name, { replicas: 2 }, '--replicas', 'one');
      const pods = await shop.pods(given.target);
      const other = pods.find((pod) => !isAgent(pod));
      assert.equal(pods.filter(isAgent).length, 1, `${given.lpk}`);
      assert.ok(uids(given.pods).includes(other?.metadata.uid), `${given.lpk}`);
      if (kind === 'StatefulSet') assert.match(given.lpk.stderr, /: one-db-1 of its 2 pods \(--replicas one\)/);
      await leave(given);
      assert.ok(uids(await shop.pods(given.target)).includes(other?.metadata.uid), `${given.lpk}`);
    });
  }

  test('of a DaemonSet on one node is all, which is said', async () => {
    const given = await session('DaemonSet', 'one-ds', {}, '--replicas', 'one');
    assert.match(given.lpk.stderr, /--replicas one is the same as all: there is one pod/, `${given.lpk}`);
    await leave(given);
  });

  test('beside a Deployment’s, by two people at once; the Deployment is not touched', async () => {
    const given = await session('Deployment', 'beside', { replicas: 2 }, '--replicas', 'one');
    assert.match(given.lpk.stderr, /: one more pod beside its 2 \(--replicas one\)/, `${given.lpk}`);
    assert.equal(await shop.specOf(given.target), given.spec, `${given.lpk}`);
    const port = await answers('the other');
    const second = shop.lpk('connect', 'beside', '--container', 'app', '-p', `${port}:8080`, '--replicas', 'one');
    await leadsHere(second);
    const pods = await shop.pods(given.target);
    assert.deepEqual([pods.length, pods.filter(isAgent).length], [4, 2], `${given.lpk}${second}`);
    assert.ok(
      uids(given.pods).every((uid) => uids(pods).includes(uid)),
      'the Deployment’s own are as they were',
    );
    const heard = new Set<string>();
    await eventually('answers of all', async () => {
      const { received } = await shop.callHttp('beside', 8080);
      for (const who of ['the laptop', 'the other', 'beside in pod']) if (received?.includes(who)) heard.add(who);
      return heard.size === 3;
    });
    const [evicted] = second.events.filter(({ event }) => event === 'attached');
    const eviction = { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name: evicted?.pod } };
    const evict = `/api/v1/namespaces/${shop.namespace}/pods/${evicted?.pod}/eviction`;
    const { proxyPort } = await second.event('ready');
    const open = await connectSocks(proxyPort, 'kubernetes.default', 443);
    open.on('error', () => {}); // it is to be cut
    const from = second.events.length;
    await shop.cluster.request('POST', evict, { body: eviction });
    const cut = await second.until('the cut', () => second.events.slice(from).find(({ event }) => event === 'cut'));
    assert.deepEqual([cut.pod, cut.connections], [evicted?.pod, 1], `${second}`);
    await second.until('a new pod', () => second.events.slice(from).find(({ event }) => event === 'attached'));
    assert.equal(second.events.slice(from).filter(({ event }) => event === 'remade').length, 1, `${second}`);
    await eventually(`it answers; ${second}`, async () => {
      const { received } = await shop.callHttp('beside', 8080);
      return received?.includes('the other');
    });
    const told = shop.lpk('status');
    await told.exit();
    assert.equal(told.events.filter(({ beside }) => beside === 'deployment/beside').length, 2, `${told}`);
    const released = shop.lpk('release', 'deployment/beside', '--yes');
    assert.deepEqual(await released.exit(), { code: 0, signal: null }, `${released}`);
    assert.equal(released.events.filter(({ event }) => event === 'released').length, 2, `${released}`);
    for (const lpk of [given.lpk, second]) {
      assert.deepEqual(await lpk.exit(), { code: 1, signal: null }, `${lpk}`);
      assert.match(lpk.stderr, /^lpk: pod\/lpk-\S+ was taken back by /m, `${lpk}`);
    }
    await assertPutBack(given);
    const ownPods = async () => uids(await shop.pods(given.target)).join() === uids(given.pods).join();
    await eventually('the Deployment’s own pods alone', ownPods);
  });

  test('beside a Deployment’s, when the laptop dies: the restorer removes it', async () => {
    const given = await session('Deployment', 'widowed', { replicas: 2 }, '--replicas', 'one', '--restore-after', '15');
    await eventually(
      'the restorer watches',
      async () => (await leases(given.name)).items[0]?.metadata.annotations?.['lpk.dev/watching-since'],
    );
    given.lpk.signal('SIGKILL');
    await given.lpk.exit();
    await eventually(
      'nothing is left',
      async () => (await shop.pods(given.target)).length === 2 && (await shop.objectsOf(given.target)).length === 0,
    );
    await assertPutBack(given);
  });
});

describe('a bare pod', { concurrency: 3 }, () => {
  /** As `session`, for a pod without a controller; `manifest`: what it is made of, as far as it was said. */
  async function podSession(name: string, ...args: string[]) {
    const { metadata, spec } = workload('Deployment', name, { sidecar: sidecar('side', 8090) }).spec.template;
    const init = { name: 'init', image: 'busybox:1', command: ['/bin/true'] };
    const native = { ...init, name: 'native', command: ['sleep', '100000'], restartPolicy: 'Always' };
    const pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { ...metadata, name },
      spec: { ...spec, initContainers: [init, native] },
    };
    await shop.create(pod, service(name, [8080, 8090]));
    const before = await running(name);
    const port = await answers('the laptop');
    const lpk = shop.lpk('connect', name, '--container', 'app', '-p', `${port}:8080`, ...args);
    await leadsHere(lpk);
    return { lpk, name, target: `pod/${name}`, before };
  }

  async function running(name: string): Promise<Json> {
    return await eventually(`pod ${name} is ready`, async () => {
      const [pod] = (await shop.get('pods', { fieldSelector: `metadata.name=${name}` })).items as Json[];
      const ready = pod?.status.conditions?.some(({ type, status }: Json) => type === 'Ready' && status === 'True');
      return ready && pod;
    });
  }

  /** Byte for byte, but for the node, which the scheduler chose again: here there is one only. */
  function assertSame(now: Json, before: Json, lpk: unknown): void {
    assert.notEqual(now.metadata.uid, before.metadata.uid, `${lpk}`);
    assert.equal(JSON.stringify(now.spec), JSON.stringify(before.spec), `${lpk}`);
    const { labels, annotations } = now.metadata;
    assert.deepEqual(
      { labels, annotations },
      { labels: before.metadata.labels, annotations: before.metadata.annotations },
    );
  }

  async function nothingLeft(): Promise<boolean> {
    const paths = [
      '/api/v1/configmaps',
      '/api/v1/secrets',
      '/apis/coordination.k8s.io/v1/leases',
      '/apis/apps/v1/deployments',
    ];
    for (const path of paths) {
      const [group, resource] = [path.slice(0, path.lastIndexOf('/')), path.slice(path.lastIndexOf('/') + 1)];
      const { items } = await shop.cluster.request('GET', `${group}/namespaces/${shop.namespace}/${resource}`);
      if ((items as Json[]).some(({ metadata }) => metadata.name.startsWith('lpk-'))) return false;
    }
    return true;
  }

  test('is made anew with the agent in it, and again as it was; sidecars and init containers stay', async () => {
    const given = await podSession('bare');
    const agents = await running('bare');
    assert.ok(isAgent(agents), `${given.lpk}`);
    assert.deepEqual(agents.spec.initContainers, given.before.spec.initContainers);
    assert.deepEqual(agents.spec.containers[1], given.before.spec.containers[1]);
    await assertServed(given);
    const held = shop.lpk('connect', 'pod/bare', '--container', 'app');
    assert.equal((await held.exit()).code, 1, `${held}`);
    assert.equal(held.events.at(-1)?.code, 'already-held', `${held}`);
    given.lpk.signal('SIGINT');
    assert.deepEqual(await given.lpk.exit(), { code: 0, signal: null }, `${given.lpk}`);
    assertSame(await running('bare'), given.before, given.lpk);
  });

  test('comes back when the laptop dies, by the restorer', async () => {
    const given = await podSession('lonely', '--restore-after', '15');
    await eventually('the restorer watches', async () =>
      JSON.stringify(
        await shop.cluster.request('GET', `/apis/coordination.k8s.io/v1/namespaces/${shop.namespace}/leases`),
      ).includes('watching-since'),
    );
    given.lpk.signal('SIGKILL');
    await given.lpk.exit();
    const back = await eventually('the pod as it was', async () => {
      const pod = await running('lonely');
      return !isAgent(pod) && pod;
    });
    assertSame(back, given.before, given.lpk);
  });

  test('that is evicted ends the session, and comes back as it was', async () => {
    const given = await podSession('evicted');
    const eviction = { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name: 'evicted' } };
    const path = `/api/v1/namespaces/${shop.namespace}/pods/evicted/eviction`;
    await shop.cluster.request('POST', path, { body: eviction });
    assert.deepEqual(await given.lpk.exit(), { code: 1, signal: null }, `${given.lpk}`);
    assert.match(given.lpk.stderr, /^lpk: pod\/evicted was deleted$/m, `${given.lpk}`);
    assertSame(await running('evicted'), given.before, given.lpk);
  });

  test('that somebody deleted meanwhile comes back too; one that they made of that name is left alone', async () => {
    for (const theirs of [false, true]) {
      const name = theirs ? 'renamed' : 'lost';
      const given = await podSession(name, '--no-restorer');
      given.lpk.signal('SIGKILL');
      await given.lpk.exit();
      await shop.deletePod(name);
      await eventually(
        'it is gone',
        async () => (await shop.get('pods', { fieldSelector: `metadata.name=${name}` })).items.length === 0,
      );
      const other = {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name },
        spec: { containers: [{ name: 'x', image: 'busybox:1', command: ['sleep', '100000'] }] },
      };
      if (theirs) await shop.create(other);
      const restore = shop.lpk('restore', `pod/${name}`);
      const { code } = await restore.exit();
      const pod = await running(name);
      if (theirs) assert.equal(pod.spec.containers[0].name, 'x', `${restore}`);
      else assertSame(pod, given.before, restore);
      assert.equal(code, 0, `${restore}`);
    }
    assert.ok(await eventually('nothing is left', nothingLeft));
  });
});

/** Of the sessions of a workload. */
async function leases(owner: string): Promise<{ items: Json[] }> {
  const { items } = await shop.cluster.request(
    'GET',
    `/apis/coordination.k8s.io/v1/namespaces/${shop.namespace}/leases`,
  );
  return { items: (items as Json[]).filter(({ metadata }) => metadata.ownerReferences?.[0]?.name === owner) };
}
