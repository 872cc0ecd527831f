import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmdirSync, rmSync, statSync, unlinkSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { AGENT_VOLUME } from '../agent/deploy/agent-container.ts';
import type { Target } from '../agent/deploy/find.ts';
import type { Cluster, Json } from '../agent/deploy/kube.ts';
import type { Session } from '../agent/wire/session.ts';
import type { Stream } from '../agent/wire/stream.ts';
import type { Output } from './output.ts';
import { printable } from './printable.ts';
import type { Undo } from './undo.ts';
import { VolumeCopy, type VolumeReport } from './volume-copy.ts';
import { type Mounted, mountVolumes, type Wrap } from './volume-mounts.ts';
import { type Mount, planPlacements } from './volume-places.ts';

/** The pod's files for the launched program. */
export type Volumes = {
  /** `LPK_VOLUMES` when one of them is not at its path: the folder with all copies, each at its path within. */
  env: Record<string, string>;
  wrap: Wrap;
  /** Where the program finds what the pod has at this path. */
  find(mountPath: string): string;
};

/** What a mount may have besides its limit in bytes. */
const MAX_ENTRIES = 20_000;
const RETRY_MS = 500;
/** What is skipped is told again at most this often. */
const TELL_AGAIN_MS = 60_000;
const MAX_TOLD = 5;
const GUARD = `cat >/dev/null; rm -rf -- "$1"; shift
for at; do if [ -d "$at" ]; then rmdir -- "$at"; elif [ ! -s "$at" ]; then rm -f -- "$at"; fi; done`;

/** Where the container has volumes, lpk's own left out: absolute, without a slash at the end. */
export function mountPaths(pod: Json, containerName: string): string[] {
  const container = ((pod.spec?.containers ?? []) as Json[]).find(({ name }) => name === containerName);
  const paths = ((container?.volumeMounts ?? []) as Json[])
    .filter(({ name }) => name !== AGENT_VOLUME)
    .map(({ mountPath }) => path.posix.resolve('/', String(mountPath)));
  return [...new Set(paths)].sort();
}

/**
 * Copies the container's mounts to a folder of this session, keeps the copies fresh, and prepares that a program finds them at their
 * paths. Waits for the first copy of each. What can't be had is told and left out: a program may not need it.
 */
export async function copyVolumes(given: {
  cluster: Cluster;
  target: Target;
  pod: string;
  /** Of an agent that answers, now. */
  session: () => Session | undefined;
  limitBytes: number;
  undo: Undo;
  output: Output;
}): Promise<Volumes | undefined> {
  const { cluster, target, limitBytes, undo, output } = given;
  const paths = await podMounts(cluster, target, given.pod);
  if (paths.length === 0) return undefined;
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-volumes-'));
  const dismiss = startGuard(folder, []);
  undo.add('remove the copies of the volumes', async () => {
    rmSync(folder, { recursive: true, force: true });
    dismiss();
  });
  const root = path.join(folder, 'files');
  const step = output.step(`copying ${count(paths.length, 'volume')}`, 'volumes');
  const followers = paths.map((each, i) => {
    const reserved = paths.filter((other) => other.startsWith(`${each}/`)).map((other) => other.slice(each.length + 1));
    const staging = path.join(folder, 'staging', `${i}`);
    mkdirSync(staging, { recursive: true, mode: 0o700 });
    const limits = { limitBytes, maxEntries: MAX_ENTRIES };
    const copy = new VolumeCopy({ place: path.join(root, each), staging, reserved, limits });
    return new Follower(each, copy, { path: each, except: reserved, ...limits }, given.session, output);
  });
  undo.add('stop copying volumes', async () => {
    await Promise.all(followers.map((each) => each.close()));
  });
  const reports = await Promise.all(followers.map((each) => each.first));
  const mounts = followers.flatMap(({ path: at, copy }, i): Mount[] => {
    const report = reports[i];
    return report ? [{ source: copy.place, path: at, kind: report.kind }] : [];
  });
  const { wrap, placed, left } = await place(mounts, folder, undo);
  const files = reports.reduce((sum, report) => sum + (report?.files ?? 0), 0);
  const bytes = reports.reduce((sum, report) => sum + (report?.bytes ?? 0), 0);
  const where = placed.length > 0 ? `at ${placed.map(shown).join(', ')}` : `in ${root}`;
  step.done(
    `${count(mounts.length, 'volume')} of the pod (${count(files, 'file')}, ${size(bytes)}), read-only, ${where}`,
    {
      folder: root,
      placed,
      left: Object.fromEntries(left),
    },
  );
  if (left.size > 0) {
    const why = [...left].map(([at, reason]) => `${shown(at)} (${reason})`).join(', ');
    output.say(`only in LPK_VOLUMES=${root}: ${why}`, 'volumes-left', { folder: root, left: Object.fromEntries(left) });
  }
  const find = (at: string) => (placed.includes(path.posix.resolve('/', at)) ? at : path.join(root, at));
  return { env: left.size > 0 ? { LPK_VOLUMES: root } : {}, wrap, find };
}

/** The pod's own mounts: its service account's is in no workload's template. */
async function podMounts(cluster: Cluster, target: Target, pod: string): Promise<string[]> {
  const query = { fieldSelector: `metadata.name=${pod}` };
  const { items } = await cluster.request('GET', `/api/v1/namespaces/${target.namespace}/pods`, { query });
  const [found] = items as Json[];
  return found ? mountPaths(found, target.container) : [];
}

type Placed = { wrap: Wrap; placed: string[]; left: Map<string, string> };

async function place(mounts: Mount[], folder: string, undo: Undo): Promise<Placed> {
  const asItIs: Wrap = (command, args) => ({ command, args });
  const nowhere = (why: string) => ({
    wrap: asItIs,
    placed: [],
    left: new Map(mounts.map((each) => [each.path, why])),
  });
  if (process.platform !== 'linux') return nowhere('only Linux can show it at its path');
  const cwd = process.cwd();
  const own = [cwd, homedir(), tmpdir(), folder, process.execPath, ...(process.env.PATH ?? '').split(path.delimiter)];
  const { placements, made, left } = planPlacements(mounts, own.filter(path.isAbsolute));
  if (made.length > 0) {
    const dismiss = startGuard(folder, made.toReversed());
    undo.add('remove the mount points of the volumes', async () => {
      made.toReversed().forEach(removeEmpty);
      dismiss();
    });
  }
  if (placements.length === 0) return { wrap: asItIs, placed: [], left };
  const work = path.join(folder, 'work');
  mkdirSync(work, { mode: 0o700 });
  let mounted: Mounted;
  try {
    mounted = await mountVolumes({ placements, work, cwd });
  } catch (error) {
    return nowhere(error instanceof Error ? error.message : String(error));
  }
  undo.add('leave the mount namespace', async () => mounted.close());
  for (const [at, why] of mounted.left) left.set(at, why);
  const placed = placements.map(({ mount }) => mount.path).filter((at) => !left.has(at));
  return { wrap: mounted.wrap, placed, left };
}

/** Keeps one copy fresh, by one agent after the other. */
class Follower {
  readonly path: string;
  readonly copy: VolumeCopy;
  #request: Buffer;
  #session: () => Session | undefined;
  #output: Output;
  #first = Promise.withResolvers<VolumeReport | undefined>();
  #over = new AbortController();
  #running: Promise<void>;
  #stream: Stream | undefined;
  #told = '';
  #toldAtMs = Number.NEGATIVE_INFINITY;

  constructor(at: string, copy: VolumeCopy, request: object, session: () => Session | undefined, output: Output) {
    this.path = at;
    this.copy = copy;
    this.#request = Buffer.from(JSON.stringify(request));
    this.#session = session;
    this.#output = output;
    this.#running = this.#run();
  }

  /** Undefined: it can't be had, which has been told. */
  get first(): Promise<VolumeReport | undefined> {
    return this.#first.promise;
  }

  async close(): Promise<void> {
    this.#over.abort();
    this.#stream?.destroy();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#over.signal.aborted) {
      const session = this.#session();
      try {
        if (session) await this.#copyBy(session);
      } catch (error) {
        // A pod that went has others after it; what is wrong with the volume or the laptop stays so.
        if (!this.#over.signal.aborted && !session?.ended) {
          const why = error instanceof Error ? error.message : String(error);
          this.#output.warn(`volume ${shown(this.path)} is not copied any more: ${why}`, 'volume-lost', {
            path: this.path,
          });
          break;
        }
      }
      await pause(RETRY_MS, undefined, { signal: this.#over.signal }).catch(() => {});
    }
    this.#first.resolve(undefined);
  }

  async #copyBy(session: Session): Promise<void> {
    const stream = session.openFiles(this.#request);
    this.#stream = stream;
    await this.copy.receive(stream, (report) => {
      this.#tell(report);
      this.#first.resolve(report);
    });
  }

  #tell({ skipped, skippedCount }: VolumeReport): void {
    const listed = [...skipped].slice(0, MAX_TOLD).map(([at, why]) => `${shown(at)} (${printable(why)})`);
    const more = skippedCount - listed.length;
    const text = `${listed.join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
    const now = performance.now();
    if (text === '' || text === this.#told || now < this.#toldAtMs + TELL_AGAIN_MS) return;
    this.#told = text;
    this.#toldAtMs = now;
    const fields = { path: this.path, skipped: Object.fromEntries(skipped), skippedCount };
    this.#output.warn(`not copied from ${shown(this.path)}: ${text}`, 'volume-skipped', fields);
  }
}

/**
 * A shell that waits for the end of a pipe from this process and removes the copies then, and the mount points `made`, innermost first,
 * if they are empty: secrets must not stay when lpk is killed. In a session of its own, so that Ctrl-C and a closed terminal leave it.
 * Returns what lets it end.
 */
function startGuard(folder: string, made: string[]): () => void {
  if (process.platform === 'win32') return () => {};
  const child = spawn('/bin/sh', ['-c', GUARD, 'sh', folder, ...made], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
    cwd: '/',
  });
  child.on('error', () => {}); // then they stay in a folder of mode 0700
  child.unref();
  const pipe = child.stdin as typeof child.stdin & { unref?(): void };
  pipe?.unref?.();
  pipe?.on('error', () => {});
  return () => void pipe?.end();
}

/** What is no longer as it was made stays. */
function removeEmpty(at: string): void {
  try {
    const stats = statSync(at);
    if (stats.isDirectory()) rmdirSync(at);
    else if (stats.size === 0) unlinkSync(at);
  } catch {
    // it is in use, or gone
  }
}

/** A name out of the pod, fit for a terminal. */
function shown(name: string): string {
  return /^[\w./@%+=:,-]+$/.test(name) ? name : printable(JSON.stringify(name));
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`;
}

function size(bytes: number): string {
  return bytes < 1_024
    ? `${bytes} bytes`
    : bytes < 1_048_576
      ? `${(bytes / 1_024).toFixed(1)} KiB`
      : `${(bytes / 1_048_576).toFixed(1)} MiB`;
}
