import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { setImmediate as allDone } from 'node:timers/promises';
import { agentVolume } from '../../../agent/deploy/agent-container.ts';
import type { Cluster } from '../../../agent/deploy/kube.ts';
import { PodTracker, revisionOf, rolloutState, watchPods } from '../../../agent/deploy/rollout.ts';
import { SESSION_ANNOTATION } from '../../../agent/restore/record.ts';

// biome-ignore lint/suspicious/noExplicitAny: Kubernetes objects, untyped as in the code under test.
type Json = any;

const SESSION = 'abcdefghij';

function pod(state: object | undefined, extra: { [key: string]: object | string | undefined } = {}): Json {
  const { metadata, status, session = SESSION, containerID = 'c1' } = extra;
  return {
    metadata: { name: 'web-1', uid: 'u1', ...(metadata as object) },
    spec: { volumes: [{ name: 'other' }, agentVolume(session as string)] },
    status: { podIP: '10.0.0.1', containerStatuses: [{ name: 'web', state, containerID }], ...(status as object) },
  };
}

/** The events of a sequence of states of one pod (null: no pod). */
function eventsOf(states: (Json | null)[], secondsBetween = 0): string[] {
  let nowMs = 0;
  const tracker = new PodTracker(SESSION, 'web', () => nowMs);
  return states.flatMap((state, i) => {
    nowMs = i * secondsBetween * 1_000;
    return tracker
      .look(new Map(state ? [[state.metadata.uid, state]] : []))
      .map((event) =>
        event.type === 'problem' ? `${event.code}${event.fatal ? '!' : ''} ${event.message}` : event.type,
      );
  });
}

const running = { running: {} };
const waiting = (reason: string, message?: string) => ({ waiting: { reason, message } });

test('a pod runs once its agent does, and is gone when the agent is', () => {
  const none = { status: { podIP: undefined } };
  assert.deepEqual(eventsOf([pod(undefined), pod(running, none), pod(running), pod(running), null]), [
    'running',
    'gone',
  ]);
  assert.deepEqual(
    eventsOf([pod(running), pod({ terminated: { exitCode: 1 } }), pod(running, { containerID: 'c2' })]),
    ['running', 'gone', 'running'],
  );
  const restartedInBetween = [pod(running), pod(running, { containerID: 'c2' })];
  assert.deepEqual(eventsOf(restartedInBetween), ['running', 'gone', 'running']);
});

test('a pod that is asked to end is not begun with, and is kept until it has ended', () => {
  const ending = { metadata: { deletionTimestamp: 'now' } };
  assert.deepEqual(eventsOf([pod(running, ending)]), []);
  assert.deepEqual(eventsOf([pod(running), pod(running, ending)]), ['running']);
  assert.deepEqual(eventsOf([pod(running), pod(running, ending), pod({ terminated: {} }, ending), null]), [
    'running',
    'gone',
  ]);
});

test('pods of another session, or of none, are not ours', () => {
  assert.deepEqual(eventsOf([pod(running, { session: 'otherotherx' })]), []);
  const plain = pod(running);
  plain.spec.volumes = [{ name: 'other' }];
  assert.deepEqual(eventsOf([plain]), []);
});

test('an event says which pod, and where', () => {
  const [event] = new PodTracker(SESSION, 'web').look(new Map([['u1', pod(running)]]));
  assert.deepEqual(event, { type: 'running', pod: 'web-1', uid: 'u1', ip: '10.0.0.1' });
});

test('a pod tells whose template it has, as each kind of workload names its revisions', () => {
  const of = (kind: string, name: string, labels = {}) =>
    revisionOf({ ownerReferences: [{ kind, name, controller: true }], labels });
  assert.equal(of('ReplicaSet', 'web-5fc59fd7db'), 'web-5fc59fd7db');
  assert.equal(of('StatefulSet', 'db', { 'controller-revision-hash': 'db-7d9f' }), 'db-7d9f');
  assert.equal(of('DaemonSet', 'log', { 'controller-revision-hash': '7d9f' }), 'log-7d9f');
  assert.equal(of('Job', 'once'), undefined);
});

test('an image that can’t be pulled: told at once, final when the kubelet backs off, with its reason', () => {
  const said = 'rpc error: code = NotFound\n desc = no such image';
  const pulled = [
    pod(waiting('ContainerCreating')),
    pod(waiting('ErrImagePull', said)),
    pod(waiting('ErrImagePull', said)),
    pod(waiting('ImagePullBackOff', 'Back-off pulling image "x"')),
    pod(waiting('ErrImagePull', said)),
  ];
  const message =
    "pod web-1: container web: the image can't be pulled: rpc error: code = NotFound desc = no such image";
  assert.deepEqual(eventsOf(pulled), [`image-pull ${message}`, `image-pull! ${message}`]);
  const [unseen] = eventsOf([pod(waiting('ImagePullBackOff', 'Back-off pulling image "x": ErrImagePull: gone'))]);
  assert.match(unseen as string, /^image-pull! .*Back-off.*gone$/);
  assert.match(eventsOf([pod(waiting('InvalidImageName', 'bad'))])[0] as string, /^image-pull! /);
});

test('a container that can’t be made or started: final once it is so for a while, as a busy node says it in passing too', () => {
  for (const reason of ['CreateContainerConfigError', 'CreateContainerError', 'RunContainerError']) {
    const failing = pod(waiting(reason, 'why\nthat'));
    const tried = pod(waiting('ContainerCreating'));
    const events = eventsOf([...Array(5).fill(failing), tried, ...Array(5).fill(failing)], 4);
    assert.equal(events.length, 2, events.join('\n'));
    assert.match(events[0] as string, /^rollout-failed pod web-1: container web: .*why that$/);
    assert.equal(events[1], events[0]?.replace('rollout-failed', 'rollout-failed!'));
    assert.deepEqual(eventsOf(Array(9).fill(failing), 4), [events[0]], 'for 32 s');
    assert.deepEqual(eventsOf([failing, pod(running)], 40), [events[0], 'running']);
    const later = [failing, ...Array(9).fill(pod(running)), failing];
    assert.deepEqual(eventsOf(later, 4), [events[0], 'running', 'gone'], 'another time');
    assert.deepEqual(eventsOf([...later, ...Array(9).fill(failing)], 4), [events[0], 'running', 'gone', events[1]]);
  }
});

test('a pod that fails and does not change is looked at again until that is final', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  let nowMs = 0;
  t.mock.method(performance, 'now', () => nowMs);
  const stop = new AbortController();
  let looks = 0;
  class Looked extends Map<string, Json> {
    override [Symbol.iterator]() {
      looks++;
      return super[Symbol.iterator]();
    }
  }
  const cluster = {
    async *follow() {
      yield new Looked([['u1', pod(waiting('CreateContainerError', 'context deadline exceeded'))]]);
      await once(stop.signal, 'abort');
    },
  } as unknown as Cluster;
  const fatal: boolean[] = [];
  const target = { namespace: 'shop', podQuery: {}, container: 'web' };
  const watching = (async () => {
    for await (const event of watchPods(cluster, target, SESSION, stop.signal))
      if (event.type === 'problem') fatal.push(event.fatal);
  })();
  for (; nowMs < 60_000; nowMs += 500) {
    await allDone();
    t.mock.timers.tick(500);
    if (nowMs === 30_000) assert.deepEqual(fatal, [false]);
  }
  assert.deepEqual(fatal, [false, true]);
  assert.equal(looks, 36, 'each second, and no more then');
  stop.abort();
  await watching;
});

test('a container that ends again and again', () => {
  const crashed = pod(waiting('CrashLoopBackOff', 'back-off 10s'));
  crashed.status.containerStatuses[0].lastState = { terminated: { reason: 'OOMKilled', exitCode: 137 } };
  assert.deepEqual(eventsOf([crashed]), [
    'rollout-failed! pod web-1: container web: ends again and again: last ended with OOMKilled (exit code 137)',
  ]);
});

test('another container’s trouble is told but not final; an init container’s is', () => {
  const beside = pod(running);
  beside.status.containerStatuses.push({ name: 'log', state: waiting('CrashLoopBackOff', 'x') });
  assert.deepEqual(eventsOf([beside]), ['running', 'rollout-failed pod web-1: container log: ends again and again: x']);
  const before = pod(waiting('PodInitializing'));
  before.status.initContainerStatuses = [{ name: 'init', state: waiting('CrashLoopBackOff', 'x') }];
  assert.match(eventsOf([before])[0] as string, /^rollout-failed! /);
});

test('a pod that no node takes may still be taken', () => {
  const conditions = [{ type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message: '0/1 nodes: memory' }];
  const stuck = pod(undefined, { status: { conditions } });
  assert.deepEqual(eventsOf([stuck, stuck]), ['rollout-failed pod web-1: no node can take it: 0/1 nodes: memory']);
});

const workload = (spec: object, status: object): Json => ({
  metadata: { generation: 2 },
  spec,
  status: { observedGeneration: 2, ...status },
});

test('a Deployment is rolled out when all pods are new, no old one is left and all are available', () => {
  const state = (status: object) => rolloutState('deployment', workload({ replicas: 2 }, status));
  const of = (status: object) => [state(status).done, state(status).ready, state(status).text];
  assert.deepEqual(of({ observedGeneration: 1, replicas: 2, updatedReplicas: 2, availableReplicas: 2 }).slice(0, 2), [
    false,
    0,
  ]);
  assert.deepEqual(of({ replicas: 3, updatedReplicas: 1, availableReplicas: 2 }), [false, 0, '1 of 2 pods replaced']);
  assert.deepEqual(of({ replicas: 3, updatedReplicas: 1, availableReplicas: 3 }), [false, 1, '1 of 2 pods replaced']);
  assert.deepEqual(of({ replicas: 3, updatedReplicas: 2, availableReplicas: 3 }), [false, 2, '1 old pod is ending']);
  assert.deepEqual(of({ replicas: 2, updatedReplicas: 2, availableReplicas: 1 }), [false, 1, '1 of 2 pods ready']);
  assert.deepEqual(of({ replicas: 2, updatedReplicas: 2, availableReplicas: 2 }), [true, 2, '2 of 2 pods ready']);
  assert.equal(rolloutState('deployment', { metadata: { generation: 1 }, spec: {} }).done, false, 'no status yet');
});

test('a Deployment that gives up, or is refused its pods', () => {
  const refused = { type: 'ReplicaFailure', status: 'True', message: 'exceeded quota' };
  const gaveUp = { type: 'Progressing', status: 'False', reason: 'ProgressDeadlineExceeded', message: 'timed out' };
  const state = (...conditions: object[]) => rolloutState('deployment', workload({}, { conditions }));
  assert.deepEqual([state(refused).refusal, state(refused).failure], ['exceeded quota', undefined]);
  assert.equal(state(gaveUp).failure, 'timed out');
  assert.equal(state(gaveUp, refused).failure, 'exceeded quota', 'the reason, not the symptom');
});

test('StatefulSets and DaemonSets', () => {
  const sts = (status: object) => rolloutState('statefulset', workload({ replicas: 2 }, status));
  const changing = { updateRevision: 'b', currentRevision: 'a' };
  assert.equal(sts({ ...changing, readyReplicas: 2, updatedReplicas: 1 }).text, '1 of 2 pods replaced');
  assert.equal(sts({ ...changing, readyReplicas: 1, updatedReplicas: 2 }).text, '1 of 2 pods ready');
  assert.equal(sts({ ...changing, readyReplicas: 2, updatedReplicas: 2 }).done, false);
  assert.equal(sts({ updateRevision: 'b', currentRevision: 'b', readyReplicas: 2, updatedReplicas: 2 }).done, true);
  const ds = (status: object) => rolloutState('daemonset', workload({}, { desiredNumberScheduled: 3, ...status }));
  assert.deepEqual([ds({}).done, ds({}).total], [false, 3]);
  assert.equal(ds({ updatedNumberScheduled: 3, numberAvailable: 2 }).text, '2 of 3 pods ready');
  assert.equal(
    ds({ updatedNumberScheduled: 1, numberAvailable: 2 }).ready,
    0,
    'the new one is the one that is not ready',
  );
  assert.equal(ds({ updatedNumberScheduled: 1, numberAvailable: 3 }).ready, 1);
  assert.equal(sts({ ...changing, readyReplicas: 1, updatedReplicas: 1 }).ready, 0);
  assert.equal(ds({ updatedNumberScheduled: 3, numberAvailable: 3 }).done, true);
});

test('a partitioned StatefulSet is rolled out when the pods beyond the partition are; put back, when all are alike', () => {
  const spec = { replicas: 4, updateStrategy: { type: 'RollingUpdate', rollingUpdate: { partition: 2 } } };
  const sts = (status: object) => rolloutState('statefulset', workload(spec, { readyReplicas: 4, ...status }));
  const held = { updateRevision: 'agent', currentRevision: 'own' };
  assert.equal(sts({ ...held, updatedReplicas: 1 }).text, '1 of 2 pods replaced');
  assert.equal(sts({ ...held, updatedReplicas: 2, readyReplicas: 3 }).text, '3 of 4 pods ready');
  assert.equal(sts({ ...held, updatedReplicas: 2 }).done, true);
  const back = { updateRevision: 'own', currentRevision: 'own' };
  assert.equal(sts({ ...back, updatedReplicas: 2 }).text, '2 of 4 pods replaced', 'two are the agent’s still');
  assert.equal(sts({ ...back, updatedReplicas: 4 }).done, true);
});

/** Held by `SESSION`, of one pod alone. */
function ofOne(spec: object, status: object): Json {
  const record = { v: 1, id: SESSION, one: true, changed: [] };
  const held = workload(spec, status);
  held.metadata.annotations = { [SESSION_ANNOTATION]: JSON.stringify(record) };
  return held;
}

test('OnDelete: all pods, or one where one was asked for', () => {
  const spec = { replicas: 3, updateStrategy: { type: 'OnDelete' } };
  const status = { updateRevision: 'agent', currentRevision: 'own', readyReplicas: 3 };
  const all = (updated: number) => rolloutState('statefulset', workload(spec, { ...status, updatedReplicas: updated }));
  assert.deepEqual([all(2).done, all(3).done], [false, true], 'its revision never becomes the current one');
  const one = (updated: number) => rolloutState('statefulset', ofOne(spec, { ...status, updatedReplicas: updated }));
  assert.deepEqual([one(0).done, one(1).done], [false, true]);
  const ds = (updated: number) =>
    rolloutState(
      'daemonset',
      ofOne({}, { desiredNumberScheduled: 3, numberAvailable: 3, updatedNumberScheduled: updated }),
    );
  assert.deepEqual([ds(0).text, ds(1).done], ['0 of 1 pods replaced', true]);
});

test('a ReplicaSet is told by its pods, as its status says nothing of their template', () => {
  const ready = { status: { conditions: [{ type: 'Ready', status: 'True' }] } };
  const agent = { metadata: {}, spec: { volumes: [agentVolume(SESSION)] } };
  const own = { metadata: {}, spec: {} };
  const ending = { metadata: { deletionTimestamp: 'now' }, spec: {}, ...ready };
  const stale = { availableReplicas: 2 };
  const held = ofOne({ replicas: 2 }, stale);
  const record = JSON.parse(held.metadata.annotations[SESSION_ANNOTATION]);
  const all = structuredClone(held);
  all.metadata.annotations = { [SESSION_ANNOTATION]: JSON.stringify({ ...record, one: undefined }) };
  const text = (of: Json, ...pods: Json[]) => rolloutState('replicaset', of, pods).text;
  assert.equal(text(all, { ...own, ...ready }, { ...agent, ...ready }), '1 of 2 pods replaced');
  assert.equal(text(all, agent, { ...agent, ...ready }, ending), '1 of 2 pods ready');
  assert.equal(
    rolloutState('replicaset', all, [
      { ...agent, ...ready },
      { ...agent, ...ready },
    ]).done,
    true,
  );
  assert.equal(
    rolloutState('replicaset', held, [
      { ...own, ...ready },
      { ...agent, ...ready },
    ]).done,
    true,
  );
  const back = workload({ replicas: 2 }, stale);
  assert.equal(text(back, { ...own, ...ready }, { ...agent, ...ready }), '1 of 2 pods replaced');
  assert.equal(rolloutState('replicaset', back).done, true, 'without its pods, by its status');
});

test('an Argo Rollout is as its controller sums it up, of the generation that it has seen (a string)', () => {
  const argo = (status: object, spec: object = {}) => {
    const of = workload({ replicas: 2, ...spec }, { currentPodHash: 'b', stableRS: 'a', ...status });
    of.status.observedGeneration = `${of.status.observedGeneration}`;
    return rolloutState('rollout', of);
  };
  assert.match(argo({ observedGeneration: '0' }).text, /to see the change/);
  const progressing = { phase: 'Progressing', message: 'active service cutover pending' };
  assert.equal(argo({ ...progressing, updatedReplicas: 1, availableReplicas: 2 }).text, '1 of 2 pods replaced');
  assert.equal(argo({ ...progressing, updatedReplicas: 2, availableReplicas: 1 }).text, '1 of 2 pods ready');
  assert.equal(
    argo({ ...progressing, updatedReplicas: 2, availableReplicas: 2 }).text,
    'active service cutover pending',
  );
  const healthy = { phase: 'Healthy', updatedReplicas: 2, availableReplicas: 2 };
  assert.deepEqual([argo(healthy).done, argo({ ...healthy, stableRS: 'b' }).done], [false, true]);
  const paused = { phase: 'Paused', pauseConditions: [{ reason: 'CanaryPauseStep' }], currentStepIndex: 1 };
  const canary = { strategy: { canary: { steps: [{ setWeight: 20 }, { pause: {} }, { setWeight: 50 }] } } };
  assert.equal(argo(paused, canary).text, 'it waits at step 2 of 3 for somebody to promote it (CanaryPauseStep)');
  const blueGreen = { phase: 'Paused', pauseConditions: [{ reason: 'BlueGreenPause' }] };
  assert.equal(argo(blueGreen).text, 'it waits for somebody to promote it (BlueGreenPause)');
  const aborted = { phase: 'Degraded', message: 'RolloutAborted: aborted by an analysis' };
  assert.equal(argo(aborted).failure, aborted.message);
  const refused = { type: 'ReplicaFailure', status: 'True', message: 'exceeded quota' };
  assert.equal(argo({ ...progressing, conditions: [refused] }).refusal, 'exceeded quota');
});
