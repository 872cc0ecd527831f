import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { kubectl } from '../cluster/cluster.ts';

/** What proc(5) says of the measured processes; the test cluster's pods are processes of this machine, too. */

/** The pod's process whose command line has `word`. */
export async function processInPod(namespace: string, pod: string, word: string): Promise<number | undefined> {
  const uid = (await kubectl(['get', 'pod', pod, '-n', namespace, '-o', 'jsonpath={.metadata.uid}'])).trim();
  return pids().find((pid) => {
    const group = read(pid, 'cgroup').replaceAll('_', '-');
    return group.includes(uid) && read(pid, 'cmdline').includes(word);
  });
}

/** A process and all that it has started. */
export function family(pid: number): number[] {
  const children = read(pid, `task/${pid}/children`).split(' ').filter(Boolean).map(Number);
  return [pid, ...children.flatMap(family)];
}

/** User and system time of the processes so far: stat's 14th and 15th field, in ticks of 1/100 s. */
export function cpuSeconds(processes: number[]): number {
  const ticks = processes.map((pid) => {
    const fields = read(pid, 'stat').split(') ').at(-1)?.split(' ') ?? [];
    return Number(fields[11]) + Number(fields[12]);
  });
  return ticks.reduce((sum, each) => sum + each, 0) / 100;
}

/** What of a process is in memory. */
export function residentMiB(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(read(pid, 'status'))?.[1]) / 1024;
}

/**
 * Starts a program, which `signal` ends, and waits for the line of its stderr that says it is ready; later ones are dropped. Throws
 * when it ends before.
 */
export async function startUntil(
  command: string[],
  ready: RegExp,
  signal: AbortSignal,
): Promise<{ child: ChildProcess; found: RegExpExecArray }> {
  const [program, ...words] = command as [string, ...string[]];
  const child = spawn(program, words, { stdio: ['ignore', 'ignore', 'pipe'], signal });
  const said: string[] = [];
  child.on('error', (error) => said.push(error.message));
  for await (const line of createInterface({ input: child.stderr as NodeJS.ReadableStream })) {
    const found = ready.exec(line);
    if (found) {
      child.stderr?.resume();
      return { child, found };
    }
    said.push(line);
  }
  throw new Error(`${program} ended: ${said.slice(-3).join(' | ')}`);
}

export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill();
  await once(child, 'exit');
}

function pids(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** Empty when it has ended meanwhile. */
function read(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}
