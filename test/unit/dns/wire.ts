/** DNS messages byte by byte, right and wrong ones. */

export const A = 1;
export const NS = 2;
export const CNAME = 5;
export const SOA = 6;
export const PTR = 12;
export const MX = 15;
export const TXT = 16;
export const AAAA = 28;
export const SRV = 33;
export const NAPTR = 35;
export const OPT = 41;

/** Labels as they are given; those with a dot or odd bytes can be given as a list. */
export function name(labels: string | string[]): Buffer {
  const list = typeof labels === 'string' ? labels.split('.').filter(Boolean) : labels;
  return Buffer.concat([
    ...list.map((label) => Buffer.from(`${String.fromCharCode(label.length)}${label}`, 'latin1')),
    Buffer.of(0),
  ]);
}

export function pointer(at: number): Buffer {
  return Buffer.of(0xc0 | (at >> 8), at & 0xff);
}

export function uint16(value: number): Buffer {
  return Buffer.of(value >> 8, value & 0xff);
}

export function uint32(value: number): Buffer {
  return Buffer.concat([uint16(value >>> 16), uint16(value & 0xffff)]);
}

export function record(owner: Buffer, type: number, ttlS: number, data: Buffer, dnsClass = 1): Buffer {
  return Buffer.concat([owner, uint16(type), uint16(dnsClass), uint32(ttlS), uint16(data.length), data]);
}

export function opt({
  udpBytes = 1232,
  rcode = 0,
  version = 0,
  dnssecOk = false,
  options = Buffer.alloc(0),
} = {}): Buffer {
  return record(name(''), OPT, (rcode << 24) | (version << 16) | (dnssecOk ? 0x8000 : 0), options, udpBytes);
}

export function soa(owner: Buffer, ttlS: number, minimumS: number): Buffer {
  const numbers = Buffer.concat([uint32(1), uint32(7200), uint32(1800), uint32(86400), uint32(minimumS)]);
  return record(
    owner,
    SOA,
    ttlS,
    Buffer.concat([name('ns.dns.cluster.local'), name('hostmaster.cluster.local'), numbers]),
  );
}

export type Parts = {
  id?: number;
  flags?: number;
  /** Name, type, class of each question. */
  questions?: Buffer[];
  answers?: Buffer[];
  authorities?: Buffer[];
  additionals?: Buffer[];
  /** In place of the true ones: a lie. */
  counts?: number[];
};

export function message({
  id = 0x1234,
  flags = 0x0100,
  questions = [],
  answers = [],
  authorities = [],
  additionals = [],
  counts,
}: Parts): Buffer {
  const sections = [questions, answers, authorities, additionals];
  const header = [id, flags, ...(counts ?? sections.map((section) => section.length))].map(uint16);
  return Buffer.concat([...header, ...sections.flat()]);
}

export function question(qname: string | string[], type: number, dnsClass = 1): Buffer {
  return Buffer.concat([name(qname), uint16(type), uint16(dnsClass)]);
}

/** A client's message with one question. */
export function ask(qname: string | string[], type: number, parts: Parts = {}): Buffer {
  return message({ questions: [question(qname, type)], ...parts });
}

/** A server's message to it. */
export function answer(qname: string, type: number, parts: Parts = {}): Buffer {
  return ask(qname, type, { flags: 0x8180, ...parts });
}
