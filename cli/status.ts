import { type FoundSession, findSessions } from '../agent/deploy/apply.ts';
import { helpsToSee } from '../agent/deploy/helpful-rights.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import { openCluster } from './cluster.ts';
import { sayGoesWithout } from './goes-without.ts';
import type { Output } from './output.ts';
import { runningProxies } from './proxy-control.ts';
import { readableSpan, readableTime } from './readable-time.ts';
import { notesHere } from './sessions-here.ts';
import type { StatusOptions } from './status-options.ts';
import { type Person, whoAmI } from './whoami.ts';

/** Who holds what, from the cluster's own record of it; and what runs on this laptop, also when the cluster has no answer. */
export async function status(options: StatusOptions, output: Output): Promise<number> {
  const running = (await runningProxies({ namespace: undefined, context: undefined })).map((each) => each.status);
  const here = notesHere();
  const pids = new Map([...here].map(([session, { pid }]) => [session, pid]));
  for (const { session, pid } of running) pids.set(session, pid);
  let listed = new Set<string>();
  try {
    listed = await ofCluster(options, { output, me: whoAmI(), here: pids });
  } finally {
    for (const proxy of running) {
      const where = `namespace ${proxy.namespace} (${proxy.context})`;
      output.result(`here: a proxy into ${where}, link ${proxy.link}, process ${proxy.pid}`, 'proxy', proxy);
      listed.add(proxy.session);
    }
    tellLocal(here, listed, output);
  }
  return 0;
}

async function ofCluster(options: StatusOptions, around: StatusSurroundings): Promise<Set<string>> {
  const { kubeconfig, context, namespace } = options;
  const cluster = await openCluster({ kubeconfig, context, namespace }, around.output);
  try {
    const where = options.allNamespaces ? { ...cluster, namespace: '' } : cluster;
    await sayGoesWithout(where, helpsToSee(), around.output);
    return await tellSessions(cluster, options, around);
  } finally {
    cluster.close();
  }
}

/** Sessions of this laptop that are elsewhere than where was looked. */
export function tellLocal(here: ReturnType<typeof notesHere>, listed: ReadonlySet<string>, output: Output): void {
  for (const [session, { pid, what = 'a session', namespace, context }] of here) {
    if (listed.has(session)) continue;
    const where = namespace ? ` in ${namespace} (${context})` : '';
    output.result(`here: ${what}${where}, process ${pid}`, 'local', { session, what, namespace, context, pid });
  }
}

export type StatusSurroundings = {
  output: Output;
  me: Person;
  /** Sessions of this laptop that live, proxies’ too, and their processes. */
  here: ReadonlyMap<string, number>;
};

/** LpkError: what requests throw. @returns the sessions it told of. */
export async function tellSessions(
  cluster: Cluster,
  { allNamespaces }: { allNamespaces: boolean },
  around: StatusSurroundings,
): Promise<Set<string>> {
  const { output } = around;
  const sessions = await findSessions(cluster, { allNamespaces });
  for (const session of sessions) tellSession(session, around, cluster.nowMs());
  if (sessions.length === 0) {
    const where = allNamespaces ? 'in any namespace' : `in namespace ${cluster.namespace}`;
    output.result(`no sessions ${where}`, 'nothing', { namespace: allNamespaces ? undefined : cluster.namespace });
  }
  return new Set(sessions.map(({ id }) => id));
}

/** `alive`: heard of in time. `silent`: not. `unknown`: nothing says. `left-over`: objects that belong to no workload. */
export type SessionState = 'alive' | 'silent' | 'unknown' | 'left-over';

function tellSession(session: FoundSession, { output, me, here }: StatusSurroundings, nowMs: number): void {
  const { id, namespace, workload, record, proxy, lease, createdAt } = session;
  const whose = record ?? proxy;
  const silentForMs = lease && nowMs - Date.parse(lease.renewedAt);
  const state = stateOf(session, here, silentForMs);
  const mine = whose !== undefined && whose.owner === me.owner && whose.host === me.host;
  const beside = record?.beside ? ` beside ${record.beside}` : '';
  const what = workload ? `${workloadName(workload)}${beside}` : proxy ? 'a proxy' : `objects of session ${id}`;
  const holder = whose
    ? `${whose.owner} on ${whose.host}${mine ? ' (you)' : ''} since ${readableTime(whose.since)}`
    : `made ${readableTime(createdAt ?? '')}`;
  const seen = silentForMs === undefined ? '' : `, last seen ${readableSpan(silentForMs)} ago`;
  const pid = here.get(id);
  const process = pid === undefined ? '' : `, process ${pid} here`;
  output.result(`${what} in ${namespace}: ${holder}; ${state}${seen}${process}`, 'session', {
    session: id,
    namespace,
    workload: workload && workloadName(workload),
    beside: record?.beside,
    kind: workload ? 'connect' : proxy ? 'proxy' : undefined,
    owner: whose?.owner,
    host: whose?.host,
    since: whose?.since ?? createdAt,
    mine,
    state,
    lastSeen: lease?.renewedAt,
    pid,
  });
}

function stateOf(
  session: FoundSession,
  here: ReadonlyMap<string, number>,
  silentForMs: number | undefined,
): SessionState {
  const { id, workload, proxy, lease } = session;
  if (!workload && !proxy) return 'left-over';
  if (!lease || silentForMs === undefined) return here.has(id) ? 'alive' : 'unknown';
  return silentForMs < lease.silenceMs ? 'alive' : 'silent';
}
