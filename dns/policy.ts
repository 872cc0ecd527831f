import net from 'node:net';
import { ClockMap } from './clock.ts';
import { isNegative, RCODE, rcodeOf, TYPE } from './message.ts';
import { reversedAddress } from './reverse.ts';

export type Road = 'cluster' | 'host';

export type PolicyOptions = {
  /** `split`: cluster names to the cluster, others to the host's own resolvers. `all`: everything to the cluster. */
  mode: 'split' | 'all';
  /** Suffixes of names that are the cluster's. */
  include?: string[];
  /** Suffixes of names that are never asked in the cluster; they win over the others. */
  exclude?: string[];
  /** The pod's search list, e.g. `shop.svc.cluster.local`, `svc.cluster.local`, `cluster.local`. */
  search: () => string[];
  /** Does the tunnel work? */
  clusterUp: () => boolean;
  /** Is this address (IPv4 or IPv6) one of the cluster's Services or pods? */
  isClusterAddress?: (address: string) => boolean;
  nowMs?: () => number;
};

/**
 * Asks for a name on a road, with the client's own type unless one is given. Gives a sound answer to just that question; rejects
 * when there is none.
 */
export type Ask = (road: Road, name: string, type?: number) => Promise<Buffer>;

export type Found = {
  answer: Buffer;
  road: Road;
  /** The name it was found under. */
  name: string;
  /** One of the cluster's own, not an outside name that was asked for there. */
  clusterName: boolean;
  /** What the client may keep it for, whatever the answer says. */
  maxTtlS?: number;
};

/** The search list's entries under the cluster's domain, and that domain. */
type Search = { given: string; suffixes: string[]; domain: string };

const DEFAULT_DOMAIN = 'cluster.local';
/** How long it is remembered that the cluster has, or has not, something of a name's last label. */
const KNOWN_MS = 60_000;
const UNKNOWN_MS = 30_000;
const MAX_REMEMBERED = 4_096;
/** For names that may be the cluster's before long: a namespace or a service that is made, a tunnel that comes back. */
const NEGATIVE_TTL_S = 30;
const DOWN_TTL_S = 5;

/** Reserved for carrier-grade NAT, which clusters use too (RFC 6598), besides RFC 1918 and RFC 4193. */
const privateAddresses = new net.BlockList();
privateAddresses.addSubnet('10.0.0.0', 8);
privateAddresses.addSubnet('172.16.0.0', 12);
privateAddresses.addSubnet('192.168.0.0', 16);
privateAddresses.addSubnet('100.64.0.0', 10);
privateAddresses.addSubnet('fc00::', 7, 'ipv6');

/** Which road a question takes, and the search of short names. */
export class Policy {
  #options: PolicyOptions;
  #include: string[];
  #exclude: string[];
  #nowMs: () => number;
  #lastSearch = readSearch([]);
  #known = new Memory();
  #unknown = new Memory();
  #probes = new Map<string, Promise<boolean>>();

  constructor(options: PolicyOptions) {
    this.#options = options;
    this.#include = (options.include ?? []).map(suffixText);
    this.#exclude = (options.exclude ?? []).map(suffixText);
    this.#nowMs = options.nowMs ?? Date.now;
  }

  /**
   * The answer to a question for `name` (as `questionName` in message.ts writes it). Rejects when nobody answered, or at once,
   * with code `ESERVFAIL`, for a name that is the cluster's while the tunnel is down.
   */
  async find(name: string, ask: Ask): Promise<Found> {
    const toHost = async (maxTtlS?: number): Promise<Found> => {
      return { answer: await ask('host', name), road: 'host', name, clusterName: false, ...(maxTtlS && { maxTtlS }) };
    };
    const toCluster = async (clusterName: boolean): Promise<Found> => {
      return { answer: await ask('cluster', name), road: 'cluster', name, clusterName };
    };
    if (isUnder(name, this.#exclude)) return await toHost();

    const search = this.#search();
    const address = reversedAddress(name);
    const sure =
      isUnder(name, [search.domain, ...this.#include]) ||
      (address !== undefined && (this.#options.isClusterAddress?.(address) ?? false));
    const short = address === undefined && name !== '';
    if (!this.#options.clusterUp()) {
      if (sure || (short && this.#isRemembered(name, search.suffixes))) {
        throw Object.assign(new Error('the tunnel is down'), { code: 'ESERVFAIL' });
      }
      return await toHost(DOWN_TTL_S);
    }
    if (sure) return await toCluster(true);

    const searched = short ? await this.#searched(name, search, ask) : undefined;
    if (searched) return searched;
    const all = this.#options.mode === 'all';
    if (all || (address !== undefined && isPrivate(address))) {
      const found = await toCluster(false).catch(() => undefined);
      if (!found) return await toHost(DOWN_TTL_S);
      if (all) return briefWhenNegative(found);
      if (rcodeOf(found.answer) === RCODE.noError) return found;
    }
    return briefWhenNegative(await toHost());
  }

  #search(): Search {
    const given = this.#options.search();
    // The last one is good for as long as there is none, and need not be read again while it is the same.
    if (given.length > 0 && given.join() !== this.#lastSearch.given) this.#lastSearch = readSearch(given);
    return this.#lastSearch;
  }

  /** Single labels too: what a laptop asks for by one is mostly the cluster's. */
  #isRemembered(name: string, suffixes: string[]): boolean {
    const last = lastLabel(name);
    return last === name || suffixes.some((suffix) => this.#known.has(`${last}.${suffix}`));
  }

  /** `name` with the search list's suffixes, in their order: the first that exists. Undefined when none does. */
  async #searched(name: string, search: Search, ask: Ask): Promise<Found | undefined> {
    const last = lastLabel(name);
    const single = last === name;
    const known = await Promise.all(
      search.suffixes.map((suffix) => single || this.#knows(last, suffix, search.domain, ask)),
    );
    const candidates = search.suffixes.filter((_, i) => known[i]);
    // Together, as each takes a journey to the cluster. The first one's failure is not to hide behind a later one's answer.
    const answers = await Promise.all(
      candidates.map((suffix) =>
        ask('cluster', `${name}.${suffix}`).then(
          (answer) => ({ answer, suffix, failure: undefined }),
          (failure: unknown) => ({ answer: undefined, suffix, failure }),
        ),
      ),
    );
    for (const { answer, suffix } of answers) {
      if (single && answer) this.#remember(`${last}.${suffix}`, answer);
    }
    for (const { answer, suffix, failure } of answers) {
      if (!answer) throw failure;
      if (rcodeOf(answer) !== RCODE.nxDomain) {
        return { answer, road: 'cluster', name: `${name}.${suffix}`, clusterName: true };
      }
    }
    return undefined;
  }

  /**
   * Has the cluster anything called `last` under `suffix`? It answers NXDOMAIN when not, so that an outside name like github.com
   * costs one question for `com` in a while, and not one for itself.
   */
  #knows(last: string, suffix: string, domain: string, ask: Ask): boolean | Promise<boolean> {
    if (suffix === domain && (last === 'svc' || last === 'pod')) return true;
    const name = `${last}.${suffix}`;
    const nowMs = this.#nowMs();
    if (this.#known.isFresh(name, nowMs)) return true;
    if (this.#unknown.isFresh(name, nowMs)) return false;
    const underWay = this.#probes.get(name);
    if (underWay) return underWay;
    const probe = ask('cluster', name, TYPE.a)
      .then(
        (answer) => this.#remember(name, answer),
        () => false,
      )
      .finally(() => this.#probes.delete(name));
    this.#probes.set(name, probe);
    return probe;
  }

  #remember(name: string, answer: Buffer): boolean {
    const rcode = rcodeOf(answer);
    if (rcode === RCODE.noError) {
      this.#known.add(name, this.#nowMs() + KNOWN_MS);
      this.#unknown.drop(name);
    }
    if (rcode === RCODE.nxDomain) {
      this.#unknown.add(name, this.#nowMs() + UNKNOWN_MS);
      this.#known.drop(name);
    }
    return rcode === RCODE.noError;
  }
}

function readSearch(given: string[]): Search {
  const list = given.map(suffixText);
  const domain = list.map((suffix) => /^[^.]+\.svc\.(.+)$/.exec(suffix)?.[1]).find(Boolean) ?? DEFAULT_DOMAIN;
  return { given: given.join(), suffixes: list.filter((suffix) => isUnder(suffix, [domain])), domain };
}

/** Names with the time until which they are fresh, up to a number of them. */
class Memory {
  #untilMs = new ClockMap<number>();

  has(name: string): boolean {
    return this.#untilMs.get(name) !== undefined;
  }

  isFresh(name: string, nowMs: number): boolean {
    const untilMs = this.#untilMs.get(name);
    return untilMs !== undefined && nowMs < untilMs;
  }

  add(name: string, untilMs: number): void {
    this.#untilMs.set(name, untilMs);
    if (this.#untilMs.size > MAX_REMEMBERED) this.#untilMs.evict();
  }

  drop(name: string): void {
    this.#untilMs.delete(name);
  }
}

function briefWhenNegative(found: Found): Found {
  return isNegative(found.answer) ? { ...found, maxTtlS: NEGATIVE_TTL_S } : found;
}

function isPrivate(address: string): boolean {
  return privateAddresses.check(address, net.isIPv6(address) ? 'ipv6' : 'ipv4');
}

function lastLabel(name: string): string {
  return name.slice(name.lastIndexOf('.') + 1);
}

/** `*.Corp.example.`, `.corp.example`: the same as `corp.example`. */
function suffixText(suffix: string): string {
  return suffix
    .toLowerCase()
    .replace(/^\*?\./, '')
    .replace(/\.$/, '');
}

function isUnder(name: string, suffixes: string[]): boolean {
  return suffixes.some((suffix) => name === suffix || name.endsWith(`.${suffix}`));
}
