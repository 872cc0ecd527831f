import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { agentPorts, newSessionId, SAVED_VARIABLES } from '../../agent/deploy/agent-container.ts';
import {
  type FoundSession,
  findSessions,
  type HeldWorkload,
  removeOrphan,
  restore,
  type SwapSpec,
  swapIn,
} from '../../agent/deploy/apply.ts';
import { bundleAgent } from '../../agent/deploy/bundle.ts';
import { findTarget, parseTarget, type Target } from '../../agent/deploy/find.ts';
import { forgetHistoryAfterRollout } from '../../agent/deploy/history.ts';
import { type Cluster, openCluster } from '../../agent/deploy/kube.ts';
import { preflight, transportsAllowed } from '../../agent/deploy/preflight.ts';
import { type Reach, reachError, throughPortForward, throughProxy } from '../../agent/deploy/reach.ts';
import { type PodEvent, waitRollout, watchPods } from '../../agent/deploy/rollout.ts';
import type { Carrier } from '../../agent/wire/carrier.ts';
import type { LpkError } from '../../agent/wire/errors.ts';
import { clusterUp, kubectl, userKubeconfig } from '../cluster/cluster.ts';
import { rightsOf } from '../rbac.ts';
import { inForce } from './in-force.ts';
import { conforming, createNamespace, createQuota } from './namespace.ts';

/** Finding, swapping, reaching and restoring, on the real cluster, with `stand-in-agent.ts` in the agent's place. */

// biome-ignore lint/suspicious/noExplicitAny: Kubernetes objects, untyped as in the code under test.
type Json = any;

const namespace = `dep-${randomBytes(3).toString('hex')}`;
const dir = mkdtempSync(path.join(tmpdir(), 'lpk-deploy-'));
/** `waitRollout` itself gives up after 180 s, and says what it waited for. */
const patience = () => AbortSignal.timeout(240_000);

let cluster: Cluster;
let bundle: string;

before(async () => {
  const { kubeconfig } = await clusterUp();
  cluster = await openCluster({ kubeconfig, namespace });
  await createNamespace(cluster, namespace);
  bundle = await bundleAgent(path.join(import.meta.dirname, 'stand-in-agent.ts'));
});

after(async () => {
  for (const each of laptops) each.abort();
  cluster?.close();
  rmSync(dir, { recursive: true });
  await kubectl(['delete', 'namespace', namespace, '--wait=false', '--ignore-not-found']);
});

type Kind = 'Deployment' | 'StatefulSet' | 'DaemonSet';

/** A workload of one busybox container that sleeps, with whatever is given put over it, fit for the namespace. */
function workload(
  kind: Kind,
  name: string,
  { container = {}, pod = {}, spec = {} }: Record<string, object> = {},
): Json {
  return conforming({
    apiVersion: 'apps/v1',
    kind,
    metadata: { name },
    spec: {
      selector: { matchLabels: { app: name } },
      template: {
        metadata: { labels: { app: name } },
        spec: {
          terminationGracePeriodSeconds: 1,
          containers: [{ name: 'app', image: 'busybox:1', command: ['sleep', '100000'], ...container }],
          ...pod,
        },
      },
      ...spec,
    },
  });
}

function service(name: string, spec: object): Json {
  return { apiVersion: 'v1', kind: 'Service', metadata: { name }, spec };
}

async function apply(...objects: Json[]): Promise<void> {
  const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
  await kubectl(['apply', '-n', namespace, '-f', '-'], { input });
}

async function find(text: string, container?: string, on = cluster): Promise<Target> {
  return await findTarget(on, parseTarget(text), { container });
}

/** Creates it and waits until its pods run. */
async function deployed(object: Json, on = cluster): Promise<Target> {
  const list = `/apis/apps/v1/namespaces/${on.namespace}/${object.kind.toLowerCase()}s`;
  await on.request('POST', list, { body: object });
  const target = await find(`${object.kind.toLowerCase()}/${object.metadata.name}`, undefined, on);
  await waitRollout(on, target, { signal: patience() });
  return await find(`${target.kind}/${target.name}`, undefined, on);
}

function specFor(target: Target, given: Partial<SwapSpec> = {}): SwapSpec {
  return {
    session: newSessionId(),
    listen: 'pod',
    ...agentPorts(target.hostNetwork),
    holdMs: 60_000,
    key: randomBytes(32).toString('hex'),
    bundle,
    owner: 'alice',
    host: 'laptop',
    ...given,
  };
}

type Way = (on: Cluster, of: string, pod: string, port: number) => Reach;

const laptops = new Set<AbortController>();

/** Plays the laptop: keeps a websocket to every pod of a session, so that it gets ready. */
function serve(target: Target, { session, port }: SwapSpec, way: Way, on = cluster) {
  const stop = new AbortController();
  laptops.add(stop);
  const events: PodEvent[] = [];
  const carriers = new Map<string, Carrier>();
  const dial = async (pod: string, uid: string): Promise<void> => {
    while (!stop.signal.aborted) {
      const carrier = await way(on, target.namespace, pod, port)();
      const opened = await Promise.race([once(carrier, 'open'), once(carrier, 'close').then(() => undefined)]).catch(
        () => undefined,
      );
      if (!opened) {
        await sleep(100);
        continue;
      }
      carrier.on('error', () => {});
      carriers.set(uid, carrier);
      return;
    }
  };
  const done = (async () => {
    for await (const event of watchPods(on, target, session, stop.signal)) {
      events.push(event);
      if (event.type === 'running') void dial(event.pod, event.uid);
    }
  })();
  return {
    events,
    carriers,
    async end() {
      stop.abort();
      for (const carrier of carriers.values()) carrier.terminate();
      await done;
    },
  };
}

async function read({ apiPath }: { apiPath: string }): Promise<Json> {
  return await cluster.request('GET', apiPath);
}

/** Everything of this session that the API server still has, the workload's history and managed fields included. */
async function leftOf(session: string, ref: Target | HeldWorkload, on = cluster): Promise<string[]> {
  const { namespace: of } = on;
  const paths = ['configmaps', 'secrets', 'pods'].map((resource) => `/api/v1/namespaces/${of}/${resource}`);
  paths.push(...['replicasets', 'controllerrevisions'].map((resource) => `/apis/apps/v1/namespaces/${of}/${resource}`));
  const left: string[] = [];
  for (const list of paths) {
    for (const item of (await on.request('GET', list)).items as Json[]) {
      const ending = item.metadata.deletionTimestamp !== undefined;
      if (!ending && JSON.stringify(item).includes(session))
        left.push(`${list.split('/').at(-1)}/${item.metadata.name}`);
    }
  }
  if (JSON.stringify(await read(ref)).includes('lpk')) left.push(`${ref.kind}/${ref.name}`);
  return left;
}

async function restored(held: HeldWorkload, on = cluster): Promise<void> {
  const outcome = await restore(on, held);
  assert.equal(outcome.workload, 'restored');
  await waitRollout(on, held, { signal: patience() });
  await forgetHistoryAfterRollout(on, held);
}

describe('finding', () => {
  before(async () => {
    const selector = { app: 'web' };
    const ports = [
      { name: 'http', port: 80, targetPort: 'http' },
      { name: 'metrics', port: 9090, targetPort: 9090 },
    ];
    const two = {
      containers: [
        { name: 'app', image: 'busybox:1', command: ['sleep', '1000'], ports: [{ name: 'http', containerPort: 8080 }] },
        { name: 'side', image: 'busybox:1', command: ['sleep', '1000'], ports: [{ containerPort: 9090 }] },
      ],
    };
    await apply(
      workload('Deployment', 'web', { pod: two }),
      service('web', { selector, ports: ports.slice(0, 1) }),
      service('web-all', { selector, ports }),
      service('empty', { ports: [{ port: 80 }] }),
      service('outside', { type: 'ExternalName', externalName: 'example.org' }),
      workload('StatefulSet', 'db', { spec: { replicas: 0, serviceName: 'db' } }),
      service('db', { clusterIP: 'None', selector: { app: 'db' }, ports: [{ port: 5432 }] }),
      workload('Deployment', 'blue', { spec: { replicas: 0 } }),
      workload('Deployment', 'green', { spec: { replicas: 0 } }),
      service('nobody', { selector: { app: 'nobody' }, ports: [{ port: 1 }] }),
      {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'bare', labels: { app: 'bare' } },
        spec: workload('Deployment', 'x').spec.template.spec,
      },
      service('bare', { selector: { app: 'bare' }, ports: [{ port: 1 }] }),
      {
        apiVersion: 'batch/v1',
        kind: 'Job',
        metadata: { name: 'job' },
        spec: {
          template: {
            metadata: { labels: { app: 'job' } },
            spec: { ...workload('Deployment', 'x').spec.template.spec, restartPolicy: 'Never' },
          },
        },
      },
      service('job', { selector: { app: 'job' }, ports: [{ port: 1 }] }),
      { ...workload('Deployment', 'alone'), kind: 'ReplicaSet' },
      service('alone', { selector: { app: 'alone' }, ports: [{ port: 1 }] }),
    );
    // Two Deployments behind one Service.
    for (const name of ['blue', 'green']) {
      const labels = JSON.stringify({ spec: { template: { metadata: { labels: { both: 'yes' } } } } });
      await kubectl(['patch', '-n', namespace, `deployment/${name}`, '-p', labels]);
    }
    await apply(service('both', { selector: { both: 'yes' }, ports: [{ port: 1 }] }));
    const web = await find('deployment/web', 'app');
    await waitRollout(cluster, web, { signal: patience() });
    await kubectl(['wait', '-n', namespace, '--for=create', '--timeout=240s', 'pod', '-l', 'app=job']);
    await kubectl(['wait', '-n', namespace, '--for=create', '--timeout=240s', 'pod', '-l', 'app=alone']);
  });

  test('a Service leads to its workload, its container and its ports', async () => {
    const { workload: object, uid, ...target } = await find('web');
    assert.equal(object.metadata.uid, uid);
    assert.deepEqual(target, {
      kind: 'deployment',
      namespace,
      name: 'web',
      apiPath: `/apis/apps/v1/namespaces/${namespace}/deployments/web`,
      service: 'web',
      container: 'app',
      containerPorts: [{ name: 'http', port: 8080, protocol: 'TCP' }],
      servicePorts: [{ name: 'http', port: 80, targetPort: 8080, protocol: 'TCP' }],
      replicas: 1,
      hostNetwork: false,
      one: false,
      podQuery: { labelSelector: 'app=web' },
    });
  });

  test('so does a pod, and a workload has the ports of all its Services', async () => {
    const pods = await cluster.request('GET', `/api/v1/namespaces/${namespace}/pods`, {
      query: { labelSelector: 'app=web' },
    });
    const byPod = await find(`pod/${pods.items[0].metadata.name}`, 'app');
    assert.deepEqual([byPod.kind, byPod.name, byPod.service], ['deployment', 'web', undefined]);
    const side = await find('deploy/web', 'side');
    assert.deepEqual(side.servicePorts, [{ name: 'metrics', port: 9090, targetPort: 9090, protocol: 'TCP' }]);
  });

  test('what can’t be served is refused with the reason', async () => {
    const table: [string, string, RegExp][] = [
      ['empty', 'no-selector', /Service empty has no selector/],
      ['outside', 'no-selector', /only another name for example\.org/],
      ['both', 'ambiguous-workload', /deployment\/blue, deployment\/green/],
      ['nobody', 'no-workload', /Service nobody has no workload and no pods/],
      ['db', 'no-replicas', /statefulset\/db has no pods/],
      [
        'job',
        'unsupported-workload',
        /Service job leads to pod job-\S+, which is not .* belongs to Job job; a Job’s pods/,
      ],
      ['web-all', 'ambiguous-container', /deployment\/web.*app, side/],
      ['wep', 'not-found', /no Service "wep" in namespace dep-.*; there is web$/],
      ['blue', 'not-found', /no Service "blue".*; there is deployment\/blue$/],
      ['deploy/gren', 'not-found', /no deployment "gren".*; there is green$/],
      ['pod/nope', 'not-found', /no pod "nope"/],
    ];
    for (const [text, code, message] of table) {
      await assert.rejects(find(text), (error: LpkError) => {
        assert.equal(error.code, code, `${text}: ${error.message}`);
        assert.match(error.message, message);
        assert.doesNotMatch(error.message, /\n/);
        return true;
      });
    }
    for (const text of ['bare', 'pod/bare']) {
      assert.equal((await find(text)).apiPath, `/api/v1/namespaces/${namespace}/pods/bare`);
    }
    assert.equal((await find('alone')).apiPath, `/apis/apps/v1/namespaces/${namespace}/replicasets/alone`);
    const [owned] = (await cluster.request('GET', `/apis/apps/v1/namespaces/${namespace}/replicasets`)).items.filter(
      ({ metadata }: Json) => metadata.name.startsWith('web-'),
    );
    assert.equal((await find(`rs/${owned.metadata.name}`, 'app')).apiPath, (await find('deploy/web', 'app')).apiPath);
    await assert.rejects(find('web', 'nginx'), { code: 'not-found', message: /no container "nginx".*app, side/ });
  });
});

describe('serving', { concurrency: 4 }, () => {
  const shapes: [Kind, object, string, Way][] = [
    ['Deployment', { replicas: 2 }, 'proxy', throughProxy],
    ['StatefulSet', { replicas: 2, serviceName: 'x' }, 'port-forward', throughPortForward],
    ['DaemonSet', {}, 'port-forward', throughPortForward],
  ];
  for (const [kind, spec, transport, way] of shapes) {
    test(`a ${kind} by ${transport}: swapped, ready, restored to what it was`, async () => {
      const probe = { exec: { command: ['true'] }, periodSeconds: 1 };
      const container = {
        args: ['100'],
        workingDir: '/tmp',
        ports: [{ containerPort: 80 }],
        livenessProbe: probe,
        startupProbe: probe,
        lifecycle: { preStop: { exec: { command: ['true'] } } },
      };
      const target = await deployed(workload(kind, `serve-${kind.toLowerCase()}`, { container, spec }));
      const original = await read(target);
      const given = specFor(target, { listen: transport === 'proxy' ? 'pod' : 'loopback' });
      const held = await swapIn(cluster, target, given);
      const laptop = serve(target, given, way);
      const progress: string[] = [];
      const onProgress = (done: number, total: number) => progress.push(`${done}/${total}`);
      await waitRollout(cluster, target, { signal: patience(), onProgress });
      const { replicas } = target;
      assert.equal(progress.at(-1), `${replicas}/${replicas}`);
      assert.equal(laptop.carriers.size, replicas, 'a websocket to every pod');
      for (const carrier of laptop.carriers.values()) {
        carrier.send(Buffer.from('hello'));
        const [echo] = await once(carrier, 'message');
        assert.equal(String(echo), 'hello');
      }
      const { spec: pod } = (await read(target)).spec.template;
      assert.deepEqual(pod.securityContext.sysctls, [{ name: 'net.ipv4.ip_unprivileged_port_start', value: '0' }]);
      assert.deepEqual(pod.containers[0].livenessProbe.httpGet.path, '/live');

      // The laptop dies: nobody is ready any more when the workload is restored.
      const gone = laptop.events.length;
      await laptop.end();
      await restored(held);
      assert.deepEqual((await read(target)).spec, original.spec);
      assert.equal(JSON.stringify((await read(target)).spec), JSON.stringify(original.spec));
      assert.deepEqual(await leftOf(given.session, target), []);
      assert.equal(laptop.events.slice(0, gone).filter(({ type }) => type === 'running').length, replicas);
      const again = await restore(cluster, held);
      assert.equal(again.workload, 'not-held', 'a second restore has nothing to do');
    });
  }

  test('what others change meanwhile stays, and server-side apply goes on as if lpk had never been', async () => {
    const object = workload('Deployment', 'edited', { container: { env: [{ name: 'A', value: '1' }] } });
    const applied = ['apply', '-n', namespace, '--server-side', '--field-manager=shop', '-f', '-'];
    await kubectl(applied, { input: JSON.stringify(object) });
    const target = await find('deployment/edited');
    await waitRollout(cluster, target, { signal: patience() });
    const given = specFor(target);
    const held = await swapIn(cluster, target, given);
    const original = (await read(target)).spec;
    await kubectl(['set', 'env', '-n', namespace, 'deployment/edited', 'B=2']);
    await kubectl(['scale', '-n', namespace, 'deployment/edited', '--replicas=2']);
    await kubectl(['label', '-n', namespace, 'deployment/edited', 'team=blue']);
    await restored(held);
    const { metadata, spec } = await read(target);
    assert.notDeepEqual(spec, original);
    assert.equal(metadata.labels.team, 'blue');
    assert.equal(spec.replicas, 2);
    const [container] = spec.template.spec.containers;
    assert.deepEqual(container.env, [
      { name: 'A', value: '1' },
      { name: 'B', value: '2' },
    ]);
    assert.deepEqual([container.image, container.command], ['busybox:1', ['sleep', '100000']]);
    assert.deepEqual(await leftOf(given.session, target), []);
    object.spec.template.spec.containers[0].image = 'busybox:1.0';
    object.spec.template.spec.containers[0].command = ['sleep', '9'];
    await kubectl(applied, { input: JSON.stringify(object) });
  });

  test('of two that swap at once, one wins; the other hears who, and leaves nothing', async () => {
    const target = await deployed(workload('Deployment', 'contested'));
    const specs = ['alice', 'bob', 'carol'].map((owner) => specFor(target, { owner }));
    const results = await Promise.allSettled(specs.map((each) => swapIn(cluster, target, each)));
    const winner = results.findIndex(({ status }) => status === 'fulfilled');
    assert.deepEqual(results.map(({ status }) => status).toSorted(), ['fulfilled', 'rejected', 'rejected']);
    for (const [i, result] of results.entries()) {
      if (result.status === 'fulfilled') continue;
      assert.equal(result.reason.code, 'already-held');
      assert.match(
        result.reason.message,
        new RegExp(`deployment/contested is already held by ${specs[winner]?.owner} on laptop since `),
      );
      const { session } = specs[i] as SwapSpec;
      const objects = await kubectl([
        'get',
        '-n',
        namespace,
        'configmaps,secrets',
        '-l',
        `lpk.dev/session=${session}`,
        '-o',
        'name',
      ]);
      assert.equal(objects, '');
      assert.equal((await restore(cluster, { ...target, session })).workload, 'held-by-another');
    }
    const late = swapIn(cluster, target, specFor(target));
    await assert.rejects(late, { code: 'already-held' });
    const { status, value } = results[winner] as PromiseFulfilledResult<HeldWorkload>;
    assert.equal(status, 'fulfilled');
    await restored(value);
    assert.deepEqual(await leftOf(value.session, target), []);
  });

  test('an image that can’t be pulled is told in the kubelet’s words; the restore leaves nothing', async () => {
    const target = await deployed(workload('Deployment', 'unpullable'));
    const given = specFor(target, { image: 'registry.invalid/no/such:1' });
    const held = await swapIn(cluster, target, given);
    for await (const event of watchPods(cluster, target, given.session, patience())) {
      if (event.type !== 'problem' || !event.fatal) continue;
      assert.equal(event.code, 'image-pull');
      assert.match(event.message, /^pod unpullable-\S+: container app: the image can't be pulled: .*registry\.invalid/);
      break;
    }
    const waiting = waitRollout(cluster, target, { signal: patience(), timeoutMs: 1_000 });
    await assert.rejects(waiting, {
      code: 'rollout-timed-out',
      message: /deployment\/unpullable is not there after 1 s: /,
    });
    await restored(held);
    assert.deepEqual(await leftOf(given.session, target), []);
  });

  test('a StatefulSet whose own pods never get ready can be served and restored', async () => {
    const broken = workload('StatefulSet', 'broken', {
      container: { readinessProbe: { exec: { command: ['false'] } } },
      spec: { replicas: 2, serviceName: 'x' },
    });
    await cluster.request('POST', `/apis/apps/v1/namespaces/${namespace}/statefulsets`, { body: broken });
    await kubectl(['wait', '-n', namespace, '--for=create', '--timeout=240s', 'pod/broken-0']);
    await kubectl([
      'wait',
      '-n',
      namespace,
      '--for=jsonpath={.status.phase}=Running',
      '--timeout=240s',
      'pod/broken-0',
    ]);
    const target = await find('sts/broken');
    const given = specFor(target);
    const held = await swapIn(cluster, target, given);
    const laptop = serve(target, given, throughProxy);
    await waitRollout(cluster, target, { signal: patience() });
    assert.equal(laptop.carriers.size, 2);
    await laptop.end();
    await restore(cluster, held);
    await kubectl(['wait', '-n', namespace, '--for=delete', '--timeout=240s', 'pod/broken-1']);
    const image = '--for=jsonpath={.spec.containers[0].image}=busybox:1';
    await kubectl(['wait', '-n', namespace, image, '--timeout=240s', 'pod/broken-0']);
  });

  test('a workload that is deleted while it is held leaves nothing', async () => {
    const target = await deployed(workload('Deployment', 'doomed'));
    const given = specFor(target);
    const held = await swapIn(cluster, target, given);
    await kubectl(['delete', '-n', namespace, 'deployment/doomed', '--cascade=orphan']);
    assert.equal((await restore(cluster, held)).workload, 'gone');
    const objects = await kubectl([
      'get',
      '-n',
      namespace,
      'configmaps,secrets',
      '-l',
      `lpk.dev/session=${given.session}`,
      '-o',
      'name',
    ]);
    assert.equal(objects, '');
    const gone = swapIn(cluster, target, specFor(target));
    await assert.rejects(gone, { code: 'not-found', message: /deployments\.apps "doomed" not found/ });
    await kubectl(['delete', '-n', namespace, 'replicaset', '-l', 'app=doomed']);
  });

  test('sessions are found by their workloads, and orphans by their objects', async () => {
    const target = await deployed(workload('Deployment', 'findable'));
    const given = specFor(target);
    const held = await swapIn(cluster, target, given);
    const orphan = newSessionId();
    const metadata = {
      name: `lpk-${orphan}`,
      labels: { 'app.kubernetes.io/managed-by': 'lpk', 'lpk.dev/session': orphan },
    };
    await apply({ apiVersion: 'v1', kind: 'Secret', metadata });
    for (const allNamespaces of [false, true]) {
      const found = (await findSessions(cluster, { allNamespaces })).filter((each) => each.namespace === namespace);
      const mine = found.find(({ id }) => id === given.session);
      assert.deepEqual([mine?.workload?.apiPath, mine?.record?.owner], [target.apiPath, 'alice']);
      const { createdAt, ...left } = found.find(({ id }) => id === orphan) as FoundSession;
      assert.deepEqual(left, { id: orphan, namespace });
      assert.ok(Date.now() - Date.parse(createdAt ?? '') < 60_000, `made at ${createdAt}`);
    }
    await removeOrphan(cluster, { id: orphan, namespace });
    const { workload: ref } = (await findSessions(cluster)).find(({ id }) => id === held.session) ?? {};
    const outcome = await restore(cluster, ref as NonNullable<typeof ref>);
    assert.deepEqual([outcome.workload, outcome.session?.id], ['restored', given.session], 'from the annotation alone');
    assert.deepEqual(
      (await findSessions(cluster)).filter(({ id }) => id === given.session || id === orphan),
      [],
    );
  });
});

describe('in the pod', () => {
  /** What the stand-in says of itself, through the API server. */
  async function told(pod: string, port: number): Promise<{ env: Record<string, string>; uid: number }> {
    return await cluster.request('GET', `/api/v1/namespaces/${namespace}/pods/${pod}:${port}/proxy/`);
  }

  test('the agent starts whatever environment the process was given, and finds it again', async () => {
    const values: Record<string, string> = Object.fromEntries(
      SAVED_VARIABLES.map((name) => [name, `/no/such "${name}" $x`]),
    );
    values.NODE_OPTIONS = '--require /no/such.js';
    values.PATH = '/app/bin';
    values.PLAIN = 'a b';
    const env = Object.entries(values).map(([name, value]) => ({ name, value }));
    const target = await deployed(
      workload('Deployment', 'hostile', { container: { env, command: ['/bin/sleep', '10000'] } }),
    );
    const given = specFor(target);
    const held = await swapIn(cluster, target, given);
    const laptop = serve(target, given, throughProxy);
    await waitRollout(cluster, target, { signal: patience() });
    const [running] = laptop.events.filter(({ type }) => type === 'running');
    const got = await told(running?.pod as string, given.port);
    for (const name of [...SAVED_VARIABLES, 'PATH']) {
      assert.equal(got.env[`LPK_SAVED_${name}`], values[name], name);
      if (name !== 'PATH') assert.equal(got.env[name], undefined, name);
    }
    assert.equal(got.env.PLAIN, 'a b');
    await laptop.end();
    await restored(held);
  });

  test('it runs where root is not allowed, although the image’s user is root', async () => {
    const container = { ports: [{ containerPort: 80 }], securityContext: { readOnlyRootFilesystem: true } };
    // As it is, it can't run; the agent must.
    const careful = workload('Deployment', 'careful', {
      container,
      pod: { securityContext: { runAsUser: undefined } },
    });
    await cluster.request('POST', `/apis/apps/v1/namespaces/${namespace}/deployments`, { body: careful });
    const target = await find('deployment/careful');
    const original = target.workload.spec;
    const given = specFor(target);
    const held = await swapIn(cluster, target, given);
    const laptop = serve(target, given, throughProxy);
    await waitRollout(cluster, target, { signal: patience() });
    const [running] = laptop.events.filter(({ type }) => type === 'running');
    assert.equal((await told(running?.pod as string, given.port)).uid, 1000);
    await laptop.end();
    await restore(cluster, held);
    assert.deepEqual((await read(target)).spec, original);
  });
});

describe('refused', () => {
  for (const kind of ['Deployment', 'StatefulSet'] as const) {
    test(`a ${kind} whose pods a quota refuses`, async () => {
      const name = `quota-${kind.toLowerCase()}`;
      const target = await deployed(workload(kind, name));
      await createQuota(cluster, namespace, name, { pods: '0' });
      const given = specFor(target);
      const held = await swapIn(cluster, target, given);
      const waiting = waitRollout(cluster, target, { signal: patience(), stalledMs: 1_500 });
      const expected = {
        code: 'rollout-failed',
        message: new RegExp(`^${kind.toLowerCase()}/${name} can't make its pods: .*exceeded quota`),
      };
      await assert.rejects(waiting, expected);
      await kubectl(['delete', '-n', namespace, 'resourcequota', name]);
      assert.equal((await restore(cluster, held)).workload, 'restored');
    });
  }

  async function userWith(name: string, rules: object[]): Promise<Cluster> {
    const file = path.join(dir, name);
    await userKubeconfig(file, name);
    const role = { apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'Role', metadata: { name }, rules };
    const binding = {
      apiVersion: 'rbac.authorization.k8s.io/v1',
      kind: 'RoleBinding',
      metadata: { name },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name },
      subjects: [{ kind: 'User', name }],
    };
    await apply(role, binding);
    return await openCluster({ kubeconfig: file, namespace });
  }

  test('who lacks rights hears of all of them before anything is changed', async () => {
    const target = await deployed(workload('StatefulSet', 'guarded'));
    const nobody = await userWith('nobody', []);
    await assert.rejects(preflight(nobody, target, 'auto'), {
      code: 'forbidden',
      message:
        `user "nobody" lacks rights in namespace ${namespace} to serve statefulset/guarded: ` +
        'get, list, watch, patch statefulsets.apps "guarded"; list, watch, delete pods; create, delete configmaps; ' +
        'create, delete secrets; get pods/proxy',
    });
    await assert.rejects(findTarget(nobody, parseTarget('deploy/web')), {
      code: 'forbidden',
      message: /User "nobody" cannot get resource "deployments" in API group "apps" in the namespace "dep-/,
    });
    nobody.close();
  });

  test('with just the rights that are asked for, everything works', async () => {
    const rules = [
      { apiGroups: ['apps'], resources: ['deployments'], verbs: ['get', 'list', 'watch', 'patch'] },
      { apiGroups: [''], resources: ['pods'], verbs: ['list', 'watch'] },
      { apiGroups: [''], resources: ['configmaps', 'secrets'], verbs: ['create', 'delete'] },
      { apiGroups: [''], resources: ['pods/portforward'], verbs: ['get', 'create'] },
    ];
    const target = await deployed(workload('Deployment', 'least'));
    const dev = await userWith('dev', rules);
    await inForce(path.join(dir, 'dev'), namespace, rules.flatMap(rightsOf));
    assert.deepEqual(await transportsAllowed(dev), ['port-forward']);
    assert.deepEqual((await preflight(dev, target, 'auto')).transports, ['port-forward']);
    await assert.rejects(preflight(dev, target, 'proxy'), { code: 'forbidden', message: /: get pods\/proxy$/ });
    const own = await findTarget(dev, parseTarget('deploy/least'));
    const given = specFor(own, { listen: 'loopback' });
    const held = await swapIn(dev, own, given);
    const laptop = serve(own, given, throughPortForward, dev);
    await waitRollout(dev, own, { signal: patience() });
    const pod = laptop.events.find(({ type }) => type === 'running')?.pod as string;
    const proxied = await throughProxy(dev, namespace, pod, given.port)();
    const [refused] = await once(proxied, 'error');
    assert.equal(reachError(refused, dev.server).code, 'forbidden');
    await laptop.end();
    await restored(held, dev);
    assert.deepEqual(
      (await leftOf(given.session, target)).filter((each) => !each.startsWith('replicasets/')),
      [],
    );
    dev.close();
  });

  test('ways that lead nowhere', async () => {
    const target = await deployed(workload('Deployment', 'nowhere'));
    const query = { labelSelector: target.podQuery.labelSelector };
    const [pod] = (await cluster.request('GET', `/api/v1/namespaces/${namespace}/pods`, { query })).items;
    for (const [way, refused] of [
      [throughProxy, 'agent-not-listening'],
      [throughPortForward, 'agent-unreachable'],
    ] as const) {
      for (const [name, code] of [
        [pod.metadata.name, refused],
        ['no-such-pod', 'not-found'],
      ]) {
        const carrier = await way(cluster, namespace, name, 47601)();
        const error = reachError((await once(carrier, 'error'))[0], cluster.server);
        assert.equal(error.code, code, `${way.name} ${name}: ${error.message}`);
        assert.doesNotMatch(error.message, /\n/);
      }
    }
  });

  test('a cluster that isn’t there, or doesn’t know us', async () => {
    const admin = JSON.parse(await kubectl(['config', 'view', '--raw', '-o', 'json']));
    const other = async (change: (config: Json) => void): Promise<Cluster> => {
      const config = structuredClone(admin);
      change(config);
      const file = path.join(dir, 'other');
      writeFileSync(file, JSON.stringify(config));
      return await openCluster({ kubeconfig: file, namespace });
    };
    const unknown = await other(({ users }) => {
      users[0].user = { token: 'nonsense' };
    });
    await assert.rejects(unknown.request('GET', '/api/v1/pods'), {
      code: 'unauthorized',
      message: /does not accept the credentials/,
    });
    const untrusted = await other(({ clusters }) => {
      delete clusters[0].cluster['certificate-authority-data'];
    });
    await assert.rejects(untrusted.request('GET', '/api'), {
      code: 'cluster-unreachable',
      message: /https:\/\/.*certificate/,
    });
    const absent = await other(({ clusters }) => {
      clusters[0].cluster.server = 'https://lpk.invalid:6443';
    });
    await assert.rejects(absent.request('GET', '/api'), {
      code: 'cluster-unreachable',
      message: /lpk\.invalid:6443: the name/,
    });
  });
});
