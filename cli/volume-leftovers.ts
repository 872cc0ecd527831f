import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { systemCode } from '../agent/wire/errors.ts';
import { isOurs } from './laptop-changes.ts';
import { type Guard, startGuard } from './laptop-guard.ts';
import { isRunning, processId } from './process-id.ts';
import { stateFolder } from './state-folder.ts';

/**
 * What a session's volumes leave on the laptop when lpk is killed: copies, with secrets among them, and mount points. Each session has a
 * note of it in the state folder, which a guard follows when lpk is gone, and the next lpk command when the guard is gone as well.
 */

export type Leftover = {
  /** The session's folder. */
  folder: string;
  /** Where copies go that may have what the pod has not. */
  keepIn: string;
  /** The pod's paths of copies that never are kept. */
  readOnly: string[];
  /** Mount points that are made for real, this session's and others' that it uses. */
  points: string[];
};

/**
 * Arguments: the session's folder, `keepIn`, `readOnly`. A copy with something newer than its stamp (see VolumeFollower) is kept, the folder
 * removed.
 */
const END_COPIES = `umask 077
session=$1 keep=$2; shift 2
for at; do rm -rf -- "$session/files$at"; done
for stamp in "$session"/stamps/*; do
  [ -f "$stamp" ] || continue
  at=$(cat "$stamp")
  if [ -n "$(find "$session/files$at" -newer "$stamp" | head -n 1)" ]; then
    to=$keep$at
    while [ -e "$to" ]; do to=$to.more; done
    mkdir -p "\${to%/*}" && mv "$session/files$at" "$to" || exit
  fi
done
rm -rf -- "$session"`;

/** The note of this process's session. */
export class VolumesNote {
  #left: Leftover;
  #file: string;
  #guard: Guard;

  private constructor(left: Leftover) {
    this.#left = left;
    const name = noteName(path.basename(left.folder));
    try {
      this.#file = path.join(stateFolder('volumes'), name);
      this.#save();
    } catch {
      // Where only the guard finds it.
      this.#file = path.join(left.folder, 'note', name);
      fs.mkdirSync(path.dirname(this.#file), { mode: 0o700 });
      this.#save();
    }
    this.#guard = startGuard(path.dirname(this.#file), processId(), 'volumes-when-gone');
  }

  /** To be called before there is anything in the session's folder. Throws the file system's error. */
  static open(left: Omit<Leftover, 'points'>): VolumesNote {
    fs.mkdirSync(path.join(left.folder, 'stamps'), { mode: 0o700 });
    return new VolumesNote({ ...left, points: [] });
  }

  /** `made`: mount points; those of other sessions that `used` ones need are kept for as long as this one lasts. */
  usePoints(made: string[], used: string[]): void {
    const others = [...pointsOfOthers(this.#file)].filter((each) =>
      used.some((point) => point === each || point.startsWith(`${each}/`)),
    );
    this.#setPoints([...new Set([...made, ...others])]);
  }

  /** All but those that another session uses. */
  removePoints(): void {
    const { points } = this.#left;
    this.#setPoints([]); // before looking at others: of two that end at once, one removes them
    removePoints(points, pointsOfOthers(this.#file));
  }

  /** As the guard would. False: something could not be kept, and all is still there. */
  endCopies(): boolean {
    return endCopies(this.#left);
  }

  /** Nothing is left. */
  dismiss(): void {
    fs.rmSync(this.#file, { force: true });
    this.#guard.dismiss();
  }

  #setPoints(points: string[]): void {
    this.#left.points = points;
    try {
      this.#save();
    } catch {
      // a disk that is full: an empty folder may stay
    }
  }

  #save(): void {
    fs.writeFileSync(`${this.#file}.tmp`, JSON.stringify(this.#left), { mode: 0o600, flush: true });
    fs.renameSync(`${this.#file}.tmp`, this.#file);
  }
}

/**
 * Ends what is noted in the folder `notes` by lpk processes that are gone. Of several lpk at the same time one does it. Less than a millisecond when
 * there is nothing. Never throws: what fails is said, and tried by the next lpk again.
 */
export function endLeftVolumes(notes: string, say: (line: string) => void): void {
  for (const name of namesIn(notes)) {
    const found = path.join(notes, name);
    const { session, pid, startedAt, isDraft } = partsOf(name) ?? {};
    if (session === undefined || isRunning({ pid: Number(pid), startedAt: String(startedAt) }) || !isOurs(found))
      continue;
    const gone = `an lpk that is gone (pid ${pid})`;
    try {
      if (isDraft) fs.rmSync(found, { force: true });
      else endLeftover(found, path.join(notes, noteName(session)), gone, say);
    } catch (error) {
      if (systemCode(error) === 'ENOENT') continue; // another lpk has it
      const why = error instanceof Error ? error.message : String(error);
      say(`could not remove the copies of volumes that ${gone} left: ${why}`);
    }
  }
}

function endLeftover(found: string, file: string, gone: string, say: (line: string) => void): void {
  fs.renameSync(found, file); // who renames it has it
  const left: Leftover = JSON.parse(fs.readFileSync(file, 'utf8'));
  removePoints(left.points, pointsOfOthers(file));
  if (isOwnFolder(left.folder)) {
    if (!endCopies(left))
      throw new Error(`what it had not written back can't be moved from ${left.folder} to ${left.keepIn}`);
    const kept = fs.existsSync(left.keepIn) ? `; what it had not written back is in ${left.keepIn}` : '';
    say(`removed the copies of volumes that ${gone} left${kept}`);
  }
  fs.rmSync(file, { force: true });
}

function endCopies({ folder, keepIn, readOnly }: Leftover): boolean {
  if (namesIn(path.join(folder, 'stamps')).length === 0) {
    fs.rmSync(folder, { recursive: true, force: true });
    return true;
  }
  const { status } = spawnSync('/bin/sh', ['-c', END_COPIES, 'sh', folder, keepIn, ...readOnly], { stdio: 'ignore' });
  return status === 0;
}

/** The innermost first, if they are as they were made, and in none of `inUse`. */
function removePoints(points: string[], inUse: Set<string>): void {
  for (const at of points.toSorted((a, b) => b.length - a.length)) {
    if (inUse.has(at)) continue;
    try {
      const stats = fs.statSync(at);
      if (stats.isDirectory()) fs.rmdirSync(at);
      else if (stats.size === 0) fs.unlinkSync(at);
    } catch {
      // something is in it, or it is gone
    }
  }
}

/** Of sessions that run. A mount point that goes takes the mount with it, in whichever namespace it is: rmdir(2) since Linux 4.2. */
function pointsOfOthers(ownFile: string): Set<string> {
  const notes = path.dirname(ownFile);
  const points = namesIn(notes).flatMap((name): string[] => {
    const { pid, startedAt, isDraft } = partsOf(name) ?? {};
    const isOther = pid !== undefined && !isDraft && name !== path.basename(ownFile);
    if (!isOther || !isRunning({ pid, startedAt: String(startedAt) })) return [];
    try {
      return (JSON.parse(fs.readFileSync(path.join(notes, name), 'utf8')) as Leftover).points;
    } catch {
      return []; // it has just ended
    }
  });
  return new Set(points);
}

/** After a restart of the laptop another user could have made one of that name. */
function isOwnFolder(folder: string): boolean {
  const stats = fs.lstatSync(folder, { throwIfNoEntry: false });
  return stats?.isDirectory() === true && stats.uid === (process.getuid?.() ?? stats.uid);
}

/** `HOLDER.SESSION.json`. */
function noteName(session: string): string {
  const { pid, startedAt } = processId();
  return `${pid}-${startedAt}.${session}.json`;
}

function partsOf(name: string): { pid: number; startedAt: string; session: string; isDraft: boolean } | undefined {
  const [, pid, startedAt = '', session = '', draft] = /^(\d+)-(\w*)\.([\w-]+)\.json(\.tmp)?$/.exec(name) ?? [];
  return pid === undefined ? undefined : { pid: Number(pid), startedAt, session, isDraft: draft !== undefined };
}

function namesIn(folder: string): string[] {
  try {
    return fs.readdirSync(folder);
  } catch {
    return [];
  }
}
