import { readFileSync, writeFileSync } from 'node:fs';
import { run } from '../cluster/run.ts';
import { eventually } from '../e2e/shop.ts';
import type { Lane, Session } from './lane.ts';

/** What can be done to a single pod, from the node it runs on. */

/** Drops all that a pod sends, without a word. @returns what takes it back. */
export async function blockNetwork(lane: Lane, pod: string): Promise<() => Promise<void>> {
  const pid = await lane.scene.processOf(pod);
  const nft = (...args: string[]) => run('nsenter', ['--target', `${pid}`, '--net', 'nft', ...args]);
  await nft('add table inet fault; add chain inet fault out { type filter hook output priority 0; policy drop; }');
  return async () => void (await nft('delete table inet fault'));
}

/**
 * Takes the memory away that an agent needs next: its cgroup's limit goes down to what it uses, and the kernel kills it when a
 * connection in a hurry makes it ask for more.
 */
export async function outOfMemory(lane: Lane, { pod, proxyPort, streams }: Session): Promise<void> {
  const limit = memoryLimitOf(await lane.scene.processOf(pod));
  const kills = () => Number(/oom_kill (\d+)/.exec(readFileSync(limit.events, 'utf8'))?.[1] ?? 0);
  await streams.hurry(proxyPort);
  await eventually('the kernel kills the agent for its memory', async () => {
    try {
      if (kills() > 0) return true;
      const wanted = Number(readFileSync(limit.usage, 'utf8')) + ROOM_BYTES;
      if (!(Number(readFileSync(limit.file, 'utf8')) <= wanted)) writeFileSync(limit.file, `${wanted}`);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ENODEV') return true; // gone with its container
      if (code !== 'EBUSY') throw error; // it used more meanwhile
    }
  });
}

const ROOM_BYTES = 128 << 10;

type MemoryLimit = { file: string; usage: string; events: string };

/** cgroups(7): version 1 has a hierarchy for memory, version 2 one for all. */
function memoryLimitOf(pid: number): MemoryLimit {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').trim().split('\n');
  const first = lines.map((line) => line.split(':')).find(([, controllers]) => controllers === 'memory');
  if (first) {
    const at = (name: string) => `/sys/fs/cgroup/memory${first[2]}/memory.${name}`;
    return { file: at('limit_in_bytes'), usage: at('usage_in_bytes'), events: at('oom_control') };
  }
  const unified = lines.find((line) => line.startsWith('0::'))?.slice('0::'.length);
  const at = (name: string) => `/sys/fs/cgroup${unified}/memory.${name}`;
  return { file: at('max'), usage: at('current'), events: at('events') };
}
