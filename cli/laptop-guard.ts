import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import type { ProcessId } from './process-id.ts';

/** Undoes what lpk changed as soon as lpk is gone, be it by `kill -9`. For changes that would do harm without it. */

export type Guard = { dismiss(): void };

/**
 * A shell that waits for the end of a pipe from this process, and is replaced by the program `ending` then: a guard that costs a
 * shell's memory, not Node's. In a session of its own, so that Ctrl-C and a closed terminal leave it. None on Windows, where there
 * is no such shell.
 */
export function startGuard(
  folder: string,
  owner: ProcessId,
  ending: 'undo-when-gone' | 'volumes-when-gone' = 'undo-when-gone',
): Guard {
  if (process.platform === 'win32') return { dismiss() {} };
  // Compiled, the ending is another.
  const program = path.join(import.meta.dirname, `${ending}${path.extname(import.meta.filename)}`);
  const undoing = [process.execPath, program, folder, String(owner.pid), owner.startedAt];
  const child: ChildProcess = spawn('/bin/sh', ['-c', 'cat >/dev/null; exec "$@"', 'sh', ...undoing], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
    cwd: '/',
  });
  child.on('error', () => {}); // then the next lpk undoes
  child.unref();
  const pipe = child.stdin as typeof child.stdin & { unref?(): void };
  pipe?.unref?.();
  pipe?.on('error', () => {});
  return {
    dismiss() {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
      } catch {
        // it has ended
      }
    },
  };
}
