import net from 'node:net';
import { ClockMap } from './clock.ts';

/** RFC 2544: for measuring between networks, and routed nowhere. */
const DEFAULT_RANGE = '198.18.0.0/15';
const MAX_ADDRESSES = 131_072;

/**
 * Addresses that stand for names, so that a cluster's range that the laptop uses itself is never needed: who connects to one is
 * connected to the name. When all are given out, one not used lately gets a new name.
 */
export class FakeAddresses {
  #base: number;
  #count: number;
  #bits: number;
  #next = 0;
  #numbers = new ClockMap<number>();
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
    const known = this.#numbers.get(key);
    if (known !== undefined) return toText(known);
    const number = this.#free();
    this.#numbers.set(key, number);
    this.#names.set(number, key);
    return toText(number);
  }

  /** The name that `address` stands for; undefined when it does for none. */
  nameOf(address: string): string | undefined {
    if (!this.contains(address)) return undefined;
    const name = this.#names.get(toNumber(address));
    // Being dialed is being used.
    if (name !== undefined) this.#numbers.get(name);
    return name;
  }

  contains(address: string): boolean {
    if (!net.isIPv4(address)) return false;
    const number = toNumber(address);
    return number >= this.#base - 1 && number < this.#base - 1 + 2 ** (32 - this.#bits);
  }

  #free(): number {
    if (this.#next < this.#count) return this.#base + this.#next++;
    return this.#numbers.evict()?.value as number;
  }
}

function toNumber(address: string): number {
  return address.split('.').reduce((number, octet) => number * 256 + Number(octet), 0);
}

function toText(number: number): string {
  return [24, 16, 8, 0].map((shift) => (number >>> shift) & 0xff).join('.');
}
