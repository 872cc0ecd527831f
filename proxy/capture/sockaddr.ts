import net from 'node:net';
import { AF } from './abi.ts';

/** `struct sockaddr_in` and `sockaddr_in6` (ip(7), ipv6(7)): where programs connect to, as bytes. */

export type Address = {
  family: 4 | 6;
  /** An IP literal; IPv4 also for one that an IPv6 socket has mapped (RFC 4291 2.5.5.2), and then `family` is 6. */
  host: string;
  port: number;
};

const INET_BYTES = 16;
const INET6_BYTES = 28;
/** The kernel takes one without a scope id (SIN6_LEN_RFC2133). */
const INET6_MIN_BYTES = 24;
const DNS_PORT = 53;

/** Sockets of name services that glibc asks before, or instead of, DNS: with neither of them it asks DNS. */
const NAME_SERVICES = ['/nscd/socket', '/io.systemd.Resolve'];

/** Undefined for what is no IP address. */
export function readAddress(bytes: Buffer): Address | undefined {
  const family = bytes.length >= INET_BYTES ? bytes.readUInt16LE(0) : AF.unspec;
  if (family === AF.inet) return { family: 4, host: ipv4(bytes, 4), port: bytes.readUInt16BE(2) };
  if (family !== AF.inet6 || bytes.length < INET6_MIN_BYTES) return undefined;
  const port = bytes.readUInt16BE(2);
  if (isMapped(bytes)) return { family: 6, host: ipv4(bytes, 20), port };
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(8 + 2 * i).toString(16));
  return { family: 6, host: new net.SocketAddress({ family: 'ipv6', address: groups.join(':') }).address, port };
}

/** For a socket of `family`; an IPv4 `host` is mapped for one of IPv6. */
export function writeAddress({ family, host, port }: Address): Buffer {
  const bytes = Buffer.alloc(family === 4 ? INET_BYTES : INET6_BYTES);
  bytes.writeUInt16LE(family === 4 ? AF.inet : AF.inet6, 0);
  bytes.writeUInt16BE(port, 2);
  if (net.isIPv4(host)) {
    if (family === 6) bytes.writeUInt16BE(0xffff, 18);
    bytes.set(host.split('.').map(Number), family === 4 ? 4 : 20);
  } else {
    const [left = [], right = []] = host.split('::').map((part) => part.split(':').filter(Boolean));
    const zeros = Array<string>(8 - left.length - right.length).fill('0');
    for (const [i, group] of [...left, ...zeros, ...right].entries()) {
      bytes.writeUInt16BE(Number.parseInt(group, 16), 8 + 2 * i);
    }
  }
  return bytes;
}

/** The port of an IP address's bytes; 0 for anything else. */
export function portOf(bytes: Buffer, length: number): number {
  const family = length >= INET_BYTES ? bytes.readUInt16LE(0) : AF.unspec;
  return family === AF.inet || family === AF.inet6 ? bytes.readUInt16BE(2) : 0;
}

/** Whether these bytes are of a name service's unix socket (unix(7)). */
export function isNameService(bytes: Buffer, length: number): boolean {
  if (length < 4 || bytes.readUInt16LE(0) !== AF.unix) return false;
  const end = bytes.indexOf(0, 2);
  const path = bytes.toString('latin1', 2, end < 2 || end > length ? length : end);
  return NAME_SERVICES.some((name) => path.endsWith(name));
}

/**
 * Whether a connect to this address is none of capture's business, whatever the routes: no IP address, loopback (0.0.0.0 and ::
 * are it), link-local, multicast, broadcast. Port 53 is looked at more closely: a nameserver may be at any of them.
 */
export function isUntouched(bytes: Buffer, length: number): boolean {
  const port = portOf(bytes, length);
  if (port === 0) return true;
  if (port === DNS_PORT) return false;
  if (bytes.readUInt16LE(0) === AF.inet) return isUntouched4(bytes.readUInt32BE(4));
  if (length < INET6_MIN_BYTES) return true;
  if (isMapped(bytes)) return isUntouched4(bytes.readUInt32BE(20));
  const start = bytes.readUInt16BE(8);
  if (start >= 0xff00 || (start & 0xffc0) === 0xfe80) return true;
  return start === 0 && bytes.readUInt32BE(8) === 0 && bytes.readUInt32BE(12) === 0 && bytes.readUInt32BE(16) === 0;
}

function isUntouched4(address: number): boolean {
  const first = address >>> 24;
  return first === 127 || first === 0 || first >= 224 || address >>> 16 === 0xa9fe;
}

function isMapped(bytes: Buffer): boolean {
  return bytes.readUInt32BE(8) === 0 && bytes.readUInt32BE(12) === 0 && bytes.readUInt32BE(16) === 0xffff;
}

function ipv4(bytes: Buffer, at: number): string {
  return `${bytes[at]}.${bytes[at + 1]}.${bytes[at + 2]}.${bytes[at + 3]}`;
}
