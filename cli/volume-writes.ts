import { createHash } from 'node:crypto';
import { constants, readlinkSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import path from 'node:path';
import { LpkError, systemCode } from '../agent/wire/errors.ts';
import { linkObjection } from '../agent/wire/inside.ts';
import { Look, markOf, type Skipped } from '../agent/wire/look.ts';
import type { Session } from '../agent/wire/session.ts';
import type { Stream } from '../agent/wire/stream.ts';
import { encodeTarHeader, type TarEntry, tarPadding } from '../agent/wire/tar.ts';
import { FOLDER_DIGEST, type Known, linkDigest, type VolumeCopy } from './volume-copy.ts';

/** A file is written when two looks saw the same of it, and at the latest this long after the first. */
const SETTLE_MS = 5_000;
/** What was refused is tried again after this, then after twice as long each time, up to the most. */
const RETRY_MS = 30_000;
const MAX_RETRY_MS = 600_000;
const NEVER = Number.POSITIVE_INFINITY;
const PIECE_BYTES = 64 * 1024;
const MAX_ANSWER_BYTES = 4 * 1024;

/** As the agent answers an entry: SPEC.md, "Files". */
type Answer = { mark?: string; changed?: boolean; refused?: string };

type Refusal = { mark: string; podMark: string | undefined; why: string; tries: number; againMs: number };

/** Sent, and not yet answered. `after`: what both have when it is done. */
type Asked = Version & { after: Omit<Known, 'base'> | undefined; digest: string };

/** `mark`, `mode`: as it is here, where a removed one has none; `podMark`: of what it is to replace. */
type Version = { at: string; mark: string; mode: number; podMark: string | undefined };

/** What a look found that the pod does not have. */
export type Changes = { puts: string[]; removals: string[]; skipped: Skipped; entries: number; tookMs: number };

/** Writes back what the laptop changes in its copy of one mount. */
export class VolumeWrites {
  #copy: VolumeCopy;
  #mount: string;
  #onRefused: (at: string, why: string) => void;
  /** What was seen changed once, and may be half written. */
  #unsettled = new Map<string, { mark: string; sinceMs: number }>();
  #refused = new Map<string, Refusal>();

  /** `mount`: the pod's path. `onRefused` is told when something is refused for the first time. */
  constructor(copy: VolumeCopy, mount: string, onRefused: (at: string, why: string) => void) {
    this.#copy = copy;
    this.#mount = mount;
    this.#onRefused = onRefused;
  }

  /** What of the copy the pod does not have, as it is now; what was moved aside is none of it. */
  async look(): Promise<Changes> {
    const copy = this.#copy;
    const startedMs = performance.now();
    const look = new Look(copy.place, { except: new Set(copy.reserved), ...copy.limits });
    await look.run();
    const found = new Set(look.found.map((each) => each.path));
    const puts = look.found.filter(({ path: at, mark }) => {
      const known = copy.known.get(at);
      const isOurs = at !== '.' && !isWithin(at, copy.reserved) && !copy.isAside(at);
      return isOurs && (!known || (known.base !== undefined && known.base.mark !== mark));
    });
    // What the look's limits left out is still there.
    const removals = [...copy.known]
      .filter(([at, { base }]) => at !== '.' && base && !found.has(at))
      .filter(([at]) => !isWithin(at, copy.reserved) && !copy.statsHere(at))
      .map(([at]) => at);
    const tookMs = performance.now() - startedMs;
    const paths = puts.map((each) => each.path);
    return { puts: paths, removals: removals.sort().reverse(), skipped: look.skipped, entries: found.size, tookMs };
  }

  /**
   * Writes what has come to rest, or with `all` everything that can be. `onProgress`: so many bytes leave, or an answer has come (0). Rejects with
   * LpkError when the session is over, `signal` says so, or the agent does not let this mount be written to.
   */
  async write(
    session: Session,
    changes: Changes,
    given: { all?: boolean; signal: AbortSignal; onProgress?: (bytes: number) => void },
  ): Promise<void> {
    const { all = false, signal, onProgress = () => {} } = given;
    const removals = changes.removals.filter((at) => !this.#waits(at, '', all));
    const puts = changes.puts.filter((at) => this.#hasSettled(at, all));
    this.#forgetSettled(changes.puts);
    if (removals.length + puts.length === 0) return;
    await this.#copy.inTurn(async () => {
      signal.throwIfAborted();
      const batch = new Batch(session, this.#mount, {
        signal,
        onProgress,
        onAnswer: (...each) => this.#answered(...each),
      });
      try {
        // What is in the way of something else goes first, the rest last: what was renamed is there before it is gone.
        const inTheWay = new Set(puts.filter((at) => this.#changesKind(at)));
        const first = removals.filter((at) => [...inTheWay].some((each) => at.startsWith(`${each}/`)));
        for (const at of first) await this.#remove(batch, at);
        for (const at of puts) {
          if (inTheWay.has(at)) await this.#remove(batch, at);
          await this.#put(batch, at, inTheWay.has(at));
        }
        for (const at of removals) if (!first.includes(at) && !this.#copy.statsHere(at)) await this.#remove(batch, at);
        await batch.end();
      } finally {
        batch.close();
      }
    });
  }

  /** Why this path was not written; undefined: nobody said no. */
  whyNot(at: string): string | undefined {
    return this.#refused.get(at)?.why;
  }

  #changesKind(at: string): boolean {
    const known = this.#copy.known.get(at);
    const isFolder = this.#copy.statsHere(at)?.isDirectory() === true;
    return known !== undefined && (known.type === 'folder') !== isFolder;
  }

  #hasSettled(at: string, all: boolean): boolean {
    const stats = this.#copy.statsHere(at);
    if (!stats) return false;
    const mark = markOf(stats);
    if (this.#waits(at, mark, all)) return false;
    const seen = this.#unsettled.get(at);
    const nowMs = performance.now();
    this.#unsettled.set(at, { mark, sinceMs: seen?.sinceMs ?? nowMs });
    return all || !stats.isFile() || seen?.mark === mark || nowMs - (seen?.sinceMs ?? nowMs) > SETTLE_MS;
  }

  #forgetSettled(changed: string[]): void {
    const still = new Set(changed);
    for (const at of this.#unsettled.keys()) if (!still.has(at)) this.#unsettled.delete(at);
  }

  /** It was refused as it is now, and it is not yet time to ask again. */
  #waits(at: string, mark: string, all: boolean): boolean {
    const refusal = this.#refused.get(at);
    if (!refusal) return false;
    const isSame = refusal.mark === mark && refusal.podMark === this.#copy.known.get(at)?.base?.podMark;
    if (!isSame) this.#refused.delete(at);
    return isSame && (refusal.againMs === NEVER || (!all && performance.now() < refusal.againMs));
  }

  async #remove(batch: Batch, at: string): Promise<void> {
    const podMark = this.#copy.known.get(at)?.base?.podMark;
    if (podMark === undefined) return; // gone there as well, since the look
    const entry = { type: 'removed', mark: podMark } as const;
    await batch.send([entry, { at, mark: '', mode: 0, podMark, after: undefined, digest: '' }]);
  }

  async #put(batch: Batch, at: string, isNew: boolean): Promise<void> {
    const copy = this.#copy;
    const stats = copy.statsHere(at);
    // As it is now: since the look something may have arrived.
    if (!stats || copy.isAside(at) || copy.known.get(at)?.base?.mark === markOf(stats)) return;
    const base = isNew ? undefined : copy.known.get(at)?.base;
    const mode = Number(stats.mode & 0o7777n);
    const asked = { at, mark: markOf(stats), mode, podMark: base?.podMark };
    const place = path.join(copy.place, at);
    if (stats.isDirectory()) {
      const entry = { type: 'folder', mode, mark: base?.podMark } as const;
      return await batch.send([entry, { ...asked, after: { type: 'folder', bytes: 0 }, digest: FOLDER_DIGEST }]);
    }
    if (stats.isSymbolicLink()) {
      const target = readlinkSync(place);
      const why = linkObjection(at, target);
      if (why !== undefined) return this.#refuse(asked, why, NEVER);
      const entry = { type: 'link', target, mark: base?.podMark } as const;
      return await batch.send([entry, { ...asked, after: { type: 'link', bytes: 0 }, digest: linkDigest(target) }]);
    }
    const known = copy.known.get(at);
    const mayBeTouched = known && base?.mode === mode && known.bytes === Number(stats.size);
    if (mayBeTouched && (await copy.digestHere(at)) === base.digest) {
      return copy.wrote(at, { ...known, base: { ...base, mark: asked.mark } });
    }
    let handle: FileHandle;
    try {
      handle = await open(place, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') this.#refuse(asked, `it can't be read here (${systemCode(error)})`, RETRY_MS);
      return;
    }
    try {
      await batch.sendFile(handle, { mode: mode & 0o777, mark: base?.podMark }, asked);
    } finally {
      await handle.close();
    }
  }

  #answered({ at, mark, mode, podMark, after, digest }: Asked, answer: Answer): void {
    if (answer.changed) {
      // The copy's own stream brings what is there, and with it another mark.
      this.#refuse({ at, mark, mode, podMark }, 'it changed in the pod as well', RETRY_MS, true);
    } else if (answer.refused !== undefined) {
      this.#refuse({ at, mark, mode, podMark }, words(answer.refused), RETRY_MS);
    } else {
      this.#refused.delete(at);
      this.#unsettled.delete(at);
      // A folder that the pod had removed is there again.
      if (after?.type === 'folder')
        for (const each of this.#refused.keys()) if (each.startsWith(`${at}/`)) this.#refused.delete(each);
      this.#copy.wrote(at, after && { ...after, base: { podMark: String(answer.mark), mark, mode, digest } });
    }
  }

  #refuse({ at, mark, podMark }: Version, why: string, waitMs: number, quietly = false): void {
    const before = this.#refused.get(at);
    const tries = (before?.tries ?? 0) + 1;
    const againMs = performance.now() + Math.min(waitMs * 2 ** (tries - 1), Math.max(waitMs, MAX_RETRY_MS));
    this.#refused.set(at, { mark, podMark, why, tries, againMs });
    if (!quietly && before?.why !== why) this.#onRefused(at, why);
  }
}

/** One stream of entries, opened with the first of them, and their answers. */
class Batch {
  #session: Session;
  #mount: string;
  #signal: AbortSignal;
  #onProgress: (bytes: number) => void;
  #onAnswer: (asked: Asked, answer: Answer) => void;
  #stream: Stream | undefined;
  #asked: Asked[] = [];
  #answers: Promise<void> = Promise.resolve();

  constructor(
    session: Session,
    mount: string,
    given: {
      signal: AbortSignal;
      onProgress: (bytes: number) => void;
      onAnswer: (asked: Asked, answer: Answer) => void;
    },
  ) {
    this.#session = session;
    this.#mount = mount;
    this.#signal = given.signal;
    this.#onProgress = given.onProgress;
    this.#onAnswer = given.onAnswer;
  }

  async send([entry, asked]: [entry: Partial<TarEntry>, asked: Asked]): Promise<void> {
    await this.#write(this.#header(entry, asked));
  }

  /** Its content as it is at `handle`. Rejects when it changes meanwhile; the agent then drops what has come of it. */
  async sendFile(handle: FileHandle, entry: Partial<TarEntry>, asked: Version): Promise<void> {
    const { size } = await handle.stat();
    const hash = createHash('sha256');
    const after = { type: 'file', bytes: size } as const;
    const full: Asked = { ...asked, after, digest: '' };
    await this.#write(this.#header({ ...entry, type: 'file', bytes: size }, full));
    for (let left = size; left > 0; ) {
      const piece = Buffer.allocUnsafe(Math.min(left, PIECE_BYTES));
      const { bytesRead } = await handle.read(piece, 0, piece.length, null);
      left -= bytesRead;
      // The last piece is what makes the agent put it in place.
      const stats = left === 0 || bytesRead === 0 ? await handle.stat() : undefined;
      if (stats && stats.size < size) throw new LpkError('cancelled', `${asked.at} changes while it is read`);
      hash.update(piece.subarray(0, bytesRead));
      if (left === 0) full.digest = hash.digest('hex');
      await this.#write(piece.subarray(0, bytesRead));
    }
    if (size === 0) full.digest = hash.digest('hex');
    await this.#write(tarPadding(size));
  }

  async end(): Promise<void> {
    this.#stream?.end();
    await this.#answers;
  }

  readonly close = (): void => {
    this.#signal.removeEventListener('abort', this.close);
    this.#stream?.destroy();
  };

  #header(entry: Partial<TarEntry>, asked: Asked): Buffer {
    const base = { type: 'file', path: asked.at, target: '', mode: 0, modifiedMs: 0, bytes: 0 } as const;
    const header = encodeTarHeader({ ...base, ...entry });
    this.#asked.push(asked);
    if (this.#stream) return header;
    this.#stream = this.#session.openFileWrites();
    this.#signal.addEventListener('abort', this.close);
    this.#answers = this.#read(this.#stream);
    this.#answers.catch(() => {}); // told by end(), or by what is written next
    return Buffer.concat([encodeTarHeader({ ...base, type: 'mount', path: this.#mount }), header]);
  }

  async #write(bytes: Buffer): Promise<void> {
    const stream = this.#stream as Stream;
    if (stream.destroyed) await this.#answers; // its error is why
    if (stream.destroyed) throw new LpkError('cancelled', 'the agent has enough');
    if (bytes.length === 0) return;
    this.#onProgress(bytes.length);
    await stream.writeWithRoom(bytes);
  }

  async #read(stream: Stream): Promise<void> {
    const utf8 = new TextDecoder();
    let rest = '';
    for await (const piece of stream.iterator({ destroyOnReturn: false })) {
      const lines = (rest + utf8.decode(piece, { stream: true })).split('\n');
      rest = lines.pop() as string;
      if (rest.length > MAX_ANSWER_BYTES) throw new LpkError('protocol', 'an answer is too long');
      for (const line of lines) {
        const asked = this.#asked.shift();
        if (!asked) throw new LpkError('protocol', 'an answer to nothing arrives');
        this.#onAnswer(asked, JSON.parse(line) as Answer);
        this.#onProgress(0);
      }
    }
    if (this.#asked.length > 0) throw new LpkError('cancelled', 'the agent left without an answer');
  }
}

function isWithin(at: string, reserved: string[]): boolean {
  return reserved.some((each) => each === at || each.startsWith(`${at}/`) || at.startsWith(`${each}/`));
}

/** The system's error codes that a volume gives. */
function words(refused: string): string {
  switch (refused) {
    case 'EROFS':
      return 'the volume is read-only in the pod';
    case 'EACCES':
    case 'EPERM':
      return 'the agent’s user may not write it';
    case 'ENOSPC':
      return 'no space is left in the volume';
    case 'EDQUOT':
      return 'the volume’s quota is used up';
    default:
      return refused;
  }
}
