import net from 'node:net';
import { cidrText, parseCidr, subtract } from '../cidr.ts';
import { isLoopback } from '../loopback.ts';
import type { LearnedAddresses } from './learned.ts';

/** Which addresses lead into the cluster. Loopback never does. */
export class Destinations {
  #routed = new net.BlockList();
  #refused = new net.BlockList();
  #learned: LearnedAddresses;

  /** @param noRanges never, also when they are learned. Throws `usage` for a range that is none. */
  constructor(ranges: string[], noRanges: string[], learned: LearnedAddresses) {
    const holes = noRanges.map(parseCidr);
    for (const range of subtract(ranges.map(parseCidr), holes)) add(this.#routed, cidrText(range));
    for (const hole of holes) add(this.#refused, cidrText(hole));
    this.#learned = learned;
  }

  has(host: string): boolean {
    if (isLoopback(host)) return false;
    const family = net.isIPv6(host) ? 'ipv6' : 'ipv4';
    return this.#routed.check(host, family) || (this.#learned.has(host) && !this.#refused.check(host, family));
  }
}

function add(list: net.BlockList, range: string): void {
  const [address = '', bits] = range.split('/');
  list.addSubnet(address, Number(bits), net.isIPv6(address) ? 'ipv6' : 'ipv4');
}
