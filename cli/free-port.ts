import { execFile } from 'node:child_process';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { isRunning, type ProcessId, processId } from './process-id.ts';

/** Who listens on a TCP port of this computer; a process of another user may show no more than that it is there. */
export type Listener = Partial<ProcessId> & {
  name?: string;
  /** Of the user that lpk runs as, and no process that lpk itself was started by: a terminal, a service manager. */
  isOwn: boolean;
};

const run = promisify(execFile);
const TOOL_MS = 10_000;
const LOOK_MS = 25;

/** What a process gets to end by itself after SIGTERM, ms. */
export const GRACE_MS = 3_000;

/** Every process that listens on `port`, at whatever address. Empty too where the system's tools say nothing. */
export async function listenersOf(port: number): Promise<Listener[]> {
  switch (process.platform) {
    case 'linux':
      return await linuxListeners(port);
    case 'win32':
      return await windowsListeners(port);
    default: {
      const text = await told('lsof', ['-nP', `-iTCP:${port}`, '-sTCP:LISTEN', '-Fpcu']);
      return parseLsof(text, process.getuid?.() ?? -1).map((found) => ({ ...found, ...processId(found.pid) }));
    }
  }
}

/** Whether it is one process, and not a later one with the same pid. */
export function isSame(a: Listener, b: Listener): boolean {
  return a.pid !== undefined && a.pid === b.pid && a.startedAt === b.startedAt;
}

/**
 * SIGTERM, and after `graceMs` SIGKILL for what still runs. Only what {@link listenersOf} found, and only of this user; whether the port is
 * free then, {@link listenersLeft} tells.
 */
export async function stopListeners(listeners: Listener[], graceMs = GRACE_MS): Promise<void> {
  const lpk = [process.pid, process.ppid];
  const ids = listeners.flatMap(({ isOwn, pid, startedAt = '' }) =>
    isOwn && pid !== undefined && !lpk.includes(pid) ? [{ pid, startedAt }] : [],
  );
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    for (const id of ids) send(id, signal);
    const until = performance.now() + graceMs;
    while (ids.some(isRunning) && performance.now() < until) await pause(LOOK_MS);
  }
}

/**
 * Who still listens on `port` after what did was stopped. A process's threads end one by one, and the last lets go of its sockets: after
 * it counts as ended, it gets up to `graceMs` for that.
 */
export async function listenersLeft(port: number, graceMs = GRACE_MS): Promise<Listener[]> {
  const until = performance.now() + graceMs;
  for (;;) {
    const left = await listenersOf(port);
    if (left.length === 0 || performance.now() >= until) return left;
    await pause(LOOK_MS);
  }
}

function send(id: ProcessId, signal: NodeJS.Signals): void {
  if (!isRunning(id)) return;
  try {
    process.kill(id.pid, signal);
  } catch {
    // It has ended meanwhile, or is not ours to stop, which the caller sees by its still running.
  }
}

async function linuxListeners(port: number): Promise<Listener[]> {
  const tables = await Promise.all(
    ['tcp', 'tcp6'].map((name) => readFile(`/proc/net/${name}`, 'latin1').catch(() => '')),
  );
  const sockets = tables.flatMap((table) => parseProcNetTcp(table, port));
  if (sockets.length === 0) return [];
  const uid = process.getuid?.() ?? -1;
  const found: Listener[] = [];
  const inodes = new Set(sockets.map(({ inode }) => `socket:[${inode}]`));
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const seen = new Set<string>();
  const above = await ancestors();
  for (const pid of pids) {
    const links = await descriptors(pid);
    const held = links.filter((link) => inodes.has(link));
    if (held.length === 0) continue;
    for (const link of held) seen.add(link);
    const id = processId(Number(pid));
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    const name = /^Name:\t(.*)$/m.exec(status)?.[1] ?? '';
    // Not the owner of /proc/PID: that is root for every process that has changed its user.
    const [real, effective] = (/^Uid:\t(\d+)\t(\d+)/m.exec(status) ?? []).slice(1).map(Number);
    found.push({ ...id, name, isOwn: real === uid && effective === uid && !above.has(Number(pid)) });
  }
  // Whose descriptors may not be read, is another user's.
  const unseen = sockets.some(({ inode }) => !seen.has(`socket:[${inode}]`));
  return unseen ? [...found, { isOwn: false }] : found;
}

/** The processes that lpk was started by, up to the first. */
async function ancestors(): Promise<Set<number>> {
  const found = new Set<number>();
  for (let pid = process.ppid; pid > 0 && !found.has(pid); ) {
    found.add(pid);
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    pid = Number(/^PPid:\t(\d+)/m.exec(status)?.[1] ?? 0);
  }
  return found;
}

/** Where a process's file descriptors lead; none for one that may not be looked into. */
async function descriptors(pid: string): Promise<string[]> {
  const names = await readdir(`/proc/${pid}/fd`).catch(() => []);
  return await Promise.all(names.map((name) => readlink(`/proc/${pid}/fd/${name}`).catch(() => '')));
}

/** proc(5), /proc/net/tcp: the sockets that listen (state 0A) on the port. */
export function parseProcNetTcp(table: string, port: number): { inode: string; uid: number }[] {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  return table.split('\n').flatMap((line) => {
    const [, local = '', , state, , , , uid, , inode] = line.trim().split(/\s+/);
    return local.endsWith(wanted) && state === '0A' && inode ? [{ inode, uid: Number(uid) }] : [];
  });
}

/** lsof(8), "Output for other programs", fields p, c and u. */
export function parseLsof(text: string, uid: number): (Listener & { pid: number })[] {
  const found: (Listener & { pid: number })[] = [];
  for (const line of text.split('\n')) {
    const value = line.slice(1);
    const last = found.at(-1);
    if (line[0] === 'p') found.push({ pid: Number(value), isOwn: false });
    else if (line[0] === 'c' && last) last.name = value;
    else if (line[0] === 'u' && last) last.isOwn = Number(value) === uid;
  }
  return found;
}

async function windowsListeners(port: number): Promise<Listener[]> {
  const pids = parseNetstat(await told('netstat', ['-ano', '-p', 'TCP']), port);
  const { username } = userInfo();
  return await Promise.all(
    pids.map(async (pid) => {
      const text = await told('tasklist', ['/V', '/FI', `PID eq ${pid}`, '/FO', 'CSV', '/NH']);
      return { ...processId(pid), ...parseTasklist(text, username) };
    }),
  );
}

/** `netstat -ano`: a listening socket has no peer; the word for its state is in the system's language. */
export function parseNetstat(text: string, port: number): number[] {
  const pids = text.split(/\r?\n/).flatMap((line) => {
    const [protocol, local = '', peer = '', ...rest] = line.trim().split(/\s+/);
    const listens = protocol === 'TCP' && local.endsWith(`:${port}`) && /^(0\.0\.0\.0|\[::\]):0$/.test(peer);
    return listens ? [Number(rest.at(-1))] : [];
  });
  return [...new Set(pids)];
}

/** `tasklist /V /FO CSV /NH`: the first column is the program, the seventh the user as DOMAIN\NAME. */
export function parseTasklist(text: string, username: string): Pick<Listener, 'name' | 'isOwn'> {
  const columns = [...(text.split(/\r?\n/).find(Boolean) ?? '').matchAll(/"([^"]*)"/g)].map(
    (match) => match[1] as string,
  );
  if (columns.length < 7) return { isOwn: false };
  const user = (columns[6] as string).split('\\').at(-1) as string;
  return { name: columns[0] as string, isOwn: user.toLowerCase() === username.toLowerCase() };
}

/** What a tool prints; nothing when it is not there or fails, as lsof does when it finds nothing. */
async function told(command: string, args: string[]): Promise<string> {
  return await run(command, args, { timeout: TOOL_MS }).then(
    ({ stdout }) => stdout,
    () => '',
  );
}
