import type { Api, Json } from './api.ts';
import { patch } from './patch.ts';
import { untilSeen } from './seen.ts';

/**
 * Argo Rollouts: a changed template reaches their pods step by step, and may wait at one for a person. A session is no release
 * that is to be tried on a few: its template goes to all pods at once, and so does the one from before.
 */

/** What the controller knows a Rollout's present template by; of other kinds, and before it has seen it, undefined. */
export function templateHash(kind: string, { status }: Json): string | undefined {
  return kind === 'rollout' ? status?.currentPodHash : undefined;
}

/**
 * Has the present template take the place of the last one without steps, pauses and analyses, as `kubectl argo rollouts promote
 * --full` does (argo-rollouts v1.10, pkg/kubectl-argo-rollouts/cmd/promote/promote.go). `only`: if it is this one, by its hash.
 * LpkError: what requests throw.
 */
export async function promote(api: Api, { apiPath }: { apiPath: string }, only?: string): Promise<void> {
  // Before: the controller takes a promotion back when it sees another template.
  const { status = {} } = await untilSeen(api, { apiPath });
  const { currentPodHash, stableRS, promoteFull } = status;
  if (currentPodHash === stableRS || promoteFull || (only !== undefined && only !== currentPodHash)) return;
  await patch(api, { apiPath: `${apiPath}/status` }, [{ op: 'add', path: '/status/promoteFull', value: true }]);
}
