import { isDeepStrictEqual } from 'node:util';
import { claim, deletePod, manifestOf, readPod, type SavedPod, untilGone } from '../restore/pod.ts';
import { heldError, SESSION_ANNOTATION, type SessionRecord, sessionOf, sessionOfPod } from '../restore/record.ts';
import { LpkError } from '../wire/errors.ts';
import type { Cluster, Json } from './kube.ts';
import { listPath, type WorkloadRef, workloadName } from './workload.ts';

/**
 * A bare pod: no controller would make another, and its own containers can't be changed. So it is deleted, and one of the
 * same name made with the agent in the container's place. What it was is in the session's ConfigMap before.
 */

/** The pod with the agent in it. `swapped`: its spec, as `planSwap` makes it. */
export function agentsPod({ manifest }: SavedPod, swapped: Json, record: SessionRecord): Json {
  const { nodeName: _, ...spec } = swapped;
  const annotations = { ...manifest.metadata.annotations, [SESSION_ANNOTATION]: JSON.stringify(record) };
  return { ...manifest, metadata: { ...manifest.metadata, annotations }, spec: { ...manifest.spec, ...spec } };
}

/**
 * Takes the pod for the session: of two that try at once, one wins. LpkError: `already-held`, `conflict` (it is another than the
 * one that was saved), `not-found`, and what requests throw; nothing is changed then.
 */
export async function claimPod(
  cluster: Cluster,
  ref: WorkloadRef,
  saved: SavedPod,
  record: SessionRecord,
): Promise<void> {
  for (;;) {
    const pod = await readPod(cluster, ref);
    if (!pod) throw new LpkError('not-found', `${workloadName(ref)} was deleted meanwhile`);
    const holding = sessionOf(pod);
    if (holding?.id === record.id) return; // an earlier try's answer was lost
    if (holding) throw heldError({ ...pod, kind: 'Pod' }, holding);
    if (pod.metadata.uid !== saved.uid || !isDeepStrictEqual(manifestOf(pod), saved.manifest)) {
      throw new LpkError('conflict', `${workloadName(ref)} was changed by somebody else meanwhile`);
    }
    try {
      return await claim(cluster, ref, pod, JSON.stringify(record));
    } catch (error) {
      // Its status changes by itself; the next look tells whether it was more.
      if (!(error instanceof LpkError) || error.code !== 'conflict') throw error;
    }
  }
}

/** Puts `agent` in the place of the pod that is claimed. LpkError: `conflict` (somebody took the name), what requests throw. */
export async function replacePod(cluster: Cluster, ref: WorkloadRef, session: string, agent: Json): Promise<void> {
  const pod = await readPod(cluster, ref);
  if (pod && sessionOfPod(pod.spec) !== session) {
    await deletePod(cluster, ref, pod);
    await untilGone(cluster, ref, pod);
  }
  await cluster.request('POST', listPath('pod', ref.namespace), { body: agent }).catch(async (error: unknown) => {
    if (!(error instanceof LpkError) || error.code !== 'conflict') throw error;
    const there = await readPod(cluster, ref);
    if (there && sessionOfPod(there.spec) === session) return; // an earlier try's answer was lost
    throw new LpkError('conflict', `somebody else made ${workloadName(ref)} anew meanwhile`, { cause: error });
  });
}
