import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { Placement } from './volume-places.ts';

/** What the program is started with, in place of itself. `folders`: its PATH. */
export type Wrap = (command: string, args: string[], folders?: string) => { command: string; args: string[] };

export type Mounted = {
  wrap: Wrap;
  /** Path → why it is not mounted. */
  left: Map<string, string>;
  close(): void;
};

const TOOL_FOLDERS = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'];
const PATIENCE_MS = 20_000;
/** Of a folder whose entries are bound one by one. */
const MAX_ENTRIES = 1_000;

/**
 * Arguments: a folder to work in, the program's working directory, and then `base FOLDER LAY` and `mount SOURCE KIND ACCESS POINT BASE` in
 * any number. BASE: the Bth base, or 0.
 * Says `ok N` or `no N why` of the Nth mount and `ready` at the end, and stays until its standard input ends.
 *
 * A folder that is to have a new mount point gets a tmpfs with the old entries bound in, which so stay the real ones; `/` the same, made
 * the root by pivot_root(2), which is bubblewrap's way. LAY `overlay`: an overlay, where it holds no mounts (which it would hide) and the
 * kernel lets this user (since Linux 5.11).
 */
const SCRIPT = `
work=$1 cwd=$2; shift 2
mount -t tmpfs -o mode=755 lpk "$work" || exit 1
n=0 m=0 refused=' '
bind_entries() {
  for f in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    t=$2/\${f##*/}
    if [ -L "$f" ]; then ln -s "$(readlink "$f")" "$t"
    elif [ -d "$f" ]; then mkdir "$t" && { mount --rbind "$f" "$t" || { rmdir "$t"; [ ! -e "$f" ] || return 1; }; }
    elif [ -e "$f" ]; then : > "$t" && { mount --bind "$f" "$t" || { rm "$t"; [ ! -e "$f" ] || return 1; }; }
    fi
  done
  return 0
}
may_bind_entries() { [ -r "$1/" ] && { set -- "$1"/*; [ $# -le ${MAX_ENTRIES} ]; }; }
lay_entries() {
  may_bind_entries "\${1%/}" && mount -t tmpfs -o mode=755 lpk "$2" && mount --make-unbindable "$2" &&
  bind_entries "\${1%/}" "$2" || { umount -l "$2"; return 1; }
  if [ "$1" = / ]; then
    mkdir "$2/.lpk-old" && cd "$2" && pivot_root . .lpk-old && cd / && umount -l /.lpk-old && rmdir /.lpk-old
  else mount -n --move "$2" "$1"
  fi && mount --make-private "$1"
}
has_mounts() {
  while read -r _ _ _ _ at _; do case $at in "$1"/*) return 0 ;; esac; done </proc/self/mountinfo
  return 1
}
lay_overlay() {
  case $1$2 in *[!A-Za-z0-9/._-]*) return 1 ;; esac
  ! has_mounts "$1" && mkdir "$2/up" "$2/work" &&
  mount -t overlay -o "lowerdir=$1,upperdir=$2/up,workdir=$2/work,userxattr" lpk "$1"
}
lay() {
  mkdir -p "$3/place" || return
  { [ "$2" = overlay ] && lay_overlay "$1" "$3"; } || lay_entries "$1" "$3/place"
}
show() {
  case $refused in *" $5 "*) echo "nothing can be laid over its folder"; return 1 ;; esac
  if [ "$2" = folder ]; then mkdir -p "$4"; else mkdir -p "\${4%/*}/" && { [ -e "$4" ] || : > "$4"; }; fi &&
  mount --bind "$1" "$4" && { [ "$3" = rw ] || mount -o remount,bind,ro "$4"; }
}
while [ $# -gt 0 ]; do
  if [ "$1" = base ]; then
    n=$((n + 1)); (lay "$2" "$3" "$work/$n") 2>/dev/null || refused="$refused$n "; shift 3
  else
    if why=$(show "$2" "$3" "$4" "$5" "$6" 2>&1); then echo "ok $m"; else echo "no $m $why" | head -n 1; fi
    m=$((m + 1)); shift 6
  fi
done
cd -- "$cwd" && echo ready && exec cat >/dev/null
`;

/**
 * A mount namespace, and unless this user is root a user namespace around it that keeps ids as they are, in which each copy is at its
 * path, read-only unless it may be written to; kept by a process of its own. The program joins it, and so has no rights in there. Rejects with the reason when
 * it can't be had.
 */
export async function mountVolumes(given: { placements: Placement[]; work: string; cwd: string }): Promise<Mounted> {
  const { placements, work, cwd } = given;
  if (process.platform !== 'linux') throw new Error('only Linux has mount namespaces');
  const [unshare, nsenter] = ['unshare', 'nsenter'].map(tool) as [string, string];
  const isRoot = process.getuid?.() === 0;
  const bases = new Map(placements.flatMap(({ base }) => (base ? [[base.folder, base.lay]] : [])));
  const outermostFirst = [...bases].sort(([a], [b]) => a.length - b.length);
  const numberOf = new Map(outermostFirst.map(([folder], i) => [folder, i + 1]));
  const child = spawn(
    unshare,
    [
      ...(isRoot ? [] : ['--user', '--map-current-user', '--keep-caps']),
      ...['--mount', '--propagation', 'slave', '/bin/sh', '-c', SCRIPT, 'lpk-volumes', work, cwd],
      ...outermostFirst.flatMap((base) => ['base', ...base]),
      ...placements.flatMap(({ mount, point, base }) => {
        const number = base ? numberOf.get(base.folder) : 0;
        return ['mount', mount.source, mount.kind, mount.access, point, `${number}`];
      }),
    ],
    // In a session of its own: Ctrl-C is not for it.
    { stdio: ['pipe', 'pipe', 'pipe'], detached: true, cwd: '/', env: { PATH: TOOL_FOLDERS.join(':'), LC_ALL: 'C' } },
  );
  child.stdin?.on('error', () => {});
  const close = () => child.stdin?.end();
  try {
    const left = await listen(child, placements);
    if (left.size === placements.length) throw new Error([...left.values()][0]);
    return { wrap: joining(nsenter, child.pid as number, isRoot), left, close };
  } catch (error) {
    close();
    throw error;
  }
}

function listen(child: ChildProcess, placements: Placement[]): Promise<Map<string, string>> {
  return new Promise((resolve, reject) => {
    const left = new Map(placements.map(({ mount }) => [mount.path, 'it could not be mounted']));
    let said = '';
    const late = setTimeout(() => reject(new Error('mounting takes too long')), PATIENCE_MS);
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(0, 1_000);
    });
    child.once('error', reject);
    child.once('exit', () => reject(new Error(said.trim().split('\n')[0] || 'the helper ended')));
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      if (line === 'ready') {
        clearTimeout(late);
        resolve(left);
      }
      const [, word, number, why = ''] = /^(ok|no) (\d+) ?(.*)$/.exec(line) ?? [];
      const placed = placements[Number(number)];
      if (!placed) return;
      if (word === 'ok') left.delete(placed.mount.path);
      else left.set(placed.mount.path, why);
    });
  });
}

/** One that can't be started is left as it is, for its error to be the usual one. */
function joining(nsenter: string, pid: number, isRoot: boolean): Wrap {
  const namespaces = [...(isRoot ? [] : ['--user', '--preserve-credentials']), '--mount'];
  return (command, args, folders = process.env.PATH ?? '') =>
    isExecutable(command, folders)
      ? { command: nsenter, args: [...namespaces, '--target', `${pid}`, '--wd', '--', command, ...args] }
      : { command, args };
}

function isExecutable(command: string, folders: string): boolean {
  const among = command.includes('/') ? [''] : folders.split(path.delimiter);
  return among.some((folder) => {
    try {
      accessSync(path.resolve(folder, command), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function tool(name: string): string {
  const found = TOOL_FOLDERS.map((folder) => path.join(folder, name)).find((file) => existsSync(file));
  if (!found) throw new Error(`there is no ${name} (package util-linux)`);
  return found;
}
