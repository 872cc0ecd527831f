import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Json } from '../../../agent/deploy/kube.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import { LeaseKeeper, type LeaseKeeperOptions } from '../../../cli/lease-keeper.ts';
import type { Person } from '../../../cli/whoami.ts';

const BOB = { owner: 'bob', host: 'desk' };

/** A keeper that looks every second, and what it did at which. */
class Scene {
  nowMs = 1_000_000;
  lease: Json = { metadata: { annotations: { 'lpk.dev/watching-since': 'now' } } };
  failure: Error | undefined;
  readonly renewedAt: number[] = [];
  readonly ended: (Person | undefined)[] = [];
  unwatched = 0;
  refused = false;
  readonly keeper: LeaseKeeper;

  constructor(options: Partial<LeaseKeeperOptions> = {}) {
    this.keeper = new LeaseKeeper({
      silenceMs: 45_000,
      restorer: true,
      renew: async () => {
        this.renewedAt.push((this.nowMs - 1_000_000) / 1_000);
        if (this.failure) throw this.failure;
        return this.lease;
      },
      ended: (by) => this.ended.push(by),
      unwatched: async (late) => {
        if (late || this.refused) this.unwatched++;
        return late || this.refused;
      },
      nowMs: () => this.nowMs,
      ...options,
    });
  }

  async pass(seconds: number): Promise<void> {
    for (let i = 0; i < seconds; i++) {
      await this.keeper.look();
      this.nowMs += 1_000;
    }
  }
}

test('renews every 10 s, a short Lease three times in its time', async () => {
  const scene = new Scene();
  await scene.pass(31);
  assert.deepEqual(scene.renewedAt, [0, 10, 20, 30]);
  const short = new Scene({ silenceMs: 15_000 });
  await short.pass(11);
  assert.deepEqual(short.renewedAt, [0, 5, 10]);
});

test('renews at once after a sleep, and knows how long it was not heard of', async () => {
  const scene = new Scene();
  await scene.pass(2);
  scene.nowMs += 300_000;
  assert.equal(scene.keeper.silentMs, 302_000);
  await scene.pass(1);
  assert.deepEqual(scene.renewedAt, [0, 302]);
  await scene.pass(238);
  assert.equal(scene.keeper.silentMs, 302_000, 'the restorer may have put back, and not be done');
  await scene.pass(1);
  assert.equal(scene.keeper.silentMs, 10_000, 'it would have ended the session by now');
});

test('tries again every second what failed', async () => {
  const scene = new Scene();
  scene.failure = new LpkError('cluster-unreachable', 'away');
  await scene.pass(3);
  scene.failure = undefined;
  await scene.pass(3);
  assert.deepEqual(scene.renewedAt, [0, 1, 2, 3]);
  assert.deepEqual(scene.ended, []);
});

test('does not ask again before it was answered', async () => {
  const answer = Promise.withResolvers<Json>();
  let asked = 0;
  const scene = new Scene({
    renew: () => {
      asked++;
      return answer.promise;
    },
  });
  const looks = [scene.keeper.look(), scene.keeper.look()];
  answer.resolve(scene.lease);
  await Promise.all(looks);
  assert.equal(asked, 1);
});

test('tells once who ended the session, or that the Lease is gone, and renews no more', async () => {
  const scene = new Scene();
  scene.lease.metadata.annotations['lpk.dev/ended-by'] = JSON.stringify(BOB);
  await scene.pass(30);
  assert.deepEqual([scene.ended, scene.renewedAt], [[BOB], [0]]);

  const gone = new Scene();
  await gone.pass(10);
  gone.failure = new LpkError('not-found', 'gone');
  await gone.pass(30);
  assert.deepEqual([gone.ended, gone.renewedAt], [[undefined], [0, 10]]);
});

test('what is refused is tried again when the next renewal is due', async () => {
  const scene = new Scene();
  scene.failure = new LpkError('forbidden', 'not now');
  await scene.pass(21);
  assert.deepEqual([scene.renewedAt, scene.ended], [[0, 10, 20], []]);
});

test('a Lease that was never there, or goes while leaving, is no news, and is renewed no more', async () => {
  const never = new Scene();
  never.failure = new LpkError('not-found', 'never');
  await never.pass(30);
  assert.deepEqual([never.ended, never.renewedAt], [[], [0]]);

  const leaving = new Scene();
  await leaving.pass(5);
  leaving.keeper.ending();
  await leaving.pass(6);
  leaving.failure = new LpkError('not-found', 'gone');
  await leaving.pass(30);
  assert.deepEqual([leaving.ended, leaving.renewedAt], [[], [0, 10, 20]]);
});

test('says once that no restorer watches, when it had time to start', async () => {
  const scene = new Scene();
  scene.lease = { metadata: {} };
  await scene.pass(180);
  assert.equal(scene.unwatched, 0);
  await scene.pass(60);
  assert.equal(scene.unwatched, 1);

  const refused = new Scene();
  refused.lease = { metadata: {} };
  await refused.pass(5);
  refused.refused = true;
  await refused.pass(100);
  assert.equal(refused.unwatched, 1, 'at once where its pod is refused');

  const without = new Scene({ restorer: false });
  without.lease = { metadata: {} };
  await without.pass(200);
  assert.equal(without.unwatched, 0);
});
