import { retryOnConflict, unlessGone } from '../restore/api.ts';
import { leasesPath, silenceMs } from '../restore/lease.ts';
import { type PodsOf, patch, putBack, type RestoreOutcome, unblock } from '../restore/put-back.ts';
import { type Holder, heldError, type SessionRecord, sessionOf } from '../restore/record.ts';
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
import type { Target } from './find.ts';
import type { Cluster, Json } from './kube.ts';
import type { RaisedLimit } from './limits.ts';
import { createLease, createRestorer, type LeaseSpec, type Owner, removeRestorer } from './restorer.ts';
import { assignedUser, planSwap } from './swap.ts';
import {
  assertServable,
  listPath,
  readWorkload,
  selectorString,
  WORKLOAD_KINDS,
  type WorkloadRef,
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
  /** Why there is no Lease or no restorer although they were asked for: what the API server said. */
  refused?: LpkError;
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
  let workload = await readWorkload(cluster, target);
  const admitted = await admittedSpec(cluster, workload);
  const agent = { session, image, probePort, servedPorts: spec.servedPorts ?? served, readiness, admitted };
  // Before anything is made: the usual refusals then leave nothing to undo.
  assertServable(kind, workload);
  planSwap(workload, target.container, agent, holder);
  try {
    const refused = await createObjects(cluster, target, workload, {
      ...spec,
      user: assignedUser(workload, target.container, admitted),
    });
    if (refused) held.refused = refused;
    await retryOnConflict(async () => {
      try {
        assertServable(kind, workload);
        const { ops, raised } = planSwap(workload, target.container, agent, holder);
        await patch(cluster, target, ops);
        held.raised = raised;
      } catch (error) {
        workload = await readWorkload(cluster, target);
        const holding = sessionOf(workload);
        // Ours although it failed: the patch went through and only its answer was lost.
        if (holding?.id === session) return;
        if (holding) throw heldError(workload, holding);
        throw error;
      }
    });
    // A workload that doesn't run is what people want to debug.
    await unblock(cluster, target, podsOf(cluster, namespace), (pod) => !isReady(pod) && !sessionOfPod(pod.spec));
    return held;
  } catch (error) {
    await undo(cluster, held, error);
    throw error;
  }
}

/** After a failed swap. That this fails too must not hide why the swap failed. */
async function undo(cluster: Cluster, held: HeldWorkload, error: unknown): Promise<void> {
  try {
    await restore(cluster, held);
  } catch (second) {
    const { kind, namespace, name, session } = held;
    const left = `${objectName(session)} may be left in namespace ${namespace}: run lpk restore ${kind}/${name}`;
    const first = error instanceof LpkError ? error : new LpkError('internal', String(error), { cause: error });
    throw new LpkError(first.code, `${first.message}; ConfigMap and Secret ${left}`, { cause: [error, second] });
  }
}

/** @returns why it has to do without Lease or restorer, if it has to. */
async function createObjects(
  cluster: Cluster,
  ref: WorkloadRef,
  workload: Json,
  spec: SwapSpec & { user: number | undefined },
): Promise<LpkError | undefined> {
  const { metadata } = workload;
  let owner: Owner = { apiVersion: 'apps/v1', kind: workload.kind, name: metadata.name, uid: metadata.uid };
  const { image, owner: person, host, servedPorts: _, lease, key, bundle, user, ...config } = spec;
  let refused: LpkError | undefined;
  const without = (error: unknown) => {
    // Without an answer nothing else would work either.
    if (!(error instanceof LpkError) || error.code === 'cluster-unreachable') throw error;
    refused = error;
  };
  if (lease) {
    const given = { session: spec.session, owner: person, host, silenceMs: lease.silenceMs };
    const made = await createLease(cluster, workload, given).catch(without);
    if (made) owner = made;
  }
  const { configMap, secret } = agentObjects({ config, key, bundle, owner });
  const base = `/api/v1/namespaces/${metadata.namespace}`;
  const create = (resource: string, body: Json) =>
    cluster.request('POST', `${base}/${resource}`, { body }).catch((error: unknown) => {
      // The name is ours alone: it is there because an earlier try's answer was lost.
      if (!(error instanceof LpkError) || error.code !== 'conflict') throw error;
    });
  const restorer = async () => {
    if (!lease?.restorer || owner.kind !== 'Lease') return;
    const given = { ref, session: spec.session, lease: owner, user, ...(image ? { image } : {}) };
    await createRestorer(cluster, workload, given).catch(without);
  };
  // All to their end, so that a clean-up finds whatever was made.
  const made = await Promise.allSettled([create('secrets', secret), create('configmaps', configMap), restorer()]);
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

/** All that is a session’s own; that it is gone is fine. */
export async function removeObjects(cluster: Cluster, namespace: string, session: string): Promise<void> {
  const name = objectName(session);
  const remove = (resource: string) =>
    unlessGone(cluster.request('DELETE', `/api/v1/namespaces/${namespace}/${resource}/${name}`));
  await Promise.all([remove('secrets'), remove('configmaps'), removeRestorer(cluster, namespace, session)]);
}

/** Of a pod of the workload's own, if there is one. */
async function admittedSpec(cluster: Cluster, workload: Json): Promise<Json> {
  const pods = await podsOf(cluster, workload.metadata.namespace)(workload);
  return pods.find(({ metadata, spec }) => !metadata.deletionTimestamp && !sessionOfPod(spec))?.spec;
}

function isReady(pod: Json): boolean {
  return ((pod.status?.conditions ?? []) as Json[]).some(({ type, status }) => type === 'Ready' && status === 'True');
}

/** A session found in the cluster. Without a workload its ConfigMap or Secret is an orphan. */
export type FoundSession = {
  id: string;
  namespace: string;
  /** Of an orphan: when it was made (ISO 8601). A young one may be a session just being started. */
  createdAt?: string;
  workload?: WorkloadRef;
  record?: SessionRecord;
  /** It is a proxy's, whose pod takes no workload's place. */
  proxy?: ProxyRecord;
  /** When the laptop was last heard of (ISO 8601, by its own clock), how long it may be silent, and whose it is (`leaseHolder`). */
  lease?: { renewedAt: string; silenceMs: number; holder: string };
};

const METADATA_ONLY = 'application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json';

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
  for (const kind of WORKLOAD_KINDS) {
    for (const object of await list(listPath(kind, namespace))) {
      const { namespace: of, name, uid } = object.metadata;
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
  const labelSelector = Object.entries(MANAGED_BY)
    .map(([key, value]) => `${key}=${value}`)
    .join(',');
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
      if (((metadata.ownerReferences ?? []) as Json[]).some(({ uid }) => unreadable.has(uid))) {
        unreadable.add(metadata.uid);
        continue;
      }
      const key = `${metadata.namespace}/${id}`;
      const proxy = proxyRecord(metadata);
      const { namespace: of, creationTimestamp: createdAt } = metadata;
      const session: FoundSession = known.get(key) ?? { id, namespace: of, createdAt, ...(proxy ? { proxy } : {}) };
      if (spec?.renewTime) {
        const { renewTime: renewedAt, holderIdentity: holder = '' } = spec;
        session.lease = { renewedAt, silenceMs: silenceMs({ spec }), holder };
      }
      if (!known.has(key)) sessions.push(session);
      known.set(key, session);
    }
  }
  return sessions;
}

/** Removes what a session without a workload left; of a proxy, its pod too. */
export async function removeOrphan(cluster: Cluster, { namespace, id, proxy }: FoundSession): Promise<void> {
  await (proxy ? removeAgentPod(cluster, namespace, id) : removeObjects(cluster, namespace, id));
}
