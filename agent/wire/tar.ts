import { LpkError } from './errors.ts';

/**
 * The archive of a `files` stream: POSIX ustar with pax headers for what has no room in one (IEEE 1003.1-2017, pax, "ustar
 * Interchange Format"), which leaves the types A to Z to others. SPEC.md, "Files", says how it is used.
 */
export const TAR_TYPE = {
  file: '0',
  link: '2',
  folder: '5',
  round: 'E',
  looking: 'P',
  mount: 'W',
  removed: 'R',
  skipped: 'S',
} as const;

export type TarType = keyof typeof TAR_TYPE;

export type TarEntry = {
  type: TarType;
  /** `/` between its parts; the mount itself is `.`. */
  path: string;
  /** Of a link. */
  target: string;
  /** Permission bits. */
  mode: number;
  modifiedMs: number;
  /** Of the content that follows. */
  bytes: number;
  /** What tells one version from the next; as an archive without them has none. */
  mark?: string | undefined;
};

const BLOCK_BYTES = 512;
const NAME_BYTES = 100;
/** A path and a target of 4,096 bytes each (PATH_MAX) and their keys. */
const MAX_PAX_BYTES = 16 * 1024;
const MAX_MARK_BYTES = 128;
/** Twelve octal digits less the end mark. */
const MAX_SIZE_BYTES = 8 ** 11 - 1;
const PAX_TYPE = 'x';
/** Keys in capitals are a vendor's own (pax, "pax Header Block"). */
const MARK = 'LPK.mark';
/** Where a header's fields are: offset, length. */
const FIELD = {
  name: [0, NAME_BYTES],
  mode: [100, 8],
  uid: [108, 8],
  gid: [116, 8],
  size: [124, 12],
  modified: [136, 12],
  checksum: [148, 8],
  type: [156, 1],
  target: [157, NAME_BYTES],
  magic: [257, 8],
} as const;
const MAGIC = 'ustar\u000000';

const TYPES = new Map<string, TarType>(Object.entries(TAR_TYPE).map(([name, letter]) => [letter, name as TarType]));

/** An entry's header; its content follows, and then {@link tarPadding}. LpkError `limit-exceeded` for one of 8 GiB or more. */
export function encodeTarHeader(entry: TarEntry): Buffer {
  const { type, path, target, mode, modifiedMs, bytes, mark } = entry;
  if (bytes > MAX_SIZE_BYTES) throw new LpkError('limit-exceeded', `${path} has ${bytes} bytes`);
  const long = [['path', path] as const, ['linkpath', target] as const].filter(
    ([, value]) => Buffer.byteLength(value) > NAME_BYTES,
  );
  const records = mark === undefined ? long : [...long, [MARK, mark] as const];
  const pax = Buffer.concat(records.map(([key, value]) => paxRecord(key, value)));
  const own = block(TAR_TYPE[type], path, target, mode, Math.max(0, Math.floor(modifiedMs / 1_000)), bytes);
  if (pax.length === 0) return own;
  return Buffer.concat([block(PAX_TYPE, 'pax', '', 0o644, 0, pax.length), pax, tarPadding(pax.length), own]);
}

/** What fills a content of `bytes` up to whole blocks. */
export function tarPadding(bytes: number): Buffer {
  return Buffer.alloc((BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES);
}

function paxRecord(key: string, value: string): Buffer {
  const bytes = Buffer.byteLength(value);
  // The record's length counts its own digits.
  const rest = Buffer.byteLength(` ${key}=`) + bytes + 1;
  let length = rest + String(rest).length;
  if (String(length).length > String(rest).length) length++;
  return Buffer.from(`${length} ${key}=${value}\n`);
}

function block(letter: string, path: string, target: string, mode: number, seconds: number, bytes: number): Buffer {
  const header = Buffer.alloc(BLOCK_BYTES);
  const put = ([offset, length]: readonly [number, number], text: string) => header.write(text, offset, length);
  const octal = (field: readonly [number, number], value: number) =>
    put(field, value.toString(8).padStart(field[1] - 1, '0'));
  put(FIELD.name, Buffer.byteLength(path) <= NAME_BYTES ? path : 'pax');
  octal(FIELD.mode, mode & 0o7777);
  octal(FIELD.uid, 0);
  octal(FIELD.gid, 0);
  octal(FIELD.size, bytes);
  octal(FIELD.modified, Math.min(seconds, MAX_SIZE_BYTES));
  put(FIELD.type, letter);
  put(FIELD.target, Buffer.byteLength(target) <= NAME_BYTES ? target : 'pax');
  put(FIELD.magic, MAGIC);
  put(FIELD.checksum, `${checksum(header).toString(8).padStart(6, '0')}\0 `);
  return header;
}

/** Of all bytes, with its own field read as spaces. */
function checksum(header: Buffer): number {
  const [offset, length] = FIELD.checksum;
  let sum = 0x20 * length;
  for (const [i, byte] of header.entries()) if (i < offset || i >= offset + length) sum += byte;
  return sum;
}

/** An entry that was read. `content` is to be read to its end before the next entry is asked for. */
export type ReadEntry = TarEntry & { content: AsyncGenerator<Buffer> };

/** The entries of an archive without an end. Never holds more than a piece of `source` and a header. LpkError `protocol`. */
export async function* readTar(source: AsyncIterable<Buffer>): AsyncGenerator<ReadEntry> {
  const bytes = new Bytes(source);
  try {
    for (;;) {
      let pax: Record<string, string> = {};
      let header = await bytes.take(BLOCK_BYTES);
      if (!header) return;
      if (letterOf(header) === PAX_TYPE) {
        pax = await readPax(bytes, header);
        header = await bytes.take(BLOCK_BYTES);
        if (!header) throw malformed('it ends after a pax header');
      }
      const entry = decodeHeader(header, pax);
      const rest = { bytes: entry.bytes };
      yield { ...entry, content: bytes.pieces(rest) };
      for await (const _ of bytes.pieces(rest)); // what the reader left
      await bytes.take(tarPadding(entry.bytes).length);
    }
  } finally {
    await bytes.end();
  }
}

async function readPax(bytes: Bytes, header: Buffer): Promise<Record<string, string>> {
  verify(header);
  const length = octalOf(header, FIELD.size);
  if (length > MAX_PAX_BYTES) throw malformed(`a pax header of ${length} bytes`);
  const text = await bytes.take(length);
  await bytes.take(tarPadding(length).length);
  const found: Record<string, string> = {};
  for (let rest = text ?? Buffer.alloc(0); rest.length > 0; ) {
    const space = rest.indexOf(' ');
    const size = /^\d{1,6}$/.test(rest.toString('latin1', 0, Math.max(0, space)))
      ? Number(rest.toString('latin1', 0, space))
      : 0;
    if (size <= space + 1 || size > rest.length || rest[size - 1] !== 0x0a) throw malformed('a pax record');
    const record = textOf(rest.subarray(space + 1, size - 1));
    const equals = record.indexOf('=');
    if (equals > 0) found[record.slice(0, equals)] = record.slice(equals + 1);
    rest = rest.subarray(size);
  }
  return found;
}

function decodeHeader(header: Buffer, pax: Record<string, string>): TarEntry {
  verify(header);
  const type = TYPES.get(letterOf(header));
  // Hard links, devices, pipes and what else there may be: nothing that an agent sends.
  if (!type) throw malformed(`an entry of type ${JSON.stringify(letterOf(header))}`);
  const mark = pax[MARK];
  if (mark !== undefined && mark.length > MAX_MARK_BYTES) throw malformed(`a mark of ${mark.length} characters`);
  return {
    type,
    path: pax.path ?? fieldText(header, FIELD.name),
    target: pax.linkpath ?? fieldText(header, FIELD.target),
    mode: octalOf(header, FIELD.mode),
    modifiedMs: octalOf(header, FIELD.modified) * 1_000,
    bytes: octalOf(header, FIELD.size),
    ...(mark === undefined ? {} : { mark }),
  };
}

function verify(header: Buffer): void {
  const [offset, length] = FIELD.magic;
  if (header.toString('latin1', offset, offset + length) !== MAGIC) throw malformed('a header that is not ustar');
  if (octalOf(header, FIELD.checksum) !== checksum(header)) throw malformed('a header with a wrong checksum');
}

function letterOf(header: Buffer): string {
  return String.fromCharCode(header[FIELD.type[0]] as number);
}

function fieldText(header: Buffer, [offset, length]: readonly [number, number]): string {
  const field = header.subarray(offset, offset + length);
  const end = field.indexOf(0);
  return textOf(end < 0 ? field : field.subarray(0, end));
}

function octalOf(header: Buffer, [offset, length]: readonly [number, number]): number {
  const text = header.toString('latin1', offset, offset + length).replace(/[\0 ]+$/, '');
  if (!/^[0-7]{1,12}$/.test(text)) throw malformed(`a number ${JSON.stringify(text)}`);
  return Number.parseInt(text, 8);
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function textOf(bytes: Buffer): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw new LpkError('protocol', 'the archive is malformed: a name that is not UTF-8', { cause });
  }
}

function malformed(what: string): LpkError {
  return new LpkError('protocol', `the archive is malformed: ${what}`);
}

/** A stream's bytes by number. */
class Bytes {
  #pieces: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.#pieces = source[Symbol.asyncIterator]();
  }

  /** Undefined at the end; LpkError `protocol` when the end comes too early. */
  async take(count: number): Promise<Buffer | undefined> {
    const taken: Buffer[] = [];
    let missing = count;
    while (missing > 0) {
      const piece = await this.#upTo(missing);
      if (!piece && missing === count) return undefined;
      if (!piece) throw malformed('it ends within an entry');
      taken.push(piece);
      missing -= piece.length;
    }
    return taken.length === 1 ? taken[0] : Buffer.concat(taken);
  }

  /** As many as `rest` says, which says less with each piece. */
  async *pieces(rest: { bytes: number }): AsyncGenerator<Buffer> {
    while (rest.bytes > 0) {
      const piece = await this.#upTo(rest.bytes);
      if (!piece) throw malformed('it ends within an entry');
      rest.bytes -= piece.length;
      yield piece;
    }
  }

  async end(): Promise<void> {
    await this.#pieces.return?.();
  }

  async #upTo(most: number): Promise<Buffer | undefined> {
    while (this.#rest.length === 0) {
      const next = await this.#pieces.next();
      if (next.done) return undefined;
      this.#rest = next.value;
    }
    const piece = this.#rest.subarray(0, most);
    this.#rest = this.#rest.subarray(piece.length);
    return piece;
  }
}
