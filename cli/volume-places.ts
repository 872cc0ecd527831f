import { accessSync, constants, mkdirSync, realpathSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/** A copy and where the program is to find it. */
export type Mount = { source: string; path: string; kind: 'folder' | 'file'; access: 'ro' | 'rw' };

export type Placement = {
  mount: Mount;
  /** Where it is mounted: `path` without links. */
  point: string;
  /** The nearest folder there is, when `point` has yet to be made in it, unseen by others, in something laid over it. */
  base: { folder: string; lay: Lay } | undefined;
};

/**
 * `entries`: what is in the folder is bound into a new one, and so stays real and may be written to. `overlay`: also shows what is new or
 * replaced by another name's file later, and takes or refuses all that is written below.
 */
export type Lay = 'entries' | 'overlay';

/** What the laptop's programs need. */
export type Own = {
  /** Which no mount may hide. */
  paths: string[];
  /** Where the person's own files are, even when the person is root. */
  folders: string[];
};

export type Plan = {
  placements: Placement[];
  /** Mount points made for real, in the person's own folders; in the order they were made. */
  made: string[];
  /** Path → why it is not placed. */
  left: Map<string, string>;
};

/** The laptop's own life is in there; a pod's volume over them would end it. */
const SYSTEM = [
  ...[
    '/',
    '/bin',
    '/boot',
    '/etc',
    '/home',
    '/lib',
    '/lib32',
    '/lib64',
    '/mnt',
    '/media',
    '/nix',
    '/opt',
    '/root',
    '/run',
    '/sbin',
  ],
  ...['/snap', '/srv', '/tmp', '/usr', '/var', '/usr/lib', '/usr/lib64', '/usr/local', '/usr/share', '/usr/libexec'],
  ...['/var/lib', '/var/run', '/var/tmp', '/var/log', '/run/user'],
];
const SYSTEM_TREES = ['/dev', '/proc', '/sys'];
/** Of a folder where everybody may make something: inode(7). */
const STICKY = 0o1000;
/** Whose files are replaced, not written to, when they change (resolv.conf, hosts), and where only root writes. */
const SETTINGS = '/etc';

/**
 * Where each mount goes. A mount point that is missing is made in the person's own folders (something laid over them would swallow what the
 * program writes), else, as root's folders are not ours to change, in something laid over the nearest folder.
 */
export function planPlacements(mounts: Mount[], own: Own): Plan {
  const plan: Plan = { placements: [], made: [], left: new Map() };
  for (const mount of mounts.toSorted((a, b) => (a.path < b.path ? -1 : 1))) {
    const outer = plan.placements.findLast((each) => mount.path.startsWith(`${each.mount.path}/`));
    if (outer) {
      // It is in that one's copy; for another access it is mounted once more.
      const point = path.join(outer.point, mount.path.slice(outer.mount.path.length));
      if (outer.mount.access !== mount.access) plan.placements.push({ mount, point, base: undefined });
      continue;
    }
    try {
      const { existing, missing } = nearest(mount.path);
      const point = path.join(existing, ...missing);
      if (hides(point, own.paths)) throw new Error('it would hide the laptop’s own');
      if (missing.length === 0) {
        if (statSync(point).isDirectory() !== (mount.kind === 'folder'))
          throw new Error('the laptop has something else there');
        plan.placements.push({ mount, point, base: undefined });
      } else if (isPersons(existing, own.folders)) {
        make(point, existing, missing, mount.kind, plan.made);
        plan.placements.push({ mount, point, base: undefined });
      } else plan.placements.push({ mount, point, base: { folder: existing, lay: layOf(existing, own.paths) } });
    } catch (error) {
      plan.left.set(mount.path, error instanceof Error ? error.message : String(error));
    }
  }
  return plan;
}

/** Whether something over `point` would take away what the laptop needs. */
export function hides(point: string, own: string[]): boolean {
  if (SYSTEM.includes(point)) return true;
  if (SYSTEM_TREES.some((tree) => isIn(point, tree))) return true;
  return own.some((each) => isIn(each, point));
}

/**
 * The folders of these that are a person's: `/` and the like are not, even when somebody works there.
 */
export function personsFolders(folders: string[]): string[] {
  return folders.filter((each) => !SYSTEM.includes(each) || ['/root', '/tmp', '/var/tmp'].includes(each));
}

/** What is laid over `folder`, where only root may make something. `paths`: which the laptop's programs need. */
export function layOf(folder: string, paths: string[], isRoot = process.getuid?.() === 0): Lay {
  const isReadOnly = !isRoot && isIn(folder, SETTINGS) && !paths.some((each) => isIn(each, folder));
  return isReadOnly ? 'overlay' : 'entries';
}

function isIn(at: string, folder: string): boolean {
  return at === folder || at.startsWith(`${folder}/`);
}

/** The nearest folder there is, without links, and the names that are missing below it. */
function nearest(wanted: string): { existing: string; missing: string[] } {
  const missing: string[] = [];
  for (let at = wanted; ; at = path.dirname(at)) {
    try {
      const existing = realpathSync(at);
      if (missing.length > 0 && !statSync(existing).isDirectory()) throw new Error(`${existing} is no folder`);
      return { existing, missing };
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (at === '/' || code !== 'ENOENT') throw error;
      missing.unshift(path.basename(at));
    }
  }
}

function isPersons(folder: string, folders: string[]): boolean {
  try {
    accessSync(folder, constants.W_OK);
  } catch {
    return false;
  }
  if (process.getuid?.() !== 0 || folders.some((each) => isIn(folder, each))) return true;
  if (!SYSTEM.includes(folder) && folders.some((each) => isIn(each, folder))) return true; // a project above this one
  const { uid, mode } = statSync(folder);
  return uid !== 0 || (mode & STICKY) !== 0;
}

function make(point: string, existing: string, missing: string[], kind: Mount['kind'], made: string[]): void {
  let at = existing;
  for (const name of kind === 'folder' ? missing : missing.slice(0, -1)) {
    at = path.join(at, name);
    mkdirSync(at);
    made.push(at);
  }
  if (kind === 'folder') return;
  writeFileSync(point, '', { flag: 'wx' });
  made.push(point);
}
