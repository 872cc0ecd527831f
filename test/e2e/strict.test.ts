import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Json } from '../../agent/deploy/kube.ts';
import { endAll, type Lpk } from './lpk.ts';
import { createQuota } from './namespace.ts';
import { eventually, freePort, listen, Shop, service, workload } from './shop.ts';

/** The agent needs nothing: whatever a pod's security settings and limits are, it runs; where a quota has no room, that is told. */

type Row = {
  container?: Json;
  pod?: Json;
  /** lpk says that it raised these. */
  raised?: object[];
  /** What holds in the agent's pod. */
  holds?: (pod: Json) => void;
};

const FOR_AGENT = { requests: { cpu: '1m', memory: '8Mi' } };
const limits = (given: object) => ({ resources: { ...FOR_AGENT, limits: { cpu: '4', memory: '512Mi', ...given } } });

const rows: Record<string, Row> = {
  // As OpenShift assigns it: no such user in the image, group root.
  'a-random-user': {
    pod: {
      securityContext: {
        runAsUser: 1_000_650_000,
        runAsGroup: 0,
        fsGroup: 1_000_650_000,
        supplementalGroups: [4_000_000],
      },
      volumes: [{ name: 'data', emptyDir: {} }],
    },
    container: { volumeMounts: [{ name: 'data', mountPath: '/data' }] },
  },
  'nothing-to-write': {
    container: {
      ...{ env: [{ name: 'PORT', value: '8080' }], command: ['sleep', '100000'] },
      ...{ readinessProbe: undefined, livenessProbe: undefined },
      securityContext: { readOnlyRootFilesystem: true, procMount: 'Default' },
    },
  },
  'settings-of-its-own': {
    container: {
      securityContext: { runAsNonRoot: true, runAsUser: 4_711, seccompProfile: { type: 'RuntimeDefault' } },
    },
    pod: { securityContext: { runAsUser: undefined, seccompProfile: undefined, runAsNonRoot: undefined } },
  },
  // The original is an image whose user is root: it can't run itself.
  'not-root': { pod: { securityContext: { runAsUser: undefined } } },
  'no-token': { pod: { automountServiceAccountToken: false, enableServiceLinks: false } },
  'little-memory': {
    container: limits({ memory: '16Mi' }),
    raised: [{ resource: 'memory', was: '16Mi', now: '64Mi' }],
    holds: ({ spec }) => assert.equal(spec.containers[0].resources.limits.memory, '64Mi'),
  },
  'little-cpu': {
    container: limits({ cpu: '50m' }),
    raised: [{ resource: 'cpu', was: '50m', now: '200m' }],
  },
};

async function leave(lpk: Lpk): Promise<void> {
  lpk.signal('SIGINT');
  assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
}

describe('whatever the namespace asks for', { concurrency: 3 }, () => {
  after(endAll);

  describe('in a namespace with a quota and restricted Pod Security', { concurrency: 3 }, () => {
    let shop: Shop;

    before(async () => {
      shop = await Shop.open('strict');
      await shop.deployCaller();
      await shop.create(...Object.keys(rows).map((name) => service(name, [[80, 80]])));
      await shop.create(
        ...Object.entries(rows).map(([name, { container, pod }]) =>
          workload('Deployment', name, {
            container: { ports: [{ containerPort: 80 }], ...container },
            ...(pod ? { pod } : {}),
          }),
        ),
      );
    });

    after(async () => await shop?.close());

    for (const [name, { raised, holds }] of Object.entries(rows)) {
      test(`${name.replaceAll('-', ' ')}: calls to port 80 arrive, and all is as it was`, async () => {
        const here = await freePort();
        const there = await listen(here, (socket) => socket.end('here'));
        try {
          const spec = await shop.specOf(`deployment/${name}`);
          const lpk = shop.lpk('connect', name, '-p', `${here}:80`);
          await lpk.event('ready');
          await eventually('the call arrives', async () => {
            const { received } = await shop.call({ host: name, port: 80, speaks: 'last' });
            return String(received) === 'here';
          });
          const said = lpk.events.filter(({ event }) => event === 'raised').map((each) => each.limits);
          assert.deepEqual(said, raised ? [raised] : [], `${lpk}`);
          const pods = await shop.pods(`deployment/${name}`);
          holds?.(pods.find(({ spec }) => JSON.stringify(spec).includes('lpk-agent')));
          await leave(lpk);
          assert.equal(await shop.specOf(`deployment/${name}`), spec, `${lpk}`);
          assert.deepEqual(await shop.objectsOf(`deployment/${name}`), [], `${lpk}`);
        } finally {
          await there.close();
        }
      });
    }
  });

  describe('limits that a LimitRange fills in', { concurrency: 2 }, () => {
    let shop: Shop;

    before(async () => {
      shop = await Shop.open('range');
      const range = {
        type: 'Container',
        default: { memory: '32Mi', cpu: '1' },
        defaultRequest: { memory: '8Mi', cpu: '1m' },
      };
      await shop.create({
        apiVersion: 'v1',
        kind: 'LimitRange',
        metadata: { name: 'defaults' },
        spec: { limits: [range] },
      });
      await shop.deploy(
        workload('Deployment', 'web', {
          container: {
            resources: { limits: undefined, requests: undefined },
            env: [
              { name: 'PORT', value: '8080' },
              { name: 'MEMORY', valueFrom: { resourceFieldRef: { resource: 'limits.memory' } } },
            ],
          },
        }),
      );
    });

    after(async () => await shop?.close());

    test('are raised for the agent like the workload’s own, and not for the command', async () => {
      const spec = await shop.specOf('deployment/web');
      assert.deepEqual(JSON.parse(spec).template.spec.containers[0].resources, {});
      const lpk = shop.lpk('connect', 'deployment/web', '--', '/bin/sh', '-c', 'echo "memory $MEMORY"');
      const { limits: raised } = await lpk.event('raised');
      assert.deepEqual(raised, [{ resource: 'memory', was: '32Mi', now: '64Mi' }]);
      assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
      assert.ok(lpk.lines.includes(`memory ${32 * 1024 * 1024}`), `${lpk}`);
      assert.equal(await shop.specOf('deployment/web'), spec, `${lpk}`);
    });
  });

  describe('where there is no room', { concurrency: 1 }, () => {
    let shop: Shop;

    before(async () => {
      shop = await Shop.open('full');
      await shop.deploy(
        workload('Deployment', 'web'),
        workload('Deployment', 'lean', { container: limits({ memory: '16Mi' }) }),
      );
    });

    after(async () => await shop?.close());

    async function refused(target: string, says: RegExp): Promise<void> {
      const [spec, [pod]] = [await shop.specOf(target), await shop.pods(target)];
      const lpk = shop.lpk('connect', target);
      assert.deepEqual(await lpk.exit(), { code: 1, signal: null }, `${lpk}`);
      const { code, message } = await lpk.event('error');
      assert.equal(code, 'rollout-failed', `${lpk}`);
      assert.match(message, says);
      assert.equal(await shop.specOf(target), spec, `${lpk}`);
      assert.deepEqual(await shop.objectsOf(target), [], `${lpk}`);
      const pods = (await shop.pods(target)).map(({ metadata }) => metadata.uid);
      assert.deepEqual(pods, [pod.metadata.uid], 'its pod was never touched');
    }

    test('for a restorer: the session goes on without, and says why', async () => {
      // 16Mi are there, and the agent's pod asks for 8Mi; the restorer's for 64Mi.
      await createQuota(shop.cluster, shop.namespace, 'room', { 'requests.memory': '70Mi' });
      const lpk = shop.lpk('connect', 'deployment/web');
      const { text } = await lpk.event('no-restorer');
      assert.match(text, /^no restorer: its pod is refused: .*exceeded quota: room/);
      await lpk.event('ready');
      await leave(lpk);
      assert.deepEqual(await shop.objectsOf('deployment/web'), [], `${lpk}`);
      await remove('resourcequotas/room');
    });

    test('for both: the restorer gives way to the agent', async () => {
      await createQuota(shop.cluster, shop.namespace, 'pods', { pods: '3' });
      const lpk = shop.lpk('connect', 'deployment/web');
      const { text } = await lpk.event('no-restorer');
      assert.match(
        text,
        /^no restorer: its pod (had the room that there is for the agent|is refused: .*exceeded quota)/,
      );
      await lpk.event('ready');
      await leave(lpk);
      await remove('resourcequotas/pods');
    });

    test('for the pod that a rolling update adds: put back, in the quota’s words', async () => {
      await createQuota(shop.cluster, shop.namespace, 'full', { pods: '2' });
      await refused(
        'deployment/web',
        /^deployment\/web can't make its pods: .*exceeded quota: full, requested: pods=1/,
      );
      await remove('resourcequotas/full');
    });

    test('for as much memory as the agent needs: the same', async () => {
      const limit = { type: 'Container', max: { memory: '32Mi' } };
      await shop.create({
        apiVersion: 'v1',
        kind: 'LimitRange',
        metadata: { name: 'small' },
        spec: { limits: [limit] },
      });
      await refused(
        'deployment/lean',
        /^deployment\/lean can't make its pods: .*maximum memory usage per Container is 32Mi/,
      );
      await remove('limitranges/small');
    });

    async function remove(path: string): Promise<void> {
      await shop.cluster.request('DELETE', `/api/v1/namespaces/${shop.namespace}/${path}`);
    }
  });
});
