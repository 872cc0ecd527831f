import { setTimeout as sleep } from 'node:timers/promises';
import { unlessGone } from '../restore/api.ts';
import { hasHistory, isInUse, revisionsOf, revisionsPath } from '../restore/history.ts';
import { sessionOf, sessionOfPod } from '../restore/record.ts';
import { LpkError } from '../wire/errors.ts';
import type { Cluster, Json } from './kube.ts';
import { kindOf, readWorkload, type WorkloadKind, type WorkloadRef, workloadRef } from './workload.ts';

/** The agent in workloads' histories, from where `kubectl rollout undo` would bring it back. */

const SCALED_DOWN_MS = 10_000;
const LOOK_MS = 100;

/**
 * Removes agents' templates from the workload's history. What is in use stays, so it is to be called when the rollout after
 * `restore` is over. Without the right to (list and delete ReplicaSets or ControllerRevisions), and when the workload is gone, it
 * does nothing.
 *
 * @returns how many it removed, and how many stayed: of a session that is over, but whose pods are not yet.
 */
export async function forgetHistory(cluster: Cluster, ref: WorkloadRef): Promise<{ removed: number; stayed: number }> {
  const none = { removed: 0, stayed: 0 };
  if (!hasHistory(ref.kind)) return none;
  return await unlessRefused(none, async () => {
    const workload = await readWorkload(cluster, ref);
    const agents = (await agentRevisions(cluster, ref)).filter(
      ({ metadata, session }) =>
        metadata.ownerReferences?.some(({ uid }: Json) => uid === workload.metadata.uid) &&
        session !== sessionOf(workload)?.id,
    );
    const unused = agents.filter((revision) => !isInUse(ref.kind, workload, revision));
    for (const { metadata } of unused)
      await unlessGone(cluster.request('DELETE', `${revisionsPath(ref)}/${metadata.name}`));
    return { removed: unused.length, stayed: agents.length - unused.length };
  });
}

/**
 * As `forgetHistory`, when `waitRollout` has seen the workload's own pods: a Deployment's status counts those before its controller
 * has scaled down a ReplicaSet of agents that it made just now.
 */
export async function forgetHistoryAfterRollout(
  cluster: Cluster,
  ref: WorkloadRef,
): Promise<{ removed: number; stayed: number }> {
  const until = performance.now() + SCALED_DOWN_MS;
  for (let removed = 0; ; await sleep(LOOK_MS)) {
    const now = await forgetHistory(cluster, ref);
    removed += now.removed;
    if (now.stayed === 0 || performance.now() > until) return { removed, stayed: now.stayed };
  }
}

/** The workloads, of the cluster's namespace or of all, with an agent in their history. */
export async function withAgentsInHistory(
  cluster: Cluster,
  options: { allNamespaces?: boolean } = {},
): Promise<WorkloadRef[]> {
  const found = new Map<string, WorkloadRef>();
  const namespace = options.allNamespaces ? undefined : cluster.namespace;
  for (const kind of ['deployment', 'statefulset'] as const) {
    const revisions = await unlessRefused([], () => agentRevisions(cluster, { kind, namespace }));
    for (const { metadata } of revisions) {
      const owner = ((metadata.ownerReferences ?? []) as Json[]).find(({ controller }) => controller);
      const owning = kindOf(owner);
      if (!owning) continue;
      const ref = workloadRef(owning, metadata.namespace, owner?.name);
      found.set(ref.apiPath, ref);
    }
  }
  return [...found.values()];
}

type Revision = { metadata: Json; session: string; spec?: Json; status?: Json };

async function agentRevisions(
  cluster: Cluster,
  of: { kind: WorkloadKind; namespace: string | undefined },
): Promise<Revision[]> {
  const { items = [] } = await cluster.request('GET', revisionsPath(of));
  return (items as Json[]).flatMap(({ metadata, spec, status, data }) => {
    const template = revisionsOf(of.kind) === 'replicasets' ? spec.template : data?.spec?.template;
    const session = sessionOfPod(template?.spec ?? {});
    return session ? [{ metadata, session, spec, status }] : [];
  });
}

async function unlessRefused<T>(otherwise: T, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof LpkError && (error.code === 'forbidden' || error.code === 'not-found')) return otherwise;
    throw error;
  }
}
