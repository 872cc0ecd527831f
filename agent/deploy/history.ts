import { unlessGone } from '../restore/api.ts';
import { sessionOf, sessionOfPod } from '../restore/record.ts';
import { LpkError } from '../wire/errors.ts';
import type { Cluster, Json } from './kube.ts';
import { readWorkload, WORKLOAD_KINDS, type WorkloadKind, type WorkloadRef, workloadRef } from './workload.ts';

/** The agent in workloads' histories, from where `kubectl rollout undo` would bring it back. */

const RESOURCES = ['replicasets', 'controllerrevisions'] as const;

/**
 * Removes agents' templates from the workload's history. What is in use stays, so it is to be called when the rollout after
 * `restore` is over. Without the right to (list and delete ReplicaSets or ControllerRevisions), and when the workload is gone, it
 * does nothing.
 *
 * @returns how many it removed.
 */
export async function forgetHistory(cluster: Cluster, ref: WorkloadRef): Promise<number> {
  const resource = ref.kind === 'deployment' ? 'replicasets' : 'controllerrevisions';
  return await unlessRefused(0, async () => {
    const workload = await readWorkload(cluster, ref);
    let removed = 0;
    for (const revision of await agentRevisions(cluster, resource, ref.namespace)) {
      const { metadata, session } = revision;
      if (!metadata.ownerReferences?.some(({ uid }: Json) => uid === workload.metadata.uid)) continue;
      if (session === sessionOf(workload)?.id || isInUse(ref.kind, workload, revision)) continue;
      await unlessGone(cluster.request('DELETE', `${listPath(resource, ref.namespace)}/${metadata.name}`));
      removed++;
    }
    return removed;
  });
}

/** The workloads, of the cluster's namespace or of all, with an agent in their history. */
export async function withAgentsInHistory(
  cluster: Cluster,
  options: { allNamespaces?: boolean } = {},
): Promise<WorkloadRef[]> {
  const found = new Map<string, WorkloadRef>();
  for (const resource of RESOURCES) {
    const revisions = await unlessRefused([], () =>
      agentRevisions(cluster, resource, options.allNamespaces ? undefined : cluster.namespace),
    );
    for (const { metadata } of revisions) {
      const owner = ((metadata.ownerReferences ?? []) as Json[]).find(({ controller }) => controller);
      const kind = String(owner?.kind).toLowerCase() as WorkloadKind;
      if (!WORKLOAD_KINDS.includes(kind)) continue;
      const ref = workloadRef(kind, metadata.namespace, owner.name);
      found.set(ref.apiPath, ref);
    }
  }
  return [...found.values()];
}

type Revision = { metadata: Json; session: string; spec?: Json; status?: Json };

async function agentRevisions(
  cluster: Cluster,
  resource: (typeof RESOURCES)[number],
  namespace: string | undefined,
): Promise<Revision[]> {
  const { items = [] } = await cluster.request('GET', listPath(resource, namespace));
  return (items as Json[]).flatMap(({ metadata, spec, status, data }) => {
    const template = resource === 'replicasets' ? spec.template : data?.spec?.template;
    const session = sessionOfPod(template?.spec ?? {});
    return session ? [{ metadata, session, spec, status }] : [];
  });
}

/** Do pods run by it, or may they yet? A DaemonSet doesn't say by which: all do until the last pod was replaced. */
function isInUse(kind: WorkloadKind, { metadata, status = {} }: Json, revision: Revision): boolean {
  if (kind === 'deployment') return revision.spec?.replicas > 0 || revision.status?.replicas > 0;
  if (!(status.observedGeneration >= metadata.generation)) return true;
  const { name } = revision.metadata;
  if (kind === 'statefulset') return status.currentRevision === name || status.updateRevision === name;
  return (status.updatedNumberScheduled ?? 0) < (status.desiredNumberScheduled ?? 0);
}

function listPath(resource: string, namespace: string | undefined): string {
  return `/apis/apps/v1/${namespace ? `namespaces/${namespace}/` : ''}${resource}`;
}

async function unlessRefused<T>(otherwise: T, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof LpkError && (error.code === 'forbidden' || error.code === 'not-found')) return otherwise;
    throw error;
  }
}
