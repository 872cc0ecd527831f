import type { Target } from '../agent/deploy/find.ts';
import type { Cluster, Json } from '../agent/deploy/kube.ts';
import { release } from '../agent/deploy/release.ts';
import { listPath, workloadName } from '../agent/deploy/workload.ts';
import { sessionOf } from '../agent/restore/record.ts';
import { LpkError } from '../agent/wire/errors.ts';
import type { Output } from './output.ts';
import { readableTime } from './readable-time.ts';
import { whoAmI } from './whoami.ts';

/** What to do about a workload that is somebody's session already. */
export type WhenHeld = 'refuse' | 'wait' | 'take-over';

/**
 * Waits until the target is free, or takes it from whoever holds it. LpkError: `cancelled` by `signal`, `not-found` when it is
 * deleted meanwhile, what requests throw.
 *
 * @returns whether it was held: then it is to be looked at again.
 */
export async function makeRoom(
  cluster: Cluster,
  target: Target,
  whenHeld: WhenHeld,
  { output, signal }: { output: Output; signal: AbortSignal },
): Promise<boolean> {
  const record = sessionOf(target.workload);
  if (!record || whenHeld === 'refuse') return false; // the swap refuses it, should it still be held then
  const name = workloadName(target);
  const { owner, host, since, id } = record;
  const whose = `${owner} on ${host} since ${readableTime(since)}`;
  const fields = { workload: name, owner, host, since };
  const step =
    whenHeld === 'wait'
      ? output.step(`${name} is held by ${whose}: waiting until it is free`, 'wait', fields)
      : output.step(`taking ${name} over from ${whose}`, 'take-over', fields);
  try {
    if (whenHeld === 'wait') await untilFree(cluster, target, signal);
    else await release(cluster, { ...target, session: id }, whoAmI());
  } catch (error) {
    step.fail();
    throw error;
  }
  step.done(whenHeld === 'wait' ? `${name} is free` : `${name} taken over from ${owner} on ${host}`);
  return true;
}

/**
 * Does `swap`, unless it is time to go; for who waits, again each time that somebody else was quicker. LpkError: what `swap` throws (`already-held` only
 * for who does not wait), and as `makeRoom`.
 */
export async function whenFree<T>(
  cluster: Cluster,
  target: Target,
  { whenHeld, output, signal }: { whenHeld: WhenHeld; output: Output; signal: AbortSignal },
  swap: () => Promise<T>,
): Promise<T> {
  for (;;) {
    signal.throwIfAborted();
    try {
      return await swap();
    } catch (error) {
      if (whenHeld !== 'wait' || !(error instanceof LpkError) || error.code !== 'already-held') throw error;
      output.say(`${error.message}: waiting again`, 'wait-again');
      await untilFree(cluster, target, signal);
    }
  }
}

async function untilFree(cluster: Cluster, target: Target, signal: AbortSignal): Promise<void> {
  const { kind, namespace, name } = target;
  const query = { fieldSelector: `metadata.name=${name}` };
  for await (const workloads of cluster.follow(listPath(kind, namespace), { query, signal })) {
    const [workload] = workloads.values() as Iterable<Json | undefined>;
    if (!workload && kind === 'pod') continue; // it is about to be made anew
    if (!workload) throw new LpkError('not-found', `${workloadName(target)} was deleted`);
    if (!sessionOf(workload)) return;
  }
  throw new LpkError('cancelled', `stopped while waiting for ${workloadName(target)}`);
}
