import {
  chmodSync,
  closeSync,
  existsSync,
  fchmodSync,
  ftruncateSync,
  futimesSync,
  mkdirSync,
  openSync,
  renameSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { LpkError } from '../agent/wire/errors.ts';
import { type ReadEntry, readTar } from '../agent/wire/tar.ts';

export type VolumeLimits = { limitBytes: number; maxEntries: number };

/** What a copy holds after a round. */
export type VolumeReport = {
  kind: 'folder' | 'file';
  files: number;
  bytes: number;
  /** What is not in it, and why; the agent names a hundred at most. */
  skipped: Map<string, string>;
  skippedCount: number;
};

type Known = { type: 'file' | 'folder' | 'link'; bytes: number };

const MAX_PATH_BYTES = 1_024;
const MAX_NAME_BYTES = 255;
const MAX_REASON_BYTES = 1_024;
const MAX_NAMED = 200;

/**
 * The laptop's copy of one mount, at `place`. What arrives is not trusted: nothing is made, changed or followed outside of `place`,
 * whoever wrote the pod's files or its agent. Files are written beside it, in `staging`, and renamed into place, one by one and in the
 * pod's order, so that a reader sees the old or the new content and kubelet's `..data` turns at once.
 *
 * Kept: names, content, permission bits (of files all but setuid, setgid and sticky; folders can always be written by their
 * owner), links that stay within the mount, modification times. The owner is who runs lpk.
 */
export class VolumeCopy {
  readonly place: string;
  #staging: string;
  #limits: VolumeLimits;
  /** Other mounts in there, relative: theirs, and what leads to them, stays. */
  #reserved: string[];
  #known = new Map<string, Known>();
  #bytes = 0;
  /** Named in this stream; what was known before and was not named by the end of its first round is gone. */
  #named = new Set<string>();
  #skipped = new Map<string, string>();
  /** By us, and why; kept, as the agent sends only what changes. */
  #refused = new Map<string, string>();
  #temporary = 0;

  constructor(given: { place: string; staging: string; reserved: string[]; limits: VolumeLimits }) {
    this.place = given.place;
    this.#staging = given.staging;
    this.#reserved = given.reserved;
    this.#limits = given.limits;
    mkdirSync(path.dirname(given.place), { recursive: true, mode: 0o700 });
    for (const each of given.reserved) {
      mkdirSync(path.join(given.place, path.dirname(each)), { recursive: true, mode: 0o700 });
      for (let at = path.dirname(each); at !== '.'; at = path.dirname(at)) {
        this.#known.set(at, { type: 'folder', bytes: 0 });
      }
      this.#known.set('.', { type: 'folder', bytes: 0 });
    }
  }

  /**
   * Takes what a `files` stream sends, to its end. `onRound` is called after each round, when the copy is as the mount was. LpkError
   * `protocol`, `limit-exceeded` when the agent sends what it may not; else the stream's error or the file system's.
   */
  async receive(source: AsyncIterable<Buffer>, onRound: (report: VolumeReport) => void): Promise<void> {
    let first = true;
    this.#named.clear();
    this.#skipped = new Map();
    for await (const entry of readTar(source)) {
      if (entry.type === 'round') {
        const { skipped } = JSON.parse(String(await short(entry))) as { skipped: number };
        if (first) await this.#removeUnnamed();
        first = false;
        onRound(this.#report(Number(skipped) || 0));
        this.#skipped = new Map();
      } else await this.#take(entry, first);
    }
  }

  #report(skippedByAgent: number): VolumeReport {
    const files = [...this.#known.values()].filter(({ type }) => type !== 'folder').length;
    const kind = this.#known.get('.')?.type === 'file' ? 'file' : 'folder';
    const skipped = new Map([...this.#skipped, ...this.#refused].slice(0, MAX_NAMED));
    return { kind, files, bytes: this.#bytes, skipped, skippedCount: skippedByAgent + this.#refused.size };
  }

  async #take(entry: ReadEntry, naming: boolean): Promise<void> {
    const at = entry.path;
    if (entry.type === 'skipped') {
      const why = String(await short(entry));
      if (this.#skipped.size < MAX_NAMED) this.#skipped.set(at, why);
      return;
    }
    const why = this.#objection(entry);
    if (why !== undefined) return await this.#refuse(at, why);
    this.#refused.delete(at);
    if (naming) this.#named.add(at);
    if (entry.type === 'removed') await this.#remove(at);
    else if (entry.type === 'folder') await this.#makeFolder(entry);
    else if (entry.type === 'link') await this.#makeLink(entry);
    else await this.#makeFile(entry);
  }

  /** What was there under that name is not what is there now. */
  async #refuse(at: string, why: string): Promise<void> {
    if (this.#refused.size >= 2 * this.#limits.maxEntries)
      throw new LpkError('limit-exceeded', `more than ${this.#limits.maxEntries} files arrive`);
    this.#refused.set(at, why);
    if (!this.#leadsToReserved(at)) await this.#remove(at);
  }

  /** Why an entry is not taken; throws LpkError where the agent breaks a limit that it was told. */
  #objection({ type, path: at, target, bytes }: ReadEntry): string | undefined {
    const parts = at.split('/');
    const isRoot = at === '.';
    if (!isRoot && parts.some((part) => part === '' || part === '.' || part === '..')) return 'its path leads out';
    if (at.includes('\0') || target.includes('\0')) return 'its path has a zero byte';
    if (Buffer.byteLength(at) > MAX_PATH_BYTES || parts.some((part) => Buffer.byteLength(part) > MAX_NAME_BYTES))
      return 'its path is too long';
    if (this.#isReserved(at, type)) return 'another mount is there';
    const parent = path.posix.dirname(at);
    // Known as a folder means made by us as a folder: never by way of a link.
    if (!isRoot && type !== 'removed' && this.#known.get(parent)?.type !== 'folder') return 'its folder is missing';
    if (isRoot && (type === 'link' || type === 'removed')) return 'the mount itself can not be that';
    if (type === 'link' && !staysWithin(target, parts.length - 1)) return `it links out of the volume, to ${target}`;
    const known = this.#known.get(at);
    // In the middle of a round old and new stand side by side; more than twice the limit is no good agent's.
    const { limitBytes, maxEntries } = this.#limits;
    if (type !== 'removed' && !known && this.#known.size >= 2 * maxEntries)
      throw new LpkError('limit-exceeded', `more than ${maxEntries} files arrive`);
    if (this.#bytes + bytes > 2 * limitBytes)
      throw new LpkError('limit-exceeded', `more than ${limitBytes} bytes arrive`);
    return undefined;
  }

  #isReserved(at: string, type: ReadEntry['type']): boolean {
    if (this.#reserved.some((each) => at.startsWith(`${each}/`))) return true;
    return this.#leadsToReserved(at) && type !== 'folder';
  }

  #leadsToReserved(at: string): boolean {
    return this.#reserved.some((each) => at === '.' || each === at || each.startsWith(`${at}/`));
  }

  async #makeFolder({ path: at, mode }: ReadEntry): Promise<void> {
    const place = this.#placeOf(at);
    // A mount's own folder may be there for another mount in it.
    const there =
      this.#known.get(at)?.type === 'folder' || ((at === '.' || this.#reserved.includes(at)) && existsSync(place));
    if (!there) {
      await this.#remove(at);
      mkdirSync(place, { mode: 0o700 });
    }
    chmodSync(place, (mode & 0o1777) | 0o700);
    this.#set(at, { type: 'folder', bytes: 0 });
  }

  async #makeLink({ path: at, target }: ReadEntry): Promise<void> {
    const made = this.#temporaryName();
    symlinkSync(target, made);
    await this.#putInPlace(made, at);
    this.#set(at, { type: 'link', bytes: 0 });
  }

  async #makeFile(entry: ReadEntry): Promise<void> {
    const { path: at, bytes } = entry;
    const mode = entry.mode & 0o777;
    // A mounted file keeps its inode, or the mount would go on showing the old one; it changes in place in the pod as well.
    if (at === '.' && this.#known.get(at)?.type === 'file') {
      chmodSync(this.place, 0o600);
      await fill(openSync(this.place, 'r+'), entry, mode);
    } else {
      const made = this.#temporaryName();
      await fill(openSync(made, 'wx', 0o600), entry, mode);
      await this.#putInPlace(made, at);
    }
    this.#set(at, { type: 'file', bytes });
  }

  async #putInPlace(made: string, at: string): Promise<void> {
    if (this.#known.get(at)?.type === 'folder') await this.#remove(at);
    renameSync(made, this.#placeOf(at));
  }

  async #removeUnnamed(): Promise<void> {
    const gone = [...this.#known.keys()].filter((at) => !this.#named.has(at) && !this.#leadsToReserved(at));
    for (const at of gone) await this.#remove(at);
    this.#named.clear();
  }

  async #remove(at: string): Promise<void> {
    const known = this.#known.get(at);
    if (!known || at === '.') return;
    await rm(this.#placeOf(at), { recursive: true, force: true });
    this.#set(at, undefined);
    if (known.type !== 'folder') return;
    for (const each of [...this.#known.keys()]) if (each.startsWith(`${at}/`)) this.#set(each, undefined);
  }

  #set(at: string, known: Known | undefined): void {
    this.#bytes += (known?.bytes ?? 0) - (this.#known.get(at)?.bytes ?? 0);
    if (known) this.#known.set(at, known);
    else this.#known.delete(at);
  }

  #placeOf(at: string): string {
    return at === '.' ? this.place : path.join(this.place, at);
  }

  #temporaryName(): string {
    return path.join(this.#staging, `${++this.#temporary}`);
  }
}

/**
 * The laptop's own disk, a piece at a time, without the thread pool: with many small files the way there and back would be most of the
 * work.
 */
async function fill(fd: number, { content, modifiedMs }: ReadEntry, mode: number): Promise<void> {
  try {
    ftruncateSync(fd);
    for await (const piece of content) for (let at = 0; at < piece.length; ) at += writeSync(fd, piece, at);
    fchmodSync(fd, mode);
    futimesSync(fd, modifiedMs / 1_000, modifiedMs / 1_000);
  } finally {
    closeSync(fd);
  }
}

/** A text of the agent's own. */
async function short({ bytes, content }: ReadEntry): Promise<Buffer> {
  if (bytes > MAX_REASON_BYTES) throw new LpkError('protocol', `a text of ${bytes} bytes arrives`);
  const pieces: Buffer[] = [];
  for await (const piece of content) pieces.push(piece);
  return Buffer.concat(pieces);
}

/**
 * Whether a link that is `depth` folders deep stays within its mount. `..` only at the beginning: from a folder that is one, and
 * not a link, so many levels up lead to one that is one as well; after a name, which may be a link's, they could lead anywhere.
 */
function staysWithin(target: string, depth: number): boolean {
  if (target === '' || target.startsWith('/') || Buffer.byteLength(target) > MAX_PATH_BYTES) return false;
  const parts = target.split('/');
  const up = parts.findIndex((part) => part !== '..');
  const ups = up < 0 ? parts.length : up;
  return ups <= depth && !parts.slice(ups).includes('..');
}
