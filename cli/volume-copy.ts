import { createHash, type Hash } from 'node:crypto';
import {
  type BigIntStats,
  chmodSync,
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  ftruncateSync,
  futimesSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { type FileHandle, open, rm } from 'node:fs/promises';
import path from 'node:path';
import { LpkError, systemCode } from '../agent/wire/errors.ts';
import { linkObjection, pathObjection } from '../agent/wire/inside.ts';
import { markOf } from '../agent/wire/look.ts';
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

export type Known = {
  type: 'file' | 'folder' | 'link';
  bytes: number;
  /** Of a copy that may be written to: what both ends had when they last had the same. */
  base?: Base;
};

export type Base = {
  /** {@link markOf}, there and here: another one tells of a change there, or here. */
  podMark: string;
  mark: string;
  /** Here. */
  mode: number;
  /** Of the content: see {@link VolumeCopy.digestHere}. */
  digest: string;
};

/** The pod's version took the place of the laptop's, which is now at `keptAs`, relative as well; undefined: there was none. */
export type Conflict = { path: string; keptAs: string | undefined; why: string };

const MAX_REASON_BYTES = 1_024;
const MAX_NAMED = 200;
const MAX_NAME_BYTES = 255;
const ASIDE = '.lpk-conflict';

/**
 * The laptop's copy of one mount, at `place`. What arrives is not trusted: nothing is made, changed or followed outside of `place`,
 * whoever wrote the pod's files or its agent. Files are written beside it, in `staging`, and renamed into place, one by one and in the
 * pod's order, so that a reader sees the old or the new content and kubelet's `..data` turns at once.
 *
 * Kept: names, content, permission bits (of files all but setuid, setgid and sticky; folders can always be written by their
 * owner), links that stay within the mount, modification times. The owner is who runs lpk.
 *
 * A copy with `onConflict` may be written to: what the laptop changed and the pod changed as well is moved aside, never replaced.
 */
export class VolumeCopy {
  readonly place: string;
  readonly limits: VolumeLimits;
  /** Other mounts in there, relative: theirs, and what leads to them, stays. */
  readonly reserved: string[];
  #staging: string;
  #known = new Map<string, Known>();
  #bytes = 0;
  /** Named in this stream; what was known before and was not named by the end of its first round is gone. */
  #named = new Set<string>();
  #skipped = new Map<string, string>();
  /** By us, and why; kept, as the agent sends only what changes. */
  #refused = new Map<string, string>();
  #temporary = 0;
  #onConflict: ((conflict: Conflict) => void) | undefined;
  /** Not told yet: the pod's version is only about to be there. */
  #conflicts: Conflict[] = [];
  /** Where versions of the laptop's were moved. */
  #aside = new Set<string>();
  #turn: Promise<unknown> = Promise.resolve();

  constructor(given: {
    place: string;
    staging: string;
    reserved: string[];
    limits: VolumeLimits;
    onConflict?: ((conflict: Conflict) => void) | undefined;
  }) {
    this.place = given.place;
    this.limits = given.limits;
    this.reserved = given.reserved;
    this.#staging = given.staging;
    this.#onConflict = given.onConflict;
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
   * Takes what a `files` stream sends, to its end. `onRound` is called after each round, when the copy is as the mount was; `onLook`
   * with how much the agent has seen, before the first. LpkError `protocol`, `limit-exceeded` when the agent sends what it may not; else
   * the stream's error or the file system's.
   */
  async receive(
    source: AsyncIterable<Buffer>,
    onRound: (report: VolumeReport) => void,
    onLook: (seen: number) => void = () => {},
  ): Promise<void> {
    let first = true;
    this.#named.clear();
    this.#skipped = new Map();
    for await (const entry of readTar(source)) {
      if (entry.type === 'round') {
        const skipped = await number(entry, 'skipped');
        if (first) await this.inTurn(() => this.#telling(this.#removeUnnamed()));
        first = false;
        onRound(this.#report(skipped));
        this.#skipped = new Map();
      } else if (entry.type === 'looking') onLook(await number(entry, 'seen'));
      else await this.inTurn(() => this.#telling(this.#take(entry, first)));
    }
  }

  /** Tells of conflicts when what made them is over. */
  async #telling(work: Promise<void>): Promise<void> {
    try {
      await work;
    } finally {
      for (const conflict of this.#conflicts.splice(0)) this.#onConflict?.(conflict);
    }
  }

  /** Runs one thing after the other: what is arriving does not change what is being written back. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }

  /** What both ends know of, by path. */
  get known(): ReadonlyMap<string, Known> {
    return this.#known;
  }

  /** The pod has this now by our own doing; undefined: nothing. */
  wrote(at: string, known: Known | undefined): void {
    this.#set(at, known);
  }

  /** Versions of the laptop's, moved aside, that are still there. */
  get aside(): string[] {
    for (const at of this.#aside) if (!this.statsHere(at)) this.#aside.delete(at);
    return [...this.#aside];
  }

  isAside(at: string): boolean {
    for (let each = at; each !== '.'; each = path.dirname(each)) if (this.#aside.has(each)) return true;
    return false;
  }

  /** Of what is there, not by way of a link; undefined: nothing. */
  statsHere(at: string): BigIntStats | undefined {
    for (let each = path.dirname(at); each !== '.'; each = path.dirname(each)) {
      if (!statsOf(this.#placeOf(each))?.isDirectory()) return undefined;
    }
    return statsOf(this.#placeOf(at));
  }

  /** SHA-256 of a file, a link's target; the same for all folders. Undefined: it can't be read, or is none of these. */
  async digestHere(at: string): Promise<string | undefined> {
    const stats = this.statsHere(at);
    const place = this.#placeOf(at);
    if (stats?.isDirectory()) return FOLDER_DIGEST;
    if (stats?.isSymbolicLink()) return linkDigest(readlinkSync(place));
    if (!stats?.isFile()) return undefined;
    let handle: FileHandle | undefined;
    try {
      handle = await open(place, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      const hash = createHash('sha256');
      for await (const piece of handle.createReadStream({ autoClose: false })) hash.update(piece);
      return hash.digest('hex');
    } catch {
      return undefined;
    } finally {
      await handle?.close();
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
    if (entry.type === 'mount') throw new LpkError('protocol', 'an entry for the agent arrives');
    const why = this.#objection(entry);
    if (why !== undefined) return await this.#refuse(at, why);
    this.#refused.delete(at);
    if (naming) this.#named.add(at);
    if (entry.type === 'removed') await this.#remove(at);
    else if (this.#isAsKnown(entry)) return;
    else if (entry.type === 'folder') await this.#makeFolder(entry);
    else if (entry.type === 'link') await this.#makeLink(entry);
    else await this.#makeFile(entry);
  }

  /** What there was under that name is not what is there now. */
  async #refuse(at: string, why: string): Promise<void> {
    if (this.#refused.size >= 2 * this.limits.maxEntries)
      throw new LpkError('limit-exceeded', `more than ${this.limits.maxEntries} files arrive`);
    this.#refused.set(at, why);
    if (!this.#leadsToReserved(at)) await this.#remove(at);
  }

  /** Why an entry is not taken; throws LpkError where the agent breaks a limit that it was told. */
  #objection({ type, path: at, target, bytes }: ReadEntry): string | undefined {
    const objection = pathObjection(at);
    if (objection !== undefined) return objection;
    const isRoot = at === '.';
    if (this.#isReserved(at, type)) return 'another mount is there';
    const parent = path.posix.dirname(at);
    // Known as a folder means made by us as a folder: never by way of a link.
    if (!isRoot && type !== 'removed' && this.#known.get(parent)?.type !== 'folder') return 'its folder is missing';
    if (isRoot && (type === 'link' || type === 'removed')) return 'the mount itself can not be that';
    const leadsOut = type === 'link' ? linkObjection(at, target) : undefined;
    if (leadsOut !== undefined) return leadsOut;
    const known = this.#known.get(at);
    // In the middle of a round old and new stand side by side; more than twice the limit is no good agent's.
    const { limitBytes, maxEntries } = this.limits;
    if (type !== 'removed' && !known && this.#known.size >= 2 * maxEntries)
      throw new LpkError('limit-exceeded', `more than ${maxEntries} files arrive`);
    if (this.#bytes + bytes > 2 * limitBytes)
      throw new LpkError('limit-exceeded', `more than ${limitBytes} bytes arrive`);
    return undefined;
  }

  #isReserved(at: string, type: ReadEntry['type']): boolean {
    if (this.reserved.some((each) => at.startsWith(`${each}/`))) return true;
    return this.#leadsToReserved(at) && type !== 'folder';
  }

  #leadsToReserved(at: string): boolean {
    return this.reserved.some((each) => at === '.' || each === at || each.startsWith(`${at}/`));
  }

  /** Nothing changed there since we last had the same; it may be the echo of what we wrote. */
  #isAsKnown({ path: at, type, mark }: ReadEntry): boolean {
    const known = this.#known.get(at);
    return mark !== undefined && known?.type === type && known.base?.podMark === mark;
  }

  async #makeFolder({ path: at, mode, mark }: ReadEntry): Promise<void> {
    const place = this.#placeOf(at);
    if (!(await this.#makeWay(at, 'folder', FOLDER_DIGEST, mark))) return;
    // A mount's own folder may be there for another mount in it.
    const there = this.#onConflict
      ? this.statsHere(at)?.isDirectory()
      : this.#known.get(at)?.type === 'folder' || ((at === '.' || this.reserved.includes(at)) && existsSync(place));
    if (!there) {
      await this.#remove(at);
      mkdirSync(place, { mode: 0o700 });
    }
    chmodSync(place, (mode & 0o1777) | 0o700);
    this.#put(at, { type: 'folder', bytes: 0 }, FOLDER_DIGEST, mark);
  }

  async #makeLink({ path: at, target, mark }: ReadEntry): Promise<void> {
    const made = this.#temporaryName();
    symlinkSync(target, made);
    await this.#putInPlace(made, at, { type: 'link', bytes: 0 }, linkDigest(target), mark);
  }

  async #makeFile(entry: ReadEntry): Promise<void> {
    const { path: at, bytes, mark } = entry;
    const mode = entry.mode & 0o777;
    // A mounted file keeps its inode, or the mount would go on showing the old one; it changes in place in the pod as well.
    if (at === '.' && this.#known.get(at)?.type === 'file') {
      chmodSync(this.place, 0o600);
      await fill(openSync(this.place, 'r+'), entry, mode);
      this.#set(at, { type: 'file', bytes });
    } else {
      const made = this.#temporaryName();
      const hash = this.#onConflict && createHash('sha256');
      try {
        await fill(openSync(made, 'wx', 0o600), entry, mode, hash);
      } catch (error) {
        rmSync(made, { force: true }); // what is half there would fill a disk that is full
        throw error;
      }
      await this.#putInPlace(made, at, { type: 'file', bytes }, hash?.digest('hex') ?? '', mark);
    }
  }

  async #putInPlace(
    made: string,
    at: string,
    known: Known,
    digest: string,
    podMark: string | undefined,
  ): Promise<void> {
    if (!(await this.#makeWay(at, known.type, digest, podMark))) return rmSync(made);
    if (this.#known.get(at)?.type === 'folder') await this.#remove(at);
    // What the program has put into a folder that went, or is a moment ahead with.
    if (this.#onConflict && statsOf(this.#placeOf(at))?.isDirectory())
      this.#setAside(at, 'a folder here, none in the pod');
    const before = lstatSync(made, { bigint: true });
    renameSync(made, this.#placeOf(at));
    this.#put(at, known, digest, podMark, before);
  }

  /** `before`: of a file before it was renamed into place, where the program may have changed it at once. */
  #put(at: string, known: Known, digest: string, podMark: string | undefined, before?: BigIntStats): void {
    if (!this.#onConflict || podMark === undefined) return this.#set(at, known);
    const now = this.statsHere(at);
    const isOurs =
      now && (!before || (now.ino === before.ino && now.mtimeNs === before.mtimeNs && now.size === before.size));
    this.#set(at, {
      ...known,
      base: { podMark, mark: isOurs ? markOf(now) : '', mode: Number(now?.mode ?? 0) & 0o7777, digest },
    });
  }

  /**
   * Before the pod's version comes: folders that lead there are folders again, and a version of the laptop's that is another one is moved
   * aside. False: the pod's is the one that the laptop's was made from, which stays.
   */
  async #makeWay(at: string, type: Known['type'], digest: string, podMark: string | undefined): Promise<boolean> {
    if (!this.#onConflict || at === '.' || podMark === undefined || this.reserved.includes(at)) return true;
    this.#restoreFolders(path.dirname(at));
    const known = this.#known.get(at);
    const here = await this.#stateHere(at);
    if (here === 'same') return true;
    if (known?.base && known.type === type && known.base.digest === digest) {
      known.base.podMark = podMark;
      return false;
    }
    if (here === 'touched') return true;
    if (here === 'gone') this.#conflicts.push({ path: at, keptAs: undefined, why: 'removed here, changed in the pod' });
    else if ((await this.digestHere(at)) !== digest)
      this.#setAside(at, 'changed here and in the pod', type !== 'folder');
    return true;
  }

  /** What the laptop has in place of what both had: nothing and nothing are the same. */
  async #stateHere(at: string): Promise<'same' | 'touched' | 'gone' | 'changed'> {
    const base = this.#known.get(at)?.base;
    const stats = this.statsHere(at);
    if (!stats) return base ? 'gone' : 'same';
    if (!base) return 'changed';
    if (base.mark === markOf(stats)) return 'same';
    return (await this.digestHere(at)) === base.digest ? 'touched' : 'changed';
  }

  #restoreFolders(folder: string): void {
    if (folder === '.') return;
    this.#restoreFolders(path.dirname(folder));
    const stats = statsOf(this.#placeOf(folder));
    if (stats?.isDirectory()) return;
    if (stats) this.#setAside(folder, 'no folder here, one in the pod');
    mkdirSync(this.#placeOf(folder), { mode: 0o700 });
    chmodSync(this.#placeOf(folder), (this.#known.get(folder)?.base?.mode ?? 0) | 0o700);
  }

  /** Beside where it was, under a name of its own. `replaced`: a file stays there as well, so that the name is never without one. */
  #setAside(at: string, why: string, replaced = false): void {
    const name = path.basename(at);
    for (let i = 1; ; i++) {
      const end = i === 1 ? ASIDE : `${ASIDE}-${i}`;
      const kept = path.join(path.dirname(at), shortened(name, MAX_NAME_BYTES - end.length) + end);
      if (this.#known.has(kept) || this.statsHere(kept)) continue;
      if (!replaced || !this.#linked(at, kept)) renameSync(this.#placeOf(at), this.#placeOf(kept));
      this.#aside.delete(at);
      this.#aside.add(kept);
      this.#conflicts.push({ path: at, keptAs: kept, why });
      return;
    }
  }

  /** Under both names now; false where that can't be. */
  #linked(at: string, as: string): boolean {
    if (!this.statsHere(at)?.isFile()) return false;
    try {
      linkSync(this.#placeOf(at), this.#placeOf(as));
      return true;
    } catch {
      return false; // not every file system has that
    }
  }

  async #removeUnnamed(): Promise<void> {
    const gone = [...this.#known.keys()].filter((at) => !this.#named.has(at) && !this.#leadsToReserved(at));
    for (const at of gone) await this.#remove(at);
    this.#named.clear();
  }

  async #remove(at: string): Promise<void> {
    const known = this.#known.get(at);
    if (!known || at === '.') return;
    const below = known.type === 'folder' ? [...this.#known.keys()].filter((each) => each.startsWith(`${at}/`)) : [];
    // Children first, so that what the laptop changed among them is seen.
    if (this.#onConflict) for (const each of [...below.sort().reverse(), at]) await this.#removeUnchanged(each);
    else await rm(this.#placeOf(at), { recursive: true, force: true });
    for (const each of [...below, at]) this.#set(each, undefined);
  }

  async #removeUnchanged(at: string): Promise<void> {
    const here = await this.#stateHere(at);
    if (here === 'gone') return;
    if (here === 'changed') return this.#setAside(at, 'changed here, removed in the pod');
    try {
      if (this.#known.get(at)?.type === 'folder') rmdirSync(this.#placeOf(at));
      else rmSync(this.#placeOf(at));
    } catch (error) {
      if (systemCode(error) !== 'ENOTEMPTY') throw error; // what is in it is the laptop's, and so is the folder now
    }
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

export const FOLDER_DIGEST = 'folder';

export function linkDigest(target: string): string {
  return `link ${target}`;
}

function statsOf(place: string): BigIntStats | undefined {
  return lstatSync(place, { bigint: true, throwIfNoEntry: false });
}

/** Whole characters, `mostBytes` of UTF-8 at most. */
function shortened(name: string, mostBytes: number): string {
  let kept = name;
  while (Buffer.byteLength(kept) > mostBytes) kept = [...kept].slice(0, -1).join('');
  return kept;
}

/**
 * The laptop's own disk, a piece at a time, without the thread pool: with many small files the way there and back would be most of the
 * work.
 */
async function fill(fd: number, { content, modifiedMs }: ReadEntry, mode: number, hash?: Hash): Promise<void> {
  try {
    ftruncateSync(fd);
    for await (const piece of content) {
      hash?.update(piece);
      for (let at = 0; at < piece.length; ) at += writeSync(fd, piece, at);
    }
    fchmodSync(fd, mode);
    futimesSync(fd, modifiedMs / 1_000, modifiedMs / 1_000);
  } finally {
    closeSync(fd);
  }
}

async function number(entry: ReadEntry, name: string): Promise<number> {
  const said = JSON.parse(String(await short(entry))) as Record<string, unknown>;
  return Number(said[name]) || 0;
}

/** A text of the agent's own. */
async function short({ bytes, content }: ReadEntry): Promise<Buffer> {
  if (bytes > MAX_REASON_BYTES) throw new LpkError('protocol', `a text of ${bytes} bytes arrives`);
  const pieces: Buffer[] = [];
  for await (const piece of content) pieces.push(piece);
  return Buffer.concat(pieces);
}
