import { LpkError } from '../wire/errors.ts';
import { type Api, type Json, unlessGone } from './api.ts';
import { isSeen } from './seen.ts';

/** The agent's templates in a workload's history, from where `kubectl rollout undo` would bring one back. */

/** Where a workload's revisions are: `/apis/apps/v1/namespaces/shop/replicasets`. */
export function revisionsPath({ kind, namespace }: { kind: string; namespace: string | undefined }): string {
  const within = namespace ? `namespaces/${namespace}/` : '';
  return `/apis/apps/v1/${within}${revisionsOf(kind)}`;
}

/** ReplicaSets and pods have none. */
export function hasHistory(kind: string): boolean {
  return ['deployment', 'statefulset', 'daemonset', 'rollout'].includes(kind);
}

export function revisionsOf(kind: string): string {
  return ['deployment', 'rollout'].includes(kind) ? 'replicasets' : 'controllerrevisions';
}

/** Do pods run by it, or may they yet? A DaemonSet doesn't say by which: all do until the last pod was replaced. */
export function isInUse(kind: string, { metadata, status = {} }: Json, revision: Json): boolean {
  // Its status says nothing of the pods that are being made just now.
  if (kind === 'deployment') return !isSeen(revision) || revision.spec?.replicas > 0 || revision.status?.replicas > 0;
  if (!isSeen({ metadata, status })) return true;
  if (kind === 'rollout') {
    // Argo keeps the pods of the last one for a while (scaleDownDelaySeconds), which is for going back to it: not to an agent.
    const hash = revision.metadata.labels?.['rollouts-pod-template-hash'];
    const { currentPodHash, stableRS, blueGreen = {} } = status;
    return [currentPodHash, stableRS, blueGreen.activeSelector, blueGreen.previewSelector].includes(hash);
  }
  const { name } = revision.metadata;
  if (kind === 'statefulset') return status.currentRevision === name || status.updateRevision === name;
  return (status.updatedNumberScheduled ?? 0) < (status.desiredNumberScheduled ?? 0);
}

/** Deletes a revision that no pod needs any more. LpkError: what requests throw. @returns whether it is gone. */
export async function forgetRevision(
  api: Api,
  held: { kind: string; namespace: string; apiPath: string },
  name: string,
): Promise<boolean> {
  const path = `${revisionsPath(held)}/${name}`;
  try {
    const [workload, revision] = await Promise.all([api.request('GET', held.apiPath), api.request('GET', path)]);
    if (isInUse(held.kind, workload, revision)) return false;
  } catch (error) {
    if (error instanceof LpkError && error.code === 'not-found') return true; // with its workload, or before
    throw error;
  }
  await unlessGone(api.request('DELETE', path));
  return true;
}
