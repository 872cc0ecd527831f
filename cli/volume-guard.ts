import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import path from 'node:path';

/** What ends a session's volumes when lpk is killed. */

/** Arguments: the session's folder, where copies go that may have what the pod has not, and the paths of copies that are read-only. */
const COPIES = `umask 077
session=$1 keep=$2; shift 2
for at; do rm -rf -- "$session/files$at"; done
for stamp in "$session"/stamps/*; do
  [ -f "$stamp" ] || continue
  at=$(cat "$stamp")
  if [ -n "$(find "$session/files$at" -newer "$stamp" | head -n 1)" ]; then
    mkdir -p "$keep\${at%/*}" && mv "$session/files$at" "$keep$at" || exit
  fi
done
rm -rf -- "$session"`;
const POINTS = `for at; do if [ -d "$at" ]; then rmdir -- "$at"; elif [ ! -s "$at" ]; then rm -f -- "$at"; fi; done`;

/**
 * Removes the session's folder: secrets must not stay when lpk is killed. A copy with something newer than its stamp (see VolumeFollower) is
 * moved to `keepIn` before; those at `readOnly`, the pod's paths, never are. Returns what lets the guard end.
 */
export function guardCopies(folder: string, keepIn: string, readOnly: string[]): () => void {
  mkdirSync(path.join(folder, 'stamps'), { mode: 0o700 });
  return guard(COPIES, [folder, keepIn, ...readOnly]);
}

/** Removes mount points, the innermost first, if they are empty. Returns what lets the guard end. */
export function guardPoints(points: string[]): () => void {
  return guard(POINTS, points);
}

/**
 * A shell that waits for the end of a pipe from this process and runs `script` then. In a session of its own, so that Ctrl-C and a
 * closed terminal leave it.
 */
function guard(script: string, args: string[]): () => void {
  if (process.platform === 'win32') return () => {};
  const child = spawn('/bin/sh', ['-c', `cat >/dev/null\n${script}`, 'sh', ...args], {
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
