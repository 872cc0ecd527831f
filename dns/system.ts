import { execFile } from 'node:child_process';
import dns from 'node:dns';
import { readdirSync, readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { planResolvConf, serversOf } from './system-resolv-conf.ts';

/** How the laptop's own programs come to ask lpk's DNS server for the cluster's names. Plans only: `cli/laptop-changes.ts` carries them out. */

export type Action =
  /** Ends well with exit code 0, or any when it `mayFail`. Done only while the path `ifExists` does. */
  | { run: string[]; input?: string; mayFail?: true; ifExists?: string }
  | { write: string; content: string }
  | { remove: string }
  | { removeEmpty: string }
  /**
   * Puts a file back that is as we wrote it (`from`): `to`, or none. In one that somebody changed meanwhile, each of
   * `ours` that is still there becomes what it was before.
   */
  | { putBack: string; from: string; ours: [text: string, before: string][]; to?: string | undefined };

/**
 * `undo` takes `do` back, also a half-done one, and is harmless when done twice. `what` is what a person reads. One that is
 * `urgent` is to be taken back at once when lpk is gone, however that came.
 */
export type Step = { what: string; do: Action[]; undo: Action[]; urgent?: true };

/** What of the laptop decides on the plan. */
export type SystemDnsFacts = {
  platform: NodeJS.Platform;
  /** /etc/resolv.conf. */
  resolvConf?: string;
  /** systemd-resolved answers resolvectl. */
  resolved: boolean;
  /** /run/systemd/resolve/resolv.conf: the nameservers behind systemd-resolved's own. */
  uplinks?: string;
  /** Files in macOS' /etc/resolver; undefined when there is no such folder. */
  resolverFiles?: string[];
  /** Node's own list, for where there is no resolv.conf. */
  servers: string[];
};

export type SystemDns = {
  pid: number;
  /** lpk's DNS server. For /etc/resolv.conf and Windows its port must be 53: see {@link systemDnsServer}. */
  server: { address: string; port: number };
  /** The TUN device. systemd-resolved then needs no link of its own for the names. */
  link?: string;
  clusterDomain: string;
  namespace: string;
  /** Those whose names work as NAME.NAMESPACE. */
  namespaces: string[];
  /** Suffixes of --dns-include. */
  include: string[];
};

export type SystemDnsWay = 'systemd-resolved' | 'resolv.conf' | 'macos' | 'windows';

/** Loopback addresses of our own for port 53, to be tried in order: the host's resolver may listen on 127.0.0.1. */
export const SYSTEM_DNS_ADDRESSES = Array.from({ length: 10 }, (_, i) => `127.0.0.${153 + i}`);

/** systemd-resolved takes that many domains on a link (LINK_SEARCH_DOMAINS_MAX, 256 up to systemd 246), and some are for includes. */
const MAX_NAMESPACES = 200;

/** Of systemd-resolved: its stub and its proxy (systemd-resolved.service(8)). */
const STUBS = ['127.0.0.53', '127.0.0.54'];

/** The way of this laptop. Throws for a platform that has none of them. */
export function systemDnsWay(facts: SystemDnsFacts): SystemDnsWay {
  switch (facts.platform) {
    case 'linux':
      return facts.resolved && serversOf(facts.resolvConf ?? '').some((server) => STUBS.includes(server))
        ? 'systemd-resolved'
        : 'resolv.conf';
    case 'darwin':
      return 'macos';
    case 'win32':
      return 'windows';
    default:
      throw new Error(`system DNS is for Linux, macOS and Windows, not ${facts.platform}`);
  }
}

/**
 * Where lpk's DNS server must listen for this way: on one of `addresses` (the first that is free), at port 53 or, with
 * 0, at any.
 */
export function systemDnsServer(way: SystemDnsWay): { addresses: string[]; port: 53 | 0 } {
  return way === 'resolv.conf' || way === 'windows'
    ? { addresses: SYSTEM_DNS_ADDRESSES, port: 53 }
    : { addresses: ['127.0.0.1'], port: 0 };
}

/** Throws for a domain that is none. */
export function planSystemDns(facts: SystemDnsFacts, wanted: SystemDns): Step[] {
  const way = systemDnsWay(facts);
  if (systemDnsServer(way).port === 53 && wanted.server.port !== 53) {
    throw new RangeError(`${way} knows no port but 53, not ${wanted.server.port}`);
  }
  switch (way) {
    case 'systemd-resolved':
      return planResolved(wanted);
    case 'resolv.conf':
      return planResolvConf(facts.resolvConf, wanted);
    case 'macos':
      return planMacos(facts.resolverFiles, wanted);
    case 'windows':
      return planWindows(wanted);
  }
}

/**
 * The nameservers that the laptop has without lpk, as addresses, or as `address:port` where Node says so (`dns.getServers()`).
 * lpk's own are never among them, whichever lpk put them there, so that two can't ask each other in a circle.
 */
export function hostResolvers(facts: SystemDnsFacts): string[] {
  const listed = facts.resolvConf === undefined ? facts.servers : serversOf(facts.resolvConf);
  // Not the stub, which may ask lpk again.
  const isStub = facts.uplinks !== undefined && listed.some((server) => STUBS.includes(server));
  const servers = isStub ? serversOf(facts.uplinks ?? '') : listed;
  return servers.filter((server) => !SYSTEM_DNS_ADDRESSES.includes(server));
}

export async function systemDnsFacts(): Promise<SystemDnsFacts> {
  const { platform } = process;
  // macOS has a resolv.conf too, which says itself that it is not used.
  const isLinux = platform === 'linux';
  return {
    platform,
    resolvConf: isLinux ? textOf('/etc/resolv.conf') : undefined,
    resolved: isLinux && (await succeeds('resolvectl', ['status'])),
    uplinks: isLinux ? textOf('/run/systemd/resolve/resolv.conf') : undefined,
    resolverFiles: platform === 'darwin' ? filesOf('/etc/resolver') : undefined,
    servers: dns.getServers(),
  };
}

/**
 * systemd-resolved sends a name to the link with the longest matching domain. A link without a default route gets no other names. The link must be up and have an address, or it doesn't count.
 */
function planResolved(wanted: SystemDns): Step[] {
  const { pid, server } = wanted;
  const link = wanted.link ?? `lpk-dns${pid}`;
  const { search, routed } = domains(wanted);
  const routing = routed.filter((domain) => !search.includes(domain)).map((domain) => `~${domain}`);
  const own: Step = {
    what: `the link ${link}, for the names of the cluster`,
    do: [
      { run: ['ip', 'link', 'add', 'name', link, 'type', 'dummy'] },
      // The IPv4 dummy address (RFC 7600 section 3.1): nobody sends to it.
      { run: ['ip', 'addr', 'add', '192.0.0.8/32', 'dev', link] },
      { run: ['ip', 'link', 'set', 'dev', link, 'multicast', 'off', 'up'] },
    ],
    undo: [{ run: ['ip', 'link', 'del', 'dev', link], ifExists: `/proc/sys/net/ipv4/conf/${link}` }],
    // A namespace or an include may be named as a domain outside is (`dev`), whose names then find nobody.
    urgent: true,
  };
  const names: Step = {
    what: `systemd-resolved: the names of the cluster go to lpk by the link ${link}`,
    do: [
      { run: ['resolvectl', 'dns', link, server.port === 53 ? server.address : `${server.address}:${server.port}`] },
      { run: ['resolvectl', 'domain', link, ...search, ...routing] },
      { run: ['resolvectl', 'default-route', link, 'false'] },
      { run: ['resolvectl', 'flush-caches'], mayFail: true },
    ],
    // The settings go with the link, be it the one of the step before or the TUN device.
    undo: [{ run: ['resolvectl', 'flush-caches'], mayFail: true }],
  };
  return wanted.link === undefined ? [own, names] : [names];
}

/** resolver(5): a file for each domain. A file for no domain that there is can add to the search list, as Tailscale does it. */
function planMacos(existing: string[] | undefined, wanted: SystemDns): Step[] {
  const { pid, server } = wanted;
  const { search, routed } = domains(wanted);
  const mark = `# lpk ${pid}\n`;
  const files = [
    ...routed.map((domain) => [domain, `nameserver ${server.address}\nport ${server.port}\n`] as const),
    [`search.lpk-${pid}`, `search ${search.join(' ')}\n`] as const,
  ];
  // One that another program has put there stays as it is.
  const ours = files.filter(([name]) => !existing?.includes(name));
  const flush: Action[] = [
    { run: ['dscacheutil', '-flushcache'], mayFail: true },
    { run: ['killall', '-HUP', 'mDNSResponder'], mayFail: true },
  ];
  return [
    {
      what: `/etc/resolver: ${ours.map(([name]) => name).join(', ')}`,
      do: [
        ...ours.map(([name, content]) => ({ write: `/etc/resolver/${name}`, content: `${mark}${content}` })),
        ...flush,
      ],
      undo: [
        ...ours.map(([name]) => ({ remove: `/etc/resolver/${name}` })),
        ...(existing ? [] : [{ removeEmpty: '/etc/resolver' }]),
        ...flush,
      ],
      urgent: true, // as with systemd-resolved
    },
  ];
}

/** The Name Resolution Policy Table. Its rules are known by their comment, and outlive a reboot. */
function planWindows(wanted: SystemDns): Step[] {
  const comment = quoted(`lpk ${wanted.pid}`);
  const namespaces = domains(wanted).routed.map((domain) => quoted(`.${domain}`));
  const powershell = (command: string): Action => ({
    run: ['powershell.exe', '-NoProfile', '-NonInteractive', '-Command', command],
  });
  return [
    {
      what: 'name resolution rules (NRPT) for the names of the cluster',
      do: [
        powershell(
          `$ErrorActionPreference = 'Stop'; Add-DnsClientNrptRule -Namespace ${namespaces.join(',')} ` +
            `-NameServers ${quoted(wanted.server.address)} -Comment ${comment}; Clear-DnsClientCache`,
        ),
      ],
      undo: [
        powershell(
          `$ErrorActionPreference = 'Stop'; Get-DnsClientNrptRule | Where-Object Comment -eq ${comment} | ` +
            'Remove-DnsClientNrptRule -Force; Clear-DnsClientCache',
        ),
      ],
    },
  ];
}

/** The search list of a pod in the namespace, and every suffix that is lpk's to answer. */
function domains({ clusterDomain, namespace, namespaces, include }: SystemDns): { search: string[]; routed: string[] } {
  const search = [`${namespace}.svc.${clusterDomain}`, `svc.${clusterDomain}`, clusterDomain].map(domain);
  const own = [...new Set([namespace, ...namespaces])].slice(0, MAX_NAMESPACES);
  return { search, routed: [...new Set([clusterDomain, 'svc', ...own, ...include].map(domain))] };
}

/** Domains are parts of commands and of paths. */
function domain(text: string): string {
  const name = text.replace(/^\.|\.$/g, '').toLowerCase();
  if (!/^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$/.test(name) || name.length > 253) {
    throw new RangeError(`${JSON.stringify(text)} is no domain`);
  }
  return name;
}

/** A literal string of PowerShell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}

function filesOf(folder: string): string[] | undefined {
  try {
    return readdirSync(folder);
  } catch {
    return undefined;
  }
}

async function succeeds(program: string, args: string[]): Promise<boolean> {
  return promisify(execFile)(program, args, { timeout: 5_000 }).then(
    () => true,
    () => false,
  );
}
