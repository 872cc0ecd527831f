import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Json } from '../../../agent/deploy/kube.ts';
import { agentProbe, carriedProbe } from '../../../agent/deploy/probes.ts';
import { planSwap } from '../../../agent/deploy/swap.ts';
import { planRestore } from '../../../agent/restore/plan.ts';
import type { Readiness } from '../../../agent/wire/readiness.ts';
import { applyPatch } from './workloads.ts';

const LIVE = { path: '/live', port: 47602, scheme: 'HTTP' };
const READY = { path: '/ready', port: 47602, scheme: 'HTTP' };
/** As the API server fills them in. */
const THRESHOLDS = { timeoutSeconds: 2, periodSeconds: 7, successThreshold: 3, failureThreshold: 4 };
const PORTS = [
  { name: 'http', containerPort: 8080, protocol: 'TCP' },
  { name: 'health', containerPort: 8081, protocol: 'TCP' },
];
const HOLDER = { id: 'abcdefghij', owner: 'alice', host: 'laptop', since: '2026-11-24T15:33:00.000Z' };

const carried = (probe: object) => carriedProbe({ ports: PORTS, readinessProbe: { ...THRESHOLDS, ...probe } });

test('a readiness probe as the agent is to carry it out, by kind', () => {
  const httpHeaders = [
    { name: 'Host', value: 'shop.example' },
    { name: 'X-Empty', value: '' },
  ];
  assert.deepEqual(
    carried({ httpGet: { port: 'health', path: '/ok?a=1', scheme: 'HTTPS', host: '127.0.0.1', httpHeaders } }),
    {
      ...{ kind: 'httpGet', port: 8081, timeoutMs: 2_000, scheme: 'HTTPS' },
      ...{ host: '127.0.0.1', path: '/ok?a=1', headers: httpHeaders },
    },
  );
  assert.deepEqual(carried({ httpGet: { port: 9090, path: '/', scheme: 'HTTP' } }), {
    ...{ kind: 'httpGet', port: 9090, timeoutMs: 2_000, scheme: 'HTTP', path: '/', headers: [] },
  });
  assert.deepEqual(carried({ tcpSocket: { port: 'http' } }), { kind: 'tcpSocket', port: 8080, timeoutMs: 2_000 });
  const grpc = { kind: 'grpc', port: 9000, timeoutMs: 2_000, service: 'shop' };
  assert.deepEqual(carried({ grpc: { port: 9000, service: 'shop' } }), grpc);
  assert.deepEqual(carried({ grpc: { port: 9000 } }), { ...grpc, service: '' });
});

test('why a readiness probe can’t be carried', () => {
  assert.equal(carriedProbe({ name: 'web' }), 'has no readiness probe');
  assert.equal(
    carried({ exec: { command: ['/bin/check', '-v'] } }),
    'has a readiness probe that runs a command in the pod (/bin/check)',
  );
  assert.equal(
    carried({ tcpSocket: { port: 'nope' } }),
    'has a readiness probe of a port that its container does not name (nope)',
  );
});

test('liveness has a successThreshold of 1, or the API server refuses it; readiness keeps its own when it is carried', () => {
  const own = { ...THRESHOLDS, tcpSocket: { port: 1 } };
  for (const field of ['livenessProbe', 'startupProbe'] as const)
    assert.equal(agentProbe(field, 47602, { own, carried: true }).successThreshold, 1, field);
  assert.deepEqual(agentProbe('readinessProbe', 47602, { own, carried: true }), { httpGet: READY, ...THRESHOLDS });
  const quick = { httpGet: READY, timeoutSeconds: 5, periodSeconds: 1, successThreshold: 1, failureThreshold: 3 };
  assert.deepEqual(agentProbe('readinessProbe', 47602, { own }), quick);
  assert.deepEqual(agentProbe('readinessProbe', 47602, { carried: true }), quick);
});

test('the agent has as long to start as the container had, two minutes at least', () => {
  const seconds = (own: object) => {
    const { periodSeconds, failureThreshold } = agentProbe('startupProbe', 47602, { own });
    return periodSeconds * failureThreshold;
  };
  assert.equal(seconds({ periodSeconds: 1, failureThreshold: 5 }), 120);
  assert.equal(seconds({ initialDelaySeconds: 30, periodSeconds: 20, failureThreshold: 30 }), 630);
});

/** Every kind of probe somewhere, its own grace period, a native sidecar and a second container with probes. */
function workload(): Json {
  const exec = { exec: { command: ['true'] }, ...THRESHOLDS, successThreshold: 1, terminationGracePeriodSeconds: 7 };
  const others = { livenessProbe: exec, startupProbe: exec, readinessProbe: { tcpSocket: { port: 1 }, ...THRESHOLDS } };
  return {
    kind: 'Deployment',
    metadata: { name: 'web', resourceVersion: '7' },
    spec: {
      template: {
        spec: {
          initContainers: [{ name: 'mesh', image: 'm', restartPolicy: 'Always', ...others }],
          containers: [
            { name: 'side', image: 's', ...others },
            {
              ...{ name: 'web', image: 'w', ports: PORTS, livenessProbe: exec, startupProbe: exec },
              readinessProbe: { grpc: { port: 8080, service: '' }, ...THRESHOLDS },
            },
          ],
        },
      },
    },
  };
}

for (const readiness of ['listening', { kind: 'grpc', port: 8080, timeoutMs: 2_000, service: '' }] as Readiness[]) {
  test(`a swap takes the probes of its container only, and a restore gives them back (${JSON.stringify(readiness)})`, () => {
    const before = workload();
    const agent = { session: HOLDER.id, image: 'node', probePort: 47602, servedPorts: [8080], readiness };
    const held = applyPatch(before, planSwap(before, 'web', agent, HOLDER).ops);
    const { initContainers, containers } = held.spec.template.spec;
    assert.deepEqual(initContainers, before.spec.template.spec.initContainers);
    assert.deepEqual(containers[0], before.spec.template.spec.containers[0]);
    const { livenessProbe, startupProbe, readinessProbe } = containers[1];
    assert.deepEqual([livenessProbe.httpGet, startupProbe.httpGet, readinessProbe.httpGet], [LIVE, LIVE, READY]);
    assert.ok(!('terminationGracePeriodSeconds' in livenessProbe), 'the pod’s own counts for the agent');
    assert.equal(readinessProbe.failureThreshold, readiness === 'listening' ? 3 : 4);
    assert.deepEqual(applyPatch(held, planRestore(held).ops), before);
  });
}
