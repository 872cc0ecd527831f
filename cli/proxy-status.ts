import type { Cluster } from '../agent/deploy/kube.ts';
import type { ProxyStatus } from './proxy-control.ts';
import type { ProxyDoors } from './proxy-doors.ts';
import type { ProxyLink } from './proxy-link.ts';
import type { Taken } from './proxy-takeover.ts';

/** What a running proxy says of itself. `doors`: undefined while it starts. */
export function proxyStatus(given: {
  cluster: Cluster;
  session: string;
  since: string;
  link: ProxyLink;
  doors: ProxyDoors | undefined;
  taken: Taken | undefined;
}): ProxyStatus {
  const { cluster, session, since, link, doors, taken } = given;
  const rttMs = link.session?.link.rttMs;
  const { in: received, out: sent, reconnects } = link.counts;
  return {
    pid: process.pid,
    context: cluster.context,
    namespace: cluster.namespace,
    server: cluster.server,
    since,
    session,
    pod: link.pod,
    transport: link.transport,
    link: link.isUp ? 'up' : 'down',
    rttMs: rttMs !== undefined && Number.isFinite(rttMs) ? rttMs : undefined,
    streams: link.session?.streamCount ?? 0,
    bytes: { in: received, out: sent },
    reconnects,
    doors: {
      proxy: doors?.address ?? 'not open yet',
      dns: doors?.dnsAddress ?? 'not open yet',
      ...(taken?.systemDns ? { systemDns: taken.systemDns } : {}),
      ...(taken?.tun ? { tun: taken.tun } : {}),
    },
    dns: doors?.dnsStats() ?? { queries: 0, cached: 0, cluster: 0, host: 0, failed: 0 },
  };
}

/** The same on one line of a terminal. */
export function statusLine({ namespace, link, rttMs, streams, bytes, reconnects, dns }: ProxyStatus): string {
  const far = rttMs === undefined ? '' : ` ${rttMs.toFixed(0)} ms`;
  const again = reconnects > 0 ? `, ${reconnects} reconnects` : '';
  const traffic = `${streams} streams, ${readableBytes(bytes.in)} in, ${readableBytes(bytes.out)} out`;
  return `${namespace}: link ${link}${far}${again}; ${traffic}; ${dns.queries} DNS questions`;
}

/** `1.5 MB`: SI units, two digits or more. */
export function readableBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  const power = bytes < 1 ? 0 : Math.min(Math.floor(Math.log10(bytes) / 3), units.length - 1);
  const value = bytes / 1_000 ** power;
  return `${power > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}
