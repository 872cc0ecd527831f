import { type FoundSession, findSessions, removeOrphan, restore as restoreWorkload } from '../agent/deploy/apply.ts';
import { findWorkload, parseTarget } from '../agent/deploy/find.ts';
import { helpsToRestore } from '../agent/deploy/helpful-rights.ts';
import { forgetHistory, forgetHistoryAfterRollout, withAgentsInHistory } from '../agent/deploy/history.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import { sessionsBeside } from '../agent/deploy/pod-sessions.ts';
import { preflightRestore } from '../agent/deploy/preflight.ts';
import { heardAgoMs, release } from '../agent/deploy/release.ts';
import { leaseHolder } from '../agent/deploy/restorer.ts';
import { waitRollout } from '../agent/deploy/rollout.ts';
import { readWorkload, type WorkloadRef, workloadName } from '../agent/deploy/workload.ts';
import type { RestoreOutcome } from '../agent/restore/put-back.ts';
import { type SessionRecord, sessionOf } from '../agent/restore/record.ts';
import { LpkError } from '../agent/wire/errors.ts';
import { openCluster } from './cluster.ts';
import { sayGoesWithout } from './goes-without.ts';
import { sayInHistory } from './in-history.ts';
import type { Output } from './output.ts';
import { runningProxies } from './proxy-control.ts';
import { readableSpan, readableTime } from './readable-time.ts';
import type { RestoreOptions } from './restore-options.ts';
import { sessionsHere } from './sessions-here.ts';
import { type Person, whoAmI } from './whoami.ts';

/** Objects without a workload may belong to a session that is just being started; it has this long, ms. */
const STARTING_MS = 60_000;

/** Puts back what a session left, from the cluster's own record of it. */
export async function restore(options: RestoreOptions, output: Output): Promise<number> {
  const { kubeconfig, context, namespace } = options;
  const cluster = await openCluster({ kubeconfig, context, namespace }, output);
  try {
    return await restoreSessions(cluster, options, { output, me: whoAmI() });
  } finally {
    cluster.close();
  }
}

type Surroundings = {
  output: Output;
  me: Person;
  /** Sessions of the proxies that run on this laptop. */
  running?: () => Promise<string[]>;
  /** Sessions of this laptop, those that are just being started too. */
  here?: ReadonlyMap<string, number>;
};

/**
 * Restores and says what it did.
 *
 * @returns exit code 0, or 1 when one of several could not be restored (which is said).
 * @throws LpkError `not-found` for a target that nobody holds, `session-alive` for one whose holder, somebody else, lives, and
 *   what requests throw.
 */
export async function restoreSessions(
  cluster: Cluster,
  options: RestoreOptions,
  around: Surroundings,
): Promise<number> {
  return options.target
    ? await restoreTarget(cluster, options.target, options, around)
    : await restoreAll(cluster, options, around);
}

async function restoreTarget(
  cluster: Cluster,
  target: string,
  options: RestoreOptions,
  around: Surroundings,
): Promise<number> {
  // Who may not list sessions can still restore one; what is left over then stays for somebody who may.
  const sessions = await findSessions(cluster).catch((error: unknown) => {
    if (error instanceof LpkError && error.code === 'forbidden') return [];
    throw error;
  });
  const ref = parseTarget(target);
  // A pod's session goes on without the pod, and whoever made another of its name.
  const lasting = sessions.find(
    ({ workload }) => ref.kind === 'pod' && workload?.kind === 'pod' && workload.name === ref.name,
  );
  const workload = lasting?.workload ?? (await findWorkload(cluster, ref));
  const holder = (await checkRights(cluster, workload, options, around)) ?? lasting?.record;
  if (holder) await refuseAlive(cluster, workload, holder, options, around);
  const ended = await restoreBeside(cluster, workload, options, around);
  const outcome = await takeBack(cluster, { ...workload, ...(lasting ? { session: lasting.id } : {}) }, holder, around);
  const undone = isUndone(outcome);
  if (undone) tellRestored(workload, { session: lasting?.record, ...outcome }, around);
  const { removed, failures } = await removeOrphans(cluster, sessions, around);
  const inHistory = !undone && (await forget(cluster, workload, options, around));
  const name = workloadName(workload);
  const fields = { workload: name, namespace: workload.namespace };
  const { deleted = [] } = outcome;
  if (!undone && lasting) {
    around.output.result(
      `${name} is another by now and was left alone; removed what session ${lasting.id} left`,
      'removed',
      fields,
    );
  } else if (!undone && deleted.length > 0) {
    around.output.result(`deleted agents' pods that ${name} had kept: ${deleted.join(', ')}`, 'removed', {
      ...fields,
      pods: deleted,
    });
  } else if (!undone && !inHistory && ended + removed + failures === 0) {
    throw new LpkError(
      'not-found',
      `${name} in namespace ${workload.namespace} is not held by any session: nothing to restore`,
    );
  }
  if (outcome.workload === 'restored' && options.wait) await waitFor(cluster, workload, around);
  return failures > 0 ? 1 : 0;
}

/** Ends the sessions with a pod of their own beside the workload's, unless one holds the workload itself. @returns how many. */
async function restoreBeside(
  cluster: Cluster,
  workload: WorkloadRef,
  options: RestoreOptions,
  around: Surroundings,
): Promise<number> {
  if (workload.kind !== 'deployment' || sessionOf(await readWorkload(cluster, workload))) return 0;
  // Who may list neither ConfigMaps nor pods names the pod itself.
  const beside = await sessionsBeside(cluster, workload).catch((error: unknown) => {
    if (error instanceof LpkError && error.code === 'forbidden') return [];
    throw error;
  });
  for (const { workload: pod, record } of beside) {
    await checkRights(cluster, pod, options, around);
    await refuseAlive(cluster, pod, record, options, around);
  }
  for (const { id, workload: pod, record } of beside) {
    const outcome = await takeBack(cluster, { ...pod, session: id }, record, around);
    tellRestored(pod, { ...outcome, workload: 'removed', session: record }, around);
  }
  return beside.length;
}

/** A colleague who is at work is asked, not surprised. LpkError `session-alive`, what requests throw. */
async function refuseAlive(
  cluster: Cluster,
  workload: WorkloadRef,
  holder: SessionRecord,
  { yes }: RestoreOptions,
  { me }: Surroundings,
): Promise<void> {
  if (yes || isMine(holder, me)) return;
  const { id, owner, host } = holder;
  const agoMs = await heardAgoMs(cluster, { namespace: workload.namespace, session: id });
  if (agoMs === undefined) return;
  const held = `${workloadName(workload)} in namespace ${workload.namespace} is held by ${owner} on ${host}`;
  throw new LpkError('session-alive', `${held}, seen ${readableSpan(agoMs)} ago`);
}

/** Somebody else's is signed, so that theirs says who did it. LpkError: what requests throw. */
async function takeBack(
  cluster: Cluster,
  held: WorkloadRef & { session?: string },
  holder: SessionRecord | undefined,
  { me }: Surroundings,
): Promise<RestoreOutcome> {
  if (!holder || isMine(holder, me)) return await restoreWorkload(cluster, held);
  return await release(cluster, { ...held, session: holder.id }, me);
}

function isMine({ owner, host }: Person, me: Person): boolean {
  return owner === me.owner && host === me.host;
}

/** Before anything is changed. @returns whose session holds it. LpkError `forbidden`, what requests throw. */
async function checkRights(
  cluster: Cluster,
  ref: WorkloadRef,
  { wait }: RestoreOptions,
  { output }: Surroundings,
): Promise<SessionRecord | undefined> {
  const workload = await readWorkload(cluster, ref).catch((error: unknown) => {
    if (ref.kind === 'pod' && error instanceof LpkError && error.code === 'not-found') return undefined;
    throw error;
  });
  const holder = workload && sessionOf(workload);
  if (!holder) return undefined;
  const there = { ...cluster, namespace: ref.namespace };
  await preflightRestore(there, { ...ref, workload }, { wait });
  await sayGoesWithout(there, helpsToRestore(ref.kind), output);
  return holder;
}

async function restoreAll(cluster: Cluster, options: RestoreOptions, around: Surroundings): Promise<number> {
  const { output, me, here = sessionsHere() } = around;
  const sessions = await findSessions(cluster, { allNamespaces: options.allNamespaces });
  const undone: { workload: WorkloadRef; waits: boolean }[] = [];
  let failures = 0;
  let others = 0;
  for (const { id, workload, record } of sessions) {
    if (!workload || !record) continue;
    const pid = here.get(id);
    if (pid !== undefined) {
      tellRunning(workload, record, pid, around);
      continue;
    }
    if (!isMine(record, me) && !options.everyone) {
      others++;
      tellHeld(workload, record, around);
      continue;
    }
    try {
      await checkRights(cluster, workload, options, around);
      const outcome = await takeBack(cluster, { ...workload, session: id }, record, around);
      if (!isUndone(outcome)) continue; // somebody was quicker
      tellRestored(workload, { session: record, ...outcome }, around);
      undone.push({ workload, waits: outcome.workload === 'restored' });
    } catch (error) {
      failures++;
      output.fail(error);
    }
  }
  const orphans = await removeOrphans(cluster, sessions, around);
  failures += orphans.failures;
  const removed = orphans.removed + (await removeProxies(cluster, sessions, options, around));
  let inHistory = 0;
  // Of sessions that a restorer ended, which may not look for what it has no name of.
  for (const workload of await withAgentsInHistory(cluster, options)) {
    if (undone.some(({ workload: { apiPath } }) => apiPath === workload.apiPath)) continue;
    if (await forget(cluster, workload, options, around)) inHistory++;
  }
  if (undone.length + removed + inHistory + failures === 0) {
    const where = options.allNamespaces ? 'in any namespace' : `in namespace ${cluster.namespace}`;
    output.result(`nothing ${others > 0 ? 'of yours ' : ''}to restore ${where}`, 'nothing', {
      namespace: cluster.namespace,
    });
  }
  if (options.wait) {
    for (const { workload } of undone.filter(({ waits }) => waits)) {
      try {
        await waitFor(cluster, workload, around);
      } catch (error) {
        failures++;
        output.fail(error);
      }
    }
  }
  return failures > 0 ? 1 : 0;
}

/**
 * Takes agents out of the history of a workload that was put back before, when the last pods of theirs are gone.
 *
 * @returns whether there was one.
 */
async function forget(
  cluster: Cluster,
  workload: WorkloadRef,
  { wait }: RestoreOptions,
  around: Surroundings,
): Promise<boolean> {
  const { output } = around;
  let { removed, stayed } = await forgetHistory(cluster, workload);
  const found = removed + stayed > 0;
  let why: string | undefined;
  if (stayed > 0 && wait) {
    try {
      const then = await waitFor(cluster, workload, around);
      removed += then.removed;
      stayed = then.stayed;
    } catch (error) {
      // Why its pods don't come may be its owner's affair, and for long.
      if (!(error instanceof LpkError)) throw error;
      why = error.message;
    }
  }
  const name = workloadName(workload);
  const { namespace } = workload;
  const fields = { workload: name, namespace };
  if (removed > 0)
    output.result(`removed the agent from the history of ${name} in namespace ${namespace}`, 'removed', fields);
  if (stayed > 0) sayInHistory(output, workload, why);
  return found;
}

async function removeOrphans(
  cluster: Cluster,
  sessions: FoundSession[],
  around: Surroundings,
): Promise<{ removed: number; failures: number }> {
  const { me, output, here = sessionsHere() } = around;
  let removed = 0;
  let failures = 0;
  for (const session of sessions.filter(({ workload, proxy }) => !workload && !proxy)) {
    const { id, namespace, createdAt, lease } = session;
    const of = `session ${id} in namespace ${namespace}`;
    const young = createdAt !== undefined && cluster.nowMs() - Date.parse(createdAt) < STARTING_MS;
    const diedHere = lease?.holder === leaseHolder(me) && !here.has(id);
    if (young && !diedHere) {
      output.say(`left alone: the objects of ${of}, which may be about to start (made less than a minute ago)`);
      continue;
    }
    try {
      await removeOrphan(cluster, session);
      removed++;
      output.result(`removed the objects that ${of} left`, 'removed', { session: id, namespace });
    } catch (error) {
      failures++;
      output.fail(error);
    }
  }
  return { removed, failures };
}

/** Of proxies whose laptop died. @returns how many were removed. */
async function removeProxies(
  cluster: Cluster,
  sessions: FoundSession[],
  { everyone }: RestoreOptions,
  { output, me, running = runningSessions, here = sessionsHere() }: Surroundings,
): Promise<number> {
  const proxies = sessions.filter(({ proxy }) => proxy);
  const alive = proxies.length > 0 ? await running() : [];
  let removed = 0;
  for (const session of proxies) {
    const { id, namespace } = session;
    const { owner, host, since } = session.proxy as NonNullable<FoundSession['proxy']>;
    const of = `the proxy of ${owner} on ${host} since ${readableTime(since)} in namespace ${namespace}`;
    if (alive.includes(id) || here.has(id)) {
      const how = alive.includes(id) ? '; lpk proxy down ends it' : '';
      output.say(`left alone: your proxy into namespace ${namespace}, which runs${how}`);
    } else if (isMine({ owner, host }, me) || everyone) {
      await removeOrphan(cluster, session);
      removed++;
      output.result(`removed ${of}`, 'removed', { session: id, namespace, owner, host });
    } else {
      output.result(`left alone ${of}`, 'held', { session: id, namespace, owner, host, since });
    }
  }
  return removed;
}

async function runningSessions(): Promise<string[]> {
  const running = await runningProxies({ namespace: undefined, context: undefined });
  return running.map(({ status }) => status.session);
}

function isUndone({ workload }: RestoreOutcome): boolean {
  return workload === 'restored' || workload === 'removed';
}

function tellRestored(workload: WorkloadRef, outcome: RestoreOutcome, { output, me }: Surroundings): void {
  const name = workloadName(workload);
  const session = outcome.session as NonNullable<RestoreOutcome['session']>;
  const { owner, host, since, beside } = session;
  const whose = isMine(session, me) ? 'your session' : `the session of ${owner} on ${host}`;
  const fields = { workload: name, beside, namespace: workload.namespace, owner, host, since, kept: outcome.kept };
  output.result(
    `${outcome.workload} ${name}${beside ? ` beside ${beside}` : ''} in namespace ${workload.namespace}: ${whose} since ${readableTime(since)}`,
    'restored',
    fields,
  );
  if (outcome.kept.length > 0) {
    output.warn(
      `somebody changed ${outcome.kept.join(', ')} of ${name} meanwhile; that was left as it is`,
      'kept',
      fields,
    );
  }
}

function tellHeld(
  workload: WorkloadRef,
  { owner, host, since }: NonNullable<FoundSession['record']>,
  { output }: Surroundings,
): void {
  const name = workloadName(workload);
  output.result(
    `left alone ${name} in namespace ${workload.namespace}: the session of ${owner} on ${host} since ${readableTime(since)}`,
    'held',
    { workload: name, namespace: workload.namespace, owner, host, since },
  );
}

function tellRunning(
  workload: WorkloadRef,
  { owner, host, since }: SessionRecord,
  pid: number,
  { output }: Surroundings,
): void {
  const name = workloadName(workload);
  const { namespace } = workload;
  output.result(
    `left alone ${name} in namespace ${namespace}: its session runs here as process ${pid}; Ctrl-C there ends it, or \`lpk restore ${name} -n ${namespace}\``,
    'held',
    { workload: name, namespace, owner, host, since, pid },
  );
}

/** Waits for the rollout, then takes the agent out of the workload's history too. @returns as `forgetHistory`. */
async function waitFor(cluster: Cluster, workload: WorkloadRef, { output }: Surroundings) {
  const name = workloadName(workload);
  const step = output.step(`waiting for ${name}`, 'rollout', { workload: name, namespace: workload.namespace });
  try {
    await waitRollout(cluster, workload, {
      signal: new AbortController().signal,
      onProgress: (ready, total, text) => step.update(`waiting for ${name}: ${text}`, { ready, total }),
    });
    const history = await forgetHistoryAfterRollout(cluster, workload);
    step.done(`${name} runs its own pods again`);
    return history;
  } catch (error) {
    step.fail();
    throw error;
  }
}
