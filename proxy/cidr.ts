import net from 'node:net';
import { LpkError } from '../agent/wire/errors.ts';

/** Ranges of addresses, IPv4 and IPv6 (RFC 4632, RFC 4291 2.3). */

/** `base` has no bit set after the first `bits`. */
export type Cidr = { version: 4 | 6; base: bigint; bits: number };

const WIDTH = { 4: 32, 6: 128 } as const;

/**
 * Reads `10.96.0.0/16` or `fd00::/8`; an address alone is a range of one, and what is set after the prefix is dropped. Throws `usage` for what
 * is neither.
 */
export function parseCidr(text: string): Cidr {
  const [, address = '', prefix] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(text.trim()) ?? [];
  const version = net.isIP(address) as 0 | 4 | 6;
  const bits = version === 0 || prefix !== undefined ? Number(prefix) : WIDTH[version];
  if (version === 0 || address.includes('%') || bits > WIDTH[version]) {
    throw new LpkError('usage', `${JSON.stringify(text)} is no range of addresses, as 10.96.0.0/16 is one`);
  }
  const value = version === 4 ? ipv4Value(address) : ipv6Value(address);
  const after = BigInt(WIDTH[version] - bits);
  return { version, base: (value >> after) << after, bits };
}

/** As {@link parseCidr} reads it; IPv6 as in RFC 5952. */
export function cidrText({ version, base, bits }: Cidr): string {
  return `${addressText(version, base)}/${bits}`;
}

/** Whether all of `inner` is in `outer`. */
export function contains(outer: Cidr, inner: Cidr): boolean {
  return (
    outer.version === inner.version && outer.bits <= inner.bits && inner.base >= outer.base && inner.base <= last(outer)
  );
}

/** Two prefixes overlap when one contains the other, and in no other way. */
export function overlaps(one: Cidr, other: Cidr): boolean {
  return contains(one, other) || contains(other, one);
}

/** The fewest ranges that hold the same addresses, IPv4 first, in order. */
export function merge(ranges: Cidr[]): Cidr[] {
  const merged: Cidr[] = [];
  for (const range of ranges.toSorted(inOrder)) {
    const previous = merged.at(-1);
    if (previous && contains(previous, range)) continue;
    merged.push(range);
    // Two halves are their whole, which may be half of another.
    for (let pair = wholeOf(merged); pair; pair = wholeOf(merged)) merged.splice(-2, 2, pair);
  }
  return merged;
}

/** The ranges without the holes: what is left, merged. A hole within a range leaves at most one range per bit of difference. */
export function subtract(ranges: Cidr[], holes: Cidr[]): Cidr[] {
  const left = merge(holes).reduce((rest, hole) => rest.flatMap((range) => without(range, hole)), merge(ranges));
  return merge(left);
}

function without(range: Cidr, hole: Cidr): Cidr[] {
  if (contains(hole, range)) return [];
  if (!contains(range, hole)) return [range];
  return halves(range).flatMap((half) => without(half, hole));
}

function halves({ version, base, bits }: Cidr): Cidr[] {
  const half = 1n << BigInt(WIDTH[version] - bits - 1);
  return [base, base | half].map((base) => ({ version, base, bits: bits + 1 }));
}

/** What the last two ranges make together, when they are the halves of one. */
function wholeOf(ranges: Cidr[]): Cidr | undefined {
  const [one, other] = ranges.slice(-2);
  if (!one || !other || one.version !== other.version || one.bits !== other.bits || one.bits === 0) return undefined;
  const { version, base, bits } = one;
  const whole = { version, base, bits: bits - 1 };
  return base + size(one) === other.base && base % size(whole) === 0n ? whole : undefined;
}

function inOrder(a: Cidr, b: Cidr): number {
  if (a.version !== b.version) return a.version - b.version;
  if (a.base !== b.base) return a.base < b.base ? -1 : 1;
  return a.bits - b.bits;
}

function size({ version, bits }: Cidr): bigint {
  return 1n << BigInt(WIDTH[version] - bits);
}

function last(range: Cidr): bigint {
  return range.base + size(range) - 1n;
}

function ipv4Value(address: string): bigint {
  return BigInt(address.split('.').reduce((value, byte) => value * 256 + Number(byte), 0));
}

function ipv6Value(address: string): bigint {
  // ::ffff:10.0.0.1 has its last 32 bits in the form of IPv4.
  const groups = address.replace(/[^:]*\.[^:]*$/, (ipv4) => {
    const value = ipv4Value(ipv4);
    return `${(value >> 16n).toString(16)}:${(value & 0xffffn).toString(16)}`;
  });
  const [left = [], right = []] = groups.split('::').map((part) => part.split(':').filter(Boolean));
  const filled = [...left, ...Array<string>(8 - left.length - right.length).fill('0'), ...right];
  return BigInt(`0x${filled.map((group) => group.padStart(4, '0')).join('')}`);
}

function addressText(version: 4 | 6, value: bigint): string {
  if (version === 4) return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 0xffn).join('.');
  const groups = value.toString(16).padStart(32, '0').match(/.{4}/g) as string[];
  return new net.SocketAddress({ family: 'ipv6', address: groups.join(':') }).address;
}
