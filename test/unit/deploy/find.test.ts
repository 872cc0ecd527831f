import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  chooseContainer,
  findTarget,
  parseTarget,
  runningContainers,
  servicePorts,
  similarNames,
} from '../../../agent/deploy/find.ts';
import type { Cluster, Json } from '../../../agent/deploy/kube.ts';
import {
  assertServable,
  replicasOf,
  selectorString,
  selects,
  servedOf,
  type WorkloadKind,
  whichPods,
} from '../../../agent/deploy/workload.ts';
import { type ErrorCode, LpkError } from '../../../agent/wire/errors.ts';

test('a target is a Service unless its kind is given, by any of kubectl’s names', () => {
  const table: [string, string, string][] = [
    ['web', 'service', 'web'],
    ['service/web', 'service', 'web'],
    ['services/web', 'service', 'web'],
    ['svc/web', 'service', 'web'],
    ['deployment/web', 'deployment', 'web'],
    ['deployments/web', 'deployment', 'web'],
    ['deploy/web', 'deployment', 'web'],
    ['Deployment/web', 'deployment', 'web'],
    ['statefulset/db', 'statefulset', 'db'],
    ['sts/db', 'statefulset', 'db'],
    ['daemonset/agent', 'daemonset', 'agent'],
    ['ds/agent', 'daemonset', 'agent'],
    ['rollout/web', 'rollout', 'web'],
    ['rollouts/web', 'rollout', 'web'],
    ['ro/web', 'rollout', 'web'],
    ['pod/web-7d9f-x2', 'pod', 'web-7d9f-x2'],
    ['po/web-0', 'pod', 'web-0'],
    ['deployment', 'service', 'deployment'],
    ['web.v2', 'service', 'web.v2'],
  ];
  for (const [text, kind, name] of table) assert.deepEqual(parseTarget(text), { kind, name }, text);
});

test('what names no target is refused as usage', () => {
  for (const text of [
    '',
    '/',
    'web/',
    '/web',
    'thing/x',
    'constructor/x',
    'a/b/c',
    'Web',
    'we_b',
    '-web',
    'deploy/We b',
    'a'.repeat(254),
  ]) {
    assert.throws(() => parseTarget(text), { name: 'LpkError', code: 'usage' }, JSON.stringify(text));
  }
});

const twoContainers = {
  spec: {
    template: {
      spec: {
        containers: [
          {
            name: 'app',
            ports: [
              { name: 'http', containerPort: 8080, protocol: 'TCP' },
              { containerPort: 5353, protocol: 'UDP' },
            ],
          },
          { name: 'metrics', ports: [{ name: 'prom', containerPort: 9090, protocol: 'TCP' }] },
        ],
      },
    },
  },
};
const service = (...ports: object[]) => ({ spec: { ports } });

test('the container is the one asked for, else the only one, else the one with the Service’s target port', () => {
  const choose = (asked: string | undefined, ...services: object[]) =>
    chooseContainer('deployment/web', twoContainers, asked, services).name;
  assert.equal(choose('metrics', service({ port: 80, targetPort: 8080 })), 'metrics');
  assert.equal(choose(undefined, service({ port: 80, targetPort: 8080 })), 'app');
  assert.equal(choose(undefined, service({ port: 80, targetPort: 'prom' })), 'metrics');
  assert.equal(choose(undefined, service({ port: 9090 })), 'metrics', 'targetPort is port when absent');
  assert.equal(choose(undefined, service({ port: 53, targetPort: 5353, protocol: 'UDP' })), 'app');
  const [only] = twoContainers.spec.template.spec.containers;
  const single = { ...twoContainers, spec: { template: { spec: { containers: [only] } } } };
  assert.equal(chooseContainer('deployment/web', single, undefined, []).name, 'app');
});

test('a container that can’t be chosen is an error that names all', () => {
  const ambiguous = { code: 'ambiguous-container', message: /deployment\/web.*app, metrics.*--container/ };
  assert.throws(() => chooseContainer('deployment/web', twoContainers, undefined, []), ambiguous);
  assert.throws(
    () => chooseContainer('deployment/web', twoContainers, undefined, [service({ port: 80, targetPort: 3000 })]),
    ambiguous,
  );
  const both = service({ port: 80, targetPort: 8080 }, { port: 81, targetPort: 9090 });
  assert.throws(() => chooseContainer('deployment/web', twoContainers, undefined, [both]), ambiguous);
  const otherProtocol = service({ port: 53, targetPort: 5353, protocol: 'TCP' });
  assert.throws(() => chooseContainer('deployment/web', twoContainers, undefined, [otherProtocol]), ambiguous);
  assert.throws(() => chooseContainer('deployment/web', twoContainers, 'nginx', []), {
    code: 'not-found',
    message: /no container "nginx".*app, metrics/,
  });
});

test('a Service’s ports are given as the container has them', () => {
  const containers = twoContainers.spec.template.spec.containers;
  const ports = service(
    { name: 'web', port: 80, targetPort: 'http', protocol: 'TCP' },
    { name: 'plain', port: 81, targetPort: 3000 },
    { name: 'prom', port: 9090, targetPort: 'prom' },
    { name: 'prom-by-number', port: 9091, targetPort: 9090 },
    { name: 'nowhere', port: 82, targetPort: 'gone' },
    { name: 'dns', port: 53, targetPort: 5353, protocol: 'UDP' },
  );
  assert.deepEqual(servicePorts(ports, containers[0], containers), [
    { name: 'web', port: 80, targetPort: 8080, protocol: 'TCP' },
    { name: 'plain', port: 81, targetPort: 3000, protocol: 'TCP' },
    { name: 'dns', port: 53, targetPort: 5353, protocol: 'UDP' },
  ]);
});

test('a Service’s port that a native sidecar has is not the container’s', () => {
  const service = {
    spec: {
      ports: [
        { port: 80, targetPort: 8080 },
        { port: 81, targetPort: 4180 },
        { port: 82, targetPort: 82 },
      ],
    },
  };
  const ports = [{ containerPort: 4180, protocol: 'TCP' }];
  const initContainers = [
    { name: 'proxy', restartPolicy: 'Always', ports },
    { name: 'once', ports: [{ containerPort: 82, protocol: 'TCP' }] },
  ];
  const app = { name: 'app', ports: [{ containerPort: 8080, protocol: 'TCP' }] };
  const running = runningContainers({ containers: [app], initContainers });
  assert.deepEqual(
    servicePorts(service, app, running).map(({ targetPort }) => targetPort),
    [8080, 82],
  );
  assert.deepEqual(runningContainers({ containers: [app] }), [app]);
});

test('a selector picks pods that have all its labels', () => {
  assert.equal(selects({ app: 'web' }, { app: 'web', tier: 'front' }), true);
  assert.equal(selects({ app: 'web', tier: 'back' }, { app: 'web', tier: 'front' }), false);
  assert.equal(selects({ app: 'web' }, undefined), false);
});

test('a label selector is written as the API takes it', () => {
  const selector = {
    matchLabels: { app: 'web', 'app.kubernetes.io/part-of': 'shop' },
    matchExpressions: [
      { key: 'tier', operator: 'In', values: ['a', 'b'] },
      { key: 'env', operator: 'NotIn', values: ['test'] },
      { key: 'live', operator: 'Exists' },
      { key: 'old', operator: 'DoesNotExist' },
    ],
  };
  assert.equal(
    selectorString(selector),
    'app=web,app.kubernetes.io/part-of=shop,tier in (a,b),env notin (test),live,!old',
  );
});

test('names that a person may have meant', () => {
  const there = ['web', 'webapp', 'api', 'orders', 'order-db', 'wbe', 'checkout'];
  assert.deepEqual(similarNames('wep', there), ['web']);
  assert.deepEqual(similarNames('order', there), ['order-db', 'orders']);
  assert.deepEqual(similarNames('chekout', there), ['checkout']);
  assert.deepEqual(similarNames('zzz', there), []);
  assert.equal(similarNames('a', ['a1', 'a2', 'a3', 'a4']).length, 3);
});

test('a Job has no place to take, which is said when it is named', () => {
  for (const text of ['job/x', 'cronjob/x', 'cj/x', 'Jobs/x']) {
    const message = /a Job’s pods do their work once and end; run its program here with `lpk run/;
    assert.throws(() => parseTarget(text), { code: 'unsupported-workload', message });
  }
  assert.deepEqual(parseTarget('rs/x'), { kind: 'replicaset', name: 'x' });
  assert.deepEqual(parseTarget('job'), { kind: 'service', name: 'job' });
});

test('what is served, where it is not every pod', () => {
  const sts = (replicas: number, partition: number, ordinals = {}) => ({
    metadata: { name: 'db' },
    spec: { replicas, ordinals, updateStrategy: { type: 'RollingUpdate', rollingUpdate: { partition } } },
  });
  const said = (kind: WorkloadKind, workload: Json, one: boolean, asked = one) =>
    whichPods({ kind, workload, one }, asked);
  assert.equal(said('statefulset', sts(3, 0), false), undefined);
  assert.equal(said('statefulset', sts(4, 2), false), 'db-2 to db-3 of its 4 pods (update partition 2)');
  assert.equal(said('statefulset', sts(4, 3, { start: 10 }), false), 'db-13 of its 4 pods (update partition 3)');
  assert.equal(said('statefulset', sts(4, 0), true), 'db-3 of its 4 pods (--replicas one)');
  const ds = { metadata: { name: 'log' }, spec: {}, status: { desiredNumberScheduled: 5 } };
  assert.equal(said('daemonset', ds, true), '1 of its 5 pods (--replicas one)');
  assert.equal(said('daemonset', ds, false), undefined);
  const web = { metadata: { name: 'web' }, spec: { replicas: 3 } };
  assert.equal(said('deployment', web, true), 'one more pod beside its 3 (--replicas one); it is not changed itself');
  assert.match(said('deployment', web, false, true) ?? '', /the same as all/);
});

test('a workload none of whose pods would follow a change is refused before it is touched', () => {
  const workload = (spec: object, status: object = {}) => ({
    metadata: { name: 'x' },
    spec: { replicas: 1, template: { spec: {} }, ...spec },
    status,
  });
  const unsupported = (message: RegExp) => ({ code: 'unsupported-workload', message });
  assert.throws(() => assertServable('deployment', workload({ paused: true })), unsupported(/deployment\/x is paused/));
  const partitioned = (replicas: number) =>
    workload({ replicas, updateStrategy: { type: 'RollingUpdate', rollingUpdate: { partition: 2 } } });
  const message = /has the update partition 2, which none of its 2 pods is beyond: lower it below 2/;
  assert.throws(() => assertServable('statefulset', partitioned(2)), unsupported(message));
  assert.doesNotThrow(() => assertServable('statefulset', partitioned(3)));
  assert.equal(servedOf('statefulset', partitioned(5)), 3);
  assert.doesNotThrow(() => assertServable('daemonset', workload({ updateStrategy: { type: 'OnDelete' } })));
  const windows = workload({ template: { spec: { nodeSelector: { 'kubernetes.io/os': 'windows' } } } });
  assert.throws(() => assertServable('deployment', windows), unsupported(/Windows/));
  assert.throws(() => assertServable('deployment', workload({ replicas: 0 })), {
    code: 'no-replicas',
    message: /scaled to 0/,
  });
  const unwanted = workload({}, { desiredNumberScheduled: 0, observedGeneration: 1 });
  assert.throws(() => assertServable('daemonset', unwanted), { code: 'no-replicas', message: /no node wants/ });
  assert.doesNotThrow(() => assertServable('daemonset', workload({}, {})), 'not counted yet');
  const usual = workload({ updateStrategy: { type: 'RollingUpdate', rollingUpdate: { partition: 0 } } });
  assert.doesNotThrow(() => assertServable('statefulset', usual));
  assert.equal(replicasOf('deployment', { spec: {} }), 1, 'absent replicas are one');
  assert.equal(replicasOf('daemonset', workload({}, { desiredNumberScheduled: 3 })), 3);
});

/** As it runs, all of one template. */
function rollout(spec: object = {}, status: object = {}): Json {
  const template = { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'web' }] } };
  return {
    metadata: { name: 'web', namespace: 'shop', uid: 'u' },
    spec: { replicas: 2, selector: { matchLabels: { app: 'web' } }, template, ...spec },
    status: { currentPodHash: 'a', stableRS: 'a', phase: 'Healthy', ...status },
  };
}

test('a Rollout that a session can’t hold, or would decide over, is refused with what to do', () => {
  const refused = (spec: object, status: object, message: RegExp) =>
    assert.throws(() => assertServable('rollout', rollout(spec, status)), { code: 'unsupported-workload', message });
  assert.doesNotThrow(() => assertServable('rollout', rollout()));
  const workloadRef = { apiVersion: 'apps/v1', kind: 'Deployment', name: 'web' };
  refused({ template: undefined, workloadRef }, {}, /rollout\/web takes the template of its pods from deployment\/web/);
  refused({ paused: true }, {}, /is paused: .* kubectl argo rollouts promote it first/);
  const canary = { currentPodHash: 'b', message: 'CanaryPauseStep' };
  refused({}, canary, /in the middle of a rollout \(CanaryPauseStep\).*promote or undo it first/);
  assert.doesNotThrow(() => assertServable('rollout', rollout({}, { ...canary, promoteFull: true })), 'on its way');
  assert.doesNotThrow(() => assertServable('rollout', rollout({}, { stableRS: undefined })), 'its first');
});

/** A cluster by its lists; `without`: code of an answer that is none. */
function clusterOf(lists: Record<string, Json[]>, without: Record<string, ErrorCode> = {}): Cluster {
  const request = async (_method: string, path: string) => {
    const [, list = path, name] = /namespaces\/shop\/(\w+)(?:\/(.+))?$/.exec(path) ?? [];
    const code = without[list];
    const object = name ? lists[list]?.find(({ metadata }) => metadata.name === name) : { items: lists[list] ?? [] };
    if (code || !object) throw new LpkError(code ?? 'not-found', path);
    return object;
  };
  return { namespace: 'shop', user: 'ann', request } as unknown as Cluster;
}

describe('a Service whose pods are a Rollout’s', () => {
  const managed = { app: 'web', 'rollouts-pod-template-hash': 'a' };
  const service = { metadata: { name: 'web' }, spec: { selector: managed, ports: [{ port: 80 }] } };
  const find = (cluster: Cluster, kind: 'service' | 'rollout' = 'service') =>
    findTarget(cluster, { kind, name: 'web' });

  test('is found by its template, though the Service asks for a label that Argo gives', async () => {
    const cluster = clusterOf({ services: [service], rollouts: [rollout()] });
    const { kind, apiPath } = await find(cluster);
    assert.deepEqual([kind, apiPath], ['rollout', '/apis/argoproj.io/v1alpha1/namespaces/shop/rollouts/web']);
    assert.deepEqual((await find(cluster, 'rollout')).servicePorts, [{ port: 80, targetPort: 80, protocol: 'TCP' }]);
  });

  test('is found by its pods where Rollouts may not be listed', async () => {
    const owned = (by: object) => [{ ...by, controller: true }];
    const apiVersion = 'argoproj.io/v1alpha1';
    const pod = {
      name: 'web-a-1',
      ownerReferences: owned({ apiVersion: 'apps/v1', kind: 'ReplicaSet', name: 'web-a' }),
    };
    const replicaSet = { name: 'web-a', ownerReferences: owned({ apiVersion, kind: 'Rollout', name: 'web' }) };
    const lists = { services: [service], pods: [{ metadata: pod }], replicasets: [{ metadata: replicaSet }] };
    const { request, ...others } = clusterOf({ ...lists, rollouts: [rollout()] });
    const listless = async (...[method, path]: Parameters<Cluster['request']>) => {
      if (path.endsWith('/rollouts')) throw new LpkError('forbidden', path);
      return await request(method, path);
    };
    assert.equal((await find({ ...others, request: listless } as Cluster)).kind, 'rollout');
  });

  test('and a Deployment’s that it takes its template from are two to choose from', async () => {
    const deployment = { ...rollout({ replicas: 0 }), status: {} };
    const referring = rollout({ template: undefined, workloadRef: { kind: 'Deployment', name: 'web' } });
    const plain = { ...service, spec: { ...service.spec, selector: { app: 'web' } } };
    const cluster = clusterOf({ services: [plain], deployments: [deployment], rollouts: [referring] });
    await assert.rejects(find(cluster), { code: 'ambiguous-workload', message: /deployment\/web, rollout\/web/ });
  });

  test('is no matter to a cluster without Argo Rollouts, and named there it is said', async () => {
    const plain = { ...service, spec: { ...service.spec, selector: { app: 'web' } } };
    const cluster = clusterOf({ services: [plain], deployments: [rollout()] }, { rollouts: 'not-found' });
    assert.equal((await find(cluster)).kind, 'deployment');
    await assert.rejects(find(cluster, 'rollout'), { code: 'not-found', message: /has no Argo Rollouts/ });
  });

  test('is served whole', async () => {
    const cluster = clusterOf({ services: [service], rollouts: [rollout()] });
    const one = findTarget(cluster, { kind: 'rollout', name: 'web' }, { one: true });
    await assert.rejects(one, { code: 'unsupported-workload', message: /--replicas one is not for Argo Rollouts/ });
  });
});
