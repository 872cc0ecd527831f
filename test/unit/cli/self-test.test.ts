import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { setImmediate as allDone } from 'node:timers/promises';
import type { Target } from '../../../agent/deploy/find.ts';
import type { Cluster, Json } from '../../../agent/deploy/kube.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import type { Session } from '../../../agent/wire/session.ts';
import { Output } from '../../../cli/output.ts';
import { SelfTest } from '../../../cli/self-test.ts';

/** More than a rollout gets before its Services are looked at all the same. */
const LATE_MS = 30_000;

test('a rollout that does not end is looked at, also when something listened before the self-test was there', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const asked: string[] = [];
  const request = async (_: string, path: string) => {
    asked.push(path);
    throw new LpkError('forbidden', 'not for you');
  };
  const selfTest = new SelfTest({
    cluster: { namespace: 'shop', request } as unknown as Cluster,
    target: { kind: 'deployment', name: 'web', namespace: 'shop', workload: {} } as unknown as Target,
    ports: new Map([[80, 8080]]),
    agents: () => [],
    isServed: () => true,
    output: new Output({ format: 'text', stdout: new PassThrough(), stderr: new PassThrough() }),
  });
  t.after(() => selfTest.stop());
  assert.deepEqual(asked, []);
  t.mock.timers.tick(LATE_MS);
  assert.notDeepEqual(asked, []);
});

const labels = { app: 'web' };

function pod(name: string): Json {
  return { metadata: { name, labels }, status: { conditions: [{ type: 'Ready', status: 'True' }] } };
}

/** A Service of the workload's, agents whose calls arrive at the first of them, but for those of `deaf`, and what is said of it. */
function scene(t: TestContext, pods: Json[], names = ['new']) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const service = {
    metadata: { name: 'web' },
    spec: { clusterIP: '10.0.0.1', selector: labels, ports: [{ port: 80 }] },
  };
  const template = { metadata: { labels }, spec: { containers: [{ name: 'web', ports: [{ containerPort: 80 }] }] } };
  const workload = { spec: { selector: { matchLabels: labels }, template } };
  let answer = '';
  let calls = 0;
  const deaf = new Set<string>();
  const isServed = t.mock.fn(() => true);
  const agents = names.map((pod) => ({
    pod,
    session: {
      request: async (what: string, fields: Json) => {
        if (what === 'expect' && pod === names[0]) answer = fields.answer;
        if (what === 'call') calls++;
        if (what === 'call' && deaf.has(pod)) throw new LpkError('refused', 'connection refused');
        return { answer };
      },
    } as unknown as Session,
  }));
  const request = async (_: string, path: string) => ({ items: path.endsWith('/services') ? [service] : pods });
  const said = new PassThrough({ encoding: 'utf8' });
  const selfTest = new SelfTest({
    cluster: { namespace: 'shop', request } as unknown as Cluster,
    target: { kind: 'deployment', name: 'web', namespace: 'shop', container: 'web', workload } as unknown as Target,
    ports: new Map([[80, 8080]]),
    agents: () => agents,
    isServed,
    output: new Output({ format: 'json', stdout: said, stderr: new PassThrough() }),
  });
  t.after(() => selfTest.stop());
  const says = async () => {
    await allDone(); // nothing here waits for anything but promises
    return (said.read() ?? '')
      .split('\n')
      .filter(Boolean)
      .map((line: string) => JSON.parse(line));
  };
  return { selfTest, says, calls: () => calls, deaf, isServed };
}

test('what failed before the rollout was over is tried again then, and proved once', async (t) => {
  const pods = [pod('old')];
  const { selfTest, says, calls } = scene(t, pods);
  t.mock.timers.tick(LATE_MS);
  const [finding, ...others] = await says();
  assert.equal(finding.hop, 'readiness');
  assert.deepEqual(others, []);
  pods.splice(0, 1, pod('new'));
  selfTest.start();
  const proofs = await says();
  assert.deepEqual(
    proofs.map(({ ok, reached }: Json) => ({ ok, reached })),
    [{ ok: true, reached: ['new'] }],
  );
  selfTest.start();
  selfTest.served(80);
  assert.deepEqual(await says(), []);
  assert.equal(calls(), 1);
});

test('what fails in the same way after the rollout is not said again', async (t) => {
  const { selfTest, says } = scene(t, [pod('old')]);
  t.mock.timers.tick(LATE_MS);
  assert.equal((await says()).length, 1);
  selfTest.start();
  assert.deepEqual(await says(), []);
});

test('what was proved before the rollout was over is not tried again', async (t) => {
  const { selfTest, says, calls } = scene(t, [pod('new')]);
  t.mock.timers.tick(LATE_MS);
  assert.equal((await says()).length, 1);
  selfTest.start();
  assert.deepEqual(await says(), []);
  assert.equal(calls(), 1);
});

test('a warning is taken back by a later proof, also when that reaches the same pod', async (t) => {
  const { selfTest, says, deaf } = scene(t, [pod('new'), pod('newer')], ['new', 'newer']);
  deaf.add('newer');
  t.mock.timers.tick(LATE_MS);
  assert.deepEqual(
    (await says()).map(({ ok, reached }: Json) => [ok, reached]),
    [
      [true, ['new']],
      [false, undefined],
    ],
  );
  deaf.clear();
  selfTest.start();
  assert.deepEqual(
    (await says()).map(({ ok, reached }: Json) => [ok, reached]),
    [[true, ['new']]],
  );
});

test('what is not served as the rollout ends is tried again when it is', async (t) => {
  const pods = [pod('old')];
  const { selfTest, says, calls, isServed } = scene(t, pods);
  t.mock.timers.tick(LATE_MS);
  await says();
  isServed.mock.mockImplementation(() => false);
  pods.splice(0, 1, pod('new'));
  selfTest.start();
  assert.deepEqual(await says(), []);
  assert.equal(calls(), 0);
  isServed.mock.mockImplementation(() => true);
  selfTest.served(80);
  assert.deepEqual(
    (await says()).map(({ ok }: Json) => ok),
    [true],
  );
});
