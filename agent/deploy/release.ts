import { setTimeout as sleep } from 'node:timers/promises';
import { ENDED_ANNOTATION, leasePath, renewedMs, silenceMs } from '../restore/lease.ts';
import { putBack, type RestoreOutcome } from '../restore/put-back.ts';
import { LpkError } from '../wire/errors.ts';
import { podsOf, removeObjects } from './apply.ts';
import type { Cluster, Json } from './kube.ts';
import type { WorkloadRef } from './workload.ts';

/** What the holder’s lpk gets to notice, say so and go: the time between two renewals, and as much again on a busy machine. */
const NOTICE_MS = 30_000;
const LOOK_MS = 250;
/** Another than who renews: by that one's `managedFields` it is seen when it last did. */
const SIGNER = 'lpk-release';

/**
 * Ends somebody's session: signs its Lease, so that their lpk says who did it, puts the workload back and removes all of the
 * session's own. Needs the rights of a restore; without `patch` on Leases theirs only says that somebody did.
 *
 * LpkError: what requests throw, and as `sessionOf`.
 */
export async function release(
  cluster: Cluster,
  held: WorkloadRef & { session: string },
  by: { owner: string; host: string },
): Promise<RestoreOutcome> {
  const signed = await sign(cluster, held, by);
  const outcome = await putBack(cluster, held, podsOf(cluster, held.namespace));
  // Its Lease is the last that goes, so that theirs can read it; when it lives, it takes the Lease away by itself.
  const until = performance.now() + (signed ? NOTICE_MS : 0);
  while (performance.now() < until && (await leaseOf(cluster, held))) await sleep(LOOK_MS);
  await removeObjects(cluster, held.namespace, held.session);
  return outcome;
}

/** How long ago the holder was last heard of, ms; undefined when that is too long for it to live, or nothing says. LpkError: what requests throw. */
export async function heardAgoMs(
  cluster: Cluster,
  held: { namespace: string; session: string },
): Promise<number | undefined> {
  const lease = await leaseOf(cluster, held);
  return lease && livingAgoMs(cluster, lease);
}

function livingAgoMs(cluster: Cluster, lease: Json): number | undefined {
  const agoMs = cluster.nowMs() - renewedMs(lease);
  return agoMs < silenceMs(lease) ? agoMs : undefined;
}

/** @returns whether somebody is there to read it: the Lease is renewed. */
async function sign(
  cluster: Cluster,
  held: WorkloadRef & { session: string },
  by: { owner: string; host: string },
): Promise<boolean> {
  const contentType = 'application/merge-patch+json';
  const query = { fieldManager: SIGNER };
  const annotations = { [ENDED_ANNOTATION]: JSON.stringify({ owner: by.owner, host: by.host }) };
  try {
    const path = leasePath(held.namespace, held.session);
    const lease = await cluster.request('PATCH', path, { body: { metadata: { annotations } }, contentType, query });
    return livingAgoMs(cluster, lease) !== undefined;
  } catch (error) {
    if (error instanceof LpkError && (error.code === 'not-found' || error.code === 'forbidden')) return false;
    throw error;
  }
}

async function leaseOf(cluster: Cluster, held: { namespace: string; session: string }): Promise<Json | undefined> {
  try {
    return await cluster.request('GET', leasePath(held.namespace, held.session));
  } catch (error) {
    if (error instanceof LpkError && (error.code === 'not-found' || error.code === 'forbidden')) return undefined;
    throw error;
  }
}
