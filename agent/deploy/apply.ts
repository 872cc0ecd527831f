import { retryOnConflict, unlessGone } from '../restore/api.ts';
import { following, indexInStatefulSet, partitionOf } from '../restore/follow.ts';
import { leasesPath, renewedMs, silenceMs } from '../restore/lease.ts';
import { patch } from '../restore/patch.ts';
import { manifestOf, readPod, SAVED_POD_KEY, type SavedPod, savedPath } from '../restore/pod.ts';
import { promote } from '../restore/promote.ts';
import { type PodsOf, putBack, type RestoreOutcome, unblock } from '../restore/put-back.ts';
import {
  type Holder,
  heldError,
  POD_ANNOTATION,
  type PodRecord,
  podRecordOf,
  type SessionRecord,
  sessionOf,
} from '../restore/record.ts';
import { LpkError } from '../wire/errors.ts';
import {
  AGENT_IMAGE,
  type AgentConfig,
  agentObjects,
  MANAGED_BY,
  objectName,
  SESSION_LABEL,
  sessionOfPod,
} from './agent-container.ts';
import { type ProxyRecord, proxyRecord, removeAgentPod } from './agent-pod.ts';
import { agentsPod, claimPod, replacePod } from './bare-pod.ts';
import { besidePod } from './beside.ts';
import type { Target } from './find.ts';
import type { Cluster, Json } from './kube.ts';
import type { RaisedLimit } from './limits.ts';
import { overtake } from './overtake.ts';
import { createLease, createRestorer, type LeaseSpec, type Owner, removeRestorer } from './restorer.ts';
import { assignedUser, planSwap } from './swap.ts';
import {
  ALL_KINDS,
  assertServable,
  isReady,
  isUnknownKind,
  kindOf,
  listPath,
  METADATA_ONLY,
  readWorkload,
  selectorString,
  type WorkloadKind,
  type WorkloadRef,
  workloadName,
  workloadRef,
} from './workload.ts';

/** Puts the agent into a workload and takes it out. */

export type SwapSpec = AgentConfig & {
  image?: string;
  /** 64 hex characters. */
  key: string;
  /** The agent, one file (`bundle.ts`). */
  bundle: string;
  /** Who, for others to read: a user's name and the laptop's. */
  owner: string;
  host: string;
  /** Container ports to listen on; unless told otherwise all that the target's container and its Services name. */
  servedPorts?: number[];
  /** Undefined: without a Lease, and so without a restorer. */
  lease?: LeaseSpec;
};

/** A workload that is held, or was. */
export type HeldWorkload = WorkloadRef & {
  uid: string;
  session: string;
  /** Of a bare pod: it is this session's. */
  claimed?: boolean;
  /** Why there is no Lease or no restorer although they were asked for: what the API server said. */
  refused?: LpkError;
  /** Of a pod beside a workload's: what makes it. */
  manifest?: Json;
  /** Of its container, while it is held. */
  raised?: RaisedLimit[];
};

/**
 * Makes `target`'s container the agent. Of two that try at once, one wins. When it fails nothing is left behind (or, if
 * the cluster can't be reached any more, the error says so). LpkError: `already-held`, `not-found`, `conflict`,
 * `unsupported-workload`, `no-replicas`, and what requests throw. Rights are `preflight`'s to check, before.
 */
export async function swapIn(cluster: Cluster, target: Target, spec: SwapSpec): Promise<HeldWorkload> {
  const { kind, namespace, name, apiPath } = target;
  const held: HeldWorkload = { kind, namespace, name, apiPath, uid: target.uid, session: spec.session };
  const holder: Holder = { id: spec.session, owner: spec.owner, host: spec.host, since: new Date().toISOString() };
  const { image = AGENT_IMAGE, session, probePort, readiness } = spec;
  const served = [
    ...target.containerPorts.map(({ port }) => port),
    ...target.servicePorts.map((each) => each.targetPort),
  ];
  const on = target.beside ?? target;
  let workload = await readWorkload(cluster, on);
  const admitted = await admittedSpec(cluster, workload);
  const agent = {
    ...{ session, image, probePort, servedPorts: spec.servedPorts ?? served, readiness, admitted },
    one: target.one,
  };
  // Before anything is made: the usual refusals then leave nothing to undo.
  assertServable(on.kind, workload);
  const { swapped, record: changes, raised } = planSwap(workload, target.container, agent, holder);
  const record: SessionRecord = { ...changes, changed: [] }; // of a pod, which is made anew as a whole
  const saved = kind === 'pod' && !target.beside ? savedPod(workload) : undefined;
  let unanswered = false;
  const changing = (request: Promise<unknown>) =>
    request.catch((error: unknown) => {
      unanswered ||= error instanceof LpkError && error.code === 'cluster-unreachable';
      throw error;
    });
  try {
    const refused = await createObjects(cluster, target, workload, {
      ...spec,
      holder,
      user: assignedUser(workload, target.container, admitted),
      ...(saved ? { saved } : {}),
    });
    if (refused) held.refused = refused;
    if (kind === 'pod') held.raised = raised;
    if (target.beside) {
      const body = besidePod(workload, target.container, agent, holder);
      await create(cluster, listPath('pod', namespace), body);
      held.manifest = body;
      return held;
    }
    if (saved) {
      await changing(claimPod(cluster, target, saved, record));
      held.claimed = true;
      await replacePod(cluster, target, session, agentsPod(saved, swapped.spec.template.spec, record));
      return held;
    }
    await retryOnConflict(async () => {
      try {
        assertServable(kind, workload);
        const plan = planSwap(workload, target.container, agent, holder);
        await changing(patch(cluster, target, plan.ops));
        held.raised = plan.raised;
      } catch (error) {
        workload = await readWorkload(cluster, target);
        const holding = sessionOf(workload);
        // Ours although it failed: the patch went through and only its answer was lost.
        if (holding?.id === session) return;
        if (holding) throw heldError(workload, holding);
        throw error;
      }
    });
    if (kind === 'rollout') await promote(cluster, target);
    await unblock(cluster, target, podsOf(cluster, namespace), (pods, now) => podsToReplace(kind, pods, now));
    return held;
  } catch (error) {
    await undo(cluster, held, { error, unanswered });
    throw error;
  }
}

/** Of a name that is the session's alone: it is there because an earlier try's answer was lost. */
async function create(cluster: Cluster, path: string, body: Json): Promise<void> {
  await cluster.request('POST', path, { body }).catch((error: unknown) => {
    if (!(error instanceof LpkError) || error.code !== 'conflict') throw error;
  });
}

/** After a failed swap. That this fails too must not hide why the swap failed. */
async function undo(
  cluster: Cluster,
  held: HeldWorkload,
  { error, unanswered }: { error: unknown; unanswered: boolean },
): Promise<void> {
  try {
    if (unanswered) await overtake(cluster, held);
    if (await isUntouched(cluster, held)) await removeObjects(cluster, held.namespace, held.session);
    else await restore(cluster, held);
  } catch (second) {
    const { kind, namespace, name, session } = held;
    const left = `${objectName(session)} may be left in namespace ${namespace}: run lpk restore ${kind}/${name}`;
    const first = error instanceof LpkError ? error : new LpkError('internal', String(error), { cause: error });
    throw new LpkError(first.code, `${first.message}; ConfigMap and Secret ${left}`, { cause: [error, second] });
  }
}

/** A pod that is not there may be in somebody else's hands, who is about to make it anew: unless it was ours it is theirs. */
async function isUntouched(cluster: Cluster, held: HeldWorkload): Promise<boolean> {
  if (held.kind !== 'pod' || held.claimed) return false;
  const pod = await readPod(cluster, held);
  return !pod || sessionOf(pod)?.id !== held.session;
}

/** @returns why it has to do without Lease or restorer, if it has to. */
async function createObjects(
  cluster: Cluster,
  target: Target,
  workload: Json,
  spec: SwapSpec & { holder: Holder; user: number | undefined; saved?: SavedPod },
): Promise<LpkError | undefined> {
  const { namespace, name, uid } = workload.metadata;
  const { image, owner: person, host, servedPorts: _, lease, key, bundle, holder, saved, user, ...config } = spec;
  const base = `/api/v1/namespaces/${namespace}`;
  let owner: Owner | undefined = { apiVersion: workload.apiVersion, kind: workload.kind, name, uid };
  let refused: LpkError | undefined;
  const without = (error: unknown) => {
    // Without an answer nothing else would work either.
    if (!(error instanceof LpkError) || error.code === 'cluster-unreachable') throw error;
    refused = error;
  };
  const objects = () => agentObjects({ config, key, bundle, ...(owner ? { owner } : {}) });
  const withRecord = (configMap: Json) => {
    if (target.kind === 'pod') configMap.metadata.annotations = { [POD_ANNOTATION]: podRecord(target, holder) };
    return configMap;
  };
  if (saved) {
    // What the pod was must outlive it, and so must all else: here the ConfigMap owns the Lease.
    owner = undefined;
    const { configMap } = objects();
    configMap.data[SAVED_POD_KEY] = JSON.stringify(saved);
    await create(cluster, `${base}/configmaps`, withRecord(configMap));
    const made = await cluster.request('GET', savedPath(namespace, spec.session));
    owner = { apiVersion: 'v1', kind: 'ConfigMap', name: made.metadata.name, uid: made.metadata.uid };
  }
  if (lease && owner) {
    const given = { namespace, session: spec.session, silenceMs: lease.silenceMs, person, host, owner };
    const made = await createLease(cluster, given).catch(without);
    if (made) owner = made;
  }
  const { configMap, secret } = objects();
  const restorer = async () => {
    if (!lease?.restorer || owner?.kind !== 'Lease') return;
    const given = { ref: target, session: spec.session, lease: owner, user, ...(image ? { image } : {}) };
    await createRestorer(cluster, workload, given).catch(without);
  };
  // All to their end, so that a clean-up finds whatever was made.
  const made = await Promise.allSettled([
    create(cluster, `${base}/secrets`, secret),
    ...(saved ? [] : [create(cluster, `${base}/configmaps`, withRecord(configMap))]),
    restorer(),
  ]);
  for (const each of made) if (each.status === 'rejected') throw each.reason;
  return refused;
}

/**
 * Puts a workload back as its annotation says, then removes all that is the session's own. May be called any number of
 * times; a workload that was deleted meanwhile is fine. With a `session` it only undoes that one, without it any.
 */
export async function restore(cluster: Cluster, held: WorkloadRef & { session?: string }): Promise<RestoreOutcome> {
  const outcome = await putBack(cluster, held, podsOf(cluster, held.namespace));
  const id = held.session ?? outcome.session?.id;
  if (id) await removeObjects(cluster, held.namespace, id);
  return outcome;
}

/** By the workload's own selector. */
export function podsOf(cluster: Cluster, namespace: string): PodsOf {
  return async ({ spec }) => {
    const path = `/api/v1/namespaces/${namespace}/pods`;
    const list = await cluster.request('GET', path, { query: { labelSelector: selectorString(spec.selector) } });
    return list.items;
  };
}

function savedPod({ metadata, spec }: Json): SavedPod {
  return { uid: metadata.uid, manifest: manifestOf({ metadata, spec: spec.template.spec }) };
}

/** For who looks for sessions: by the ConfigMap, as the pod may be gone. */
function podRecord({ name, container, beside }: Target, holder: Holder): string {
  const record: PodRecord = {
    ...{ v: 1, ...holder, container, changed: [], pod: name },
    ...(beside ? { beside: workloadName(beside) } : {}),
  };
  return JSON.stringify(record);
}

/** All that is a session’s own; that it is gone is fine. */
export async function removeObjects(cluster: Cluster, namespace: string, session: string): Promise<void> {
  const name = objectName(session);
  const remove = (resource: string) =>
    unlessGone(cluster.request('DELETE', `/api/v1/namespaces/${namespace}/${resource}/${name}`));
  await Promise.all([remove('secrets'), remove('configmaps'), removeRestorer(cluster, namespace, session)]);
}

/** Of a pod of the workload's own, if there is one. */
async function admittedSpec(cluster: Cluster, workload: Json): Promise<Json> {
  if (workload.kind === 'Pod') return workload.spec.template.spec;
  const pods = await podsOf(cluster, workload.metadata.namespace)(workload);
  return pods.find(({ metadata, spec }) => !metadata.deletionTimestamp && !sessionOfPod(spec))?.spec;
}

/** Of a workload's pods those that have to be deleted for the agent to come; see `following`. */
function podsToReplace(kind: WorkloadKind, pods: Json[], workload: Json): Json[] {
  const old = pods.filter(({ spec }) => !sessionOfPod(spec));
  if (following(kind, workload) === 'when-ready') {
    // A workload that doesn't run is what people want to debug.
    return old.filter((pod) => !isReady(pod) && indexInStatefulSet(pod, workload) >= partitionOf(workload));
  }
  if (!sessionOf(workload)?.one) return old;
  if (old.length < pods.length) return []; // done before
  // The newest of a StatefulSet, as its own partition would have it; of others any.
  const index = (pod: Json) => (kind === 'statefulset' ? indexInStatefulSet(pod, workload) : 0);
  return old.toSorted((a, b) => index(b) - index(a)).slice(0, 1);
}

/** A session found in the cluster. Without a workload its ConfigMap or Secret is an orphan. */
export type FoundSession = {
  id: string;
  namespace: string;
  /** Of an orphan: when it was made (ISO 8601). A young one may be a session just being started. */
  createdAt?: string;
  workload?: WorkloadRef;
  record?: SessionRecord;
  /** Of an orphan: the workload that owns it, which it held or was about to hold. */
  owner?: WorkloadRef;
  /** It is a proxy's, whose pod takes no workload's place. */
  proxy?: ProxyRecord;
  /** When the laptop was last heard of (ISO 8601, by the API server's clock), how long it may be silent, and whose it is (`leaseHolder`). */
  lease?: { renewedAt: string; silenceMs: number; holder: string };
};

/** As owners name them. */
const RARE: Partial<Record<WorkloadKind, string>> = { replicaset: 'ReplicaSet', rollout: 'Rollout' };

/** All sessions in the cluster's namespace or in all: held workloads, and objects whose session no workload holds. */
export async function findSessions(
  cluster: Cluster,
  options: { allNamespaces?: boolean } = {},
): Promise<FoundSession[]> {
  const namespace = options.allNamespaces ? undefined : cluster.namespace;
  const list = async (path: string): Promise<Json[]> =>
    (await cluster.request('GET', path, { accept: METADATA_ONLY })).items ?? [];
  const sessions: FoundSession[] = [];
  const unreadable = new Set<string>();
  const unlisted = new Set<string>();
  for (const kind of ALL_KINDS) {
    const objects = await list(listPath(kind, namespace)).catch((error: unknown) => {
      if (isUnknownKind(kind, error)) return [];
      // Few have ReplicaSets of their own or Rollouts, and who may not see them serves none.
      const rare = RARE[kind];
      if (!rare || !(error instanceof LpkError) || error.code !== 'forbidden') throw error;
      unlisted.add(rare);
      return [];
    });
    for (const object of objects) {
      const { namespace: of, name, uid, ownerReferences = [] } = object.metadata;
      // A Deployment's annotations are its ReplicaSets' too.
      if (kind === 'replicaset' && (ownerReferences as Json[]).some(({ controller }) => controller)) continue;
      try {
        const record = sessionOf(object);
        if (record) sessions.push({ id: record.id, namespace: of, workload: workloadRef(kind, of, name), record });
      } catch {
        // `restore` of that workload says why. It is held all the same, by a newer lpk perhaps: its objects are no orphans.
        unreadable.add(uid);
      }
    }
  }
  const known = new Map(sessions.map((each) => [`${each.namespace}/${each.id}`, each]));
  const labelSelector = selectorString({ matchLabels: MANAGED_BY });
  const lists: [path: string, accept: string | undefined][] = [
    [leasesPath(namespace), undefined], // first, as a Lease owns the others
    [`/api/v1/${namespace ? `namespaces/${namespace}/` : ''}configmaps`, METADATA_ONLY],
    [`/api/v1/${namespace ? `namespaces/${namespace}/` : ''}secrets`, METADATA_ONLY],
  ];
  for (const [path, accept] of lists) {
    // Many may not list Secrets, some no Leases; a session's ConfigMap has the same name.
    const objects = await cluster.request('GET', path, { accept, query: { labelSelector } }).catch((error: unknown) => {
      if (!path.endsWith('configmaps') && error instanceof LpkError && error.code === 'forbidden') return { items: [] };
      throw error;
    });
    for (const { metadata, spec } of (objects.items ?? []) as Json[]) {
      const id = metadata.labels[SESSION_LABEL];
      if (!id) continue;
      const owners = (metadata.ownerReferences ?? []) as Json[];
      if (owners.some(({ kind, uid }) => unreadable.has(uid) || unlisted.has(kind))) {
        unreadable.add(metadata.uid);
        continue;
      }
      const key = `${metadata.namespace}/${id}`;
      const proxy = proxyRecord(metadata);
      const { namespace: of, creationTimestamp: createdAt } = metadata;
      const session: FoundSession = known.get(key) ?? { id, namespace: of, createdAt, ...(proxy ? { proxy } : {}) };
      const owner = owners.find((each) => kindOf(each));
      if (owner && !session.workload) session.owner = workloadRef(kindOf(owner) as WorkloadKind, of, owner.name);
      const pod = podRecordOf(metadata);
      if (pod) Object.assign(session, { workload: workloadRef('pod', of, pod.pod), record: pod });
      if (spec?.renewTime) {
        const renewedAt = new Date(renewedMs({ metadata, spec })).toISOString();
        session.lease = { renewedAt, silenceMs: silenceMs({ spec }), holder: spec.holderIdentity ?? '' };
      }
      if (!known.has(key)) sessions.push(session);
      known.set(key, session);
    }
  }
  return sessions;
}

/** Removes what a session without a workload left; of a proxy, its pod too. LpkError: what requests throw. */
export async function removeOrphan(cluster: Cluster, { namespace, id, proxy, owner }: FoundSession): Promise<void> {
  if (proxy) await removeAgentPod(cluster, namespace, id);
  // Whoever put its workload back may have died before the last steps of that.
  else if (owner) await restore(cluster, { ...owner, session: id });
  else await removeObjects(cluster, namespace, id);
}
