import { type ChildProcess, spawn } from 'node:child_process';
import { parentPort } from 'node:worker_threads';
import { ERRNO } from './abi.ts';
import { buildFilter } from './filter.ts';
import { loadKernel } from './kernel.ts';
import type { LauncherNews, LauncherOrder } from './messages.ts';

/**
 * A thread of lpk's own that is under the filter. A filter is its thread's, and what the thread starts inherits it: so the launched
 * program has it from its first instruction on, with nothing between lpk and it, no time lost, and no listener to hand over.
 * The thread makes none of the calls that the filter asks about, or it would wait for lpk itself.
 */

type Spawn = Extract<LauncherOrder, { spawn: unknown }>['spawn'];

const children = new Map<number, ChildProcess>();
const tell = (news: LauncherNews) => parentPort?.postMessage(news);

function start({ key, command, args, env, cwd }: Spawn): void {
  const child = spawn(command, args, { env, cwd, stdio: 'inherit' });
  children.set(key, child);
  child.once('spawn', () => tell({ spawned: { key, pid: child.pid as number } }));
  child.on('error', (error: NodeJS.ErrnoException) => {
    tell({ error: { key, message: error.message, code: error.code } });
  });
  child.once('exit', (code, signal) => {
    children.delete(key);
    tell({ exited: { key, code, signal } });
  });
}

function install(): LauncherNews {
  const kernel = loadKernel();
  const listener = kernel.installFilter(buildFilter(kernel.abi));
  if (listener >= 0) return { ready: { listener } };
  if (listener === -ERRNO.EBUSY)
    return { failed: 'another program, perhaps another lpk, catches the calls of this one' };
  return { failed: `the kernel refuses the filter (errno ${-listener})` };
}

parentPort?.on('message', (order: LauncherOrder) => {
  if ('spawn' in order) start(order.spawn);
  else children.get(order.kill.key)?.kill(order.kill.signal);
});
tell(install());
