import { copyFileSync, lstatSync, mkdirSync, readlinkSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { systemCode } from '../agent/wire/errors.ts';
import { markOf } from '../agent/wire/look.ts';
import type { Output } from './output.ts';
import { printable } from './printable.ts';
import type { VolumeCopy } from './volume-copy.ts';
import type { VolumeFollower } from './volume-follower.ts';
import { count, shown, size } from './volume-words.ts';

/** How long the end of a session may wait for the pod to take what was not yet written back, and for a sign that it does, ms. */
const FLUSH_MS = 120_000;
const SILENCE_MS = 10_000;
/** An answer may bring about another change: a folder that could go only once it was empty. */
const ROUNDS = 3;
const MAX_TOLD = 5;

/**
 * The end of copies that may be written to, which take nothing more: writes what is left, and moves what can't be written to the folder
 * `keepIn`, each volume at its path within. Rejects with the file system's error; then what was not moved is still in its copy.
 */
export async function finishWrites(
  followers: VolumeFollower[],
  { keepIn, output, silenceMs = SILENCE_MS }: { keepIn: string; output: Output; silenceMs?: number },
): Promise<void> {
  const written = followers.filter(({ writes, pod }) => writes && pod !== undefined);
  await flush(written, output, silenceMs);
  const left = new Map<string, string>();
  let isKept = false;
  for (const { writes, copy, path: mount } of written) {
    const { removals = [] } = (await writes?.look()) ?? {};
    const why = (at: string, otherwise: string) => writes?.whyNot(at) ?? otherwise;
    for (const at of removals)
      left.set(`${mount}/${at}`, `not removed there: ${why(at, 'the pod did not take it in time')}`);
    for (const at of await keepUnwritten(copy, path.join(keepIn, mount))) {
      isKept = true;
      left.set(`${mount}/${at}`, copy.isAside(at) ? 'set aside' : why(at, 'the pod did not take it in time'));
    }
  }
  if (left.size === 0) return;
  const listed = [...left].slice(0, MAX_TOLD).map(([at, why]) => `${shown(at)} (${printable(why)})`);
  const more = left.size > MAX_TOLD ? ` and ${left.size - MAX_TOLD} more` : '';
  const where = isKept ? `; your files are kept in ${keepIn}` : '';
  output.warn(`not written back: ${listed.join(', ')}${more}${where}`, 'volumes-unwritten', {
    folder: isKept ? keepIn : undefined,
    left: Object.fromEntries([...left].slice(0, 1_000)),
    count: left.size,
  });
}

async function flush(followers: VolumeFollower[], output: Output, silenceMs: number): Promise<void> {
  let changes = 0;
  for (const { writes, session } of followers) {
    const found = session && (await writes?.look());
    if (found) changes += found.puts.length + found.removals.length;
  }
  if (changes === 0) return;
  const pods = [...new Set(followers.map(({ pod }) => pod))].join(', ');
  const text = `writing ${count(changes, 'change')} back to pod ${pods}`;
  const step = output.step(text, 'volumes-flush');
  const stop = new AbortController();
  const late = setTimeout(() => stop.abort(), FLUSH_MS);
  const silent = setTimeout(() => stop.abort(), silenceMs);
  let sent = 0;
  const onProgress = (bytes: number) => {
    silent.refresh();
    sent += bytes;
    if (output.isLive) step.update(`${text}: ${size(sent)}`);
  };
  try {
    await Promise.all(followers.map((each) => flushOne(each, { signal: stop.signal, onProgress })));
    step.done(`${text}: ${size(sent)} sent`);
  } catch (error) {
    step.fail(
      `${text}: ${stop.signal.aborted ? 'the pod takes nothing more' : error instanceof Error ? error.message : error}`,
    );
  } finally {
    clearTimeout(late);
    clearTimeout(silent);
  }
}

async function flushOne(
  { writes, session }: VolumeFollower,
  given: { signal: AbortSignal; onProgress: (bytes: number) => void },
): Promise<void> {
  let before = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS && writes && session; round++) {
    const changes = await writes.look();
    const left = changes.puts.length + changes.removals.length;
    if (left === 0 || left >= before) return;
    before = left;
    await writes.write(session, changes, { all: true, ...given });
  }
}

/**
 * Moves what a copy holds and the pod does not to the folder `to`, made when there is something. Returns its paths, relative. Rejects
 * with the file system's error; what was not moved is still in the copy.
 */
export async function keepUnwritten(copy: VolumeCopy, to: string): Promise<string[]> {
  const kept: string[] = [];
  // In bytes: a name need not be UTF-8.
  const walk = async (folder: Buffer | undefined): Promise<void> => {
    for (const entry of await readdir(under(copy.place, folder), { withFileTypes: true, encoding: 'buffer' })) {
      const { name } = entry;
      const at = folder ? Buffer.concat([folder, Buffer.from('/'), name]) : name;
      const known = String(at);
      if (copy.reserved.includes(known)) continue;
      if (entry.isDirectory()) await walk(at);
      else if ((entry.isFile() || entry.isSymbolicLink()) && !(await isInPod(copy, known))) {
        mkdirSync(under(to, folder), { recursive: true, mode: 0o700 });
        move(under(copy.place, at), under(to, at));
        kept.push(known);
      }
    }
  };
  await walk(undefined);
  return kept;
}

async function isInPod(copy: VolumeCopy, at: string): Promise<boolean> {
  const base = copy.known.get(at)?.base;
  const stats = copy.statsHere(at);
  if (!base || !stats) return false;
  return base.mark === markOf(stats) || (await copy.digestHere(at)) === base.digest;
}

function under(folder: string, name: Buffer | undefined): Buffer {
  return name ? Buffer.concat([Buffer.from(folder + path.sep), name]) : Buffer.from(folder);
}

function move(from: Buffer, to: Buffer): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if (systemCode(error) !== 'EXDEV') throw error;
    if (lstatSync(from).isSymbolicLink()) symlinkSync(readlinkSync(from, { encoding: 'buffer' }), to);
    else copyFileSync(from, to);
    rmSync(from);
  }
}
