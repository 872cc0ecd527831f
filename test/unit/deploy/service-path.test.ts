import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Json } from '../../../agent/deploy/kube.ts';
import {
  failedHop,
  lookAlong,
  othersAmong,
  pathsOf,
  type Seen,
  type ServicePath,
} from '../../../agent/deploy/service-path.ts';
import { workloadRef } from '../../../agent/deploy/workload.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import { FakeCluster } from '../cli/fake-cluster.ts';

const TARGET = {
  ...workloadRef('deployment', 'shop', 'web'),
  container: 'app',
  workload: {
    spec: {
      template: {
        metadata: { labels: { app: 'web', tier: 'front' } },
        spec: {
          containers: [
            { name: 'app', ports: [{ name: 'http', containerPort: 8080 }] },
            { name: 'side', ports: [{ name: 'metrics', containerPort: 9100 }] },
          ],
        },
      },
    },
  },
};

function service(name: string, selector: object | undefined, ports: Json[], more: object = {}): Json {
  return { metadata: { name }, spec: { selector, clusterIP: '10.0.0.7', ports, ...more } };
}

const hops = (services: Json[], served = [8080]) => {
  const { paths, findings } = pathsOf(services, TARGET, served);
  return {
    paths: paths.map(({ service: name, host, port, podPort }) => `${name}: ${host}:${port} → ${podPort}`),
    findings: findings.map(({ hop, message, remedy }) => `${hop}: ${message}; ${remedy}`),
  };
};

describe('the ways to a container', () => {
  const web = { app: 'web' };

  test('are the TCP ports of all Services that pick its pods, by number, by name, and by none', () => {
    const services = [
      service('web', web, [{ port: 80, targetPort: 'http' }]),
      service('plain', web, [{ port: 8080 }, { port: 53, targetPort: 8080, protocol: 'UDP' }]),
      service('headless', web, [{ port: 80, targetPort: 8080 }], { clusterIP: 'None' }),
      service('sidecar', web, [{ port: 9100, targetPort: 'metrics' }]),
      service('other', { app: 'api' }, [{ port: 80 }]),
      service('by-hand', undefined, [{ port: 80 }]),
      service('elsewhere', undefined, [], { type: 'ExternalName', externalName: 'example.com' }),
    ];
    assert.deepEqual(hops(services), {
      paths: ['web: 10.0.0.7:80 → 8080', 'plain: 10.0.0.7:8080 → 8080', 'headless: headless.shop:8080 → 8080'],
      findings: [],
    });
  });

  test('are a bare pod’s too', () => {
    const { metadata, spec } = TARGET.workload.spec.template;
    const bare = { ...TARGET, kind: 'pod' as const, workload: { metadata, spec } };
    assert.equal(pathsOf([service('web', web, [{ port: 80, targetPort: 'http' }])], bare, [8080]).paths.length, 1);
  });

  test('are missing: no Service picks its pods, and what may have been meant is named', () => {
    assert.deepEqual(hops([service('api', { app: 'api' }, [])]).findings, [
      'selector: no Service leads to deployment/web (its pods have app=web,tier=front); only calls to the pod itself arrive here',
    ]);
    const near = [service('web', { app: 'wbe' }, []), service('front', { tier: 'front', app: 'x' }, [])];
    assert.deepEqual(hops(near).findings, [
      'selector: no Service leads to deployment/web (its pods have app=web,tier=front); Service web picks app=wbe, Service front picks tier=front,app=x; correct the selector of the Service',
    ]);
  });

  test('are missing: the port is another, or has a name that there is not', () => {
    assert.deepEqual(hops([service('web', web, [{ port: 80, targetPort: 'htpp' }])]).findings, [
      'port: Service web port 80 leads to a port named "htpp", which no container of deployment/web has (http, metrics); correct the targetPort of the Service, or the name of the container’s port',
    ]);
    assert.deepEqual(hops([service('web', web, [{ port: 80, targetPort: 9999 }])]).findings, [
      'port: Service web port 80 leads to the container’s port 9999; served here: 8080; map that port with -p PORT:CONTAINER_PORT, or correct the targetPort of the Service',
    ]);
    const both = [
      service('web', web, [
        { port: 80, targetPort: 9999 },
        { port: 81, targetPort: 8080 },
      ]),
    ];
    assert.deepEqual(hops(both), { paths: ['web: 10.0.0.7:81 → 8080'], findings: [] });
  });
});

const PATH: ServicePath = {
  ...{ service: 'web', servicePort: 80, host: '10.0.0.7', port: 80, podPort: 8080 },
  ...{ selector: { app: 'web' }, proxy: '/api/v1/namespaces/shop/services/web:80/proxy' },
};

function pod(given: { ready?: boolean; containers?: string[]; initContainers?: string[] } = {}): Json {
  const { ready = true, containers = ['app'], initContainers = [] } = given;
  const condition = ready
    ? { type: 'Ready', status: 'True' }
    : {
        type: 'Ready',
        status: 'False',
        reason: 'ContainersNotReady',
        message: 'containers with unready status: [side]',
      };
  const named = (names: string[]) => names.map((name) => ({ name }));
  return {
    metadata: { name: 'web-1', labels: { app: 'web' } },
    spec: { containers: named(containers), initContainers: named(initContainers) },
    status: { conditions: [condition] },
  };
}

function slice(given: { pod?: string; ready?: boolean; port?: number | undefined }): Json {
  const { pod: name = 'web-1', ready, port = 8080 } = given;
  return { endpoints: [{ targetRef: { name }, conditions: { ready } }], ports: [{ port }] };
}

function policy(name: string, podSelector: object): Json {
  return { metadata: { name }, spec: { podSelector } };
}

describe('calls go to others', () => {
  const selector = { matchLabels: { app: 'web' } };
  const of = (name: string, labels: object = { app: 'web' }, given: Parameters<typeof pod>[0] = {}) => {
    const made = pod(given);
    return { ...made, metadata: { name, labels } };
  };
  const found = (...pods: Json[]) => {
    const { hop, message } = othersAmong(pods, selector, PATH, ['mine']) ?? {};
    return hop && `${hop}: ${message}`;
  };

  test('not when all that are ready are of the session', () => {
    const ending = { ...of('b'), metadata: { ...of('b').metadata, deletionTimestamp: 'now' } };
    assert.equal(found(of('mine'), of('a', undefined, { ready: false }), ending), undefined);
  });

  test('of another workload, which are named', () => {
    const strangers = ['a', 'b', 'c', 'd', 'e'].map((name) => of(name, { app: 'other' }));
    assert.equal(
      found(of('mine'), of('old'), ...strangers),
      'selector: Service web leads to pods of another workload, too: a, b, c, d, …',
    );
  });

  test('beside a bare pod, whatever their labels', () => {
    const { hop } = othersAmong([of('mine'), of('twin')], undefined, PATH, ['mine']) ?? {};
    assert.equal(hop, 'selector');
  });

  test('to the pods of before, while the new one is not ready', () => {
    assert.equal(
      found(of('mine', undefined, { ready: false }), of('old')),
      'readiness: Service web still leads to the pods of before: old; pod mine is not ready (containers with unready status: [side])',
    );
    assert.equal(found(of('mine'), of('old')), 'readiness: Service web still leads to the pods of before: old');
  });
});

const refused = new LpkError('refused', 'connect ECONNREFUSED 10.0.0.7:80');
const silent = new LpkError('timed-out', 'no answer within 3 s');
const strange = new LpkError('protocol', 'something else answered: HTTP 403');

describe('a call that fails does so', () => {
  const table: [what: string, seen: Partial<Seen>, failure: LpkError, hop: string, message: RegExp][] = [
    [
      'as no slice has the pod',
      { endpointSlices: [slice({ pod: 'b' })] },
      refused,
      'readiness',
      /do not have the pod yet/,
    ],
    [
      'as the pod is not ready',
      { pods: [pod({ ready: false })], endpointSlices: [slice({ ready: false })] },
      refused,
      'readiness',
      /pod web-1 is not ready \(containers with unready status: \[side\]\)/,
    ],
    [
      'as the slice has another port',
      { endpointSlices: [slice({ port: 81 })] },
      refused,
      'port',
      /\(81\), not to 8080/,
    ],
    [
      'in the mesh',
      { pods: [pod({ initContainers: ['istio-proxy'] })], networkPolicies: [policy('some', {})] },
      strange,
      'mesh',
      /HTTP 403; the mesh’s sidecar istio-proxy/,
    ],
    [
      'in the mesh, silently',
      { pods: [pod({ containers: ['app', 'linkerd-proxy'] })] },
      silent,
      'mesh',
      /linkerd-proxy/,
    ],
    [
      'by a policy',
      {
        networkPolicies: [
          policy('all', {}),
          policy('web', { matchLabels: { app: 'web' } }),
          policy('other', { matchLabels: { app: 'api' } }),
          policy('in', { matchExpressions: [{ key: 'app', operator: 'In', values: ['web', 'api'] }] }),
          policy('not-in', { matchExpressions: [{ key: 'app', operator: 'NotIn', values: ['web'] }] }),
          policy('without', { matchExpressions: [{ key: 'app', operator: 'DoesNotExist' }] }),
          policy('with', { matchExpressions: [{ key: 'app', operator: 'Exists' }] }),
        ],
      },
      silent,
      'policy',
      /NetworkPolicies pick the pod: all, web, in, with$/,
    ],
    ['on the way', {}, silent, 'network', /no answer within 3 s, though its endpoints are ready/],
    [
      'on the way, as far as can be seen',
      { endpointSlices: undefined, networkPolicies: undefined },
      silent,
      'network',
      /./,
    ],
  ];
  for (const [what, seen, failure, hop, message] of table) {
    test(what, () => {
      const all = { pods: [pod()], endpointSlices: [slice({ ready: true })], networkPolicies: [], ...seen };
      const found = failedHop(PATH, all, failure);
      assert.equal(found.hop, hop);
      assert.match(found.message, message);
      assert.ok(found.remedy.length > 20);
    });
  }

  test('and what may not be read is named', async () => {
    const fake = new FakeCluster();
    const hidden = '/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies';
    fake.refused.add(`GET ${hidden}`);
    const { notSeen, networkPolicies, endpointSlices } = await lookAlong(fake.cluster, 'shop', PATH, ['web-1']);
    assert.deepEqual([notSeen, networkPolicies, endpointSlices], [['networkpolicies'], undefined, []]);
  });
});
