import { setTimeout as sleep } from 'node:timers/promises';
import { ENDED_ANNOTATION, leasePath } from '../restore/lease.ts';
import { deletePod, readIfThere, savedPath } from '../restore/pod.ts';
import { sessionOfPod } from '../restore/record.ts';
import { LpkError } from '../wire/errors.ts';
import type { Cluster, Json } from './kube.ts';
import { listPath, type WorkloadRef } from './workload.ts';

/** No controller makes a pod of lpk's own again when it was evicted or deleted: the laptop does, while its session lives. */

const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 5_000;

export type LostPod = { ref: WorkloadRef; session: string; manifest: Json };

export type Remaking = {
  signal: AbortSignal;
  /** It was made. */
  made: () => void;
  /** It can't be made now, and is tried again; the same is told once. */
  refused: (error: LpkError) => void;
  pause?: (ms: number, signal: AbortSignal) => Promise<void>;
};

/**
 * Sees to it that the pod runs: waits for the end of the one that has its name, and makes it anew, however long that is refused. Ends at
 * once where it runs. `false`: the session is over, as somebody took it back. LpkError `cancelled`.
 */
export async function remakePod(cluster: Cluster, lost: LostPod, remaking: Remaking): Promise<boolean> {
  const { ref, session, manifest } = lost;
  const { signal, made, refused, pause = (ms, signal) => sleep(ms, undefined, { signal }) } = remaking;
  let told: string | undefined;
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
    // First of all, as whoever ends a session deletes its pod first, and its other objects a moment later.
    await pause(pauseMs, signal).catch(() => {});
    if (signal.aborted) throw new LpkError('cancelled', 'stopped while a pod was made anew');
    try {
      if (!(await goesOn(cluster, lost))) return false;
      const pod = await readIfThere(cluster, ref.apiPath);
      if (!pod) {
        await cluster.request('POST', listPath('pod', ref.namespace), { body: manifest });
        made();
      } else if (sessionOfPod(pod.spec) !== session) return false;
      else if (pod.metadata.deletionTimestamp) continue;
      else if (pod.status?.phase === 'Running') return true;
      // As the kubelet leaves those that it evicts or does not admit.
      else if (['Failed', 'Succeeded'].includes(pod.status?.phase)) await deletePod(cluster, { ...ref, session }, pod);
    } catch (cause) {
      const error = cause instanceof LpkError ? cause : new LpkError('internal', String(cause), { cause });
      if (error.code === 'conflict') continue; // the name is taken just now: the next look tells
      if (error.code !== told)
        refused(new LpkError(error.code, `pod ${ref.name} can't be made anew yet: ${error.message}`));
      told = error.code;
    }
  }
}

/** Whoever ends a session signs or takes away its Lease, which owns the ConfigMap; without a Lease they take that. */
async function goesOn(cluster: Cluster, { ref: { namespace }, session }: LostPod): Promise<boolean> {
  const configMap = await readIfThere(cluster, savedPath(namespace, session));
  if (!configMap) return false;
  const owner = ((configMap.metadata.ownerReferences ?? []) as Json[]).find(({ kind }) => kind === 'Lease');
  if (!owner) return true;
  const lease = await readIfThere(cluster, leasePath(namespace, session));
  return lease?.metadata.uid === owner.uid && lease.metadata.annotations?.[ENDED_ANNOTATION] === undefined;
}
