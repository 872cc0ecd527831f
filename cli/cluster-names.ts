import net from 'node:net';
import { LpkError } from '../agent/wire/errors.ts';
import type { Session } from '../agent/wire/session.ts';
import type { ResponderOptions } from '../dns/responder.ts';
import { hostResolvers, systemDnsFacts } from '../dns/system.ts';
import { askServers } from '../dns/upstream.ts';

/** Longer than the agent's own patience with the pod's nameservers. */
const ASK_MS = 6_000;
/** How long the laptop's own nameservers are taken for the same. */
const RESOLVERS_MS = 5_000;

/** What the pod's own resolver does; see agent/pod/resolve.ts. */
type PodResolver = { nameservers: string[]; search: string[]; ndots: number };

/** How names are divided between the cluster and the laptop's own resolvers. */
export type NamePolicy = { mode: 'split' | 'all'; include: string[]; exclude: string[] };

/** Where a DNS server of lpk's asks: the pod's nameserver through a session, the laptop's own for the rest. */
export class ClusterNames {
  /** What every cluster has unless told otherwise, until the pod says. */
  #search: string[];
  #session: () => Session | undefined;
  #ranges: () => string[];
  #servers: string[] = [];
  #readAt = Number.NEGATIVE_INFINITY;
  #dead = new Map<string, number>();

  constructor(given: { session: () => Session | undefined; namespace: string; ranges: () => string[] }) {
    this.#session = given.session;
    this.#ranges = given.ranges;
    this.#search = [`${given.namespace}.svc.cluster.local`, 'svc.cluster.local', 'cluster.local'];
  }

  get search(): string[] {
    return this.#search;
  }

  /** `cluster.local`, mostly. */
  get domain(): string {
    return clusterDomain(this.#search) ?? 'cluster.local';
  }

  /** Learns what the pod's resolver does, and which nameservers the laptop has. LpkError: the agent's. */
  async ready(session: Session): Promise<void> {
    const [{ search }] = await Promise.all([session.request<PodResolver>('resolver'), this.#readServers()]);
    if (clusterDomain(search)) this.#search = search;
  }

  responderOptions({ mode, include, exclude }: NamePolicy): ResponderOptions {
    return {
      askCluster: (message) => this.#askCluster(message),
      askHost: (message) => askServers(message, this.#hostServers(), { dead: this.#dead }),
      clusterUp: () => this.#session()?.isUp === true,
      search: () => this.#search,
      isClusterAddress: (address) => isWithin(blockList(this.#ranges()), address),
      ...{ mode, include, exclude },
    };
  }

  #askCluster(message: Buffer): Promise<Buffer> {
    const session = this.#session();
    if (!session?.isUp) return Promise.reject(new LpkError('link-lost', 'the link to the cluster is down'));
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
    const late = setTimeout(() => reject(new LpkError('timed-out', "the pod's nameserver did not answer")), ASK_MS);
    session.queryDns(message).then(resolve, reject);
    return promise.finally(() => clearTimeout(late));
  }

  /** The laptop's own, which are others in another Wi-Fi: as last seen, and for later questions looked at again. */
  #hostServers(): string[] {
    if (performance.now() - this.#readAt > RESOLVERS_MS) void this.#readServers();
    return this.#servers;
  }

  async #readServers(): Promise<void> {
    this.#readAt = performance.now();
    this.#servers = hostResolvers(await systemDnsFacts());
  }
}

/** `cluster.local` of `shop.svc.cluster.local`. */
function clusterDomain(search: string[]): string | undefined {
  return search.map((entry) => /^[^.]+\.svc\.(.+)$/.exec(entry)?.[1]).find(Boolean);
}

export function isWithin(list: net.BlockList, address: string): boolean {
  const family = net.isIP(address);
  return family !== 0 && list.check(address, family === 6 ? 'ipv6' : 'ipv4');
}

export function blockList(ranges: string[]): net.BlockList {
  const list = new net.BlockList();
  for (const range of ranges) {
    const [address, bits] = range.split('/') as [string, string];
    list.addSubnet(address, Number(bits), net.isIPv6(address) ? 'ipv6' : 'ipv4');
  }
  return list;
}
