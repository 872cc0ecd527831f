import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Target } from '../../../agent/deploy/find.ts';
import { planReadiness } from '../../../cli/readiness.ts';

function target(readinessProbe?: object): Target {
  const containers = [{ name: 'side' }, { name: 'app', ports: [{ name: 'http', containerPort: 80 }], readinessProbe }];
  const workload = { spec: { template: { spec: { containers } } } };
  return { kind: 'deployment', name: 'web', container: 'app', workload } as Target;
}

const ports = (...pairs: [number, number][]) => new Map(pairs);

test('listening: any of the ports will do; without one there is nothing to wait for', () => {
  const two = ports([80, 3000], [81, 3000], [82, 3001]);
  assert.deepEqual(planReadiness('listening', target(), two), { readiness: 'listening', awaitedPorts: [3000, 3001] });
  assert.deepEqual(planReadiness('listening', target(), ports()), { readiness: 'connected', awaitedPorts: [] });
});

test('connected waits for nothing', () => {
  const plan = planReadiness('connected', target(), ports([80, 3000]));
  assert.deepEqual(plan, { readiness: 'connected', awaitedPorts: [] });
});

test('probe: the container’s own, at the port that is mapped; one that is not, is added', () => {
  const probe = { tcpSocket: { port: 'http' }, timeoutSeconds: 3 };
  const mapped = ports([80, 3000], [81, 3001]);
  const readiness = { kind: 'tcpSocket', port: 80, timeoutMs: 3_000 };
  assert.deepEqual(planReadiness('probe', target(probe), mapped), { readiness, awaitedPorts: [3000] });
  assert.deepEqual([...mapped], [...ports([80, 3000], [81, 3001])]);

  const unmapped = ports([81, 3001]);
  assert.deepEqual(planReadiness('probe', target(probe), unmapped), { readiness, awaitedPorts: [80] });
  assert.deepEqual([...unmapped], [...ports([81, 3001], [80, 80])]);
});

test('a probe that can’t be carried is said, and listening is used', () => {
  assert.deepEqual(planReadiness('probe', target({ exec: { command: ['check'] } }), ports([80, 3000])), {
    readiness: 'listening',
    awaitedPorts: [3000],
    instead: 'deployment/web has a readiness probe that runs a command in the pod (check)',
  });
  assert.equal(planReadiness('probe', target(), ports()).readiness, 'connected');
});
