import { mkdirSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { AGENT_VOLUME } from '../agent/deploy/agent-container.ts';
import type { Target } from '../agent/deploy/find.ts';
import type { Cluster, Json } from '../agent/deploy/kube.ts';
import type { Output, Step } from './output.ts';
import { stateFolderName } from './state-folder.ts';
import type { Undo } from './undo.ts';
import { VolumeCopy } from './volume-copy.ts';
import { type Agent, VolumeFollower } from './volume-follower.ts';
import { VolumesNote } from './volume-leftovers.ts';
import { type Mounted, mountVolumes, type Wrap } from './volume-mounts.ts';
import { type Mount, personsFolders, planPlacements } from './volume-places.ts';
import { finishWrites } from './volume-unwritten.ts';
import { count, shown, size } from './volume-words.ts';

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
/** How long a first copy may be without a sign of life, ms. */
const SILENCE_MS = 30_000;
const TICK_MS = 1_000;
/** Where each change of a step's text is a line of its own. */
const TICKS_PER_LINE = 10;

export type ContainerMount = {
  /** Absolute, without a slash at the end. */
  path: string;
  /** The container may write to it, and others may read that: a claim's or an emptyDir. */
  isWritable: boolean;
};

/** Where the container has volumes, lpk's own left out, in order. */
export function containerMounts(pod: Json, containerName: string): ContainerMount[] {
  const container = ((pod.spec?.containers ?? []) as Json[]).find(({ name }) => name === containerName);
  const volumes = new Map(((pod.spec?.volumes ?? []) as Json[]).map((each) => [each.name, each]));
  const mounts = ((container?.volumeMounts ?? []) as Json[])
    .filter(({ name }) => name !== AGENT_VOLUME)
    .map(({ name, mountPath, readOnly }): [string, boolean] => {
      const { persistentVolumeClaim: claim, emptyDir, ephemeral } = volumes.get(name) ?? {};
      const isData = Boolean(emptyDir || ephemeral || (claim && claim.readOnly !== true));
      return [path.posix.resolve('/', String(mountPath)), isData && readOnly !== true];
    });
  return [...new Map(mounts)]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([at, isWritable]) => ({ path: at, isWritable }));
}

/**
 * Copies the container's mounts to a folder of this session, keeps the copies fresh, and prepares that a program finds them at their
 * paths. Waits for the first copy of each. What can't be had is told and left out: a program may not need it. With `writeBack`, what
 * changes in a copy of a claim's volume or an emptyDir is written to the pod that it was copied from.
 */
export async function copyVolumes(given: {
  cluster: Cluster;
  target: Target;
  pod: string;
  /** One that answers, now. */
  agent: () => Agent | undefined;
  limitBytes: number;
  writeBack: boolean;
  undo: Undo;
  output: Output;
  silenceMs?: number;
  mount?: typeof mountVolumes;
}): Promise<Volumes | undefined> {
  const { cluster, target, limitBytes, writeBack, undo, output, agent } = given;
  const { silenceMs = SILENCE_MS, mount = mountVolumes } = given;
  const all = await podMounts(cluster, target, given.pod);
  if (all.length === 0) return undefined;
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-volumes-'));
  const keepIn = path.join(stateFolderName(), 'unwritten', `${target.namespace}-${path.basename(folder)}`);
  const readOnly = all.filter(({ isWritable }) => !(writeBack && isWritable)).map((each) => each.path);
  const note = VolumesNote.open({ folder, keepIn, readOnly });
  let isToStay = false;
  undo.add('remove the copies of the volumes', async () => {
    if (isToStay) return; // the next lpk tries again
    rmSync(folder, { recursive: true, force: true });
    note.dismiss();
  });
  const root = path.join(folder, 'files');
  const what = count(all.length, 'volume');
  const step = output.step(`copying ${what}`, 'volumes');
  const followers = all.map(({ path: at, isWritable }, i) => {
    const others = all.filter((other) => other.path.startsWith(`${at}/`));
    const reserved = others.map((other) => other.path.slice(at.length + 1));
    const staging = path.join(folder, 'staging', `${i}`);
    mkdirSync(staging, { recursive: true, mode: 0o700 });
    const limits = { limitBytes, maxEntries: MAX_ENTRIES };
    return new VolumeFollower({
      path: at,
      copy: (onConflict) => new VolumeCopy({ place: path.join(root, at), staging, reserved, limits, onConflict }),
      request: { path: at, except: reserved, ...limits },
      ...{ agent, output },
      stamp: writeBack && isWritable ? path.join(folder, 'stamps', `${i}`) : undefined,
    });
  });
  undo.add('stop copying volumes', async () => {
    await Promise.all(followers.map((each) => each.close()));
    isToStay = true;
    try {
      await finishWrites(followers, { keepIn, output });
      isToStay = false;
    } catch (error) {
      isToStay = !note.endCopies();
      const why = error instanceof Error ? error.message : error;
      throw new Error(`${why}; what the pod does not have is in ${isToStay ? root : keepIn}`);
    }
  });
  const watch = watchFirst(followers, { silenceMs, step, isLive: output.isLive, what });
  const reports = await Promise.all(followers.map((each) => each.first)).finally(() => clearInterval(watch));
  const mounts = followers.flatMap(({ path: at, copy, writes }, i): Mount[] => {
    const report = reports[i];
    const access = writes && report?.kind === 'folder' ? 'rw' : 'ro';
    return report ? [{ source: copy.place, path: at, kind: report.kind, access }] : [];
  });
  const { wrap, placed, left } = await place(mounts, { folder, note, undo, mount });
  const files = reports.reduce((sum, report) => sum + (report?.files ?? 0), 0);
  const bytes = reports.reduce((sum, report) => sum + (report?.bytes ?? 0), 0);
  const where = placed.length > 0 ? `at ${placed.map(shown).join(', ')}` : `in ${root}`;
  const written = mounts.filter(({ access }) => access === 'rw').map((each) => each.path);
  const pods = new Set(followers.flatMap(({ path: at, pod }) => (pod && written.includes(at) ? [pod] : [])));
  const access = accessWords({ isPlaced: placed.length > 0, written, pods: [...pods] });
  step.done(
    `${count(mounts.length, 'volume')} of the pod (${count(files, 'file')}, ${size(bytes)}), ${access}, ${where}`,
    {
      folder: root,
      placed,
      written,
      left: Object.fromEntries(left),
    },
  );
  if (writeBack && written.length === 0)
    output.say('nothing is written back: the container has no PVC or emptyDir that it may write to', 'volumes-ro');
  if (left.size > 0) {
    const why = [...left].map(([at, reason]) => `${shown(at)} (${reason})`).join(', ');
    output.say(`only in LPK_VOLUMES=${root}: ${why}`, 'volumes-left', { folder: root, left: Object.fromEntries(left) });
  }
  const find = (at: string) => (placed.includes(path.posix.resolve('/', at)) ? at : path.join(root, at));
  return { env: left.size > 0 ? { LPK_VOLUMES: root } : {}, wrap, find };
}

/** A mount can be read-only. A folder elsewhere can't: its files have the modes that they have in the pod, and it changes with the pod's. */
function accessWords(given: { isPlaced: boolean; written: string[]; pods: string[] }): string {
  const { isPlaced, written, pods } = given;
  const to = `${written.map(shown).join(', ')}, written back to pod ${pods.join(', ')}`;
  if (isPlaced) return written.length === 0 ? 'read-only' : `read-only but for ${to}`;
  return written.length === 0 ? 'copies that are not written back' : `copies that are not written back but for ${to}`;
}

/** Shows how far the first copies are, and does not wait for one from which nothing comes. */
function watchFirst(
  followers: VolumeFollower[],
  { silenceMs, step, isLive, what }: { silenceMs: number; step: Step; isLive: boolean; what: string },
): NodeJS.Timeout {
  let ticks = 0;
  const tick = () => {
    for (const each of followers) each.giveUpAfter(silenceMs);
    if (++ticks % (isLive ? 1 : TICKS_PER_LINE) !== 0) return;
    const bytes = followers.reduce((sum, { heard }) => sum + heard.bytes, 0);
    const seen = followers.reduce((sum, { heard }) => sum + heard.seen, 0);
    const looking = seen > 0 ? `, ${count(seen, 'file')} seen` : '';
    const elapsed = isLive ? '' : `, ${ticks} s`;
    step.update(`copying ${what}: ${size(bytes)}${looking}${elapsed}`, { bytes, seen });
  };
  return setInterval(tick, Math.min(TICK_MS, silenceMs));
}

/** The pod's own mounts: its service account's is in no workload's template. */
async function podMounts(cluster: Cluster, target: Target, pod: string): Promise<ContainerMount[]> {
  const query = { fieldSelector: `metadata.name=${pod}` };
  const { items } = await cluster.request('GET', `/api/v1/namespaces/${target.namespace}/pods`, { query });
  const [found] = items as Json[];
  return found ? containerMounts(found, target.container) : [];
}

type Placed = { wrap: Wrap; placed: string[]; left: Map<string, string> };

async function place(
  mounts: Mount[],
  given: { folder: string; note: VolumesNote; undo: Undo; mount: typeof mountVolumes },
): Promise<Placed> {
  const { folder, note, undo, mount } = given;
  const asItIs: Wrap = (command, args) => ({ command, args });
  const nowhere = (why: string) => ({
    wrap: asItIs,
    placed: [],
    left: new Map(mounts.map((each) => [each.path, why])),
  });
  if (process.platform !== 'linux') return nowhere('only Linux can show it at its path');
  const cwd = process.cwd();
  const persons = withRealPaths([cwd, homedir(), tmpdir(), '/tmp', '/var/tmp']);
  const needed = withRealPaths([folder, process.execPath, ...(process.env.PATH ?? '').split(path.delimiter)]);
  const own = { paths: [...persons, ...needed], folders: personsFolders(persons) };
  const { placements, made, left } = planPlacements(mounts, own);
  note.usePoints(
    made,
    placements.flatMap(({ base, point }) => (base ? [] : [point])),
  );
  undo.add('remove the mount points of the volumes', async () => note.removePoints());
  if (placements.length === 0) return { wrap: asItIs, placed: [], left };
  const work = path.join(folder, 'work');
  mkdirSync(work, { mode: 0o700 });
  let mounted: Mounted;
  try {
    mounted = await mount({ placements, work, cwd });
  } catch (error) {
    note.removePoints(); // nothing will be there
    return nowhere(error instanceof Error ? error.message : String(error));
  }
  undo.add('leave the mount namespace', async () => mounted.close());
  for (const [at, why] of mounted.left) left.set(at, why);
  const placed = placements.map(({ mount }) => mount.path).filter((at) => !left.has(at));
  return { wrap: mounted.wrap, placed, left };
}

/** Each as it is called, and without links. */
function withRealPaths(names: string[]): string[] {
  return names.filter(path.isAbsolute).flatMap((name) => {
    try {
      return [name, realpathSync(name)];
    } catch {
      return [name]; // it is missing
    }
  });
}
