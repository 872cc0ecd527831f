import net from 'node:net';

/** Addresses as SOCKS5 writes them: type, address, port (RFC 1928 section 5). */

export const ADDRESS = { ipv4: 1, name: 3, ipv6: 4 } as const;

const PORT_BYTES = 2;

/** Bytes of the address after its type; of a name, its first byte says. Undefined: of an unknown type. */
export function addressBytes(type: number, first: number): number | undefined {
  switch (type) {
    case ADDRESS.ipv4:
      return 4;
    case ADDRESS.ipv6:
      return 16;
    case ADDRESS.name:
      return 1 + first;
    default:
      return undefined;
  }
}

/** The address (without its type) as text: '' when it is a name that no host has. */
export function addressText(type: number, bytes: Buffer): string {
  if (type === ADDRESS.ipv4) return bytes.join('.');
  return type === ADDRESS.ipv6 ? ipv6Text(bytes) : hostText(bytes.subarray(1));
}

/** RFC 5952 text. */
function ipv6Text(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16));
  return new net.SocketAddress({ family: 'ipv6', address: groups.join(':') }).address;
}

/** A host name of a binary protocol as text: '' when it has what no name has. Brackets around an IPv6 literal go. */
export function hostText(bytes: Buffer): string {
  const text = bytes.toString('utf8').replace(/^\[(.*)\]$/, '$1');
  return /[\p{Cc}\s\uFFFD]/u.test(text) ? '' : text;
}

/** An IP literal (a zone is left out) and a port with their type in front. */
export function addressOf(literal: string, port: number): Buffer {
  const address = net.isIPv4(literal)
    ? [ADDRESS.ipv4, ...literal.split('.').map(Number)]
    : [ADDRESS.ipv6, ...ipv6Groups(literal).flatMap((group) => [group >> 8, group & 0xff])];
  return Buffer.of(...address, port >> 8, port & 0xff);
}

function ipv6Groups(literal: string): number[] {
  const [head = [], tail] = literal
    .replace(/%.*/, '')
    .replace(/\d+\.\d+\.\d+\.\d+$/, (ipv4) =>
      Buffer.from(ipv4.split('.').map(Number)).toString('hex').replace(/^..../, '$&:'),
    )
    .split('::')
    .map((half) => (half ? half.split(':').map((group) => Number.parseInt(group, 16)) : []));
  return tail ? [...head, ...new Array(8 - head.length - tail.length).fill(0), ...tail] : head;
}

/** Where an address (type first) and its port end within `bytes`; undefined: they don't, or the type is unknown. */
export function addressEnd(bytes: Buffer, start: number): number | undefined {
  const [type = 0, first = 0] = bytes.subarray(start, start + 2);
  const length = addressBytes(type, first);
  const end = length === undefined ? Number.POSITIVE_INFINITY : start + 1 + length + PORT_BYTES;
  return end <= bytes.length ? end : undefined;
}
