import dns, { type LookupAddress } from 'node:dns';
import type { LookupFunction } from 'node:net';

/** Long enough for a burst of connections, too short for a Service's or a pod's change to be noticed late. */
const KEEP_MS = 1_000;
const MAX_NAMES = 1_024;

type Known = { until: number; addresses: Promise<LookupAddress[]>; only?: string };

type Resolve = (name: string) => Promise<LookupAddress[]>;

const getaddrinfo: Resolve = (name) => dns.promises.lookup(name, { all: true });

/**
 * The pod's own resolver (getaddrinfo: hosts file, search list) with a memory of one second. A name with five dots to go costs
 * several questions each time, and neither musl nor glibc keeps an answer. Failures are not kept.
 */
export class Names {
  #resolve: Resolve;
  #nowMs: () => number;
  #known = new Map<string, Known>();

  constructor(resolve: Resolve = getaddrinfo, nowMs: () => number = () => performance.now()) {
    this.#resolve = resolve;
    this.#nowMs = nowMs;
  }

  /** One question for all who ask at once. Rejects with Node's resolver error. */
  addresses(name: string): Promise<LookupAddress[]> {
    const now = this.#nowMs();
    const known = this.#known.get(name);
    if (known && now < known.until) return known.addresses;
    const addresses = this.#resolve(name);
    this.#known.delete(name);
    const entry: Known = { until: now + KEEP_MS, addresses };
    this.#known.set(name, entry);
    addresses.then(
      ([only, ...others]) => {
        if (only && others.length === 0) entry.only = only.address;
      },
      () => this.forget(name),
    );
    const [oldest] = this.#known.keys();
    if (this.#known.size > MAX_NAMES && oldest !== undefined) this.#known.delete(oldest);
    return addresses;
  }

  /** The one address of a name that is known and has no other: nothing is to be looked up or tried in turn. */
  onlyAddress(name: string): string | undefined {
    const known = this.#known.get(name);
    return known && this.#nowMs() < known.until ? known.only : undefined;
  }

  /** An address that can't be reached may be an old one. */
  forget(name: string): void {
    this.#known.delete(name);
  }

  /** For `net.connect`. */
  readonly lookup: LookupFunction = (name, options, callback) => {
    this.addresses(name).then(
      (addresses) => {
        const [first] = addresses;
        if (options.all) callback(null, addresses);
        else callback(null, first?.address ?? '', first?.family);
      },
      (error: NodeJS.ErrnoException) => callback(error, ''),
    );
  };
}
