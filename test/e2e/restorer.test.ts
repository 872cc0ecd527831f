import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { Json } from '../../agent/deploy/kube.ts';
import { userKubeconfig } from '../cluster/cluster.ts';
import { type Rule, rightsOf } from '../rbac.ts';
import { inForce } from './in-force.ts';
import { endAll, type Lpk } from './lpk.ts';
import { eventually, Shop, workload } from './shop.ts';

/** A laptop that dies: the cluster puts the workload back by itself, and nothing of lpk is left. On the real cluster. */

const RESTORE_AFTER_S = 15;
/** After the Lease has lapsed: what putting back may take, and the 20 s that one failed request adds (agent/pod/lease-clock.ts). */
const SLACK_S = 25;

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-restorer-'));

let shop: Shop;
/** Where the "restricted" Pod Security Standard is enforced. */
let strict: Shop;

before(async () => {
  shop = await Shop.open('restorer');
  strict = await Shop.open('strict');
  await strict.cluster.request('PATCH', `/api/v1/namespaces/${strict.namespace}`, {
    body: { metadata: { labels: { 'pod-security.kubernetes.io/enforce': 'restricted' } } },
    contentType: 'application/merge-patch+json',
  });
});

after(async () => {
  endAll();
  rmSync(dir, { recursive: true });
  await Promise.all([shop?.close(), strict?.close()]);
});

/** A session under way whose restorer watches; `spec`: the workload's before it. */
async function session(kind: 'Deployment' | 'StatefulSet', name: string, ...args: string[]) {
  await shop.deploy(workload(kind, name));
  const target = `${kind.toLowerCase()}/${name}`;
  const spec = await shop.specOf(target);
  const lpk = shop.lpk('connect', target, '--restore-after', `${RESTORE_AFTER_S}`, ...args);
  await lpk.event('ready');
  assert.notEqual(await shop.specOf(target), spec, `the session changes it; ${lpk}`);
  const id: string = (await lpk.event('swap', ({ state }) => state === 'done')).session;
  await eventually('the restorer watches', () => watching(id));
  assert.equal((await lease(id))?.spec.leaseDurationSeconds, RESTORE_AFTER_S);
  return { lpk, target, spec, id };
}

async function lease(id: string): Promise<Json | undefined> {
  const { items } = await shop.cluster.request('GET', at('leases'), {
    query: { labelSelector: `lpk.dev/session=${id}` },
  });
  return items[0];
}

async function watching(id: string): Promise<string | undefined> {
  return (await lease(id))?.metadata.annotations?.['lpk.dev/watching-since'];
}

const GROUPS: Record<string, string> = {
  leases: '/apis/coordination.k8s.io/v1',
  roles: '/apis/rbac.authorization.k8s.io/v1',
  rolebindings: '/apis/rbac.authorization.k8s.io/v1',
  deployments: '/apis/apps/v1',
  replicasets: '/apis/apps/v1',
  serviceaccounts: '/api/v1',
  configmaps: '/api/v1',
  secrets: '/api/v1',
  pods: '/api/v1',
};

function at(resource: string): string {
  return `${GROUPS[resource]}/namespaces/${shop.namespace}/${resource}`;
}

/** Everything of a session that there is, by its label. */
async function objectsOf(id: string): Promise<string[]> {
  const query = { labelSelector: `lpk.dev/session=${id}` };
  const lists = await Promise.all(
    Object.keys(GROUPS).map(async (resource) => {
      const { items } = await shop.cluster.request('GET', at(resource), { query });
      return (items as Json[]).map(({ metadata }) => `${resource}/${metadata.name}`);
    }),
  );
  return lists.flat();
}

async function restorerPods(id: string): Promise<Json[]> {
  const query = { labelSelector: `lpk.dev/session=${id}` };
  return (await shop.cluster.request('GET', at('pods'), { query })).items;
}

async function die(lpk: Lpk): Promise<number> {
  lpk.signal('SIGKILL');
  await lpk.exit();
  return performance.now();
}

/** Within `--restore-after` and the slack the spec is as it was, byte for byte; and when the pods have followed, nothing is left. */
async function assertTakenBack(given: { target: string; spec: string; id: string }, diedAt: number) {
  const { target, spec, id } = given;
  await eventually(`${target} is put back`, async () => (await shop.specOf(target)) === spec);
  const tookS = (performance.now() - diedAt) / 1_000;
  assert.ok(tookS < RESTORE_AFTER_S + SLACK_S, `took ${tookS.toFixed(1)} s`);
  await eventually('nothing is left', async () => {
    const { metadata } = await shop.workload(target);
    return (await objectsOf(id)).length === 0 && !JSON.stringify(metadata).includes('lpk');
  });
  assert.equal(await shop.specOf(target), spec);
}

describe('after kill -9 of lpk the cluster puts back', { concurrency: 2 }, () => {
  test('a Deployment', async () => {
    const given = await session('Deployment', 'killed');
    const made = await objectsOf(given.id);
    assert.deepEqual(
      made.map((each) => each.split('/')[0]).toSorted(),
      Object.keys(GROUPS).toSorted(),
      'one of each: the list below looks for what there is',
    );
    await assertTakenBack(given, await die(given.lpk));
  });

  test('a StatefulSet, whose pods run again', async () => {
    const given = await session('StatefulSet', 'db');
    await assertTakenBack(given, await die(given.lpk));
    await shop.rollout('statefulset/db');
  });

  test('though the restorer’s own pod was deleted meanwhile', async () => {
    const given = await session('Deployment', 'deleted');
    const [pod] = await restorerPods(given.id);
    const since = await watching(given.id);
    await die(given.lpk);
    await shop.deletePod(pod.metadata.name);
    await eventually('another one watches', async () => {
      const now = await watching(given.id);
      return now !== undefined && now !== since;
    });
    // It counts from its own start.
    await assertTakenBack(given, performance.now());
  });

  test('and leaves alone what somebody else changed meanwhile', async () => {
    const given = await session('Deployment', 'edited');
    const diedAt = await die(given.lpk);
    await shop.patch(given.target, [
      { op: 'replace', path: '/spec/replicas', value: 2 },
      { op: 'add', path: '/spec/template/metadata/labels/team', value: 'blue' },
    ]);
    const changed = JSON.parse(given.spec);
    changed.replicas = 2;
    changed.template.metadata.labels.team = 'blue';
    await assertTakenBack({ ...given, spec: JSON.stringify(changed) }, diedAt);
  });

  test('while another writer keeps writing', async () => {
    const given = await session('Deployment', 'contested');
    const diedAt = await die(given.lpk);
    let writes = 0;
    const stop = new AbortController();
    const writer = (async () => {
      for (; !stop.signal.aborted; writes++) {
        await shop.cluster
          .request('PATCH', `${at('deployments')}/contested`, {
            body: [{ op: 'add', path: '/metadata/labels', value: { tick: `${writes}` } }],
            contentType: 'application/json-patch+json',
            query: { fieldManager: 'another' },
          })
          .catch(() => {});
        await pause(50); // twenty writes a second are more than any controller makes
      }
    })();
    await assertTakenBack(given, diedAt).finally(() => stop.abort());
    await writer;
    assert.ok(writes > 20, `${writes} writes`);
  });
});

describe('a session', { concurrency: 2 }, () => {
  test('that ends by Ctrl-C takes its restorer along', async () => {
    const given = await session('Deployment', 'left');
    given.lpk.signal('SIGINT');
    assert.deepEqual(await given.lpk.exit(), { code: 0, signal: null }, `${given.lpk}`);
    const objects = (await objectsOf(given.id)).filter((each) => !/^(pods|replicasets)\//.test(each));
    assert.deepEqual(objects, [], `at once, but for what the garbage collector brings away; ${given.lpk}`);
    await assertTakenBack(given, performance.now());
  });

  test('of a laptop that slept longer is over, which it is told when it wakes', async () => {
    const given = await session('Deployment', 'slept');
    given.lpk.signal('SIGSTOP');
    await assertTakenBack(given, performance.now());
    given.lpk.signal('SIGCONT');
    assert.deepEqual(await given.lpk.exit(), { code: 1, signal: null }, `${given.lpk}`);
    assert.match(
      given.lpk.stderr,
      /^lpk: deployment\/slept was put back by its restorer: this laptop was not heard of for \d+ s \(--restore-after 15\)$/m,
      `${given.lpk}`,
    );
    assert.equal((await given.lpk.event('error')).code, 'session-ended', `${given.lpk}`);
  });

  test('that goes on is left alone, by a restorer that is small and passes the restricted standard', async () => {
    const given = await session('Deployment', 'alive');
    const renewed = (await lease(given.id))?.spec.renewTime;
    await eventually('a renewal', async () => (await lease(given.id))?.spec.renewTime !== renewed);
    const [pod] = await restorerPods(given.id);
    await shop.deletePod(pod.metadata.name);
    await eventually('another one watches', async () => {
      const [other] = (await restorerPods(given.id)).filter(({ metadata }) => !metadata.deletionTimestamp);
      return other && other.metadata.uid !== pod.metadata.uid && other.status.phase === 'Running';
    });
    assert.equal(pod.spec.containers[0].resources.limits.memory, '64Mi');
    const [status] = pod.status.containerStatuses;
    assert.equal(status.restartCount, 0, JSON.stringify(status));
    const {
      serviceAccountName: _,
      serviceAccount: __,
      ...spec
    } = (await shop.get('pods', { labelSelector: `lpk.dev/session=${given.id}` })).items[0].spec;
    spec.volumes = spec.volumes.filter(({ projected }: Json) => !projected); // another account's token
    spec.containers[0].volumeMounts = spec.containers[0].volumeMounts.filter(
      ({ name }: Json) => name === 'lpk-restorer',
    );
    await strict.cluster.request('POST', `/api/v1/namespaces/${strict.namespace}/pods`, {
      query: { dryRun: 'All' },
      body: { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'restorer' }, spec },
    });
    assert.equal(given.lpk.events.filter(({ event }) => event === 'error').length, 0, `${given.lpk}`);
    given.lpk.signal('SIGINT');
    assert.deepEqual(await given.lpk.exit(), { code: 0, signal: null }, `${given.lpk}`);
    await assertTakenBack(given, performance.now());
  });

  test('goes without a restorer, and says so, where its user may not create Roles', async () => {
    await shop.deploy(workload('Deployment', 'without'));
    const spec = await shop.specOf('deployment/without');
    const kubeconfig = await user('dev', [
      { apiGroups: ['apps'], resources: ['deployments'], verbs: ['get', 'list', 'watch', 'patch'] },
      { apiGroups: [''], resources: ['pods'], verbs: ['list', 'watch'] },
      { apiGroups: [''], resources: ['configmaps', 'secrets'], verbs: ['create', 'delete'] },
      { apiGroups: [''], resources: ['pods/proxy'], verbs: ['get'] },
    ]);
    const lpk = shop.lpk('connect', 'deployment/without', '--kubeconfig', kubeconfig);
    await lpk.event('ready');
    const { text } = await lpk.event('no-restorer');
    assert.match(
      text,
      /^no restorer: user "dev" may not create, .*roles\.rbac\.authorization\.k8s\.io.*; `lpk restore deployment\/without -n \S+` puts it back if this laptop dies$/,
      `${lpk}`,
    );
    lpk.signal('SIGINT');
    assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
    assert.equal(await shop.specOf('deployment/without'), spec, `${lpk}`);
    assert.deepEqual(await shop.objectsOf('deployment/without'), [], `${lpk}`);
  });
});

/** A user with these rights in the namespace, and a kubeconfig. */
async function user(name: string, rules: Rule[]): Promise<string> {
  const file = path.join(dir, name);
  await userKubeconfig(file, name);
  const meta = { apiVersion: 'rbac.authorization.k8s.io/v1', metadata: { name } };
  const roleRef = { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name };
  await shop.create(
    { ...meta, kind: 'Role', rules },
    { ...meta, kind: 'RoleBinding', roleRef, subjects: [{ kind: 'User', name }] },
  );
  await inForce(file, shop.namespace, rules.flatMap(rightsOf));
  return file;
}
