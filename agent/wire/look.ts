import type { BigIntStats } from 'node:fs';
import { lstat, opendir } from 'node:fs/promises';
import { systemCode } from './errors.ts';
import { MAX_PATH_BYTES } from './inside.ts';

export type LookLimits = {
  /** Relative: a folder is named and not entered, anything else is left out. */
  except: Set<string>;
  /** Most bytes of all files together. */
  limitBytes: number;
  maxEntries: number;
};

export type Found = {
  type: 'file' | 'folder' | 'link';
  path: string;
  mode: number;
  bytes: number;
  /** See {@link markOf}. */
  mark: string;
};

/** Skipped entries beyond these are counted only. */
const MAX_SKIPPED = 100;
/** A busy machine makes a thread of the pool wait for its turn each time. */
const AT_ONCE = 64;
const LISTED_AT_ONCE = 1_024;
const MAX_PARTS = 1_000;
const PART = /^\.lpk-[0-9a-f]{16}\.part$/;

/** A name for what is being written, beside where it is to be; no look sees it. `random`: 16 hex digits. */
export function partName(random: string): string {
  return `.lpk-${random}.part`;
}

/** What tells that a file, link or folder is no longer what it was: for a folder its mode, else also inode, ctime and size. */
export function markOf(stats: BigIntStats): string {
  const mode = Number(stats.mode & 0o7777n);
  return stats.isDirectory() ? `${mode}` : `${stats.ino} ${stats.ctimeNs} ${stats.size} ${mode}`;
}

/** One look at a mount, or at its copy: what is in it, parents first, names in order, within the limits. */
export class Look {
  readonly found: Found[] = [];
  readonly skipped = new Skipped();
  /** Names so far. */
  seen = 0;
  /** Paths of some that are being written, or were when their writer was killed. */
  readonly parts: string[] = [];
  #root: string;
  #limits: LookLimits;
  #bytes = 0;
  #full = false;

  constructor(root: string, limits: LookLimits) {
    this.#root = root;
    this.#limits = limits;
  }

  /** Rejects when the root itself can't be read. */
  async run(): Promise<void> {
    if (this.#add('.', await lstat(this.#root, { bigint: true })) === 'folder') await this.#enter('.', true);
  }

  async #enter(folder: string, isRoot = false): Promise<void> {
    let names: string[];
    try {
      names = await this.#list(folder);
    } catch (error) {
      if (isRoot) throw error;
      return this.skipped.add(folder, whyNot(error));
    }
    for (let i = 0; i < names.length && !this.#full; i += AT_ONCE) {
      const paths = names.slice(i, i + AT_ONCE).map((name) => (folder === '.' ? name : `${folder}/${name}`));
      const all = await Promise.allSettled(paths.map((path) => lstat(`${this.#root}/${path}`, { bigint: true })));
      for (const [j, path] of paths.entries()) {
        if (this.found.length >= this.#limits.maxEntries) {
          if (!this.#full)
            this.skipped.add(path, `and all after it: there are more than ${this.#limits.maxEntries} files`);
          this.#full = true;
          return;
        }
        const result = all[j] as PromiseSettledResult<BigIntStats>;
        // Node writes U+FFFD for bytes that are no UTF-8: no name to ask for it by.
        if (path.includes('\ufffd')) this.skipped.add(path, 'its name is not UTF-8');
        else if (Buffer.byteLength(path) > MAX_PATH_BYTES) this.skipped.add(path.slice(0, 200), 'its path is too long');
        else if (result.status === 'rejected') this.skipped.add(path, whyNot(result.reason));
        else if (this.#add(path, result.value) === 'folder' && !this.#limits.except.has(path)) await this.#enter(path);
        if (this.#full) return;
      }
    }
  }

  /** No more names than may be sent: a folder can have any number. */
  async #list(folder: string): Promise<string[]> {
    const names: string[] = [];
    const bufferSize = LISTED_AT_ONCE;
    for await (const { name } of await opendir(folder === '.' ? this.#root : `${this.#root}/${folder}`, {
      bufferSize,
    })) {
      this.seen++;
      if (!PART.test(name)) names.push(name);
      else if (this.parts.length < MAX_PARTS) this.parts.push(folder === '.' ? name : `${folder}/${name}`);
      if (names.length > this.#limits.maxEntries - this.found.length) break;
    }
    return names.sort();
  }

  #add(path: string, stats: BigIntStats): Found['type'] | undefined {
    const mode = Number(stats.mode & 0o7777n);
    const base = { path, mode, mark: markOf(stats), bytes: 0 };
    if (stats.isDirectory()) return this.#take({ type: 'folder', ...base });
    if (this.#limits.except.has(path)) return undefined; // another mount, of a file
    if (stats.isSymbolicLink()) return this.#take({ type: 'link', ...base });
    if (!stats.isFile()) this.skipped.add(path, 'it is a device, a socket or a pipe');
    else if (BigInt(this.#bytes) + stats.size > BigInt(this.#limits.limitBytes)) {
      this.skipped.add(path, `its ${stats.size} bytes are more than the limit leaves`);
    } else {
      const bytes = Number(stats.size);
      this.#bytes += bytes;
      return this.#take({ type: 'file', ...base, bytes });
    }
    return undefined;
  }

  #take(found: Found): Found['type'] {
    this.found.push(found);
    return found.type;
  }
}

/** What is left out, and why: the first hundred by name. */
export class Skipped {
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

/** Why something was not read. */
export function whyNot(error: unknown): string {
  const code = systemCode(error);
  if (code === 'EACCES' || code === 'EPERM') return 'the agent’s user may not read it';
  return code ?? 'it can not be read';
}
