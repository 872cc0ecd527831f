import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { setImmediate as allDone } from 'node:timers/promises';
import type { Cluster, Json } from '../../../agent/deploy/kube.ts';
import { type RolloutOptions, waitRollout } from '../../../agent/deploy/rollout.ts';
import { workloadRef } from '../../../agent/deploy/workload.ts';
import type { LpkError } from '../../../agent/wire/errors.ts';

/** How long a rollout is waited for: the states come one by one, as a controller would report them. */

/** How often it looks whether it takes too long. */
const LOOK_MS = 500;
/** The longest pause before a controller's next try within the first minute. */
const NEXT_TRY_MS = 40_000;

type Kind = 'deployment' | 'statefulset' | 'daemonset';

function follow(kind: Kind, options: Partial<RolloutOptions>) {
  const states = new PassThrough({ objectMode: true });
  const asked: string[] = [];
  const cluster = {
    async *follow(_path: string, { signal }: { signal: AbortSignal }) {
      signal.addEventListener('abort', () => states.end());
      for await (const state of states) if (!signal.aborted) yield new Map([['uid', state]]);
    },
    nowMs: Date.now,
    request: async (_method: string, path: string) => {
      asked.push(path);
      return { items: [] };
    },
  } as unknown as Cluster;
  const signal = AbortSignal.timeout(20_000);
  const waiting = waitRollout(cluster, workloadRef(kind, 'shop', 'web'), { signal, stalledMs: 0, ...options });
  waiting.catch(() => {});
  return { waiting, asked, show: (state: Json) => states.write(state) };
}

const told = (status: object, spec: object = {}): Json => ({
  metadata: { generation: 2 },
  spec: { replicas: 2, ...spec },
  status: { observedGeneration: 2, ...status },
});
const late = (lastUpdateTime: string) => ({
  conditions: [{ type: 'Progressing', reason: 'ProgressDeadlineExceeded', message: 'too late', lastUpdateTime }],
});
const oneReady = { replicas: 3, updatedReplicas: 1, availableReplicas: 3 };
const waits = { replicas: 3, updatedReplicas: 1, availableReplicas: 2 };
const done = { replicas: 2, updatedReplicas: 2, availableReplicas: 2 };
const refused = { type: 'ReplicaFailure', status: 'True', message: 'exceeded quota' };

test('the deadline of a Deployment is the end, unless somebody is patient', async () => {
  const failing = follow('deployment', {});
  failing.show(told(waits));
  failing.show(told({ ...waits, ...late('10:00') }));
  await assert.rejects(failing.waiting, { code: 'rollout-failed', message: 'deployment/web: too late' });

  const patient = follow('deployment', { isPatient: () => true, timeoutMs: 0 });
  for (const status of [waits, { ...waits, ...late('10:00') }, oneReady, done]) patient.show(told(status));
  await patient.waiting;
});

test('a deadline that was exceeded before is not this rollout’s', async () => {
  const rollout = follow('deployment', {});
  rollout.show(told({ ...done, ...late('10:00'), observedGeneration: 1 }));
  rollout.show(told({ ...waits, ...late('10:00') }));
  rollout.show(told({ ...oneReady, ...late('10:00') }));
  rollout.show(told(done));
  await rollout.waiting;

  const again = follow('deployment', {});
  again.show(told({ ...waits, ...late('10:00') }));
  again.show(told(oneReady));
  again.show(told({ ...oneReady, ...late('10:10') }));
  await assert.rejects(again.waiting, { code: 'rollout-failed' });
});

test('refused pods are waited for again when room was made', async () => {
  const asked = Promise.withResolvers<void>();
  const makeRoom = async () => {
    asked.resolve();
    return true;
  };
  const rollout = follow('deployment', { makeRoom });
  rollout.show(told({ ...waits, conditions: [refused] }));
  await asked.promise;
  rollout.show(told(done));
  await rollout.waiting;
});

test('where room was made, the controller gets until its next try', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  let now = 0;
  t.mock.method(performance, 'now', () => now);
  const progress = new EventEmitter();
  const onProgress = (_done: number, _total: number, text: string) => progress.emit(text);
  let asked = 0;
  const rollout = follow('deployment', { onProgress, stalledMs: 8_000, makeRoom: async () => ++asked === 1 });
  const show = async (text: string, status: object) => {
    const seen = once(progress, text);
    rollout.show(told({ ...status, conditions: [refused] }));
    await seen;
  };
  const pass = async (ms: number) => {
    for (const until = now + ms; now < until; now += LOOK_MS) {
      t.mock.timers.tick(LOOK_MS);
      await allDone();
    }
  };
  await show('1 of 2 pods replaced', waits);
  await pass(9_000);
  assert.equal(asked, 1);
  await show('1 old pod is ending', { ...waits, updatedReplicas: 2 });
  await pass(NEXT_TRY_MS);
  assert.equal(asked, 1);
  await pass(60_000);
  await assert.rejects(rollout.waiting, { code: 'rollout-failed' });
  assert.equal(asked, 2);
});

test('refused pods are the end; of one who is patient, a word for each reason', async () => {
  const failing = follow('deployment', {});
  failing.show(told({ ...waits, conditions: [refused] }));
  await assert.rejects(failing.waiting, {
    code: 'rollout-failed',
    message: "deployment/web can't make its pods: exceeded quota",
  });

  const words: string[] = [];
  const told1 = Promise.withResolvers<void>();
  const told2 = Promise.withResolvers<void>();
  const onRefused = ({ message }: LpkError) => {
    words.push(message);
    (words.length === 1 ? told1 : told2).resolve();
  };
  const patient = follow('deployment', { isPatient: () => true, onRefused });
  patient.show(told({ ...waits, conditions: [refused] }));
  await told1.promise;
  patient.show(told({ ...oneReady, conditions: [{ ...refused, message: 'not admitted' }] }));
  await told2.promise;
  patient.show(told(done));
  await patient.waiting;
  assert.deepEqual(words, [
    "deployment/web can't make its pods: exceeded quota",
    "deployment/web can't make its pods: not admitted",
  ]);
});

test('events are asked for only while a StatefulSet or DaemonSet has too few pods', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  for (const isPatient of [false, true]) {
    const progress = new EventEmitter();
    const onProgress = (_done: number, _total: number, text: string) => progress.emit(text);
    const begin = (kind: Kind) => follow(kind, { isPatient: () => isPatient, onProgress });
    const asks = async (rollout: ReturnType<typeof begin>, text: string, status: object, spec: object = {}) => {
      const seen = once(progress, text);
      rollout.show(told(status, spec));
      await seen;
      rollout.asked.length = 0;
      t.mock.timers.tick(LOOK_MS);
      return rollout.asked.length > 0;
    };
    const set = begin('statefulset');
    const changing = { updateRevision: 'b', currentRevision: 'a' };
    const unseen = { ...changing, observedGeneration: 1 };
    assert.equal(await asks(set, 'waiting for the controller to see the change', unseen), !isPatient);
    assert.equal(await asks(set, '1 of 2 pods replaced', { ...changing, replicas: 2, updatedReplicas: 1 }), false);
    const short = { ...changing, replicas: 1, updatedReplicas: 2 };
    assert.equal(await asks(set, '0 of 2 pods ready', short), true);
    set.show(told({ updateRevision: 'b', currentRevision: 'b', replicas: 2, updatedReplicas: 2, readyReplicas: 2 }));
    await set.waiting;

    const daemons = begin('daemonset');
    const all = { desiredNumberScheduled: 2, currentNumberScheduled: 2, numberAvailable: 2 };
    assert.equal(await asks(daemons, '1 of 2 pods replaced', { ...all, updatedNumberScheduled: 1 }), false);
    const surging = { updateStrategy: { rollingUpdate: { maxSurge: '50%' } } };
    const surge = { ...all, updatedNumberScheduled: 0 };
    assert.equal(
      await asks(daemons, '0 of 2 pods replaced', surge, surging),
      !isPatient,
      'the one more may be refused',
    );
    daemons.show(told({ ...all, updatedNumberScheduled: 2 }));
    await daemons.waiting;
  }
});

test('a signal, and the time limit end it', async () => {
  const late = follow('deployment', { timeoutMs: 0 });
  late.show(told(waits));
  await assert.rejects(late.waiting, {
    code: 'rollout-timed-out',
    message: 'deployment/web is not there after 0 s: 1 of 2 pods replaced',
  });
  const leaving = new AbortController();
  const left = follow('deployment', { signal: leaving.signal });
  left.show(told(waits));
  leaving.abort();
  await assert.rejects(left.waiting, { code: 'cancelled' });
});
