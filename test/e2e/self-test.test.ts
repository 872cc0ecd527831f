import assert from 'node:assert/strict';
import { after, before, describe, type TestContext, test } from 'node:test';
import type { Json } from '../../agent/deploy/kube.ts';
import { endAll, type Lpk, type LpkEvent } from './lpk.ts';
import { freePort, type Listener, listen, Shop, service, sidecar, workload } from './shop.ts';

/** Does a call through the Service arrive? lpk tries it, and says which hop fails. */

const CONTAINER_PORT = 8080;

let shop: Shop;
before(async () => {
  shop = await Shop.open('selftest');
  const [shared, canary] = ['shared', 'canary'].map((name) => {
    const made = workload('Deployment', name);
    made.spec.template.metadata.labels.tier = 'front';
    return made;
  });
  await shop.deploy(
    workload('Deployment', 'good'),
    service('good', [[80, CONTAINER_PORT]]),
    workload('Deployment', 'late'),
    service('late', [[80, CONTAINER_PORT]]),
    workload('Deployment', 'off'),
    service('off', [[80, CONTAINER_PORT]]),
    workload('Deployment', 'many', { spec: { replicas: 2 } }),
    service('many', [[80, CONTAINER_PORT]]),
    service('many-headless', [[80, CONTAINER_PORT]], { selector: { app: 'many' }, clusterIP: 'None' }),
    workload('Deployment', 'lost'),
    service('lost', [[80, CONTAINER_PORT]], { selector: { app: 'lots' } }),
    workload('Deployment', 'port'),
    service('by-number', [[80, 9999]], { selector: { app: 'port' } }),
    service('by-name', [], { selector: { app: 'port' }, ports: [{ port: 80, targetPort: 'web' }] }),
    ...([shared, canary] as Json[]),
    service('front', [[80, CONTAINER_PORT]], { selector: { tier: 'front' } }),
  );
  const never = { exec: { command: ['false'] }, periodSeconds: 1 };
  await shop.create(
    workload('Deployment', 'unready', { sidecar: { ...sidecar('side', 9090), readinessProbe: never } }),
    service('unready', [[80, CONTAINER_PORT]]),
  );
});
after(async () => {
  endAll();
  await shop?.close();
});

/** A program on the laptop that counts who comes, and lpk in the place of `target`. */
async function connected(
  t: TestContext,
  target: string,
  ...args: string[]
): Promise<{ lpk: Lpk; program: Listener; callers: number[] }> {
  const callers: number[] = [];
  const program = await listen(0, (socket) => {
    callers.push(socket.remotePort ?? 0);
    socket.end('hello');
  });
  t.after(() => program.close());
  const lpk = shop.lpk('connect', target, '-p', `${program.port}:${CONTAINER_PORT}`, '--no-wait', ...args);
  return { lpk, program, callers };
}

/** Leaves, and gives all that the self-test said, without what is a sentence. */
async function leave(lpk: Lpk): Promise<Partial<LpkEvent>[]> {
  lpk.signal('SIGINT');
  assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
  return lpk.events
    .filter(({ event }) => event === 'self-test')
    .map(({ event: _, text: __, remedy: ___, laptopPort: ____, ...rest }) => rest);
}

// Three sessions at once: all eight keep a small machine from everything else.
describe('the self-test', { concurrency: 3 }, () => {
  test('proves that a call through the Service arrives, and the program sees none of it', async (t) => {
    const { lpk, program, callers } = await connected(t, 'good');
    const { reached, laptopPort } = await lpk.event('self-test');
    assert.equal(laptopPort, program.port);
    assert.deepEqual(reached, (await lpk.event('ready')).pods);
    assert.deepEqual(callers, []);
    const proof = { service: 'good', port: 80, containerPort: CONTAINER_PORT, by: 'pod', reached };
    assert.deepEqual(await leave(lpk), [{ ok: true, ...proof }]);
  });

  test('tries every Service that leads to the workload, from each of its pods', async (t) => {
    const { lpk, callers } = await connected(t, 'deployment/many');
    for (const name of ['many', 'many-headless']) {
      // A pod of a rollout that is still under way may not be reached at once: lpk tries again when it ends.
      const { reached } = await lpk.event('self-test', ({ service, ok }) => service === name && ok);
      assert.ok(reached.length >= 1 && reached.length <= 2);
    }
    assert.deepEqual(callers, []);
    await leave(lpk);
  });

  test('names the Service whose selector leads elsewhere', async (t) => {
    const { lpk } = await connected(t, 'deployment/lost');
    const { text } = await lpk.event('self-test');
    assert.match(
      text,
      /^no Service leads to deployment\/lost \(its pods have app=lost\); Service lost picks app=lots;/,
    );
    assert.deepEqual(await leave(lpk), [{ ok: false, hop: 'selector', notSeen: [] }]);
  });

  test('names the pods of others behind the Service, and calls none of them', async (t) => {
    const { lpk, callers } = await connected(t, 'deployment/shared');
    const [other] = await shop.pods('deployment/canary');
    const { text, hop } = await lpk.event('self-test');
    assert.equal(hop, 'selector');
    assert.ok(text.includes(`of another workload, too: ${other.metadata.name};`), text);
    assert.deepEqual(callers, []);
    await leave(lpk);
  });

  test('names a wrong targetPort, by number and by name', async (t) => {
    const { lpk } = await connected(t, 'deployment/port');
    await lpk.event('self-test', ({ text }) => /Service by-name port 80 .* named "web".*\(http\)/.test(text));
    await lpk.event('self-test', ({ text }) =>
      /^Service by-number port 80 .* port 9999; served here: 8080;/.test(text),
    );
    assert.deepEqual(
      (await leave(lpk)).map(({ hop }) => hop),
      ['port', 'port'],
    );
  });

  test('says that nothing listens, and proves the way once something does', async (t) => {
    const port = await freePort();
    const lpk = shop.lpk('connect', 'late', '-p', `${port}:${CONTAINER_PORT}`, '--no-wait', '--readiness', 'connected');
    const { text, hop } = await lpk.event('self-test');
    assert.equal(hop, 'listener');
    assert.match(text, new RegExp(`^nothing listens yet at 127.0.0.1:${port} `));
    const program = await listen(port, (socket) => socket.end('hello'));
    t.after(() => program.close());
    await lpk.event('self-test', ({ ok }) => ok);
    await leave(lpk);
  });

  test('says why the pods are not ready, when the rollout does not end', async (t) => {
    const { lpk } = await connected(t, 'deployment/unready');
    const { text, hop } = await lpk.event('self-test');
    assert.equal(hop, 'readiness');
    assert.match(
      text,
      /Service unready port 80 has no ready endpoint here: pod unready-.* unready status: \[side\]\);/,
    );
    await leave(lpk);
  });

  test('is not made when it is not wanted', async (t) => {
    const { lpk } = await connected(t, 'off', '--no-self-test');
    await lpk.event('ready');
    assert.deepEqual(await leave(lpk), []);
  });
});
