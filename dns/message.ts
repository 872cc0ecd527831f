/**
 * DNS messages (RFC 1035 section 4) as bytes: questions are read, answers passed on. Nothing here throws on what came over the
 * network, and no name, count or pointer makes it work longer than the message's length allows.
 */

const HEADER_BYTES = 12;
const MAX_NAME_BYTES = 255;
const MAX_MESSAGE_BYTES = 65_535;
/** A name has at most 127 labels, so one that takes more jumps was made to waste time. */
const MAX_JUMPS = 127;
/** What fits a path without fragments, and what we say that we take: DNS flag day 2020. */
const UDP_BYTES = 1_232;
const MIN_UDP_BYTES = 512;
const OPT_BYTES = 11;
/** RFC 2181 section 8: larger ones mean 0. */
const MAX_TTL_S = 0x7fffffff;

/** The second 16 bits of the header. */
const FLAG = { qr: 0x8000, opcode: 0x7800, aa: 0x0400, tc: 0x0200, rd: 0x0100, ra: 0x0080, ad: 0x0020, cd: 0x0010 };
const RCODE_BITS = 0x000f;
/** Of the OPT record's TTL (RFC 6891 section 6.1.3). */
const DNSSEC_OK = 0x8000;

export const RCODE = { noError: 0, formErr: 1, servFail: 2, nxDomain: 3, notImp: 4, refused: 5, badVers: 16 } as const;
export const TYPE = { a: 1, cname: 5, soa: 6, ptr: 12, aaaa: 28, opt: 41, any: 255 } as const;
const CLASS_IN = 1;
/** TKEY, TSIG, IXFR, AXFR: between two servers, not for a resolver to pass on. */
const META_TYPES = { first: 249, last: 252 };

export type Query = {
  message: Buffer;
  /** What to answer at once instead of looking for an answer; `noError`: nothing is wrong with it. */
  fault: number;
  type: number;
  /** Where the question ends; that of the header when it can't be read. */
  end: number;
  edns: boolean;
  dnssecOk: boolean;
  /** What the client takes over UDP. */
  udpBytes: number;
};

export type Answer = {
  /** Without OPT. Id and flags are filled in by {@link deliver}. */
  message: Buffer;
  /** Where its TTLs are. */
  ttlOffsets: Uint16Array;
  /** What it may be kept; 0: not at all. */
  ttlS: number;
};

type Record = { section: number; at: number; type: number; class: number; ttlAt: number; dataAt: number; end: number };

/** A client's question; undefined for what must not be answered: no message, or an answer. */
export function readQuery(message: Buffer): Query | undefined {
  if (message.length < HEADER_BYTES) return undefined;
  const flags = message.readUInt16BE(2);
  if (flags & FLAG.qr) return undefined;
  const query: Query = {
    message,
    fault: RCODE.formErr,
    type: 0,
    end: HEADER_BYTES,
    edns: false,
    dnssecOk: false,
    udpBytes: MIN_UDP_BYTES,
  };
  if (flags & FLAG.opcode) query.fault = RCODE.notImp;
  else if (message.readUInt16BE(4) === 1) query.fault = readSingle(query);
  return query;
}

function readSingle(query: Query): number {
  const { message } = query;
  const nameEnd = endOfPlainName(message);
  if (nameEnd < 0 || nameEnd + 4 > message.length) return RCODE.formErr;
  query.end = nameEnd + 4;
  query.type = message.readUInt16BE(nameEnd);
  const others = message.readUInt16BE(6) + message.readUInt16BE(8) + message.readUInt16BE(10);
  const fault = others === 0 ? RCODE.noError : readOpt(query);
  if (fault !== RCODE.noError) return fault;
  if (query.type === TYPE.opt) return RCODE.formErr;
  const meta = query.type >= META_TYPES.first && query.type <= META_TYPES.last;
  return meta || message.readUInt16BE(nameEnd + 2) !== CLASS_IN ? RCODE.refused : RCODE.noError;
}

/** RFC 6891 section 6.1: one OPT at most, in the additional section, of the root's name. */
function readOpt(query: Query): number {
  const { message } = query;
  const records = readRecords(message, query.end);
  if (!records) return RCODE.formErr;
  const opts = records.filter((record) => record.type === TYPE.opt);
  const [opt] = opts;
  if (!opt) return RCODE.noError;
  if (opts.length > 1 || opt.section !== 2 || message[opt.at] !== 0) return RCODE.formErr;
  query.edns = true;
  query.dnssecOk = (message.readUInt16BE(opt.ttlAt + 2) & DNSSEC_OK) !== 0;
  query.udpBytes = Math.min(Math.max(opt.class, MIN_UDP_BYTES), UDP_BYTES);
  return message[opt.ttlAt + 1] === 0 ? RCODE.noError : RCODE.badVers;
}

/** Of the question's name, which has nothing before it to point at; -1: it is no name. */
function endOfPlainName(message: Buffer): number {
  let at = HEADER_BYTES;
  for (;;) {
    const length = message[at];
    if (length === undefined || length > 63) return -1;
    at += length + 1;
    if (at - HEADER_BYTES > MAX_NAME_BYTES) return -1;
    if (length === 0) return at;
  }
}

/** Of any name where it stands, a pointer being its last; -1: past the message, or of a label type that there is none of. */
function endOfName(message: Buffer, start: number): number {
  for (let at = start; ; ) {
    const length = message[at];
    if (length === undefined) return -1;
    if (length >= 0xc0) return at + 2;
    if (length > 63) return -1;
    at += length + 1;
    if (length === 0) return at;
  }
}

/** All three sections' records; undefined when one is not whole. A record takes 11 bytes or more, whatever the counts say. */
function readRecords(message: Buffer, start: number): Record[] | undefined {
  const records: Record[] = [];
  let at = start;
  for (let section = 0; section < 3; section++) {
    for (let left = message.readUInt16BE(6 + 2 * section); left > 0; left--) {
      const fixed = endOfName(message, at);
      if (fixed < 0 || fixed + 10 > message.length) return undefined;
      const end = fixed + 10 + message.readUInt16BE(fixed + 8);
      if (end > message.length) return undefined;
      records.push({
        section,
        at,
        type: message.readUInt16BE(fixed),
        class: message.readUInt16BE(fixed + 2),
        ttlAt: fixed + 4,
        dataAt: fixed + 10,
        end,
      });
      at = end;
    }
  }
  return records;
}

const expanded = Buffer.alloc(MAX_NAME_BYTES);

/**
 * A name without compression (RFC 1035 section 4.1.4); undefined for one that is too long or points anywhere but back.
 * @param limit where the bytes end that it stands in.
 */
function expandName(message: Buffer, start: number, limit: number): Buffer | undefined {
  let written = 0;
  let runStart = start;
  let jumps = 0;
  let end = limit;
  for (let at = start; ; ) {
    if (at >= end) return undefined;
    const length = message[at] as number;
    if (length >= 0xc0) {
      const low = message[at + 1];
      if (low === undefined || at + 2 > end) return undefined;
      const target = ((length & 0x3f) << 8) | low;
      if (target < HEADER_BYTES || target >= runStart || ++jumps > MAX_JUMPS) return undefined;
      runStart = target;
      at = target;
      end = message.length;
      continue;
    }
    if (length > 63 || at + 1 + length > end || written + 1 + length > MAX_NAME_BYTES) return undefined;
    message.copy(expanded, written, at, at + 1 + length);
    written += 1 + length;
    at += 1 + length;
    if (length === 0) return Buffer.from(expanded.subarray(0, written));
  }
}

/**
 * The question's name in lower case, without the last dot; '' for the root. Bytes that are none of a host name's stand as `\DDD`
 * (RFC 1035 section 5.1), dots within labels too, so that a `.` always parts two labels.
 */
export function questionName({ message, end }: Query): string {
  return nameText(message.subarray(HEADER_BYTES, end - 4));
}

function nameText(wire: Buffer): string {
  const labels: string[] = [];
  for (let at = 0; wire[at]; at += 1 + (wire[at] as number)) {
    const label = wire.toString('latin1', at + 1, at + 1 + (wire[at] as number));
    labels.push(label.replace(/[^\w*-]/g, (char) => `\\${String(char.charCodeAt(0)).padStart(3, '0')}`));
  }
  return labels.join('.').toLowerCase();
}

/** The bytes of a name as {@link questionName} writes it, or with a last dot; undefined for one that is too long. */
export function encodeName(text: string): Buffer | undefined {
  const bare = text.replace(/\.$/, '');
  const labels = bare === '' ? [] : bare.split('.');
  const parts = labels.map((label) => {
    const bytes = Buffer.from(
      label.replace(/\\(\d{3})/g, (_, code) => String.fromCharCode(Number(code) & 0xff)),
      'latin1',
    );
    return bytes.length > 0 && bytes.length <= 63 ? Buffer.concat([Buffer.of(bytes.length), bytes]) : undefined;
  });
  if (parts.includes(undefined)) return undefined;
  const wire = Buffer.concat([...(parts as Buffer[]), Buffer.of(0)]);
  return wire.length <= MAX_NAME_BYTES ? wire : undefined;
}

const keyBytes = Buffer.alloc(MAX_NAME_BYTES + 3);

/** Equal for questions that have equal answers: name in lower case, type, DO, CD. */
export function questionKey({ message, end, dnssecOk }: Query): string {
  const nameEnd = end - 4;
  let length = 0;
  // Bytes that give lengths are below the letters.
  for (let at = HEADER_BYTES; at < nameEnd; at++) keyBytes[length++] = lower(message[at] as number);
  keyBytes[length++] = message[nameEnd] as number;
  keyBytes[length++] = message[nameEnd + 1] as number;
  keyBytes[length++] = (dnssecOk ? 1 : 0) | ((message[3] as number) & FLAG.cd);
  return keyBytes.toString('latin1', 0, length);
}

function lower(byte: number): number {
  return byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte;
}

/**
 * The question to ask another server for a client's: of the same type, CD and DO, under a name of our choice, with an OPT of our
 * own (none of the client's options goes on) when the client has one.
 */
export function buildQuestion(
  query: Query,
  { id, name, type, edns }: { id: number; name: Buffer; type: number; edns: boolean },
): Buffer {
  const opt = edns ? OPT_BYTES : 0;
  const end = HEADER_BYTES + name.length + 4;
  const message = Buffer.alloc(end + opt);
  message.writeUInt16BE(id, 0);
  // AD: say whether the data is authentic (RFC 6840 section 5.7).
  message.writeUInt16BE(FLAG.rd | FLAG.ad | (query.message.readUInt16BE(2) & FLAG.cd), 2);
  message.writeUInt16BE(1, 4);
  name.copy(message, HEADER_BYTES);
  message.writeUInt16BE(type, end - 4);
  message.writeUInt16BE(CLASS_IN, end - 2);
  if (edns) {
    message.writeUInt16BE(1, 10);
    writeOpt(message, end, RCODE.noError, query.dnssecOk);
  }
  return message;
}

function writeOpt(message: Buffer, at: number, rcode: number, dnssecOk: boolean): void {
  message[at] = 0;
  message.writeUInt16BE(TYPE.opt, at + 1);
  message.writeUInt16BE(UDP_BYTES, at + 3);
  message.writeUInt16BE((rcode >> 4) << 8, at + 5);
  message.writeUInt16BE(dnssecOk ? DNSSEC_OK : 0, at + 7);
  message.writeUInt16BE(0, at + 9);
}

/** Is `answer` one to the message `question`: same id, name (case aside), type and class? */
export function answersTo(answer: Buffer, question: Buffer): boolean {
  const end = endOfPlainName(question) + 4;
  if (answer.length < end || answer.readUInt16BE(0) !== question.readUInt16BE(0)) return false;
  if ((answer.readUInt16BE(2) & FLAG.qr) === 0 || answer.readUInt16BE(4) !== 1) return false;
  for (let at = HEADER_BYTES; at < end - 4; at++) {
    if (lower(answer[at] as number) !== lower(question[at] as number)) return false;
  }
  return answer.readUInt32BE(end - 4) === question.readUInt32BE(end - 4);
}

export function isTruncated(answer: Buffer): boolean {
  return (answer.readUInt16BE(2) & FLAG.tc) !== 0;
}

/** Without the bits that an OPT adds. */
export function rcodeOf(message: Buffer): number {
  return message.readUInt16BE(2) & RCODE_BITS;
}

/** NXDOMAIN, or nothing in the answer section. */
export function isNegative(answer: Buffer): boolean {
  return rcodeOf(answer) === RCODE.nxDomain || answer.readUInt16BE(6) === 0;
}

/**
 * What stands before names in RDATA (bytes, then character strings), how many names there are, and whether they may be written
 * compressed: RFC 3597 section 4. All other types are passed on byte for byte.
 */
type Layout = { bytes: number; strings?: number; names: number; compress?: boolean };
const LAYOUTS = new Map<number, Layout>([
  ...[2, 3, 4, 5, 7, 8, 9, 12].map((type) => [type, { bytes: 0, names: 1, compress: true }] as const), // NS … PTR
  [6, { bytes: 0, names: 2, compress: true }], // SOA
  [14, { bytes: 0, names: 2, compress: true }], // MINFO
  [15, { bytes: 2, names: 1, compress: true }], // MX
  [17, { bytes: 0, names: 2 }], // RP
  [18, { bytes: 2, names: 1 }], // AFSDB
  [21, { bytes: 2, names: 1 }], // RT
  [24, { bytes: 18, names: 1 }], // SIG
  [26, { bytes: 2, names: 2 }], // PX
  [30, { bytes: 0, names: 1 }], // NXT
  [33, { bytes: 6, names: 1 }], // SRV
  [35, { bytes: 4, strings: 3, names: 1 }], // NAPTR
  [36, { bytes: 2, names: 1 }], // KX
  [39, { bytes: 0, names: 1 }], // DNAME
]);

/** Writes one message at a time, within the largest one. */
class Writer {
  static #buffer = Buffer.alloc(MAX_MESSAGE_BYTES);
  length = 0;
  full = false;
  #names = new Map<string, number>();

  bytes(source: Buffer, start = 0, end = source.length): void {
    if (this.length + end - start > MAX_MESSAGE_BYTES) {
      this.full = true;
      return;
    }
    source.copy(Writer.#buffer, this.length, start, end);
    this.length += end - start;
  }

  uint16(value: number): void {
    this.bytes(Buffer.of(value >> 8, value & 0xff));
  }

  uint32(value: number): void {
    this.uint16(value >>> 16);
    this.uint16(value & 0xffff);
  }

  patchUint16(value: number, at: number): void {
    Writer.#buffer.writeUInt16BE(value, at);
  }

  /** @param compress names of the same case only, so that case is kept. */
  name(wire: Buffer, compress: boolean): void {
    let at = 0;
    while (compress && wire[at]) {
      const suffix = wire.toString('latin1', at);
      const known = this.#names.get(suffix);
      if (known !== undefined) {
        this.bytes(wire, 0, at);
        this.uint16(0xc000 | known);
        return;
      }
      if (this.length + at < 0x4000) this.#names.set(suffix, this.length + at);
      at += 1 + (wire[at] as number);
    }
    this.bytes(wire);
  }

  /** In memory of its own: one in Node's pool would keep 8 KiB for as long as it is cached. */
  take(): Buffer {
    const message = Buffer.allocUnsafeSlow(this.length);
    Writer.#buffer.copy(message, 0, 0, this.length);
    return message;
  }
}

export type RenameOptions = {
  /** The name that was asked for, as {@link encodeName} gives it. */
  asked: Buffer;
  /** TTLs beyond it are lowered to it. */
  maxTtlS?: number;
  /** Leaves out the additional section, which gives addresses of names in the others. */
  bare?: boolean;
};

/**
 * Makes the answer to a question of ours into the one to the client's: its question stands in it as it was sent, and records of
 * the asked name are of the client's name. Undefined when a part of it is not as RFC 1035 has it, or it comes out too long.
 */
export function rename(
  source: Buffer,
  query: Query,
  { asked, maxTtlS = MAX_TTL_S, bare }: RenameOptions,
): Answer | undefined {
  if (source.length < HEADER_BYTES || source.readUInt16BE(4) !== 1) return undefined;
  const questionEnd = endOfPlainName(source) + 4;
  const records = questionEnd < HEADER_BYTES ? undefined : readRecords(source, questionEnd);
  if (!records || questionEnd > source.length) return undefined;
  const flags = source.readUInt16BE(2);
  const rcode = flags & RCODE_BITS;
  const ownName = query.message.subarray(HEADER_BYTES, query.end - 4);
  const writer = begin(query, flags);
  const counts = [0, 0, 0];
  const ttlOffsets: number[] = [];
  const lifetime = new Lifetime(query.type, rcode);
  for (const record of records) {
    if (record.type === TYPE.opt) {
      // A code beyond the header's four bits is about our OPT, which the client knows nothing of.
      if (source[record.ttlAt] !== 0) return undefined;
      continue;
    }
    if (bare && record.section === 2) continue;
    const owner = expandName(source, record.at, source.length);
    if (!owner) return undefined;
    writer.name(equalNames(owner, asked) ? ownName : owner, true);
    writer.bytes(source, record.ttlAt - 4, record.ttlAt);
    ttlOffsets.push(writer.length);
    const wireTtlS = source.readUInt32BE(record.ttlAt);
    const ttlS = Math.min(wireTtlS > MAX_TTL_S ? 0 : wireTtlS, maxTtlS);
    writer.uint32(ttlS);
    const lengthAt = writer.length;
    writer.uint16(0);
    if (!writeData(writer, source, record) || writer.full) return undefined;
    writer.patchUint16(writer.length - lengthAt - 2, lengthAt);
    counts[record.section]! += 1;
    const soaMinimumS =
      record.type === TYPE.soa && record.end - record.dataAt >= 22 ? source.readUInt32BE(record.end - 4) : 0;
    lifetime.add(record, ttlS, soaMinimumS);
  }
  return finish(writer, counts, ttlOffsets, flags & FLAG.tc ? 0 : lifetime.seconds);
}

/** RFC 2181 section 5.2 and RFC 2308 section 5: what an answer may be kept, of its records. */
class Lifetime {
  #leastS = MAX_TTL_S;
  #negativeS = 0;
  #positive = false;
  #type: number;
  #rcode: number;

  constructor(type: number, rcode: number) {
    this.#type = type;
    this.#rcode = rcode;
  }

  add(record: Record, ttlS: number, soaMinimumS: number): void {
    this.#leastS = Math.min(this.#leastS, ttlS);
    if (record.section === 0) this.#positive ||= record.type === this.#type || this.#type === TYPE.any;
    if (record.section === 1 && record.type === TYPE.soa) this.#negativeS = Math.min(ttlS, soaMinimumS);
  }

  get seconds(): number {
    if (this.#rcode !== RCODE.noError && this.#rcode !== RCODE.nxDomain) return 0;
    if (this.#rcode === RCODE.noError && this.#positive) return this.#leastS;
    return Math.min(this.#leastS, this.#negativeS);
  }
}

function writeData(writer: Writer, source: Buffer, { type, dataAt, end }: Record): boolean {
  const layout = dataAt === end ? undefined : LAYOUTS.get(type);
  if (!layout) {
    writer.bytes(source, dataAt, end);
    return true;
  }
  let at = dataAt + layout.bytes;
  for (let i = 0; i < (layout.strings ?? 0) && at < end; i++) at += 1 + (source[at] as number);
  if (at > end) return false;
  writer.bytes(source, dataAt, at);
  for (let i = 0; i < layout.names; i++) {
    const name = expandName(source, at, end);
    if (!name) return false;
    writer.name(name, layout.compress ?? false);
    at = endOfName(source, at);
  }
  writer.bytes(source, at, end);
  return true;
}

function equalNames(a: Buffer, b: Buffer): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (lower(a[i] as number) !== lower(b[i] as number)) return false;
  return true;
}

/** An answer of our own: `records` are the client's name's. */
export function synthesize(
  query: Query,
  records: { type: number; ttlS: number; data: Buffer }[],
  rcode: number = RCODE.noError,
): Answer {
  const writer = begin(query, rcode);
  const ttlOffsets: number[] = [];
  const ownName = query.message.subarray(HEADER_BYTES, query.end - 4);
  let leastS = records.length === 0 ? 0 : MAX_TTL_S;
  for (const { type, ttlS, data } of records) {
    writer.name(ownName, true);
    writer.uint16(type);
    writer.uint16(CLASS_IN);
    ttlOffsets.push(writer.length);
    writer.uint32(ttlS);
    writer.uint16(data.length);
    writer.bytes(data);
    leastS = Math.min(leastS, ttlS);
  }
  return finish(writer, [records.length, 0, 0], ttlOffsets, leastS);
}

/** Header and question; the counts come with {@link finish}. */
function begin(query: Query, flags: number): Writer {
  const writer = new Writer();
  writer.uint16(0);
  writer.uint16(flags & (FLAG.aa | FLAG.tc | FLAG.ad | RCODE_BITS));
  writer.uint16(1);
  writer.bytes(Buffer.alloc(6));
  writer.name(query.message.subarray(HEADER_BYTES, query.end - 4), true);
  writer.bytes(query.message, query.end - 4, query.end);
  return writer;
}

function finish(writer: Writer, counts: number[], ttlOffsets: number[], ttlS: number): Answer {
  for (const [section, count] of counts.entries()) writer.patchUint16(count, 6 + 2 * section);
  return { message: writer.take(), ttlOffsets: Uint16Array.from(ttlOffsets), ttlS };
}

/** Has it a record of this type in its answer section? */
export function hasRecord({ message }: Answer, type: number): boolean {
  const records = readRecords(message, endOfPlainName(message) + 4) ?? [];
  return records.some((record) => record.section === 0 && record.type === type);
}

/**
 * The bytes for this client: its id and case of the name, TTLs lower by the answer's age, an OPT if it sent one; question and TC
 * only when that is beyond `limitBytes` (RFC 2181 section 9).
 */
export function deliver({ message, ttlOffsets }: Answer, query: Query, ageS: number, limitBytes: number): Buffer {
  const opt = query.edns ? OPT_BYTES : 0;
  const whole = message.length + opt <= limitBytes;
  const length = whole ? message.length : query.end;
  const out = Buffer.allocUnsafe(length + opt);
  message.copy(out, 0, 0, length);
  query.message.copy(out, HEADER_BYTES, HEADER_BYTES, query.end - 4);
  const stored = message.readUInt16BE(2);
  const asked = query.message.readUInt16BE(2);
  let flags = FLAG.qr | FLAG.ra | (asked & (FLAG.rd | FLAG.cd)) | (stored & (FLAG.tc | RCODE_BITS));
  if (ageS === 0) flags |= stored & FLAG.aa;
  // RFC 6840 section 5.8.
  if (query.dnssecOk || asked & FLAG.ad) flags |= stored & FLAG.ad;
  if (whole) {
    if (ageS > 0) {
      for (const at of ttlOffsets) out.writeUInt32BE(Math.max(0, message.readUInt32BE(at) - ageS), at);
    }
  } else {
    flags |= FLAG.tc;
    out.fill(0, 6, HEADER_BYTES);
  }
  query.message.copy(out, 0, 0, 2);
  out.writeUInt16BE(flags, 2);
  if (query.edns) {
    out.writeUInt16BE(out.readUInt16BE(10) + 1, 10);
    writeOpt(out, length, RCODE.noError, query.dnssecOk);
  }
  return out;
}

/** An answer without records: the question, as far as it could be read, and the code. */
export function refuse(query: Query, rcode: number): Buffer {
  const opt = query.edns ? OPT_BYTES : 0;
  const out = Buffer.alloc(query.end + opt);
  query.message.copy(out, 0, 0, query.end);
  const asked = query.message.readUInt16BE(2);
  out.writeUInt16BE(FLAG.qr | FLAG.ra | (asked & (FLAG.opcode | FLAG.rd | FLAG.cd)) | (rcode & RCODE_BITS), 2);
  out.writeUInt16BE(query.end > HEADER_BYTES ? 1 : 0, 4);
  out.fill(0, 6, HEADER_BYTES);
  if (query.edns) {
    out.writeUInt16BE(1, 10);
    writeOpt(out, query.end, rcode, query.dnssecOk);
  }
  return out;
}
