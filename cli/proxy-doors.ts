import net from 'node:net';
import type { ClusterNetwork } from '../agent/deploy/ranges.ts';
import { LpkError, systemCode } from '../agent/wire/errors.ts';
import type { Session } from '../agent/wire/session.ts';
import { FakeAddresses } from '../dns/fake.ts';
import { type DnsServer, openDnsServer } from '../dns/server.ts';
import { hostResolvers, type SystemDnsFacts, systemDnsFacts, systemDnsServer, systemDnsWay } from '../dns/system.ts';
import { askServers } from '../dns/upstream.ts';
import { openDoor } from '../proxy/door.ts';
import type { Dial } from '../proxy/flow.ts';
import { PAC_TYPE, pacFile } from '../proxy/pac.ts';
import type { Route } from '../proxy/route.ts';
import type { ProxyLink } from './proxy-link.ts';
import type { ProxyUpOptions } from './proxy-options.ts';

/** Usual ports; when one is taken and none was asked for, any free one does. */
const PROXY_PORT = 1080;
const DNS_PORT = 1053;
/** Longer than the agent's own patience with the pod's nameservers. */
const ASK_MS = 6_000;
/** A flow that is silent so long, both ways, is forgotten: half-open connections must not pile up for days. */
const FLOW_IDLE_MS = 24 * 60 * 60_000;

/** How long the laptop's own nameservers are taken for the same. */
const RESOLVERS_MS = 5_000;

/** What the pod's own resolver does; see agent/pod/resolve.ts. */
type PodResolver = { nameservers: string[]; search: string[]; ndots: number };

export type ProxyDoors = {
  /** The mixed door's. */
  readonly port: number;
  readonly address: string;
  readonly dnsAddress: string;
  readonly dnsServer: { address: string; port: number };
  /** The pod's search list, once it is known. */
  search(): string[];
  dnsStats(): ReturnType<DnsServer['stats']>;
  /** The session is there: learns what the pod's resolver does. */
  ready(session: Session): Promise<void>;
  close(): Promise<void>;
};

/**
 * The mixed SOCKS and HTTP door and the DNS server. Rejects with LpkError `port-taken`, `not-allowed` (a port that is root's) or
 * `usage`.
 */
export async function openDoors(given: {
  options: ProxyUpOptions;
  route: Route;
  link: ProxyLink;
  network: ClusterNetwork;
  namespace: string;
}): Promise<ProxyDoors> {
  const { options, route, link, network, namespace } = given;
  const fake = options.fakeIpRange === undefined ? undefined : new FakeAddresses(options.fakeIpRange);
  const facts = await systemDnsFacts();
  // What every cluster has unless told otherwise, until the pod says.
  let search = [`${namespace}.svc.cluster.local`, 'svc.cluster.local', 'cluster.local'];

  let port = 0;
  const domain = () => clusterDomain(search) ?? 'cluster.local';
  const pac = () => pacFile({ port, domain: domain(), ...network, include: options.dnsInclude });
  const door = await firstFree(options.port, PROXY_PORT, (wanted) =>
    openDoor({
      port: wanted,
      host: options.bind,
      dial: fake ? unmasked(route.dial, fake, options.fakeIpRange as string) : route.dial,
      flowIdleMs: FLOW_IDLE_MS,
      pages: { '/proxy.pac': () => ({ type: PAC_TYPE, body: pac() }) },
      ...(options.credentials ? { credentials: options.credentials } : {}),
    }),
  );
  port = door.port;

  const host = new HostResolvers(hostResolvers(facts));
  const dns = await openDns(options, facts, {
    askCluster: (message: Buffer) => askCluster(link, message),
    askHost: (message: Buffer) => askServers(message, host.servers()),
    clusterUp: () => link.isUp,
    search: () => search,
    mode: options.dns,
    include: options.dnsInclude,
    exclude: options.dnsExclude,
    isClusterAddress: (address: string) => isWithin(network.ranges, address),
    ...(fake ? { fake } : {}),
  }).catch(async (error: unknown) => {
    await door.close();
    throw error;
  });

  return {
    port,
    address: endpoint(options.bind, port),
    dnsAddress: endpoint(dns.host, dns.server.port),
    dnsServer: { address: dns.host, port: dns.server.port },
    search: () => search,
    dnsStats: () => dns.server.stats(),
    ready: async (session) => {
      const resolver = await session.request<PodResolver>('resolver');
      if (clusterDomain(resolver.search)) search = resolver.search;
    },
    close: async () => {
      await Promise.all([door.close(), dns.server.close()]);
    },
  };
}

/** The laptop's own nameservers, which are others in another Wi-Fi. */
class HostResolvers {
  #servers: string[];
  #readAt = performance.now();

  constructor(servers: string[]) {
    this.#servers = servers;
  }

  /** As last seen; when that is a while ago, looked at again for the next question. */
  servers(): string[] {
    if (performance.now() - this.#readAt > RESOLVERS_MS) {
      this.#readAt = performance.now();
      void systemDnsFacts().then((facts) => {
        this.#servers = hostResolvers(facts);
      });
    }
    return this.#servers;
  }
}

type DnsOptions = Omit<Parameters<typeof openDnsServer>[0], 'port' | 'host'>;

async function openDns(
  options: ProxyUpOptions,
  facts: SystemDnsFacts,
  rest: DnsOptions,
): Promise<{ server: DnsServer; host: string }> {
  const place = options.systemDns ? systemDnsServer(systemDnsWay(facts)) : { addresses: ['127.0.0.1'], port: 0 };
  let last: unknown;
  for (const host of place.addresses) {
    const open = (port: number) =>
      openDnsServer({ ...rest, host, port }).catch((cause: unknown) => {
        const code = systemCode(cause) === 'EADDRINUSE' ? 'port-taken' : 'not-allowed';
        const why = code === 'port-taken' ? 'is taken by another program' : `can't be opened (${systemCode(cause)})`;
        throw new LpkError(code, `DNS port ${port} on ${host} ${why}`, { cause });
      });
    try {
      const server = place.port === 53 ? await open(53) : await firstFree(options.dnsPort, DNS_PORT, open);
      return { server, host };
    } catch (error) {
      last = error;
    }
  }
  throw last;
}

/** `asked`: that port or none. */
async function firstFree<T extends { port: number }>(
  asked: number | undefined,
  usual: number,
  open: (port: number) => Promise<T>,
): Promise<T> {
  if (asked !== undefined) return await open(asked);
  try {
    return await open(usual);
  } catch (error) {
    if (!(error instanceof LpkError) || error.code !== 'port-taken') throw error;
    return await open(0);
  }
}

function askCluster(link: ProxyLink, message: Buffer): Promise<Buffer> {
  const { session } = link;
  if (!session?.isUp) return Promise.reject(new LpkError('link-lost', 'the link to the cluster is down'));
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const late = setTimeout(() => reject(new LpkError('timed-out', "the pod's nameserver did not answer")), ASK_MS);
  session.queryDns(message).then(resolve, reject);
  return promise.finally(() => clearTimeout(late));
}

/** Stand-in addresses become the names they stand for. */
function unmasked(dial: Dial, fake: FakeAddresses, range: string): Dial {
  const standIns = blockList([range]);
  return (flow, first) => {
    if (!isWithin(standIns, flow.host)) return dial(flow, first);
    const host = fake.nameOf(flow.host);
    if (host === undefined) throw new LpkError('unreachable', `${flow.host} stands for no name any more`);
    return dial({ ...flow, host }, first);
  };
}

/** `cluster.local` of `shop.svc.cluster.local`. */
export function clusterDomain(search: string[]): string | undefined {
  return search.map((entry) => /^[^.]+\.svc\.(.+)$/.exec(entry)?.[1]).find(Boolean);
}

function isWithin(ranges: string[] | net.BlockList, address: string): boolean {
  const family = net.isIP(address);
  if (family === 0) return false;
  const list = ranges instanceof net.BlockList ? ranges : blockList(ranges);
  return list.check(address, family === 6 ? 'ipv6' : 'ipv4');
}

function blockList(ranges: string[]): net.BlockList {
  const list = new net.BlockList();
  for (const range of ranges) {
    const [address, bits] = range.split('/') as [string, string];
    list.addSubnet(address, Number(bits), net.isIPv6(address) ? 'ipv6' : 'ipv4');
  }
  return list;
}

function endpoint(host: string, port: number): string {
  return net.isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}
