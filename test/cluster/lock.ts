import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { ClusterError, cache } from './place.ts';
import { step } from './progress.ts';
import { interruption } from './run.ts';

const SILENT_MS = 300;

/**
 * Runs `work` while nobody else in this cache works on `what`. The lock is a child's, which ends with this process
 * however that ends; the cluster's processes inherit nothing of it.
 */
export async function locked<T>(what: string, work: () => Promise<T>): Promise<T> {
  fs.mkdirSync(cache, { recursive: true, mode: 0o700 });
  const command = ['--no-fork', path.join(cache, `${what}.lock`), 'sh', '-c', 'echo held; exec cat'];
  // Detached: Ctrl-C is for the work, which gives the lock back when it has cleaned up.
  const child = spawn('flock', command, { stdio: ['pipe', 'pipe', 'inherit'], detached: true });
  const held = new Promise<void>((resolve, reject) => {
    child.once('error', (error) => reject(new ClusterError(`flock (Debian's util-linux): ${error.message}`)));
    child.once('exit', (code) => reject(new ClusterError(`flock: exit ${code}`)));
    child.stdout.once('data', () => resolve());
    interruption.addEventListener('abort', () => reject(interruption.reason));
  });
  try {
    const silent = new Promise<'silent'>((resolve) => setTimeout(resolve, SILENT_MS, 'silent').unref());
    if ((await Promise.race([held, silent])) === 'silent') {
      await step(`waiting for another who works on the same: ${what}`, () => held);
    }
    return await work();
  } finally {
    child.kill();
  }
}
