import { randomBytes } from 'node:crypto';
import {
  type BigIntStats,
  constants,
  linkSync,
  lstatSync,
  mkdirSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { type FileHandle, open, readFile, realpath } from 'node:fs/promises';
import path from 'node:path';
import { LpkError, systemCode } from '../wire/errors.ts';
import { linkObjection, pathObjection } from '../wire/inside.ts';
import { Look, markOf, partName } from '../wire/look.ts';
import type { Stream } from '../wire/stream.ts';
import { type ReadEntry, readTar } from '../wire/tar.ts';

/**
 * What came of an entry: `mark` of what is there now (none: nothing is); `changed`: something else is there than the entry says, and was
 * left as it is; `refused`: the system's error code, or a text.
 */
export type WriteAnswer = { mark?: string | undefined; changed?: true; refused?: string };

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK } = constants;
const PIECE_BYTES = 64 * 1024;
/** Nothing of a workload's is in there. */
const SYSTEM_TREES = ['/proc', '/sys', '/dev', '/.lpk'];
/** What is being written changes more often: its writer was killed. */
const STALE_MS = 600_000;
/** Of which so much of a mount is looked through. */
const STALE_LOOK = { limitBytes: Number.MAX_SAFE_INTEGER, maxEntries: 20_000 };
const CHANGED: WriteAnswer = { changed: true };

/** Of this process: proc(5), `/proc/[pid]/mountinfo`, the fifth field. */
export async function ownMountPoints(): Promise<string[]> {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n');
  const points = lines.flatMap((line) => line.split(' ')[4] ?? []);
  return points.map((point) => point.replace(/\\([0-7]{3})/g, (_, octal) => String.fromCharCode(parseInt(octal, 8))));
}

/**
 * Serves a `files` stream that writes: an archive whose entries are carried out one by one, in one mount, and answered with a line of JSON
 * each. An entry is carried out when what is there has its mark (none: nothing may be there), or is what it would make of it.
 * `wrote` is told of each. A mount that is not yet among `swept` is rid of what an agent was writing there when it was killed. LpkError `not-allowed` for a path that is no mount, `protocol` for a malformed archive.
 */
export async function serveWrites(
  stream: Stream,
  mountPoints: string[],
  wrote: (mount: string, path: string, mark: string | undefined) => void,
  swept: Set<string>,
): Promise<void> {
  let mount: OpenMount | undefined;
  let sweep: Promise<void> | undefined;
  try {
    for await (const entry of readTar(stream.iterator({ destroyOnReturn: false }))) {
      if (entry.type === 'mount' && !mount) {
        mount = await OpenMount.open(entry.path, mountPoints);
        stream.accept();
        if (!swept.has(mount.path)) sweep = mount.removeStaleParts().catch(() => {}); // they stay unseen
        swept.add(mount.path);
        continue;
      }
      if (!mount) throw new LpkError('protocol', 'the archive names no mount');
      const answer = await mount.carryOut(entry);
      if (!answer.changed && answer.refused === undefined) wrote(mount.path, entry.path, answer.mark);
      if (stream.destroyed) return;
      // The laptop reads them as they come; what it does not read waits in the stream's own bounds.
      if (!stream.write(`${JSON.stringify(answer)}\n`)) await roomIn(stream);
    }
    stream.end();
  } finally {
    await sweep;
    await mount?.close();
  }
}

function roomIn(stream: Stream): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      stream.off('drain', done).off('close', done);
      resolve();
    };
    stream.once('drain', done).once('close', done);
  });
}

/**
 * A mount that is written to. Every folder on the way to an entry is opened by its name in the one before (proc(5): a path through
 * `/proc/self/fd/N` begins at what is open there), and never by way of a link: whoever else writes there meanwhile, nothing outside
 * of the mount is touched.
 */
class OpenMount {
  /** As the laptop calls it. */
  readonly path: string;
  #root: FileHandle;
  /** Other mounts in there, relative. */
  #others: string[];

  private constructor(name: string, root: FileHandle, others: string[]) {
    this.path = name;
    this.#root = root;
    this.#others = others;
  }

  static async open(name: string, mountPoints: string[]): Promise<OpenMount> {
    const at = await realpath(name);
    const isSystems = at === '/' || SYSTEM_TREES.some((tree) => at === tree || at.startsWith(`${tree}/`));
    if (isSystems || !mountPoints.includes(at))
      throw new LpkError('not-allowed', `${name} is no mount of this container`);
    const root = await open(at, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    const others = mountPoints.flatMap((point) => (point.startsWith(`${at}/`) ? point.slice(at.length + 1) : []));
    return new OpenMount(name, root, others);
  }

  async close(): Promise<void> {
    await this.#root.close();
  }

  /** Rejects when the mount can't be read. */
  async removeStaleParts(): Promise<void> {
    const look = new Look(`/proc/self/fd/${this.#root.fd}/.`, { except: new Set(this.#others), ...STALE_LOOK });
    await look.run();
    for (const part of look.parts) {
      const folder = await this.#open(path.dirname(part)).catch(() => undefined);
      try {
        const at = `/proc/self/fd/${folder?.fd}/${path.basename(part)}`;
        const stats = folder && statsOf(at);
        if (stats && Date.now() - Number(stats.mtimeMs) > STALE_MS) unlinkSync(at);
      } catch {
        // another user's, or a read-only volume
      } finally {
        await folder?.close();
      }
    }
  }

  /** The stream's and the archive's own errors are thrown; all others are the answer. */
  async carryOut(entry: ReadEntry): Promise<WriteAnswer> {
    const refused = this.#objection(entry);
    if (refused !== undefined) return { refused };
    const name = path.basename(entry.path);
    let folder: FileHandle | undefined;
    try {
      folder = await this.#open(path.dirname(entry.path));
      return await carryOut(`/proc/self/fd/${folder.fd}`, name, entry);
    } catch (error) {
      const code = systemCode(error);
      if (error instanceof LpkError || code === undefined || !/^E[A-Z0-9]+$/.test(code)) throw error;
      // Its folder went, or is no folder any more.
      const isGone = code === 'ENOENT' || code === 'ENOTDIR' || code === 'ELOOP';
      if (isGone) return entry.type === 'removed' && code === 'ENOENT' ? {} : CHANGED;
      return code === 'EEXIST' || code === 'ENOTEMPTY' || code === 'EISDIR' ? CHANGED : { refused: code };
    } finally {
      await folder?.close();
    }
  }

  #objection({ type, path: at, target }: ReadEntry): string | undefined {
    if (!['file', 'link', 'folder', 'removed'].includes(type))
      throw new LpkError('protocol', `an entry ${type} arrives`);
    if (at === '.') return 'the mount itself is not changed';
    if (this.#others.some((other) => other === at || other.startsWith(`${at}/`) || at.startsWith(`${other}/`)))
      return 'another mount is there';
    return pathObjection(at) ?? (type === 'link' ? linkObjection(at, target) : undefined);
  }

  async #open(folder: string): Promise<FileHandle> {
    let at = await open(`/proc/self/fd/${this.#root.fd}/.`, O_RDONLY | O_DIRECTORY);
    for (const part of folder === '.' ? [] : folder.split('/')) {
      const above = at;
      try {
        at = await open(`/proc/self/fd/${above.fd}/${part}`, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      } finally {
        await above.close();
      }
    }
    return at;
  }
}

async function carryOut(folder: string, name: string, entry: ReadEntry): Promise<WriteAnswer> {
  const at = `${folder}/${name}`;
  switch (entry.type) {
    case 'file':
      return await writeFile(folder, at, entry);
    case 'link':
      return writeLink(folder, at, entry);
    case 'folder':
      return await writeFolder(at, entry);
    default:
      return remove(at, entry);
  }
}

/** Beside it first, then in its place: a reader in the pod sees the old or the new content, and a write that fails leaves the old. */
async function writeFile(folder: string, at: string, entry: ReadEntry): Promise<WriteAnswer> {
  const part = `${folder}/${partName(randomBytes(8).toString('hex'))}`;
  const handle = await open(part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    for await (const piece of entry.content) await handle.writeFile(piece);
    const before = statsOf(at);
    // Its owner stays, where this user may give a file away; else it is the agent's, as it would be an editor's.
    if (before) await handle.chown(Number(before.uid), Number(before.gid)).catch(() => {});
    await handle.chmod(entry.mode & 0o777);
    if (markAt(at) !== entry.mark) return (await isSameFile(part, at)) ? { mark: markAt(at) } : CHANGED;
    // Without a pause since: what was looked at is what is replaced.
    if (entry.mark === undefined) create(part, at);
    else renameSync(part, at);
    rmSync(part, { force: true });
    return { mark: markAt(at) };
  } finally {
    await handle.close();
    rmSync(part, { force: true });
  }
}

/** EEXIST when something is there by now: link(2), unlike rename(2), replaces nothing. */
function create(part: string, at: string): void {
  try {
    linkSync(part, at);
  } catch (error) {
    if (systemCode(error) === 'EEXIST') throw error;
    renameSync(part, at); // a file system without hard links
  }
}

function writeLink(folder: string, at: string, { target, mark }: ReadEntry): WriteAnswer {
  const before = statsOf(at);
  if (before?.isSymbolicLink() && readlinkSync(at) === target) return { mark: markOf(before) };
  if (markAt(at) !== mark) return CHANGED;
  if (mark === undefined) symlinkSync(target, at);
  else {
    const part = `${folder}/${partName(randomBytes(8).toString('hex'))}`;
    symlinkSync(target, part);
    try {
      renameSync(part, at);
    } finally {
      rmSync(part, { force: true });
    }
  }
  return { mark: markAt(at) };
}

async function writeFolder(at: string, { mode, mark }: ReadEntry): Promise<WriteAnswer> {
  const before = statsOf(at);
  if (!before) {
    if (mark !== undefined) return CHANGED;
    mkdirSync(at);
  } else if (!before.isDirectory() || (mark !== undefined && markOf(before) !== mark)) return CHANGED;
  else if (mark === undefined) return { mark: markOf(before) };
  const handle = await open(at, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    const own = (await handle.stat()).mode & 0o6000; // a folder's setgid bit is handed on to those in it
    await handle.chmod((mode & 0o1777) | own);
    return { mark: markOf(await handle.stat({ bigint: true })) };
  } finally {
    await handle.close();
  }
}

function remove(at: string, { mark }: ReadEntry): WriteAnswer {
  const before = statsOf(at);
  if (!before) return {};
  if (markOf(before) !== mark) return CHANGED;
  if (before.isDirectory()) rmdirSync(at);
  else unlinkSync(at);
  return {};
}

function statsOf(at: string): BigIntStats | undefined {
  return lstatSync(at, { bigint: true, throwIfNoEntry: false });
}

function markAt(at: string): string | undefined {
  const stats = statsOf(at);
  return stats && markOf(stats);
}

/** Content and permission bits. */
async function isSameFile(one: string, other: string): Promise<boolean> {
  const [a, b] = [statsOf(one), statsOf(other)];
  if (!a?.isFile() || !b?.isFile() || a.size !== b.size || (a.mode & 0o777n) !== (b.mode & 0o777n)) return false;
  const handles: FileHandle[] = [];
  try {
    for (const name of [one, other]) handles.push(await open(name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
    const pieces = [Buffer.allocUnsafe(PIECE_BYTES), Buffer.allocUnsafe(PIECE_BYTES)];
    for (;;) {
      const [left, right] = await Promise.all(
        handles.map(async (handle, i) => {
          const { bytesRead } = await handle.read(pieces[i] as Buffer, 0, PIECE_BYTES, null);
          return (pieces[i] as Buffer).subarray(0, bytesRead);
        }),
      );
      if (!left || !right || !left.equals(right)) return false;
      if (left.length === 0) return true;
    }
  } catch {
    return false; // it may not be read, or changes
  } finally {
    for (const handle of handles) await handle.close();
  }
}
