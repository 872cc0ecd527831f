import { createInterface } from 'node:readline/promises';
import { findWorkload, parseTarget, type TargetRef } from '../agent/deploy/find.ts';
import { helpsToRestore } from '../agent/deploy/helpful-rights.ts';
import type { Cluster, Json } from '../agent/deploy/kube.ts';
import { podSessions, sessionsBeside } from '../agent/deploy/pod-sessions.ts';
import { preflightRestore } from '../agent/deploy/preflight.ts';
import { release } from '../agent/deploy/release.ts';
import { asWorkload, readWorkload, type WorkloadRef, workloadName } from '../agent/deploy/workload.ts';
import { SESSION_ANNOTATION, type SessionRecord, sessionOf } from '../agent/restore/record.ts';
import { LpkError } from '../agent/wire/errors.ts';
import { openCluster } from './cluster.ts';
import { sayGoesWithout } from './goes-without.ts';
import type { Output } from './output.ts';
import { readableTime } from './readable-time.ts';
import type { ReleaseOptions } from './release-options.ts';
import { whoAmI } from './whoami.ts';

/** Ends the sessions that hold the target, whoever's they are. LpkError `not-found` when none does, and what requests throw. */
export async function releaseSession(options: ReleaseOptions, output: Output): Promise<number> {
  const { kubeconfig, context, namespace } = options;
  const cluster = await openCluster({ kubeconfig, context, namespace }, output);
  try {
    return await releaseSessions(cluster, options, output);
  } finally {
    cluster.close();
  }
}

/** As `releaseSession`, in an open cluster. @returns exit code: 1 when one of several could not be ended, which is said. */
export async function releaseSessions(
  cluster: Cluster,
  { target, yes }: Pick<ReleaseOptions, 'target' | 'yes'>,
  output: Output,
): Promise<number> {
  const sessions = await sessionsOf(cluster, parseTarget(target));
  for (const held of sessions) {
    const workload = await heldObject(cluster, held);
    await preflightRestore(cluster, { ...held.workload, workload }, { wait: false });
  }
  const kinds = new Set(sessions.map(({ workload }) => workload.kind));
  for (const kind of kinds) await sayGoesWithout(cluster, helpsToRestore(kind), output);
  const what = sessions.map((held) => `${whose(held)}, which holds ${where(held)}`).join('; and ');
  if (!yes && !(await agreed(`End ${what}?`))) {
    const left = sessions.map((held) => `${where(held)} is left to ${held.record.owner} on ${held.record.host}`);
    throw new LpkError('cancelled', left.join('; '));
  }
  let failures = 0;
  for (const held of sessions) {
    try {
      await end(cluster, held, output);
    } catch (error) {
      if (sessions.length === 1) throw error;
      failures++;
      output.fail(error);
    }
  }
  return failures > 0 ? 1 : 0;
}

type Held = { id: string; workload: WorkloadRef; record: SessionRecord };

/** The one that holds the target; of a workload that none holds, those with a pod of their own beside its. */
async function sessionsOf(cluster: Cluster, ref: TargetRef): Promise<Held[]> {
  let workload: WorkloadRef;
  try {
    workload = await findWorkload(cluster, ref);
  } catch (error) {
    // A pod's session goes on without the pod.
    if (ref.kind !== 'pod' || !(error instanceof LpkError) || error.code !== 'not-found') throw error;
    const held = (await podSessions(cluster, cluster.namespace)).filter(({ record: { pod } }) => pod === ref.name);
    if (held.length > 0) return held;
    throw error;
  }
  const record = sessionOf(await readWorkload(cluster, workload));
  if (record) return [{ id: record.id, workload, record }];
  const beside = await sessionsBeside(cluster, workload);
  if (beside.length > 0) return beside;
  const name = `${workloadName(workload)} in namespace ${workload.namespace}`;
  throw new LpkError('not-found', `${name} is not held by any session: nothing to release`);
}

/** As it is, or, of a pod that is gone while its session is not, as far as the session's record tells. */
async function heldObject(cluster: Cluster, { workload, record }: Held): Promise<Json> {
  return await readWorkload(cluster, workload).catch((error: unknown) => {
    if (workload.kind !== 'pod' || !(error instanceof LpkError) || error.code !== 'not-found') throw error;
    return asWorkload({ metadata: { annotations: { [SESSION_ANNOTATION]: JSON.stringify(record) } }, spec: {} });
  });
}

function whose({ record: { owner, host, since } }: Held): string {
  return `the session of ${owner} on ${host} since ${readableTime(since)}`;
}

function where({ workload, record: { beside } }: Held): string {
  return `${workloadName(workload)}${beside ? ` beside ${beside}` : ''} in namespace ${workload.namespace}`;
}

async function end(cluster: Cluster, held: Held, output: Output): Promise<void> {
  const { id, workload, record } = held;
  const { owner, host, since, beside } = record;
  const name = workloadName(workload);
  const step = output.step(`releasing ${name} from ${owner} on ${host}`, 'release');
  const outcome = await release(cluster, { ...workload, session: id }, whoAmI()).catch((error: unknown) => {
    step.fail();
    throw error;
  });
  step.done(`${name} released from ${owner} on ${host}`);
  const fields = { workload: name, beside, namespace: workload.namespace, owner, host, since, kept: outcome.kept };
  output.result(`ended ${whose(held)}: ${where(held)} is ${beside ? 'removed' : 'put back'}`, 'released', fields);
}

/** Asks at the terminal. LpkError `usage` where nobody is there to answer. */
async function agreed(question: string): Promise<boolean> {
  if (!process.stdin.isTTY) throw new LpkError('usage', 'nobody is at a terminal to be asked: confirm it with --yes');
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await terminal.question(`${question} [y/N] `)).trim());
  } finally {
    terminal.close();
  }
}
