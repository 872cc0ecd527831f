import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Json } from '../../agent/deploy/kube.ts';
import { kubectl } from '../cluster/cluster.ts';
import type { LpkEvent } from './lpk.ts';
import { type Connected, connectSocks, eventAfter, leave, Scene } from './scene.ts';
import { eventually } from './shop.ts';

/** Pods come and go under a session, and the laptop sleeps: lpk is there again by itself, and says what was lost. */

const SLOWLY = 1_000_000;

let scene: Scene;
before(async () => {
  scene = await Scene.open('attach');
  const web = `/apis/apps/v1/namespaces/${scene.namespace}/deployments/web`;
  // A busy machine's agent needs more than the scene's second to end the connections of its pod.
  await request('PATCH', web, { spec: { template: { spec: { terminationGracePeriodSeconds: 5 } } } });
  await kubectl(['rollout', 'status', '-n', scene.namespace, 'deployment/web', '--timeout=240s']);
  // As a drain meets it: one that lets a pod go.
  const { spec } = await scene.cluster.request('GET', web);
  await scene.apply({
    apiVersion: 'policy/v1',
    kind: 'PodDisruptionBudget',
    metadata: { name: 'web' },
    spec: { maxUnavailable: 1, selector: spec.selector },
  });
});
after(() => scene?.close());

let count = 0;

/** A connection each way, both with data on the way and no end. */
async function begin(lpk: Connected): Promise<{ in: string; out: string }> {
  const [inbound, outbound] = [`in-${++count}`, `out-${count}`];
  await scene.beginInbound({ id: inbound, act: 'down', bytesPerSecond: SLOWLY });
  const socket = await connectSocks(lpk.proxyPort, 'peer', 7000);
  scene.transfers.begin(socket, { id: outbound, act: 'down', bytesPerSecond: SLOWLY });
  await Promise.all([scene.peerReached(inbound, { bytes: 1 }), scene.transfers.reached(outbound, { bytes: 1 })]);
  return { in: inbound, out: outbound };
}

/** Both connections ended with an error, where they are seen. */
async function assertCut(ids: { in: string; out: string }): Promise<void> {
  const [inbound, outbound] = await Promise.all([scene.peerResult(ids.in), scene.transfers.result(ids.out)]);
  assert.ok(inbound.error && outbound.error, `in: ${inbound.error}, out: ${outbound.error}`);
}

function cutsAfter({ lpk }: Connected, from: number): LpkEvent[] {
  return lpk.events.slice(from).filter(({ event }) => event === 'cut');
}

async function request(method: 'POST' | 'PATCH', path: string, body: Json): Promise<void> {
  const contentType = method === 'PATCH' ? 'application/merge-patch+json' : undefined;
  await scene.cluster.request(method, path, { body, ...(contentType ? { contentType } : {}) });
}

const inNamespace = (path: string) => `/api/v1/namespaces/${scene.namespace}/${path}`;

/** As a HorizontalPodAutoscaler writes it. */
async function scale(replicas: number): Promise<void> {
  const path = `/apis/apps/v1/namespaces/${scene.namespace}/deployments/web/scale`;
  await request('PATCH', path, { spec: { replicas } });
}

describe('a session goes on with the new pod', () => {
  let lpk: Connected;
  before(async () => {
    lpk = await scene.connect();
  });
  after(() => lpk && leave(lpk));

  const changes: [what: string, make: (pod: string) => Promise<unknown>][] = [
    [
      'after an eviction, as a node’s drain makes it',
      (pod) => {
        const eviction = { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name: pod } };
        return request('POST', inNamespace(`pods/${pod}/eviction`), eviction);
      },
    ],
    ['after the pod was deleted', (pod) => scene.cluster.request('DELETE', inNamespace(`pods/${pod}`))],
    ['after kubectl rollout restart', () => kubectl(['rollout', 'restart', '-n', scene.namespace, 'deployment/web'])],
    ['after kubectl set env', () => kubectl(['set', 'env', '-n', scene.namespace, 'deployment/web', 'COLOR=blue'])],
  ];
  for (const [what, make] of changes) {
    test(what, async () => {
      const [pod] = lpk.lpk.events.filter(({ event }) => event === 'attached').slice(-1);
      const ids = await begin(lpk);
      const from = lpk.lpk.events.length;
      await make(pod?.pod);
      const cut = await eventAfter(lpk, from, 'cut');
      assert.deepEqual([cut.pod, cut.connections], [pod?.pod, 2], `${lpk.lpk}`);
      await eventAfter(lpk, from, 'detached');
      const attached = await eventAfter(lpk, from, 'attached');
      assert.notEqual(attached.pod, pod?.pod);
      await assertCut(ids);
      await scene.reach();
      await begin(lpk);
      assert.equal(cutsAfter(lpk, from).length, 1, `${lpk.lpk}`);
      await scene.stop();
    });
  }

  test('when the autoscaler makes more pods all are served, and when it takes them away the others go on', async () => {
    let from = lpk.lpk.events.length;
    await scale(3);
    const attached = (state: LpkEvent[]) => state.filter(({ event }) => event === 'attached').length;
    await lpk.lpk.until('two more pods', () => attached(lpk.lpk.events.slice(from)) === 2 || undefined);
    await scene.reach();
    from = lpk.lpk.events.length;
    const running = await Promise.all(Array.from({ length: 3 }, () => begin(lpk)));
    await scale(1);
    const gone = (state: LpkEvent[]) => state.filter(({ event }) => event === 'detached').length;
    await lpk.lpk.until('two pods less', () => gone(lpk.lpk.events.slice(from)) === 2 || undefined);
    const lost = cutsAfter(lpk, from).reduce((sum, { connections }) => sum + connections, 0);
    await scene.reach();
    await scene.stop();
    const results = await Promise.all(
      running.flatMap((ids) => [scene.peerResult(ids.in), scene.transfers.result(ids.out)]),
    );
    assert.equal(results.filter(({ error }) => error).length, lost, `as many as lpk said; ${lpk.lpk}`);
    assert.ok(results.some(({ error }) => !error) || lost === running.length * 2);
  });
});

describe('a laptop that sleeps', () => {
  test('for less than --hold loses nothing', async () => {
    const lpk = await scene.connect();
    const { in: inbound, out } = await begin(lpk);
    const from = lpk.lpk.events.length;
    lpk.lpk.signal('SIGSTOP');
    // The agent gives the websocket up after 8 s of silence, and keeps the connections.
    const log = () => kubectl(['logs', '-n', scene.namespace, lpk.pod]);
    await eventually('the agent misses its laptop', async () => /laptop lost: nothing heard/.test(await log()));
    lpk.lpk.signal('SIGCONT');
    await eventAfter(lpk, from, 'link-up');
    await scene.stop();
    const results = await Promise.all([scene.peerResult(inbound), scene.transfers.result(out)]);
    assert.deepEqual(
      results.map(({ error }) => error),
      [undefined, undefined],
    );
    assert.deepEqual(cutsAfter(lpk, from), []);
    assert.equal(await leave(lpk), 0);
  });

  test('for longer loses its connections, is told how many, and goes on with new ones', async () => {
    const lpk = await scene.connect(['--hold', '2']);
    const ids = await begin(lpk);
    const from = lpk.lpk.events.length;
    lpk.lpk.signal('SIGSTOP');
    assert.ok((await scene.peerResult(ids.in)).error, 'the agent gave it up');
    lpk.lpk.signal('SIGCONT');
    const { connections, pod } = await eventAfter(lpk, from, 'cut');
    assert.deepEqual([pod, connections], [lpk.pod, 2], `${lpk.lpk}`);
    await assertCut(ids);
    await eventAfter(lpk, from, 'link-up');
    await scene.reach();
    await begin(lpk);
    await scene.stop();
    assert.equal(await leave(lpk), 0);
  });
});
