import assert from 'node:assert/strict';
import { test } from 'node:test';
import { agentVolume } from '../../../agent/deploy/agent-container.ts';
import { planSwap } from '../../../agent/deploy/swap.ts';
import { LeaseClock } from '../../../agent/pod/lease-clock.ts';
import { keepWatch } from '../../../agent/pod/restorer.ts';
import type { Json } from '../../../agent/restore/api.ts';
import { type ErrorCode, LpkError } from '../../../agent/wire/errors.ts';
import { applyPatch } from '../deploy/workloads.ts';

const SILENCE_S = 45;
const CONFIG = {
  session: 'abcdefghij',
  namespace: 'shop',
  kind: 'deployment',
  apiPath: '/apis/apps/v1/namespaces/shop/deployments/web',
  pods: [],
};
const LEASE = '/apis/coordination.k8s.io/v1/namespaces/shop/leases/lpk-abcdefghij';
const AGENT = { session: CONFIG.session, image: 'node:24-alpine', probePort: 47602, servedPorts: [80] };
const HOLDER = { id: CONFIG.session, owner: 'alice', host: 'laptop', since: '2026-11-24T15:33:00.000Z' };

/** An API server, a laptop and the time, all scripted: what is to happen at which second. */
class World {
  nowMs = 0;
  readonly objects = new Map<string, Json>();
  readonly did: string[] = [];
  /** Refuses a request with a code; undefined: lets it pass. */
  refuse: (what: string, seconds: number) => ErrorCode | undefined = () => undefined;
  /** Requests that this restorer still makes before it dies. */
  lives = Number.POSITIVE_INFINITY;
  /** The API server ends every watch as soon as it begins. */
  endsWatches = false;
  #agenda: { at: number; run: () => void }[] = [];
  #watcher: ((type: string, object: Json) => void) | undefined;
  #breakWatch: ((error: Error) => void) | undefined;

  constructor() {
    const original = {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: 'web', resourceVersion: '1', annotations: {} },
      spec: { template: { spec: { containers: [{ name: 'web', image: 'web:1' }] } } },
    };
    this.original = original;
    const swapped = applyPatch(original, planSwap(original, 'web', AGENT, HOLDER).ops);
    swapped.metadata.managedFields = [{ manager: 'kubectl' }, { manager: 'lpk' }];
    this.objects.set(CONFIG.apiPath, swapped);
    this.objects.set(LEASE, {
      metadata: { name: 'lpk-abcdefghij', resourceVersion: '1' },
      spec: { renewTime: '0', leaseDurationSeconds: SILENCE_S },
    });
  }

  readonly original: Json;

  at(seconds: number, run: () => void): void {
    this.#agenda.push({ at: seconds * 1_000, run });
    this.#agenda.sort((a, b) => a.at - b.at);
  }

  /** The laptop renews every 10 s from here to there. */
  renewals(from: number, to: number): void {
    for (let second = from; second <= to; second += 10) this.at(second, () => this.renew());
  }

  renew(): void {
    const lease = this.objects.get(LEASE);
    if (!lease) return;
    lease.spec.renewTime = `${this.nowMs}`;
    this.#watcher?.('MODIFIED', structuredClone(lease));
  }

  breakWatch(): void {
    this.#breakWatch?.(new LpkError('cluster-unreachable', 'broken'));
  }

  /** Runs the restorer to its end. @returns the second at which it ended. */
  async run(config = CONFIG): Promise<number> {
    await keepWatch(config, {
      nowMs: () => this.nowMs,
      log: () => {},
      wait: (ms, signal) => this.#wait(ms, signal),
      api: {
        request: async (method, path, options) => structuredClone(this.#answer(method, path, options?.body)),
        watch: async (_path, _query, onEvent, signal) => {
          this.#check('WATCH');
          if (this.endsWatches) return;
          this.#watcher = onEvent;
          await new Promise<void>((_resolve, reject) => {
            this.#breakWatch = reject;
            signal.addEventListener('abort', () => reject(new Error('aborted')));
          }).finally(() => {
            this.#watcher = undefined;
          });
        },
      },
    });
    return this.nowMs / 1_000;
  }

  /** Time passes only here: what is due happens on the way. Stops early when the signal does. */
  async #wait(ms: number, signal?: AbortSignal): Promise<void> {
    if (this.lives < 0) throw new Error('dead');
    for (const end = this.nowMs + ms; this.nowMs < end; ) {
      await new Promise(setImmediate);
      if (signal?.aborted) throw signal.reason;
      this.nowMs = Math.min(end, this.nowMs + 1_000, this.#agenda[0]?.at ?? end);
      for (; this.#agenda[0] && this.#agenda[0].at <= this.nowMs; ) this.#agenda.shift()?.run();
    }
    await new Promise(setImmediate);
    if (signal?.aborted) throw signal.reason;
    assert.ok(this.nowMs < 3_600_000, 'it waits for ever');
  }

  #check(what: string): void {
    if (--this.lives < 0) throw new Error('dead');
    const code = this.refuse(what, this.nowMs / 1_000);
    if (code) throw new LpkError(code, `${what} refused`);
  }

  #answer(method: string, path: string, body: Json): Json {
    const what = `${method} ${path === LEASE ? 'lease' : path === CONFIG.apiPath ? 'workload' : path}`;
    this.#check(what);
    const object = this.objects.get(path);
    if (!object) throw new LpkError('not-found', `${path} is not there`);
    if (method !== 'GET') this.did.push(`${what} at ${Math.round(this.nowMs / 1_000)}`);
    if (method === 'DELETE') this.objects.delete(path);
    if (method === 'PATCH')
      this.objects.set(path, Array.isArray(body) ? applyPatch(object, body) : { ...object, ...{} });
    return this.objects.get(path);
  }

  get isPutBack(): boolean {
    const { metadata, spec } = this.objects.get(CONFIG.apiPath);
    assert.deepEqual(spec, this.original.spec);
    assert.deepEqual(metadata.annotations, {});
    assert.deepEqual(metadata.managedFields, [{ manager: 'kubectl' }]);
    return !this.objects.has(LEASE);
  }
}

/** An agent's ReplicaSet that the laptop named; it has pods until that second. */
function agentRevision(world: World, untilSecond: number): string {
  const path = '/apis/apps/v1/namespaces/shop/replicasets/web-1';
  world.objects.set(path, {
    ...{ metadata: { name: 'web-1', generation: 1 }, spec: { replicas: 1 } },
    status: { observedGeneration: 1 },
  });
  world.objects.get(LEASE).metadata.annotations = { 'lpk.dev/revisions': '["web-1"]' };
  world.at(untilSecond, () => {
    world.objects.get(path).spec.replicas = 0;
  });
  return path;
}

test('the agent goes from the workload’s history, once its last pod has', async () => {
  const world = new World();
  const path = agentRevision(world, 50);
  await world.run();
  assert.ok(world.isPutBack);
  assert.equal(world.objects.has(path), false);
  assert.match(world.did.join(', '), /DELETE \S+web-1 at 50, DELETE lease at 50/);
});

test('a slow rollout is waited for, so that the agent does not stay in the history', async () => {
  const world = new World();
  const path = agentRevision(world, SILENCE_S + 150);
  await world.run();
  assert.ok(world.isPutBack);
  assert.equal(world.objects.has(path), false);
});

test('a slow rollout is waited for, also when a right is refused once meanwhile', async () => {
  const world = new World();
  const path = agentRevision(world, SILENCE_S + 150);
  world.refuse = (what, seconds) =>
    what === 'GET workload' && Math.abs(seconds - SILENCE_S - 70) < 2 ? 'forbidden' : undefined;
  await world.run();
  assert.ok(world.isPutBack);
  assert.equal(world.objects.has(path), false);
});

test('an agent’s pods that do not go keep nothing else from going', async () => {
  const world = new World();
  const path = agentRevision(world, 3_000);
  assert.ok((await world.run()) < SILENCE_S + 190);
  assert.ok(world.isPutBack);
  assert.ok(world.objects.has(path));
});

for (const [what, last] of [
  ['GET /apis/apps/v1/namespaces/shop/replicasets/web-1', undefined],
  ['GET /api/v1/namespaces/shop/pods/web-a', 'DELETE /api/v1/namespaces/shop/pods/web-b'],
] as const) {
  for (const untilSecond of [SILENCE_S + 20, Number.POSITIVE_INFINITY]) {
    test(`what it may not (${what}) until second ${untilSecond} keeps nothing else from going`, async () => {
      const world = new World();
      const workload = world.objects.get(CONFIG.apiPath);
      Object.assign(workload.metadata, { uid: 'u', generation: 1 });
      workload.status = { observedGeneration: 1 };
      for (const name of ['web-a', 'web-b'])
        world.objects.set(`/api/v1/namespaces/shop/pods/${name}`, {
          metadata: { name, uid: name, ownerReferences: [{ uid: 'u' }] },
          spec: { volumes: [agentVolume(CONFIG.session)] },
        });
      agentRevision(world, 0);
      world.objects.get(LEASE).metadata.annotations['lpk.dev/pods'] = 'web-a,web-b';
      world.refuse = (each, seconds) => (each === what && seconds < untilSecond ? 'forbidden' : undefined);
      const endedAt = await world.run(last ? { ...CONFIG, kind: 'replicaset' } : CONFIG);
      const expected = Math.min(untilSecond, SILENCE_S + 60);
      assert.ok(endedAt >= expected && endedAt < expected + 3, `ended at ${endedAt}`);
      assert.ok(world.isPutBack);
      assert.equal(world.objects.has(what.slice('GET '.length)), untilSecond > 1_000);
      if (last) assert.ok(world.did.some((each) => each.startsWith(last)));
    });
  }
}

test('a laptop that is silent for long enough is taken for dead, and not a second before', async () => {
  const world = new World();
  world.renewals(10, 100);
  assert.equal(await world.run(), 100 + SILENCE_S);
  assert.ok(world.isPutBack);
  const patches = ['PATCH workload at 145', 'PATCH workload at 145']; // and lpk out of its managedFields
  assert.deepEqual(world.did, ['PATCH lease at 0', ...patches, 'DELETE lease at 145']);
});

test('the first sight of a Lease counts as a sign of life: a restorer that starts late knows no better', async () => {
  const world = new World();
  world.nowMs = 500_000;
  assert.equal(await world.run(), 500 + SILENCE_S);
});

test('a Lease that was deleted ends the session at once', async () => {
  const world = new World();
  world.objects.delete(LEASE);
  assert.equal(await world.run(), 0);
  assert.ok(world.isPutBack);
});

test('agents’ pods that were named to it meanwhile are deleted where they would stay; others it does not touch', async () => {
  const world = new World();
  const workload = world.objects.get(CONFIG.apiPath);
  Object.assign(workload.metadata, { uid: 'u', generation: 1 });
  workload.status = { observedGeneration: 1 };
  const pod = (name: string, owner: string, session?: string) =>
    world.objects.set(`/api/v1/namespaces/shop/pods/${name}`, {
      metadata: { name, uid: name, ownerReferences: [{ uid: owner }] },
      spec: { volumes: session ? [agentVolume(session)] : [] },
    });
  pod('web-a', 'u', CONFIG.session);
  pod('web-b', 'u');
  pod('web-c', 'other', CONFIG.session);
  world.at(20, () => {
    world.objects.get(LEASE).metadata.annotations = { 'lpk.dev/pods': 'web-a,web-b,web-c,web-gone' };
    world.renew();
  });
  await world.run({ ...CONFIG, kind: 'replicaset' });
  const deleted = world.did.filter((what) => what.startsWith('DELETE') && what.includes('/pods/'));
  assert.deepEqual(deleted, [`DELETE /api/v1/namespaces/shop/pods/web-a at ${20 + SILENCE_S}`]);
});

test('what somebody put back already is only cleared away', async () => {
  const world = new World();
  world.objects.set(CONFIG.apiPath, world.original);
  await world.run();
  assert.deepEqual(world.did, ['PATCH lease at 0', 'DELETE lease at 45']);
});

test('a workload that has the agent but no annotation any more keeps all that the agent needs, until it is mended', async () => {
  const world = new World();
  world.objects.get(CONFIG.apiPath).metadata.annotations = {};
  world.at(600, () => world.objects.set(CONFIG.apiPath, world.original));
  const endedAt = await world.run();
  assert.ok(endedAt >= 600 && endedAt < 611, `ended at ${endedAt}`);
  assert.deepEqual(
    world.did.slice(1).map((what) => what.replace(/ at .*/, '')),
    ['DELETE lease'],
  );
});

test('a workload that is another session’s by now, or gone, is left alone', async () => {
  const other = new World();
  const record = planSwap(other.original, 'web', AGENT, { ...HOLDER, id: 'other' });
  other.objects.set(CONFIG.apiPath, applyPatch(other.original, record.ops));
  await other.run();
  assert.deepEqual(other.did, ['PATCH lease at 0', 'DELETE lease at 45']);

  const gone = new World();
  gone.objects.delete(CONFIG.apiPath);
  await gone.run();
  assert.deepEqual(gone.did, ['PATCH lease at 0', 'DELETE lease at 45']);
});

for (const [what, code] of [
  ['PATCH workload', 'cluster-unreachable'], // a webhook that refuses, or is away
  ['PATCH workload', 'forbidden'],
  ['GET workload', 'unauthorized'],
  ['DELETE lease', 'internal'],
] as const) {
  test(`it never gives up: ${what} refused (${code}) for half an hour`, async () => {
    const world = new World();
    world.refuse = (each, seconds) => (each === what && seconds < 1_800 ? code : undefined);
    const endedAt = await world.run();
    assert.ok(endedAt >= 1_800 && endedAt <= 1_811, `ended at ${endedAt}`);
    assert.ok(world.isPutBack);
  });
}

test('killed after each of its requests in turn, the next one ends the work', async () => {
  let deaths = 0;
  for (let last = 1; ; last++) {
    const world = new World();
    world.lives = last;
    const whole = await world.run().then(
      () => true,
      () => false,
    );
    if (whole) break;
    deaths++;
    world.lives = Number.POSITIVE_INFINITY;
    await world.run();
    assert.ok(world.isPutBack, `after ${last} requests`);
  }
  assert.ok(deaths > 4, `${deaths} deaths`);
});

test('a laptop that comes back while the restore is refused keeps its session', async () => {
  const world = new World();
  world.refuse = (what, seconds) => (what === 'PATCH workload' && seconds < 100 ? 'forbidden' : undefined);
  world.renewals(80, 200);
  assert.equal(Math.round(await world.run()), 200 + SILENCE_S);
});

test('an API server that is away for minutes proves nothing about the laptop', async () => {
  const world = new World();
  world.renewals(10, 30);
  world.refuse = (_what, seconds) => (seconds >= 35 && seconds < 300 ? 'cluster-unreachable' : undefined);
  world.at(35, () => world.breakWatch());
  world.renewals(310, 400); // as soon as it can
  const endedAt = await world.run();
  assert.ok(endedAt >= 400 + SILENCE_S && endedAt < 401 + SILENCE_S, `ended at ${endedAt}`);
});

test('after such an outage a dead laptop is found out, with what it had left to be silent', async () => {
  const world = new World();
  world.refuse = (_what, seconds) => (seconds >= 10 && seconds < 300 ? 'cluster-unreachable' : undefined);
  world.at(10, () => world.breakWatch());
  const endedAt = await world.run();
  assert.ok(endedAt >= 300 + 20 && endedAt < 300 + SILENCE_S + 11, `ended at ${endedAt}`);
});

test('a watch that can’t be had does not keep a Lease from lapsing', async () => {
  const world = new World();
  world.refuse = (what) => (what === 'WATCH' ? 'forbidden' : undefined);
  const endedAt = await world.run();
  assert.ok(endedAt >= SILENCE_S && endedAt < SILENCE_S + 11, `ended at ${endedAt}`);
});

test('a watch that is ended at once is not begun anew in a tight loop', async () => {
  const world = new World();
  world.endsWatches = true;
  let watches = 0;
  world.refuse = (what) => {
    if (what === 'WATCH') watches++;
    return undefined;
  };
  world.renewals(10, 100);
  assert.equal(Math.round(await world.run()), 100 + SILENCE_S);
  assert.ok(watches > 100 && watches < 200, `${watches} watches`);
});

test('a watch that breaks again and again does not either, and renewals are seen all the same', async () => {
  const world = new World();
  for (let second = 7; second < 400; second += 7) world.at(second, () => world.breakWatch());
  world.renewals(10, 200);
  const endedAt = await world.run();
  assert.ok(endedAt >= 200 + SILENCE_S && endedAt < 212 + SILENCE_S, `ended at ${endedAt}`);
});

test('Lease clock: outages don’t add up to an end, short ones in a row still let it lapse', () => {
  const clock = new LeaseClock(0);
  assert.equal(clock.leftMs(0), Number.POSITIVE_INFINITY, 'before anything was seen');
  clock.seen('a', 45_000, 0);
  assert.equal(clock.leftMs(44_000), 1_000);
  clock.lost();
  clock.contact(60_000);
  assert.equal(clock.leftMs(60_000), 45_000, 'the minute did not count');
  clock.seen('a', 45_000, 61_000);
  assert.equal(clock.leftMs(61_000), 44_000, 'seen before: no renewal');
  for (let now = 62_000; now < 105_000; now += 1_000) {
    clock.contact(now);
    clock.lost();
    clock.contact(now + 10);
  }
  assert.ok(clock.leftMs(126_000) <= 0, `${clock.leftMs(126_000)} ms left`);
});
