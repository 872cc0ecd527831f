import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { bundleAgent } from '../../agent/deploy/bundle.ts';
import type { Json } from '../../agent/deploy/kube.ts';
import { TLS_CERTIFICATE, TLS_KEY } from '../unit/proxy/tls-fixture.ts';
import { endAll, type Lpk } from './lpk.ts';
import { eventually, freePort, Shop, service, workload } from './shop.ts';

/** When a pod of `lpk connect` is alive, and when it is called: the kubelet's every kind of probe. */

const PROGRAM = path.join(import.meta.dirname, 'probed-process.ts');
const POD_PORTS = [8080, 8443, 9000] as const;
const NO_PROBES = { livenessProbe: undefined, readinessProbe: undefined };
const BREAKPOINT_MS = 180_000;

const KINDS = {
  exec: { exec: { command: ['cat', '/tmp/alive'] } },
  http: {
    httpGet: {
      ...{ path: '/health', port: 'http' },
      httpHeaders: [
        { name: 'X-Probe', value: 'yes' },
        { name: 'Host', value: 'shop.example' },
      ],
    },
  },
  https: { httpGet: { path: '/health', port: 8443, scheme: 'HTTPS' } },
  tcp: { tcpSocket: { port: 'http' } },
  grpc: { grpc: { port: 9000 } },
} as const;
type Kind = keyof typeof KINDS;
const ALL = Object.keys(KINDS) as Kind[];

const locals = new Set<ChildProcess>();
let shop: Shop;
/** Where pods may be in the node's network. */
let node: Shop;

before(async () => {
  shop = await Shop.open('readiness');
  node = await Shop.open('node', { root: true });
  const program = await bundleAgent(PROGRAM);
  await shop.create({
    ...{ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'code' }, data: { 'probed.mjs': program } },
  });
  const tier = { labels: { app: 'apart', tier: 'two' } };
  const apart = workload('Deployment', 'apart');
  const beside = workload('Deployment', 'beside');
  apart.spec.template.metadata = tier;
  beside.spec.template.metadata = { labels: { app: 'beside', tier: 'two' } };
  await Promise.all([
    shop.deployCaller(),
    shop.deploy(
      ...ALL.flatMap((kind) => [probed(kind), service(kind, [[80, 8080]])]),
      ...[apart, beside, workload('Deployment', 'connected')],
      workload('Deployment', 'late', { spec: { strategy: { type: 'Recreate' } } }),
      service('two', [[80, 8080]], { selector: { tier: 'two' } }),
    ),
  ]);
});

after(async () => {
  endAll();
  for (const local of locals) local.kill('SIGKILL');
  await Promise.all([shop?.close(), node?.close()]);
});

/** The program in a pod, whose three probes are of this kind. */
function probed(kind: Kind): Json {
  const probe = { ...KINDS[kind], periodSeconds: 5, failureThreshold: 1, timeoutSeconds: 2 };
  const command = ['/bin/sh', '-c', `touch /tmp/alive; exec node /code/probed.mjs ${POD_PORTS.join(' ')}`];
  const startupProbe = { ...probe, periodSeconds: 1, failureThreshold: 60 };
  return workload('Deployment', kind, {
    env: { TLS_KEY, TLS_CERTIFICATE },
    container: {
      ...{ image: 'node:24-alpine', command, volumeMounts: [{ name: 'code', mountPath: '/code' }] },
      ...{ livenessProbe: probe, readinessProbe: probe, startupProbe },
    },
    pod: { volumes: [{ name: 'code', configMap: { name: 'code' } }] },
  });
}

/** The program here in a pod's place. */
async function session(kind: Kind, health: 'healthy' | 'sick', ...args: string[]): Promise<{ lpk: Lpk; here: number }> {
  const ports = [await freePort(), await freePort(), await freePort()];
  const mapped = ports.flatMap((port, i) => ['-p', `${port}:${POD_PORTS[i]}`]);
  const command = ['--', process.execPath, PROGRAM, ...ports.map(String), health];
  const lpk = shop.lpk('connect', `deployment/${kind}`, '--no-wait', ...mapped, ...args, ...command);
  return { lpk, here: ports[0] as number };
}

async function leave(lpk: Lpk): Promise<void> {
  lpk.signal('SIGTERM');
  assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
}

/** The agent's pod, as the kubelet sees it. */
async function podOf(name: string): Promise<Json> {
  const pods = (await shop.pods(`deployment/${name}`)).filter((pod) => JSON.stringify(pod.spec).includes('lpk-agent'));
  assert.equal(pods.length, 1);
  return pods[0];
}

const readyOf = (pod: Json) => pod.status.conditions.find(({ type }: Json) => type === 'Ready');

async function becomes(name: string, status: 'True' | 'False'): Promise<void> {
  await eventually(`the pod of ${name} is ready: ${status}`, async () => readyOf(await podOf(name)).status === status);
}

/** Pods that a Service's callers are led to. */
async function endpointsOf(name: string): Promise<string[]> {
  const slices = await shop.cluster.request(
    'GET',
    `/apis/discovery.k8s.io/v1/namespaces/${shop.namespace}/endpointslices`,
    { query: { labelSelector: `kubernetes.io/service-name=${name}` } },
  );
  return (slices.items as Json[]).flatMap(({ endpoints }) =>
    ((endpoints ?? []) as Json[]).filter(({ conditions }) => conditions.ready).map(({ targetRef }) => targetRef.name),
  );
}

function localServer(port: number): Promise<ChildProcess> {
  const program = `require('http').createServer((_, a) => a.end('local')).listen(${port}, '127.0.0.1', () => console.log('listens'))`;
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  locals.add(child);
  return once(child.stdout, 'data').then(() => child);
}

describe('readiness', { concurrency: 2 }, () => {
  describe('with every kind of probe', { concurrency: 1 }, () => {
    test('probe: the container’s own counts, carried out here; exec can’t be', async () => {
      const begin = async (kind: Kind) => ({ kind, ...(await session(kind, 'sick', '--readiness', 'probe')) });
      await Promise.all(
        (await Promise.all(ALL.map(begin))).map(async ({ kind, lpk, here }) => {
          const set = (health: 'heal' | 'sicken') => fetch(`http://127.0.0.1:${here}/${health}`);
          if (kind === 'exec') {
            const { text } = await lpk.event('readiness');
            const why = 'deployment/exec has a readiness probe that runs a command in the pod (cat)';
            assert.equal(text, `readiness: listening, as ${why}`);
          } else if (kind !== 'tcp') {
            await lpk.line(new RegExp(`^${kind} sick$`));
            // Before the program listens it may say another thing.
            const sick = kind === 'grpc' ? /is not SERVING$/ : /\/health: status 503$/;
            await lpk.event('unready', ({ why }) => sick.test(why));
            assert.equal(readyOf(await podOf(kind)).status, 'False', `${lpk}`);
            await set('heal');
          }
          await lpk.serving();
          if (kind !== 'exec' && kind !== 'tcp') {
            await set('sicken');
            await becomes(kind, 'False');
          }
          await leave(lpk);
        }),
      );
    });

    test('a breakpoint of three minutes harms nothing', async () => {
      await Promise.all(
        ALL.map(async (kind) => {
          const { lpk } = await session(kind, 'healthy');
          const pid = Number((await lpk.line(/^listens as \d+$/)).split(' ').at(-1));
          await lpk.serving();
          const answers = async () => {
            const { received } = await shop.callHttp(kind, 80);
            return String(received).endsWith(`process ${pid}`);
          };
          await eventually(`the process in the place of ${kind} answers`, answers);
          const before = await podOf(kind);
          process.kill(pid, 'SIGSTOP');
          await pause(BREAKPOINT_MS);
          // A link that broke meanwhile makes the pod unready while it is down: that is not the breakpoint's doing.
          const isCalled = async () => (await endpointsOf(kind)).includes(before.metadata.name);
          await eventually(`the pod of ${kind} is called`, isCalled);
          const stopped = await podOf(kind);
          process.kill(pid, 'SIGCONT');
          const linkHeld = !lpk.events.some(({ event }) => event === 'link-down');
          const same = ({ metadata, status }: Json) => ({
            ...{ uid: metadata.uid, ready: linkHeld && readyOf({ status }) },
            ids: status.containerStatuses.map(({ containerID }: Json) => containerID),
          });
          assert.deepEqual(same(stopped), same(before), `${kind}; ${lpk}`);
          assert.equal(stopped.status.containerStatuses[0].restartCount, 0, `${kind}; ${lpk}`);
          await eventually(`the process in the place of ${kind} answers again`, answers);
          await leave(lpk);
        }),
      );
    });
  });

  test('of a process that crashes is gone within seconds, and others of the Service take over; a restart brings it back', async () => {
    const here = await freePort();
    const lpk = shop.lpk('connect', 'deployment/apart', '--no-wait', '-p', `${here}:8080`);
    await lpk.event('ready');
    let local = await localServer(here);
    await lpk.serving();
    const agent = (await podOf('apart')).metadata.name;
    const isCalled = async () => (await endpointsOf('two')).includes(agent);
    await eventually('the agent is called', isCalled);

    const diedAt = performance.now();
    local.kill('SIGKILL');
    await eventually('the agent is no longer called', async () => !(await isCalled()));
    const seconds = (performance.now() - diedAt) / 1_000;
    assert.ok(seconds < 20, `it took ${seconds.toFixed(1)} s; ${lpk}`);
    await eventually('callers are led to the others only', async () => {
      const answers = await Promise.all(Array.from({ length: 8 }, () => shop.callHttp('two', 80)));
      return answers.every(({ received }) => String(received).includes('beside in pod'));
    });

    local = await localServer(here);
    await eventually('the agent is called again', isCalled);
    await eventually('callers get here', async () =>
      String((await shop.callHttp('two', 80)).received).includes('local'),
    );
    local.kill('SIGKILL');
    await leave(lpk);
  });

  test('connected: a pod is ready although nothing listens here', async () => {
    const lpk = shop.lpk('connect', 'deployment/connected', '--no-wait', '--readiness', 'connected');
    await lpk.serving();
    await becomes('connected', 'True');
    await leave(lpk);
  });

  test('a Deployment’s deadline passes while nothing listens here: neither the session nor its end minds', async () => {
    const spec = await shop.specOf('deployment/late');
    const lpk = shop.lpk('connect', 'deployment/late', '-p', `${await freePort()}:8080`);
    await lpk.event('ready');
    const deadline = (value: number) =>
      shop.patch('deployment/late', [{ op: 'replace', path: '/spec/progressDeadlineSeconds', value }]);
    await deadline(1);
    await eventually('the deadline has passed', async () => {
      const { status } = await shop.workload('deployment/late');
      return status.conditions.some(({ reason }: Json) => reason === 'ProgressDeadlineExceeded');
    });
    await deadline(600);
    await leave(lpk);
    await lpk.event('restore', ({ state }) => state === 'done');
    const complaints = lpk.events.filter(({ event }) => ['warning', 'trouble', 'error'].includes(event));
    assert.deepEqual(complaints, [], `${lpk}`);
    assert.equal(await shop.specOf('deployment/late'), spec, `${lpk}`);
  });

  test('in the node’s network, a port that another pod has is taken as soon as it is free', async () => {
    const [here, port] = [await freePort(), 18_000 + Math.floor(Math.random() * 1_000)];
    const pod = { hostNetwork: true };
    const strategy = { rollingUpdate: { maxUnavailable: 1, maxSurge: 0 } };
    const serves = (at: number) => ({ env: { PORT: `${at}` }, container: { ports: [], ...NO_PROBES }, pod });
    await node.deploy(
      workload('Deployment', 'holder', serves(port)),
      workload('Deployment', 'host', { ...serves(port + 1_000), spec: { strategy } }),
    );
    const [{ status }] = await node.pods('deployment/host');
    const local = await localServer(here);
    const lpk = node.lpk('connect', 'deployment/host', '--no-wait', '-p', `${here}:${port}`);
    assert.equal((await lpk.event('trouble')).code, 'address-in-use', `${lpk}`);
    await node.delete('deployment/holder');
    await lpk.serving();
    const { received } = await shop.callHttp(status.podIP, port);
    assert.match(String(received), /local$/, `${lpk}`);
    local.kill('SIGKILL');
    await leave(lpk);
  });
});
