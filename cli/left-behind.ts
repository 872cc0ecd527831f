import { type FoundSession, findSessions } from '../agent/deploy/apply.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import type { Output } from './output.ts';
import { readableSpan, readableTime } from './readable-time.ts';
import { sessionsHere } from './sessions-here.ts';
import { type Person, whoAmI } from './whoami.ts';

/** What a restorer gets, after the Lease lapsed, before somebody is asked to do its work, ms. */
const RESTORER_MS = 60_000;

/** Those of `me` that hold a workload although no process of this laptop has them, and that no restorer is about to end. */
export function leftBehind(
  sessions: FoundSession[],
  { me, here, nowMs }: { me: Person; here: ReadonlyMap<string, number>; nowMs: number },
): FoundSession[] {
  return sessions.filter(({ id, workload, record, lease }) => {
    if (!workload || record?.owner !== me.owner || record.host !== me.host || here.has(id)) return false;
    return !lease || nowMs - Date.parse(lease.renewedAt) > lease.silenceMs + RESTORER_MS;
  });
}

/** Proxies of `me` that no process of this laptop has; also those of `lpk run`. */
export function proxiesLeftBehind(
  sessions: FoundSession[],
  me: Person,
  here: ReadonlyMap<string, number>,
): (FoundSession & Required<Pick<FoundSession, 'proxy'>>)[] {
  return sessions.flatMap((session) => {
    const { id, proxy } = session;
    return proxy?.owner === me.owner && proxy.host === me.host && !here.has(id) ? [{ ...session, proxy }] : [];
  });
}

/** Says what earlier sessions of this user and laptop left in the namespace, and how to put it back. Never rejects. */
export async function offerRestore(cluster: Cluster, output: Output, { proxies = true } = {}): Promise<void> {
  try {
    const sessions = await findSessions(cluster);
    const here = sessionsHere();
    const nowMs = cluster.nowMs();
    for (const session of leftBehind(sessions, { me: whoAmI(), here, nowMs })) {
      const { workload, record, lease, namespace } = session as Required<FoundSession>;
      const name = workloadName(workload);
      const seen = lease ? `, last seen ${readableSpan(nowMs - Date.parse(lease.renewedAt))} ago` : '';
      output.warn(
        `left behind: ${name} is still held by your session since ${readableTime(record.since)}${seen}; \`lpk restore ${name} -n ${namespace}\` puts it back`,
        'left-behind',
        { workload: name, namespace, session: session.id, since: record.since },
      );
    }
    for (const { id, namespace, proxy } of proxies ? proxiesLeftBehind(sessions, whoAmI(), here) : []) {
      output.warn(
        `left behind: the agent of your proxy since ${readableTime(proxy.since)}; \`lpk restore --all -n ${namespace}\` removes it`,
        'left-behind',
        { namespace, session: id, since: proxy.since },
      );
    }
  } catch {
    // Not everybody may list sessions; what the command itself is about says by itself what goes wrong.
  }
}
