import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { systemCode } from '../agent/wire/errors.ts';

/** A process, told from a later one with the same pid by when it started. */
export type ProcessId = {
  pid: number;
  /** In the system's own terms, letters and digits only; empty where it isn't known. */
  startedAt: string;
};

/** Of a running process, by default this one. */
export function processId(pid = process.pid): ProcessId {
  return { pid, startedAt: startOf(pid) ?? '' };
}

/** A process that ended and is not yet waited for does not run. Without `startedAt`, any process with that pid counts. */
export function isRunning({ pid, startedAt }: ProcessId): boolean {
  const start = startOf(pid);
  return start !== undefined && (startedAt === '' || start === startedAt);
}

const GONE_MS = 10_000;

/** The pipe that tells of a process's end ends a little before the process does. One that runs after 10 s still is not waited for. */
export async function untilGone(id: ProcessId): Promise<void> {
  const until = Date.now() + GONE_MS;
  while (isRunning(id) && Date.now() < until) await pause(10);
}

/** Undefined: there is no such process. */
function startOf(pid: number): string | undefined {
  switch (process.platform) {
    case 'linux':
      return linuxStart(pid);
    case 'win32':
      return isThere(pid) ? '' : undefined; // asking for more takes a PowerShell
    default:
      return bsdStart(pid);
  }
}

/** proc(5): field 22 of /proc/PID/stat, in clock ticks since the boot; and which boot that was. */
function linuxStart(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The second field is a file name in parentheses, with whatever is in it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const [state, ticks] = [fields[0], fields[22 - 3]];
    if (state === 'Z' || state === 'X') return undefined;
    return `${ticks}b${readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').slice(0, 8)}`;
  } catch {
    return undefined;
  }
}

/** ps(1): `lstart`, to the second. */
function bsdStart(pid: number): string | undefined {
  try {
    const words = execFileSync('/bin/ps', ['-o', 'state=,lstart=', '-p', String(pid)], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      env: { LC_ALL: 'C', TZ: 'UTC' },
    });
    const [state = 'Z', ...start] = words.trim().split(/\s+/);
    return state.startsWith('Z') ? undefined : start.join('').replaceAll(/\W/g, '');
  } catch {
    return undefined;
  }
}

function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemCode(error) === 'EPERM';
  }
}
