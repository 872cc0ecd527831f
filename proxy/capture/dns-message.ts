import net from 'node:net';

const HEADER_BYTES = 12;
/** RFC 1035 4.1.3: type, class, TTL and length of a record, after its name. */
const FIXED_BYTES = 10;
const CLASS_IN = 1;
const TYPE = { a: 1, aaaa: 28 } as const;
/** RFC 2181 8: larger ones mean 0. */
const MAX_TTL_S = 0x7fffffff;

/** RFC 1035 4.2.1, and RFC 6891 6.1.2. */
const UDP_BYTES = 512;
const TYPE_OPT = 41;

/** Where a message's one question ends; the message's end when it is cut off. */
export function endOfQuestion(message: Buffer): number {
  return message.readUInt16BE(4) === 0 ? HEADER_BYTES : Math.min(endOfName(message, HEADER_BYTES) + 4, message.length);
}

/** How long an answer over UDP may be for who asks so: what its OPT record says, which in a question is the only record. */
export function udpBytes(question: Buffer): number {
  const opt = endOfQuestion(question);
  if (question.readUInt16BE(10) === 0 || opt + 5 > question.length) return UDP_BYTES;
  return question.readUInt16BE(opt + 1) === TYPE_OPT ? Math.max(UDP_BYTES, question.readUInt16BE(opt + 3)) : UDP_BYTES;
}

/** The addresses in the answer section of a DNS message, each with its TTL; of a message that is broken those before the break. */
export function answeredAddresses(message: Buffer): { host: string; ttlS: number }[] {
  const found: { host: string; ttlS: number }[] = [];
  if (message.length < HEADER_BYTES) return found;
  let at = HEADER_BYTES;
  for (let left = message.readUInt16BE(4); left > 0 && at <= message.length; left--) at = endOfName(message, at) + 4;
  for (let left = message.readUInt16BE(6); left > 0; left--) {
    const fixed = endOfName(message, at);
    const data = fixed + FIXED_BYTES;
    if (data > message.length) break;
    at = data + message.readUInt16BE(fixed + 8);
    if (at > message.length) break;
    const host =
      message.readUInt16BE(fixed + 2) === CLASS_IN
        ? address(message.readUInt16BE(fixed), message.subarray(data, at))
        : undefined;
    const ttlS = message.readUInt32BE(fixed + 4);
    if (host) found.push({ host, ttlS: ttlS > MAX_TTL_S ? 0 : ttlS });
  }
  return found;
}

function address(type: number, data: Buffer): string | undefined {
  if (type === TYPE.a && data.length === 4) return data.join('.');
  if (type !== TYPE.aaaa || data.length !== 16) return undefined;
  const groups = Array.from({ length: 8 }, (_, i) => data.readUInt16BE(2 * i).toString(16));
  return new net.SocketAddress({ family: 'ipv6', address: groups.join(':') }).address;
}

/** A pointer (RFC 1035 4.1.4) is a name's last; past the message's end for what is no name. */
function endOfName(message: Buffer, start: number): number {
  for (let at = start; ; ) {
    const length = message[at];
    if (length === undefined) return message.length + 1;
    if (length >= 0xc0) return at + 2;
    at += length + 1;
    if (length === 0) return at;
  }
}
