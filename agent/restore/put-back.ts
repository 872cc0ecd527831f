import { LpkError } from '../wire/errors.ts';
import { type Api, type Json, retryOnConflict, unlessGone } from './api.ts';
import { following } from './follow.ts';
import { type PatchOp, sameVersion } from './json-patch.ts';
import { FIELD_MANAGER, patch } from './patch.ts';
import { planRestore } from './plan.ts';
import { putBackPod } from './pod.ts';
import { promote } from './promote.ts';
import { SESSION_ANNOTATION, type SessionRecord, sessionOf, sessionOfPod } from './record.ts';
import { untilSeen } from './seen.ts';

/** Puts a workload back, from the laptop or from the restorer in the cluster: the same steps by whatever way there is to ask. */

/** `session`: only that one's swap is undone; without it any. `template`: see `SessionRecord`; for when that is gone. */
export type Held = { kind: string; namespace: string; apiPath: string; session?: string; template?: string };

/** What a restore did. `removed`: it was a pod of lpk's own. `kept`: fields that somebody else changed meanwhile and that stay theirs. */
export type RestoreOutcome = {
  workload: 'restored' | 'removed' | 'not-held' | 'held-by-another' | 'gone';
  session?: SessionRecord;
  kept: string[];
  /** The agents' pods that would have stayed. */
  deleted?: string[];
};

/** The pods that may be a workload's; others among them are passed over. */
export type PodsOf = (workload: Json) => Promise<Json[]>;

/**
 * Puts a workload back as its annotation says, and deletes the pods that would keep it from following. May be called any
 * number of times; a workload that was deleted meanwhile is fine. LpkError: what requests throw, as `sessionOf`, and `conflict` when
 * nobody knows any more what the agent's template was before.
 */
export async function putBack(api: Api, held: Held, podsOf: PodsOf): Promise<RestoreOutcome> {
  if (held.kind === 'pod') return await putBackPod(api, held);
  const patched = await retryOnConflict(() => patchBack(api, held));
  const { workload } = patched;
  if (workload === 'unrecorded') throw unrecorded(held);
  const outcome = { ...patched, workload };
  if (outcome.workload !== 'restored' && outcome.workload !== 'not-held') return outcome;
  // Also when it was put back before: whoever did that may have died before these steps.
  const template = outcome.session?.template ?? held.template;
  // What somebody else made of it meanwhile is a release of theirs, to be tried step by step.
  if (template) await promote(api, held, template);
  const deleted = await unblock(api, held, podsOf, (pods, workload) => {
    const now = sessionOf(workload)?.id;
    return pods.filter(({ spec }) => ![undefined, now].includes(sessionOfPod(spec)));
  });
  return { ...outcome, deleted };
}

type Patched = Omit<RestoreOutcome, 'workload'> & { workload: RestoreOutcome['workload'] | 'unrecorded' };

async function patchBack(api: Api, held: Held): Promise<Patched> {
  let workload: Json;
  try {
    workload = await api.request('GET', held.apiPath);
  } catch (error) {
    if (error instanceof LpkError && error.code === 'not-found') return { workload: 'gone', kept: [] };
    throw error;
  }
  const { ops, session, kept } = planRestore(workload);
  if (!session) {
    const agent = sessionOfPod(workload.spec.template.spec);
    if (agent !== undefined && agent === (held.session ?? agent)) return { workload: 'unrecorded', kept: [] };
    // Whoever put it back may have died before this step too.
    if (ownFields(workload).length > 0) await retryOnConflict(() => disown(api, held));
    return { workload: 'not-held', kept: [] };
  }
  if (held.session && session.id !== held.session) return { workload: 'held-by-another', session, kept: [] };
  await patch(api, held, ops);
  await retryOnConflict(() => disown(api, held));
  return { workload: 'restored', session, kept };
}

/** What the session has in the cluster stays, as its pods need it. */
function unrecorded({ kind, apiPath }: Held): LpkError {
  const name = `${kind}/${apiPath.slice(apiPath.lastIndexOf('/') + 1)}`;
  const gone = `somebody removed the annotation ${SESSION_ANNOTATION}, which says what it was`;
  const then = 'give it its own template back (`kubectl rollout undo`, or its manifest), then restore again';
  return new LpkError('conflict', `${name} has the agent in its template, but ${gone}: ${then}`);
}

/**
 * Takes lpk out of the workload's `managedFields`. There it would go on owning what it put back, and the next
 * server-side apply that changes the image would be a conflict with a tool that is long gone.
 */
async function disown(api: Api, held: Held): Promise<void> {
  const workload = await api.request('GET', held.apiPath);
  const ours = ownFields(workload);
  if (ours.length === 0) return;
  // From the end, as each removal moves those behind it.
  const removals = ours.toReversed().map((i): PatchOp => ({ op: 'remove', path: `/metadata/managedFields/${i}` }));
  await patch(api, held, [...sameVersion(workload.metadata), ...removals]);
}

/** Where in its `managedFields` lpk is. */
function ownFields({ metadata }: Json): number[] {
  return ((metadata.managedFields ?? []) as Json[]).flatMap(({ manager }, i) => (manager === FIELD_MANAGER ? [i] : []));
}

/**
 * Deletes those of a workload's pods that do not come to its present template by themselves (see `following`), once its
 * controller has seen that template. `choose`: which of the workload's own. @returns their names.
 */
export async function unblock(
  api: Api,
  held: Held,
  podsOf: PodsOf,
  choose: (pods: Json[], workload: Json) => Json[],
): Promise<string[]> {
  if (following(held.kind, await api.request('GET', held.apiPath)) === 'by-itself') return [];
  const workload = await untilSeen(api, held);
  const ours = (await podsOf(workload)).filter(
    ({ metadata }) =>
      !metadata.deletionTimestamp && metadata.ownerReferences?.some((each: Json) => each.uid === workload.metadata.uid),
  );
  return await Promise.all(
    choose(ours, workload).map(async ({ metadata: { name, uid } }) => {
      // By uid too: the controller may have been faster, and its new pod has the same name.
      const body = { apiVersion: 'v1', kind: 'DeleteOptions', preconditions: { uid } };
      await unlessGone(api.request('DELETE', `/api/v1/namespaces/${held.namespace}/pods/${name}`, { body }));
      return name;
    }),
  );
}
