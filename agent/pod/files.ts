import { constants, type Dirent } from 'node:fs';
import { lstat, open, opendir, readlink } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { LpkError, systemCode } from '../wire/errors.ts';
import { LIMITS } from '../wire/protocol.ts';
import type { Stream } from '../wire/stream.ts';
import { encodeTarHeader, type TarType, tarPadding } from '../wire/tar.ts';
import { refuse } from './dial.ts';

export type FilesRequest = {
  /** Where the container has it: a folder or a file. */
  path: string;
  /** Other mounts in there, relative to it: they are named and not entered. */
  except: string[];
  /** Most bytes of all files together. */
  limitBytes: number;
  maxEntries: number;
};

/** Between two looks, ms; where there are many files so long that looking takes an eleventh of the time at most. */
const LOOK_MS = 1_000;
const MANY = 1_000;
const REST = 10;
const PIECE_BYTES = 64 * 1024;
/** Of kubelet's atomic writer (pkg/volume/util/atomic_writer.go). */
const VERSION = '..data';
/** Who publishes a version with every look gets what there is. */
const MAX_TORN = 10;
const MAX_PATH_BYTES = 1_024;
/** More of them are counted only. */
const MAX_SKIPPED = 100;

/**
 * Serves a `files` stream: a copy of a mount now, and what has changed in it, until the laptop has enough. It looks every second
 * (kubelet's volumes are changed by renaming `..data`, and tmpfs, network and overlay file systems tell of changes each in a way of
 * its own), and reads what has another inode, ctime or size.
 */
export async function serveFiles(stream: Stream): Promise<void> {
  try {
    const { path, except, limitBytes, maxEntries } = await readRequest(stream);
    stream.accept();
    const over = new AbortController();
    stream.once('close', () => over.abort());
    const copy = new Copy(path, { except: new Set(except), limitBytes, maxEntries }, new Writer(stream));
    while (!stream.destroyed) {
      const { entries, tookMs } = await copy.round();
      const restMs = entries < MANY ? LOOK_MS : Math.max(LOOK_MS, REST * tookMs);
      await pause(restMs, undefined, { signal: over.signal, ref: false });
    }
  } catch (error) {
    if (!stream.destroyed) refuse(stream, error);
  }
}

async function readRequest(stream: Stream): Promise<FilesRequest> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of stream.iterator({ destroyOnReturn: false })) {
    bytes += piece.length;
    if (bytes > LIMITS.answerBytes) throw new LpkError('limit-exceeded', 'the request is too long');
    pieces.push(piece);
  }
  return JSON.parse(Buffer.concat(pieces).toString('utf8')) as FilesRequest;
}

type Limits = { except: Set<string>; limitBytes: number; maxEntries: number };

type Found = { type: 'file' | 'folder' | 'link'; path: string; mode: number; mark: string };

class Copy {
  #root: string;
  #limits: Limits;
  #out: Writer;
  /** What the laptop has: path → what it looked like. */
  #sent = new Map<string, string>();
  /** What could not be read, and why: not tried again until it looks different. */
  #unreadable = new Map<string, { mark: string; why: string }>();
  #toldSkipped = '';
  #rounds = 0;

  constructor(root: string, limits: Limits, out: Writer) {
    this.#root = root;
    this.#limits = limits;
    this.#out = out;
  }

  /**
   * Sends what differs from the last round; nothing when nothing does. Rejects when the mount itself can't be read. Returns what the
   * look saw and how long it took.
   */
  async round(): Promise<{ entries: number; tookMs: number }> {
    for (let tries = 1; ; tries++) {
      const version = tries <= MAX_TORN ? await this.#version() : undefined;
      const looked = await this.#roundOf(version);
      if (looked) return looked;
    }
  }

  /**
   * Kubelet writes a folder with all files, turns the link `..data` to it and removes the former one. So files of two versions are no
   * copy: undefined when the next one came before all of this one were sent, and then `..data` leads to the former one still, which
   * the laptop has whole.
   */
  async #roundOf(version: string | undefined): Promise<{ entries: number; tookMs: number } | undefined> {
    const startedMs = performance.now();
    const look = new Look(this.#root, this.#limits);
    await look.run();
    if (await this.#isPast(version)) return undefined;
    const looked = { entries: look.found.length, tookMs: performance.now() - startedMs };
    const { skipped } = look;
    const found = look.found.filter((each) => !this.#isUnreadable(each, skipped));
    const changed = found.filter(({ path, mark }) => this.#sent.get(path) !== mark);
    const gone = new Set(this.#sent.keys());
    for (const { path } of found) gone.delete(path);
    for (const each of changed) {
      const { path, mark } = each;
      const why = await this.#send(each, version);
      if (why === undefined) this.#sent.set(path, mark);
      else if (await this.#isPast(version)) return undefined;
      else {
        skipped.add(path, why);
        this.#unreadable.set(path, { mark, why });
        if (this.#sent.has(path)) gone.add(path);
      }
    }
    for (const path of gone) {
      this.#sent.delete(path);
      await this.#out.entry({ type: 'removed', path });
    }
    const telling = skipped.toString();
    if (this.#rounds > 0 && changed.length === 0 && gone.size === 0 && telling === this.#toldSkipped) return looked;
    this.#toldSkipped = telling;
    this.#rounds++;
    for (const [path, why] of skipped.named) await this.#out.entry({ type: 'skipped', path }, Buffer.from(why));
    await this.#out.entry({ type: 'round', path: '.' }, Buffer.from(JSON.stringify({ skipped: skipped.count })));
    return looked;
  }

  #isUnreadable({ path, mark }: Found, skipped: Skipped): boolean {
    const known = this.#unreadable.get(path);
    if (known?.mark !== mark) {
      this.#unreadable.delete(path);
      return false;
    }
    skipped.add(path, known.why);
    return true;
  }

  /** Which folder is kubelet's present one; undefined in any other kind of mount. */
  async #version(): Promise<string | undefined> {
    return await readlink(this.#absolute(VERSION)).catch(() => undefined);
  }

  async #isPast(version: string | undefined): Promise<boolean> {
    return version !== undefined && (await this.#version()) !== version;
  }

  /** Why not; undefined: it is sent. */
  async #send({ type, path, mode }: Found, version: string | undefined): Promise<string | undefined> {
    const name = this.#absolute(path);
    try {
      if (type === 'file') return await this.#sendFile(name, path);
      const turned = path === VERSION ? version : undefined;
      const target = type === 'link' ? (turned ?? (await readlink(name))) : '';
      await this.#out.entry({ type, path, target, mode });
      return undefined;
    } catch (error) {
      if (error instanceof LpkError) throw error;
      return whyNot(error);
    }
  }

  async #sendFile(name: string, path: string): Promise<string | undefined> {
    // What was a file a moment ago may be a pipe or a link by now.
    const handle = await open(name, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const stats = await handle.stat();
      const { size: bytes, mode, mtimeMs: modifiedMs } = stats;
      if (!stats.isFile() || bytes > this.#limits.limitBytes) return 'it changes while it is read';
      // One write for what comes with a piece: a volume can have many small files.
      let waiting = encodeTarHeader({ type: 'file', path, target: '', mode: mode & 0o7777, modifiedMs, bytes });
      let left = bytes;
      while (left > 0) {
        const piece = Buffer.allocUnsafe(Math.min(left, PIECE_BYTES));
        // One that got shorter, or fails in the middle, is filled up; the next round has it as it is then.
        const { bytesRead } = await handle.read(piece, 0, piece.length, null).catch(() => ({ bytesRead: 0 }));
        const read = bytesRead > 0 ? piece.subarray(0, bytesRead) : piece.fill(0);
        left -= read.length;
        if (left > 0) await this.#out.write(Buffer.concat([waiting, read]));
        waiting = left > 0 ? Buffer.alloc(0) : Buffer.concat([waiting, read]);
      }
      await this.#out.write(Buffer.concat([waiting, tarPadding(bytes)]));
      return undefined;
    } finally {
      await handle.close();
    }
  }

  #absolute(path: string): string {
    return path === '.' ? this.#root : `${this.#root}/${path}`;
  }
}

/** One look at a mount: what is in it, parents first, names in order, within the limits. */
class Look {
  readonly found: Found[] = [];
  readonly skipped = new Skipped();
  #root: string;
  #limits: Limits;
  #bytes = 0;
  #full = false;

  constructor(root: string, limits: Limits) {
    this.#root = root;
    this.#limits = limits;
  }

  async run(): Promise<void> {
    if ((await this.#add('.')) === 'folder') await this.#enter('.', true);
  }

  async #enter(folder: string, isRoot = false): Promise<void> {
    let names: Dirent[];
    try {
      names = await this.#list(folder);
    } catch (error) {
      if (isRoot) throw error;
      return this.skipped.add(folder, whyNot(error));
    }
    for (const { name } of names) {
      const path = folder === '.' ? name : `${folder}/${name}`;
      if (this.#full) return;
      if (this.found.length >= this.#limits.maxEntries) {
        this.#full = true;
        return this.skipped.add(path, `and all after it: there are more than ${this.#limits.maxEntries} files`);
      }
      // Node writes U+FFFD for bytes that are no UTF-8: no name to ask for it by.
      if (name.includes('\ufffd')) this.skipped.add(path, 'its name is not UTF-8');
      else if (Buffer.byteLength(path) > MAX_PATH_BYTES) this.skipped.add(path.slice(0, 200), 'its path is too long');
      else if ((await this.#add(path)) === 'folder' && !this.#limits.except.has(path)) await this.#enter(path);
    }
  }

  /** No more names than may be sent: a folder can have any number. */
  async #list(folder: string): Promise<Dirent[]> {
    const names: Dirent[] = [];
    for await (const entry of await opendir(folder === '.' ? this.#root : `${this.#root}/${folder}`)) {
      names.push(entry);
      if (names.length > this.#limits.maxEntries - this.found.length) break;
    }
    return names.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async #add(path: string): Promise<TarType | undefined> {
    try {
      const stats = await lstat(path === '.' ? this.#root : `${this.#root}/${path}`, { bigint: true });
      const mode = Number(stats.mode & 0o7777n);
      if (stats.isDirectory()) return this.#take({ type: 'folder', path, mode, mark: `${mode}` });
      if (this.#limits.except.has(path)) return undefined; // another mount, of a file
      const mark = `${stats.ino} ${stats.ctimeNs} ${stats.size} ${mode}`;
      if (stats.isSymbolicLink()) return this.#take({ type: 'link', path, mode, mark });
      if (!stats.isFile()) this.skipped.add(path, 'it is a device, a socket or a pipe');
      else if (BigInt(this.#bytes) + stats.size > BigInt(this.#limits.limitBytes)) {
        this.skipped.add(path, `its ${stats.size} bytes are more than the limit leaves`);
      } else {
        this.#bytes += Number(stats.size);
        return this.#take({ type: 'file', path, mode, mark });
      }
    } catch (error) {
      if (path === '.') throw error;
      this.skipped.add(path, whyNot(error));
    }
    return undefined;
  }

  #take(found: Found): Found['type'] {
    this.found.push(found);
    return found.type;
  }
}

class Skipped {
  readonly named = new Map<string, string>();
  count = 0;

  add(path: string, why: string): void {
    this.count++;
    if (this.named.size < MAX_SKIPPED) this.named.set(path, why);
  }

  toString(): string {
    return JSON.stringify([this.count, ...this.named]);
  }
}

class Writer {
  #stream: Stream;

  constructor(stream: Stream) {
    this.#stream = stream;
  }

  async entry(entry: { type: TarType; path: string; target?: string; mode?: number }, content?: Buffer): Promise<void> {
    const bytes = content?.length ?? 0;
    const header = encodeTarHeader({ target: '', mode: 0, modifiedMs: 0, ...entry, bytes });
    await this.write(content ? Buffer.concat([header, content, tarPadding(bytes)]) : header);
  }

  /** Until there is room for more. Rejects when the laptop has left. */
  async write(bytes: Buffer): Promise<void> {
    const stream = this.#stream;
    if (bytes.length === 0) return;
    if (stream.destroyed) throw new LpkError('cancelled', 'the laptop has enough');
    if (stream.write(bytes)) return;
    await new Promise<void>((resolve) => {
      const done = () => {
        stream.off('drain', done).off('close', done);
        resolve();
      };
      stream.once('drain', done).once('close', done);
    });
  }
}

function whyNot(error: unknown): string {
  const code = systemCode(error);
  if (code === 'EACCES' || code === 'EPERM') return 'the agent’s user may not read it';
  return code ?? 'it can not be read';
}
