import net from 'node:net';
import { LpkError } from '../agent/wire/errors.ts';
import { readList, type Words } from './verb.ts';

/** The CIDRs of an option that may be repeated. LpkError `usage`. */
export function readRanges(words: Words, name: string): string[] {
  return readList(words, name).map((cidr) => assertRange(name, cidr));
}

/** `version`: only of this IP version. LpkError `usage`. */
export function assertRange(name: string, cidr: string, version?: number): string {
  const [address = '', bits = ''] = cidr.split('/');
  const family = net.isIP(address);
  const most = family === 6 ? 128 : 32;
  const valid = family !== 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= most && (!version || version === family);
  if (!valid) throw new LpkError('usage', `--${name} is a range like 10.96.0.0/12, not ${cidr}`);
  return cidr;
}
