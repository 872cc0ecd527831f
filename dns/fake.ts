import net from 'node:net';

/** RFC 2544: for measuring between networks, and routed nowhere. */
const DEFAULT_RANGE = '198.18.0.0/15';
const MAX_ADDRESSES = 131_072;

/**
 * Addresses that stand for names, so that a cluster's range that the laptop uses itself is never needed: who connects to one is
 * connected to the name. When all are given out, the one not used for longest gets a new name.
 */
export class FakeAddresses {
  #base: number;
  #count: number;
  #bits: number;
  #next = 0;
  /** Least used first. */
  #numbers = new Map<string, number>();
  #names = new Map<number, string>();

  /** @param range IPv4 CIDR, of /8 to /30; throws an Error with code `EINVAL` for anything else. */
  constructor(range: string = DEFAULT_RANGE) {
    const [address = '', bits = ''] = range.split('/');
    this.#bits = Number(bits);
    if (!net.isIPv4(address) || !/^\d+$/.test(bits) || this.#bits < 8 || this.#bits > 30) {
      throw Object.assign(new Error(`${range} is no IPv4 range of /8 to /30`), { code: 'EINVAL' });
    }
    const size = 2 ** (32 - this.#bits);
    const number = toNumber(address);
    this.#base = number - (number % size) + 1;
    // Without the network's own address and its broadcast.
    this.#count = Math.min(size - 2, MAX_ADDRESSES);
  }

  /** The range as CIDR, from its first address. */
  get range(): string {
    return `${toText(this.#base - 1)}/${this.#bits}`;
  }

  addressFor(name: string): string {
    const key = name.toLowerCase();
    const number = this.#numbers.get(key) ?? this.#free();
    this.#use(key, number);
    return toText(number);
  }

  /** The name that `address` stands for; undefined when it does for none. */
  nameOf(address: string): string | undefined {
    if (!this.contains(address)) return undefined;
    const number = toNumber(address);
    const name = this.#names.get(number);
    if (name !== undefined) this.#use(name, number);
    return name;
  }

  contains(address: string): boolean {
    if (!net.isIPv4(address)) return false;
    const number = toNumber(address);
    return number >= this.#base - 1 && number < this.#base - 1 + 2 ** (32 - this.#bits);
  }

  #use(name: string, number: number): void {
    this.#numbers.delete(name);
    this.#numbers.set(name, number);
    this.#names.set(number, name);
  }

  #free(): number {
    if (this.#next < this.#count) return this.#base + this.#next++;
    const [name, number] = this.#numbers.entries().next().value as [string, number];
    this.#numbers.delete(name);
    return number;
  }
}

function toNumber(address: string): number {
  return address.split('.').reduce((number, octet) => number * 256 + Number(octet), 0);
}

function toText(number: number): string {
  return [24, 16, 8, 0].map((shift) => (number >>> shift) & 0xff).join('.');
}
