import { type BigIntStats, constants } from 'node:fs';
import { open, readlink } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { LpkError, systemCode } from '../wire/errors.ts';
import { type Found, Look, type LookLimits, markOf, type Skipped, whyNot } from '../wire/look.ts';
import { LIMITS } from '../wire/protocol.ts';
import type { Stream } from '../wire/stream.ts';
import { encodeTarHeader, type TarEntry, tarPadding } from '../wire/tar.ts';
import { refuse } from './dial.ts';
import { ownMountPoints, serveWrites } from './mount-writes.ts';

export type FilesRequest = {
  /** Where the container has it: a folder or a file. */
  path: string;
  /** Other mounts in there, relative to it: they are named and not entered. */
  except: string[];
  /** Most bytes of all files together. */
  limitBytes: number;
  maxEntries: number;
  /** Each entry says which version it is of: for who wants to write. */
  marks?: boolean;
};

/** Between two looks, ms; where there are many files so long that looking takes an eleventh of the time at most. */
const LOOK_MS = 1_000;
const MANY = 1_000;
const REST = 10;
const PIECE_BYTES = 64 * 1024;
/** How many files of so many bytes are read before it is their turn: 2 MiB at most. */
const READ_AHEAD = 32;
const SMALL_BYTES = 64 * 1024;
/** What was a file a moment ago may be a pipe or a link by now. */
const READ_ONLY = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
/** Since the look: no reason to tell. */
const GONE = 'it went';
/** Of kubelet's atomic writer (pkg/volume/util/atomic_writer.go). */
const VERSION = '..data';
/** Who publishes a version with every look gets what there is. */
const MAX_TORN = 10;

/** Serves a session's `files` streams: copies of the container's mounts, and what the laptop writes into them. */
export class MountFiles {
  #copies = new Map<string, Copy>();
  #swept = new Set<string>();
  #mountPoints: () => Promise<string[]>;

  /** `mountPoints`: where this container has mounts. */
  constructor(mountPoints = ownMountPoints) {
    this.#mountPoints = mountPoints;
  }

  async serve(stream: Stream): Promise<void> {
    try {
      if (stream.host === 'write') {
        const wrote = (mount: string, path: string, mark: string | undefined) =>
          this.#copies.get(mount)?.wrote(path, mark);
        return await serveWrites(stream, await this.#mountPoints(), wrote, this.#swept);
      }
      if (stream.host !== '') throw new LpkError('protocol', `this agent knows no files request '${stream.host}'`);
      await this.#copy(stream);
    } catch (error) {
      if (!stream.destroyed) refuse(stream, error);
    }
  }

  /**
   * A copy of a mount now, and what has changed in it, until the laptop has enough. It looks every second (kubelet's volumes are changed
   * by renaming `..data`, and tmpfs, network and overlay file systems tell of changes each in a way of its own), and reads what has
   * another inode, ctime or size.
   */
  async #copy(stream: Stream): Promise<void> {
    const { path, except, limitBytes, maxEntries, marks } = await readRequest(stream);
    stream.accept();
    const over = new AbortController();
    stream.once('close', () => over.abort());
    const copy = new Copy(
      path,
      { except: new Set(except), limitBytes, maxEntries },
      new Writer(stream, marks === true),
    );
    if (marks === true) this.#copies.set(path, copy);
    stream.once('close', () => {
      if (this.#copies.get(path) === copy) this.#copies.delete(path);
    });
    while (!stream.destroyed) {
      const { entries, tookMs } = await copy.round();
      const restMs = entries < MANY ? LOOK_MS : Math.max(LOOK_MS, REST * tookMs);
      await pause(restMs, undefined, { signal: over.signal, ref: false });
    }
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

/** A whole file. */
type Small = { stats: BigIntStats; content: Buffer };

class Copy {
  #root: string;
  #limits: LookLimits;
  #out: Writer;
  /** What the laptop has: path → what it looked like. */
  #sent = new Map<string, string>();
  /** What could not be read, and why: not tried again until it looks different. */
  #unreadable = new Map<string, { mark: string; why: string }>();
  #toldSkipped = '';
  #rounds = 0;

  constructor(root: string, limits: LookLimits, out: Writer) {
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
    const before = new Map(this.#sent);
    const look = new Look(this.#root, this.#limits);
    const tell = this.#rounds === 0 ? this.#tellLooking(look) : undefined;
    await look.run().finally(() => clearInterval(tell));
    if (await this.#isPast(version)) return undefined;
    const looked = { entries: look.found.length, tookMs: performance.now() - startedMs };
    const { skipped } = look;
    const found = look.found.filter((each) => !this.#isUnreadable(each, skipped));
    const changed = found.filter(({ path, mark }) => this.#sent.get(path) !== mark);
    // What the laptop wrote since the look began is in none of it.
    const gone = new Set([...before].flatMap(([path, mark]) => (this.#sent.get(path) === mark ? path : [])));
    for (const { path } of found) gone.delete(path);
    const small = this.#readAhead(changed);
    for (const [i, each] of changed.entries()) {
      const { path, mark } = each;
      const why = await this.#send(each, version, small(i));
      if (why === undefined) this.#sent.set(path, mark);
      else if (await this.#isPast(version)) return undefined;
      else {
        if (why !== GONE) {
          skipped.add(path, why);
          this.#unreadable.set(path, { mark, why });
        }
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

  /** What the laptop wrote it need not be sent. `mark`: undefined for what it removed. */
  wrote(path: string, mark: string | undefined): void {
    if (mark === undefined) this.#sent.delete(path);
    else this.#sent.set(path, mark);
  }

  /** A first look can take long; one that no longer goes on is not told. */
  #tellLooking(look: Look): NodeJS.Timeout {
    let told = 0;
    return setInterval(() => {
      const now = look.seen + look.found.length;
      if (now === told) return;
      told = now;
      this.#out.entry({ type: 'looking', path: '.' }, Buffer.from(JSON.stringify({ seen: look.seen }))).catch(() => {});
    }, LOOK_MS).unref();
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
  async #send(
    { type, path, mode, mark }: Found,
    version: string | undefined,
    small: Promise<Small | undefined>,
  ): Promise<string | undefined> {
    const name = this.#absolute(path);
    try {
      const read = await small;
      if (read) {
        const { stats, content } = read;
        const header = this.#fileHeader(path, stats, content.length);
        await this.#out.write(Buffer.concat([header, content, tarPadding(content.length)]));
        return undefined;
      }
      if (type === 'file') return await this.#sendFile(name, path);
      const turned = path === VERSION ? version : undefined;
      const target = type === 'link' ? (turned ?? (await readlink(name))) : '';
      await this.#out.entry({ type, path, target, mode, mark });
      return undefined;
    } catch (error) {
      if (error instanceof LpkError) throw error;
      return systemCode(error) === 'ENOENT' ? GONE : whyNot(error);
    }
  }

  /**
   * By index: the whole of a small file, read while those before it are sent. On a busy machine, the way to the thread pool and back is
   * what a small file costs. Undefined: none, or it changes.
   */
  #readAhead(changed: Found[]): (index: number) => Promise<Small | undefined> {
    const reads = new Map<number, Promise<Small | undefined>>();
    let next = 0;
    return (index) => {
      for (; next < Math.min(index + READ_AHEAD, changed.length); next++) {
        const { type, path, bytes } = changed[next] as Found;
        if (type !== 'file' || bytes > SMALL_BYTES) continue;
        const read = this.#readSmall(this.#absolute(path), bytes);
        read.catch(() => {}); // told when its turn has come
        reads.set(next, read);
      }
      const read = reads.get(index);
      reads.delete(index);
      return read ?? Promise.resolve(undefined);
    };
  }

  async #readSmall(name: string, bytes: number): Promise<Small | undefined> {
    const handle = await open(name, READ_ONLY);
    try {
      const stats = await handle.stat({ bigint: true });
      if (!stats.isFile() || stats.size !== BigInt(bytes)) return undefined;
      const content = Buffer.alloc(bytes);
      const { bytesRead } = bytes > 0 ? await handle.read(content, 0, bytes, 0) : { bytesRead: 0 };
      return bytesRead === bytes ? { stats, content } : undefined;
    } finally {
      await handle.close();
    }
  }

  #fileHeader(path: string, stats: BigIntStats, bytes: number): Buffer {
    const mode = Number(stats.mode & 0o7777n);
    return this.#out.header({
      type: 'file',
      path,
      mode,
      modifiedMs: Number(stats.mtimeMs),
      bytes,
      mark: markOf(stats),
    });
  }

  async #sendFile(name: string, path: string): Promise<string | undefined> {
    const handle = await open(name, READ_ONLY);
    try {
      const stats = await handle.stat({ bigint: true });
      const bytes = Number(stats.size);
      if (!stats.isFile() || bytes > this.#limits.limitBytes) return 'it changes while it is read';
      let waiting = this.#fileHeader(path, stats, bytes);
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

class Writer {
  #stream: Stream;
  #marks: boolean;

  constructor(stream: Stream, marks: boolean) {
    this.#stream = stream;
    this.#marks = marks;
  }

  header(entry: Partial<TarEntry> & Pick<TarEntry, 'type' | 'path'>): Buffer {
    const mark = this.#marks ? entry.mark : undefined;
    return encodeTarHeader({ target: '', mode: 0, modifiedMs: 0, bytes: 0, ...entry, mark });
  }

  async entry(entry: Partial<TarEntry> & Pick<TarEntry, 'type' | 'path'>, content?: Buffer): Promise<void> {
    const bytes = content?.length ?? 0;
    const header = this.header({ ...entry, bytes });
    await this.write(content ? Buffer.concat([header, content, tarPadding(bytes)]) : header);
  }

  /** Until there is room for more. Rejects when the laptop has left. */
  async write(bytes: Buffer): Promise<void> {
    const stream = this.#stream;
    if (bytes.length === 0) return;
    if (stream.destroyed) throw new LpkError('cancelled', 'the laptop has enough');
    await stream.writeWithRoom(bytes);
  }
}
