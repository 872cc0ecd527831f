import { partitionOf } from '../restore/follow.ts';
import { sessionOf } from '../restore/record.ts';
import { isSeen } from '../restore/seen.ts';
import { type ErrorCode, LpkError } from '../wire/errors.ts';
import { sessionOfPod } from './agent-container.ts';
import type { PodQuery } from './find.ts';
import type { Cluster, Json } from './kube.ts';
import { oneLine } from './status.ts';
import {
  isReady,
  listPath,
  replicasOf,
  selectorString,
  servedOf,
  type WorkloadKind,
  type WorkloadRef,
  workloadName,
} from './workload.ts';

/** What becomes of a workload's pods after its template changed. */

export type PodEvent =
  | { type: 'running'; pod: string; uid: string; ip: string }
  /** It was running and is no more: deleted, ended, or its container is being restarted. */
  | { type: 'gone'; pod: string; uid: string }
  /** `fatal`: it won't get better by itself. `message` has the kubelet's own words. */
  | { type: 'problem'; pod: string; uid: string; code: ErrorCode; message: string; fatal: boolean };

export type WatchedPods = {
  /** Told all the session's pods, running or not, and whose template they have, whenever they are others. */
  named?: (pods: string[], revisions: string[]) => void;
  /** As `Cluster.follow` says. */
  refused?: (error: LpkError) => void;
};

/**
 * The pods that run a session's agent, as they come and go, until `signal`. Every problem is told once. Throws what
 * `Cluster.follow` throws.
 */
export async function* watchPods(
  cluster: Cluster,
  target: { namespace: string; podQuery: PodQuery; container: string },
  sessionId: string,
  signal: AbortSignal,
  { named, refused }: WatchedPods = {},
): AsyncGenerator<PodEvent> {
  const path = `/api/v1/namespaces/${target.namespace}/pods`;
  const tracker = new PodTracker(sessionId, target.container);
  let last = '';
  const states = cluster.follow(path, { query: target.podQuery, signal, refused });
  for await (const pods of lookedAtAgain(states, () => tracker.isWaiting)) {
    const ours = [...pods.values()].filter(({ spec }) => sessionOfPod(spec) === sessionId);
    const names = ours.map(({ metadata }) => metadata.name as string).toSorted();
    if (names.join() !== last) {
      const revisions = ours.flatMap(({ metadata }) => revisionOf(metadata) ?? []);
      named?.(names, [...new Set(revisions)]);
    }
    last = names.join();
    yield* tracker.look(pods);
  }
}

/** The states as they come, and the last one again and again while `isDue`. */
async function* lookedAtAgain<T>(states: AsyncGenerator<T>, isDue: () => boolean): AsyncGenerator<T> {
  let last: T | undefined;
  try {
    for (;;) {
      let hasCome = false;
      let wake = () => {};
      const next = states.next();
      const came = () => {
        hasCome = true;
        wake();
      };
      next.then(came, came);
      while (!hasCome && last !== undefined && isDue()) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, LOOK_AGAIN_MS);
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
        if (!hasCome) yield last;
      }
      const { done, value } = await next;
      if (done) return;
      last = value;
      yield value;
    }
  } finally {
    void states.return(undefined);
  }
}

/** Turns each state of a set of pods (by uid) into the events since the one before. */
export class PodTracker {
  #sessionId: string;
  #container: string;
  #nowMs: () => number;
  #running = new Map<string, { pod: string; containerId: string }>();
  #problems = new Map<string, Map<string, Told>>();
  #pullErrors = new Map<string, string>();
  #isWaiting = false;

  constructor(sessionId: string, container: string, nowMs = () => performance.now()) {
    this.#sessionId = sessionId;
    this.#container = container;
    this.#nowMs = nowMs;
  }

  /** A problem may become final though its pod does not change: to be looked at again. */
  get isWaiting(): boolean {
    return this.#isWaiting;
  }

  /** Every problem is told once; one that may pass once more when it is final. */
  look(pods: Map<string, Json>): PodEvent[] {
    const ours = new Map([...pods].filter(([, pod]) => sessionOfPod(pod.spec) === this.#sessionId));
    const events = [...this.#comings(ours, pods)];
    this.#isWaiting = false;
    for (const [uid, pod] of ours) {
      if (!pod.metadata.deletionTimestamp) events.push(...this.#troubles(uid, pod));
    }
    for (const uid of [...this.#problems.keys(), ...this.#pullErrors.keys()]) {
      if (pods.has(uid)) continue;
      this.#problems.delete(uid);
      this.#pullErrors.delete(uid);
    }
    return events;
  }

  *#comings(ours: Map<string, Json>, pods: Map<string, Json>): Generator<PodEvent> {
    const now = new Map<string, { pod: string; containerId: string; ip: string }>();
    for (const [uid, pod] of ours) {
      const { name, deletionTimestamp } = pod.metadata;
      const status = statusOf(pod, this.#container);
      if (status?.state?.running && pod.status.podIP && !deletionTimestamp) {
        now.set(uid, { pod: name, containerId: status.containerID ?? '', ip: pod.status.podIP });
      }
    }
    for (const [uid, { pod, containerId }] of this.#running) {
      if (now.get(uid)?.containerId === containerId) continue;
      const there = pods.get(uid);
      // A pod that was asked to end still carries what it has; it is gone when its container is.
      const ending = there?.metadata.deletionTimestamp && statusOf(there, this.#container)?.state?.running;
      if (ending) continue;
      this.#running.delete(uid);
      yield { type: 'gone', pod, uid };
    }
    for (const [uid, { pod, containerId, ip }] of now) {
      if (this.#running.has(uid)) continue;
      this.#running.set(uid, { pod, containerId });
      yield { type: 'running', pod, uid, ip };
    }
  }

  *#troubles(uid: string, pod: Json): Generator<PodEvent> {
    const { name } = pod.metadata;
    for (const problem of problemsOf(pod, this.#container)) {
      // "Back-off pulling image" says nothing of the cause on older kubelets; what was said before it does.
      if (problem.reason === 'ErrImagePull' && !this.#pullErrors.has(uid)) this.#pullErrors.set(uid, problem.detail);
      const fatal = this.#isNews(uid, problem);
      if (fatal === undefined) continue;
      const detail = (problem.reason === 'ImagePullBackOff' && this.#pullErrors.get(uid)) || problem.detail;
      const message = `pod ${name}: ${oneLine(`${problem.what}${detail ? `: ${detail}` : ''}`)}`;
      yield { type: 'problem', pod: name, uid, code: problem.code, message, fatal };
    }
  }

  /** @returns whether it is final; undefined when that was told before. */
  #isNews(uid: string, problem: Problem): boolean | undefined {
    const nowMs = this.#nowMs();
    const ofPod = this.#problems.get(uid) ?? new Map<string, Told>();
    const key = `${problem.container} ${problem.reason}`;
    const before = ofPod.get(key);
    const lasts = before && nowMs - before.seenMs <= GONE_MS;
    const told: Told = { fatal: before?.fatal ?? false, sinceMs: lasts ? before.sinceMs : nowMs, seenMs: nowMs };
    this.#problems.set(uid, ofPod.set(key, told));
    const fatal = problem.fatal && (!problem.passing || nowMs - told.sinceMs >= PASSES_MS);
    if (problem.passing && !fatal && !told.fatal) this.#isWaiting = true;
    if (before && (told.fatal || !(problem.passing && fatal))) return undefined;
    told.fatal = fatal;
    return fatal;
  }
}

/** What was said of a problem, since when it lasts, and when it was seen last. */
type Told = { fatal: boolean; sinceMs: number; seenMs: number };

/** Whose template a pod has, by its metadata, as its controller names them: a StatefulSet's pods have the whole name as a label, a DaemonSet's the end of it. */
export function revisionOf({ ownerReferences = [], labels = {} }: Json): string | undefined {
  const owner = (ownerReferences as Json[]).find(({ controller }) => controller);
  const hash: string | undefined = labels['controller-revision-hash'];
  if (owner?.kind === 'ReplicaSet') return owner.name;
  if (owner?.kind === 'StatefulSet') return hash;
  return owner?.kind === 'DaemonSet' && hash ? `${owner.name}-${hash}` : undefined;
}

function statusOf(pod: Json, container: string): Json {
  return ((pod.status?.containerStatuses ?? []) as Json[]).find((each) => each.name === container);
}

type Problem = {
  container: string;
  reason: string;
  code: ErrorCode;
  what: string;
  detail: string;
  fatal: boolean;
  passing: boolean;
};

/**
 * The kubelet of a busy node says `passing` reasons too when it was only too late; after so long it means them: it tries again each 10 to 15 s
 * (`backOffPeriod`), and the first two times may both be too late.
 */
const PASSES_MS = 35_000;
/** A passing reason that was not there for so long is another one. */
const GONE_MS = 10_000;
const LOOK_AGAIN_MS = 1_000;

/** Why a container waits, by the kubelet's reason: what it means, and whether waiting is all there is to do. */
const WAITING: Record<string, { code: ErrorCode; what: string; fatal: boolean; passing?: boolean }> = {
  ErrImagePull: { code: 'image-pull', what: "the image can't be pulled", fatal: false },
  ImagePullBackOff: { code: 'image-pull', what: "the image can't be pulled", fatal: true },
  ErrImageNeverPull: { code: 'image-pull', what: 'the image is not on the node and may not be pulled', fatal: true },
  InvalidImageName: { code: 'image-pull', what: 'the image has no valid name', fatal: true },
  CreateContainerConfigError: { code: 'rollout-failed', what: "can't be configured", fatal: true, passing: true },
  CreateContainerError: { code: 'rollout-failed', what: "can't be created", fatal: true, passing: true },
  RunContainerError: { code: 'rollout-failed', what: "can't be started", fatal: true, passing: true },
  CrashLoopBackOff: { code: 'rollout-failed', what: 'ends again and again', fatal: true },
};

function problemsOf(pod: Json, container: string): Problem[] {
  const problems: Problem[] = [];
  const { initContainerStatuses = [], containerStatuses = [], conditions = [] } = pod.status ?? {};
  for (const each of [...initContainerStatuses, ...containerStatuses] as Json[]) {
    const waiting = each.state?.waiting;
    const known = waiting?.reason && WAITING[waiting.reason];
    if (!known) continue;
    const ended = each.lastState?.terminated;
    const last = ended && `last ended with ${ended.reason ?? 'exit code'} (exit code ${ended.exitCode})`;
    const detail =
      waiting.reason === 'CrashLoopBackOff' && last
        ? `${last}${ended.message ? `: ${ended.message}` : ''}`
        : (waiting.message ?? '');
    const what = `container ${each.name}: ${known.what}`;
    // Another container's trouble is the workload's own, and may well have been there before.
    const fatal = known.fatal && (each.name === container || initContainerStatuses.includes(each));
    const passing = fatal && known.passing === true;
    problems.push({ container: each.name, reason: waiting.reason, code: known.code, what, detail, fatal, passing });
  }
  const scheduled = (conditions as Json[]).find(({ type }) => type === 'PodScheduled');
  if (scheduled?.status === 'False' && scheduled.reason === 'Unschedulable') {
    const what = { code: 'rollout-failed', what: 'no node can take it', fatal: false, passing: false } as const;
    problems.push({ container: '', reason: 'Unschedulable', detail: scheduled.message ?? '', ...what });
  }
  return problems;
}

export type RolloutOptions = {
  signal: AbortSignal;
  /** `done` of `total` pods are new and ready; `text` says what is waited for. Called when any of them changes. */
  onProgress?: (done: number, total: number, text: string) => void;
  timeoutMs?: number;
  /** How long pods may be refused (quota, admission) without any progress before that is final. */
  stalledMs?: number;
  /** While it says so, pods may take as long as they like to become ready, and refused ones are told to `onRefused`, each reason once. */
  isPatient?: () => boolean;
  onRefused?: (error: LpkError) => void;
  /** Asked once pods are refused: whether there is more room now, so that they are waited for again. */
  makeRoom?: () => Promise<boolean>;
};

const LOOK_MS = 500;
/** How long a controller may take to try again to make a pod that was refused: 5, 10, 20 and 41 s after the first time. */
const RETRY_MS = 45_000;

/**
 * Waits until all of a workload's pods are of its present template and available, by the rules of `kubectl rollout status`
 * (kubectl/pkg/polymorphichelpers/rollout_status.go). LpkError: `rollout-failed` (the deadline of the Deployment, pods
 * refused by quota or admission), `rollout-timed-out`, `not-found` (deleted meanwhile), `cancelled`.
 */
export async function waitRollout(cluster: Cluster, ref: WorkloadRef, options: RolloutOptions): Promise<void> {
  const {
    signal,
    onProgress,
    timeoutMs = 180_000,
    stalledMs = 8_000,
    isPatient = () => false,
    onRefused,
    makeRoom,
  } = options;
  const name = workloadName(ref);
  const stop = new AbortController();
  const begunAt = performance.now();
  let failure: LpkError | undefined;
  let state: RolloutState | undefined;
  let movedAt = begunAt;
  let askedAt = begunAt;
  let refused: string | undefined;
  const fail = (error: LpkError) => {
    failure ??= error;
    stop.abort();
  };
  const look = async () => {
    const now = performance.now();
    if (now - movedAt > stalledMs && now - askedAt > stalledMs) {
      askedAt = now;
      // An event of a refusal outlives it, and who waits for long must not ask for long: only while pods are lacking.
      const ask = state?.isShort ?? !isPatient();
      const refusal = state?.refusal ?? (ask ? await refusedPods(cluster, ref) : undefined);
      const error = refusal && new LpkError('rollout-failed', `${name} can't make its pods: ${oneLine(refusal)}`);
      if (error && !isPatient()) {
        if (!(await makeRoom?.())) return fail(error);
        movedAt = performance.now() + RETRY_MS;
      }
      if (error && refusal !== refused) onRefused?.(error);
      refused = refusal;
    }
    if (now - begunAt > timeoutMs && !isPatient()) {
      const waited = `${Math.round(timeoutMs / 1000)} s`;
      fail(new LpkError('rollout-timed-out', `${name} is not there after ${waited}: ${state?.text ?? 'no answer'}`));
    }
  };
  const clock = setInterval(() => void look().catch(fail), LOOK_MS);
  try {
    const changes = cluster.follow(listPath(ref.kind, ref.namespace), {
      query: { fieldSelector: `metadata.name=${ref.name}` },
      signal: AbortSignal.any([signal, stop.signal]),
    });
    let stale: string | undefined;
    for await (const workloads of changes) {
      const [workload] = workloads.values();
      // Its session may make it anew; when that is over, who waits is told otherwise.
      if (!workload && ref.kind === 'pod' && isPatient()) continue;
      if (!workload) throw new LpkError('not-found', `${name} was deleted`);
      const last = state;
      const pods = ref.kind === 'replicaset' ? await podsOf(cluster, workload) : undefined;
      state = rolloutState(ref.kind, workload, pods);
      // A deadline that an earlier template exceeded stays there until the present one moves.
      const late = lateSince(workload);
      if (!last) stale = late;
      if (state.failure && (!late || late !== stale) && !isPatient())
        throw new LpkError('rollout-failed', `${name}: ${oneLine(state.failure)}`);
      if (state.text !== last?.text || state.ready !== last.ready) {
        movedAt = Math.max(movedAt, performance.now());
        onProgress?.(state.ready, state.total, state.text);
      }
      if (state.done) return;
    }
    throw failure ?? new LpkError('cancelled', 'stopped while waiting for the rollout');
  } finally {
    clearInterval(clock);
    stop.abort();
  }
}

export type RolloutState = {
  done: boolean;
  ready: number;
  total: number;
  text: string;
  /** Final by the controller's own word. */
  failure?: string;
  /** Pods were refused; it may be over when others have ended. */
  refusal?: string;
  /** There are fewer pods than there should be; of those that have no word for a refusal. Undefined where it can't be known. */
  isShort?: boolean;
};

/** @param pods the workload's own. Only a ReplicaSet's are looked at, whose status says nothing of their template. */
export function rolloutState(kind: WorkloadKind, workload: Json, pods?: Json[]): RolloutState {
  const { spec, status = {} } = workload;
  const total = replicasOf(kind, workload);
  const waiting = (ready: number, text: string) => ({ done: false, ready, total, text });
  const one = sessionOf(workload)?.one;
  // Of those replaced: the ones that are not ready are among them, as a controller waits for each.
  const readyOf = (updated: number, ready: number) => Math.max(0, updated - Math.max(0, total - ready));
  const done = { done: true, ready: total, total, text: `${total} of ${total} pods ready` };
  if (kind === 'pod') {
    if (status.phase === 'Failed')
      return { ...waiting(0, 'it has ended'), failure: `${status.reason ?? 'it failed'} ${status.message ?? ''}` };
    return isReady(workload)
      ? done
      : waiting(0, status.phase === 'Running' ? 'waiting until the pod is ready' : 'waiting for the pod');
  }
  if (!isSeen(workload)) return waiting(0, 'waiting for the controller to see the change');
  if (kind === 'daemonset') {
    const { updatedNumberScheduled: updated = 0, numberAvailable: available = 0, currentNumberScheduled = 0 } = status;
    // With a surge the pod of before stays until the new one is there.
    const surges = Number.parseInt(spec.updateStrategy?.rollingUpdate?.maxSurge ?? 0, 10) > 0;
    const also = surges ? {} : { isShort: currentNumberScheduled < total };
    const due = Math.min(total, one ? 1 : total);
    if (updated < due)
      return { ...waiting(readyOf(updated, available), `${updated} of ${due} pods replaced`), ...also };
    if (available < total) return { ...waiting(available, `${available} of ${total} pods ready`), ...also };
    return done;
  }
  if (kind === 'statefulset') {
    const { readyReplicas: ready = 0, updatedReplicas: updated = 0, updateRevision, currentRevision } = status;
    const onDelete = spec.updateStrategy?.type === 'OnDelete';
    const partial = onDelete || partitionOf(workload) > 0;
    // Where both revisions are one, those below the partition count as updated too.
    const due = updateRevision === currentRevision ? total : onDelete && one ? 1 : servedOf(kind, workload);
    const also = { isShort: (status.replicas ?? 0) < total };
    if (updated < due) return { ...waiting(readyOf(updated, ready), `${updated} of ${due} pods replaced`), ...also };
    if (ready < total) return { ...waiting(ready, `${ready} of ${total} pods ready`), ...also };
    if (updateRevision !== currentRevision && !partial)
      return waiting(updated, 'waiting for the last pod to become ready');
    return done;
  }
  if (kind === 'replicaset') {
    const session = sessionOf(workload)?.id;
    const active = pods?.filter((pod) => !pod.metadata.deletionTimestamp);
    const updated = active ? active.filter((pod) => sessionOfPod(pod.spec) === session).length : total;
    const due = Math.min(total, one ? 1 : total);
    // Of the pods as they are: the status may be of those before.
    const available = active ? active.filter(isReady).length : (status.availableReplicas ?? 0);
    const also = { isShort: active !== undefined && active.length < total };
    if (updated < due)
      return { ...waiting(readyOf(updated, available), `${updated} of ${due} pods replaced`), ...also };
    if (available < total) return { ...waiting(available, `${available} of ${total} pods ready`), ...also };
    return done;
  }
  if (kind === 'rollout') return argoState(workload, total) ?? done;
  const { replicas = 0, updatedReplicas: updated = 0, availableReplicas: available = 0, conditions = [] } = status;
  const condition = (type: string) => (conditions as Json[]).find((each) => each.type === type);
  const failed = condition('ReplicaFailure');
  const old = replicas - updated;
  const ready = Math.min(updated, Math.max(0, available - old));
  const late = condition('Progressing')?.reason === LATE;
  const failure = late ? { failure: failed?.message ?? condition('Progressing').message } : {};
  const refusal = failed?.status === 'True' ? { refusal: failed.message } : {};
  const also = { ...failure, ...refusal };
  if (updated < total) return { ...waiting(ready, `${updated} of ${total} pods replaced`), ...also };
  if (old > 0) return { ...waiting(ready, `${old} old ${old === 1 ? 'pod is' : 'pods are'} ending`), ...also };
  if (available < updated) return { ...waiting(ready, `${available} of ${total} pods ready`), ...also };
  return done;
}

/**
 * Of an Argo Rollout whose controller has seen its template; undefined when it is over. Its controller sums up its own status
 * (argo-rollouts utils/rollout/rolloututil.go, `CalculateRolloutPhase`).
 */
function argoState({ spec, status }: Json, total: number): RolloutState | undefined {
  const { phase, message = '', updatedReplicas: updated = 0, availableReplicas: available = 0 } = status;
  const { currentPodHash, stableRS, currentStepIndex, pauseConditions = [], conditions = [] } = status;
  if (phase === 'Healthy' && currentPodHash === stableRS) return undefined;
  const refused = (conditions as Json[]).find((each) => each.type === 'ReplicaFailure' && each.status === 'True');
  const state = (text: string): RolloutState => ({
    ...{ done: false, ready: Math.min(updated, available, total), total, text },
    ...(refused ? { refusal: refused.message } : {}),
    ...(phase === 'Degraded' ? { failure: refused?.message ?? message } : {}),
  });
  const [pause] = pauseConditions as Json[];
  if (pause) {
    const steps = spec.strategy?.canary?.steps ?? [];
    const where = steps.length > 0 ? `at step ${(currentStepIndex ?? 0) + 1} of ${steps.length} ` : '';
    return state(`it waits ${where}for somebody to promote it (${pause.reason})`);
  }
  if (updated < total) return state(`${updated} of ${total} pods replaced`);
  if (available < total) return state(`${available} of ${total} pods ready`);
  return state(oneLine(message) || 'waiting for its controller');
}

async function podsOf(cluster: Cluster, { metadata, spec }: Json): Promise<Json[]> {
  const path = `/api/v1/namespaces/${metadata.namespace}/pods`;
  const list = await cluster.request('GET', path, { query: { labelSelector: selectorString(spec.selector) } });
  return list.items;
}

const LATE = 'ProgressDeadlineExceeded';

/** Since when (RFC 3339) a Deployment's or Rollout's deadline is exceeded. */
function lateSince({ status }: Json): string | undefined {
  return ((status?.conditions ?? []) as Json[]).find(({ reason }) => reason === LATE)?.lastUpdateTime;
}

/** StatefulSets and DaemonSets say only in events that their pods are refused. */
async function refusedPods(cluster: Cluster, ref: WorkloadRef): Promise<string | undefined> {
  if (['deployment', 'rollout', 'pod'].includes(ref.kind)) return undefined;
  const fieldSelector = `involvedObject.name=${ref.name},reason=FailedCreate,type=Warning`;
  const path = `/api/v1/namespaces/${ref.namespace}/events`;
  // Not everybody may read events; then the time limit has to do.
  const list = await cluster.request('GET', path, { query: { fieldSelector } }).catch(() => undefined);
  const since = cluster.nowMs() - 60_000;
  const recent = ((list?.items ?? []) as Json[]).filter(
    (event) =>
      event.involvedObject.kind.toLowerCase() === ref.kind &&
      Date.parse(event.lastTimestamp ?? event.eventTime ?? event.metadata.creationTimestamp) > since,
  );
  return recent.at(-1)?.message;
}
