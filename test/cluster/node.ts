import { type StdioOptions, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { ClusterError, cgroup, logs, network, state } from './place.ts';
import { until } from './progress.ts';
import { run } from './run.ts';

/*
 * The node is a tree of processes in network, mount and pid namespaces of its own. When its first process dies, the
 * kernel ends all the others and takes their mounts and links away: nothing can be left over. That process carries the
 * state folder in its command line, which is how a running node is found; there is no pid file that could lie.
 */

const MARK = 'lpk-cluster-node';

/** The node's first process takes over orphans and waits for them. Nothing but SIGKILL ends it. */
const FIRST_WAITS_FOR = 'sleep infinity';
const FIRST = `while :; do ${FIRST_WAITS_FOR} & wait $!; done`;

/** Inside the node, where the outside's files are. */
export const inside = {
  kube: '/run/lpk/kube',
  settings: '/run/lpk/settings',
  pki: '/run/lpk/pki',
};

/** Kubelet sets these for the whole machine; inside the node they look as if it had. */
const KERNEL_SETTINGS = {
  'vm/overcommit_memory': '1',
  'vm/panic_on_oom': '0',
  'kernel/panic': '10',
  'kernel/panic_on_oops': '1',
  'kernel/keys/root_maxkeys': '1000000',
  'kernel/keys/root_maxbytes': '25000000',
};

/** The host pid of the running node's first process. */
export function findNode(): number | undefined {
  return nodes().find((node) => node.state === state)?.pid;
}

function nodes(): { pid: number; state: string }[] {
  return processes().flatMap(({ pid, command }) => {
    const [program, , , mark, state] = command;
    return program === 'bash' && mark === MARK && state ? [{ pid, state }] : [];
  });
}

function processes(): { pid: number; command: string[] }[] {
  return fs.readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      return [{ pid: Number(name), command: fs.readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0') }];
    } catch {
      return []; // it has ended meanwhile
    }
  });
}

/** Starts an empty node with `kube` as its binary, and gives its first process's pid. */
export async function startNode(kube: string): Promise<number> {
  // Another cache's cluster of this number has the same addresses.
  const other = nodes().find((node) => path.basename(node.state) === path.basename(state));
  if (other) throw new ClusterError(`the cluster in ${other.state} is running: end it first, or kill ${other.pid}`);
  const namespaces = [
    '--net',
    '--mount',
    '--pid',
    '--fork',
    '--kill-child',
    '--mount-proc',
    '--propagation',
    'private',
  ];
  detached('node', 'unshare', [...namespaces, 'bash', '-c', FIRST, MARK, state]);
  const hint = `see ${logOf('node')}`;
  const pid = await until('the node starts', { timeoutMs: 10_000, hint }, findNode);
  await run('nsenter', [...enter(pid), 'bash', '-euc', MOUNTS, 'bash', path.join(state, 'root'), state, kube], {
    hint,
  });
  await connect(pid);
  for (const hierarchy of cgroupHierarchies()) makeCgroup(hierarchy);
  return pid;
}

/**
 * Gives the node its own /run, /var/lib and /var/log, prepared in a folder ($1) before they cover the host's. Then
 * what pods mount may spread within the node, as Kubernetes expects, but not to the host.
 */
const MOUNTS = `
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir -p "$1"/{run/lpk,run/netns,lib,log,sysctl}
bind() { mkdir -p "$1" "$2"; mount --bind "$1" "$2"; }
for name in containerd kubelet cni etcd; do bind "$2/data/$name" "$1/lib/$name"; done
bind "$2/settings" "$1/run/lpk/settings"
bind "$2/pki" "$1/run/lpk/pki"
touch "$1/run/lpk/kube"
mount --bind "$3" "$1/run/lpk/kube"
bind "$2/log/pods" "$1/log"
${Object.entries(KERNEL_SETTINGS)
  .map(
    ([name, value], index) =>
      `echo ${value} >"$1/sysctl/${index}"; mount --bind "$1/sysctl/${index}" /proc/sys/${name}`,
  )
  .join('\n')}
mount --rbind "$1/run" /run
mount --rbind "$1/lib" /var/lib
mount --rbind "$1/log" /var/log
mount --make-rshared /
`;

async function connect(pid: number): Promise<void> {
  const { link, host, node } = network;
  await run('ip', ['link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(pid)]);
  await run('ip', ['-batch', '-'], { input: `addr add ${host}/30 dev ${link}\nlink set ${link} up\n` });
  const within = [
    'link set lo up',
    `addr add ${node}/30 dev eth0`,
    'link set eth0 up',
    `route add default via ${host}`,
  ];
  await run('nsenter', [...enter(pid), 'ip', '-batch', '-'], { input: `${within.join('\n')}\n` });
  await run('nsenter', [...enter(pid), 'sh', '-c', 'echo 1 >/proc/sys/net/ipv4/ip_forward']);
}

/** Arguments for nsenter: everything of the node, with this working folder. */
export function enter(pid: number, folder = '/'): string[] {
  return ['--target', String(pid), '--net', '--mount', '--pid', `--wdns=${folder}`];
}

/** Starts a program in the node, where it goes on when this process ends. Its output goes to the log of its name. */
export function startInNode(pid: number, name: string, command: string[]): void {
  // The shell ends at once, so that the node's first process inherits the program.
  const shell = ['bash', '-c', 'setsid "$@" &', 'bash', ...command];
  withLog(name, (stdio) => {
    const { status } = spawnSync('nsenter', [...enter(pid), ...shell], { stdio });
    if (status !== 0) throw new ClusterError(`${name} did not start; see ${logOf(name)}`);
  });
}

/** Which of the node's own programs run: `containerd`, `etcd`, `kubelet`, …, each with its host pid. */
export function running(pid: number): Map<string, number> {
  const namespaceOf = (process: number) => {
    try {
      return fs.readlinkSync(`/proc/${process}/ns/pid`);
    } catch {
      return undefined; // it has ended meanwhile
    }
  };
  const own = namespaceOf(pid);
  const within = processes().filter((process) => namespaceOf(process.pid) === own);
  return new Map(
    within.map(({ pid, command: [program, piece] }) => [
      (program === inside.kube ? piece : path.basename(program ?? '')) ?? '',
      pid,
    ]),
  );
}

/** Host pids of all that runs in the node, its pods' processes too; not its first process and what that one waits for. */
export function processesIn(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const each of processes()) {
    const parent = parentOf(each.pid);
    if (parent === undefined || (parent === pid && each.command.join(' ').trim() === FIRST_WAITS_FOR)) continue;
    children.set(parent, [...(children.get(parent) ?? []), each.pid]);
  }
  const below = (parent: number): number[] => (children.get(parent) ?? []).flatMap((child) => [child, ...below(child)]);
  return below(pid);
}

/** proc_pid_stat(5): the second field may hold anything, so it is read from behind its end. */
function parentOf(pid: number): number | undefined {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
  } catch {
    return undefined; // it has ended meanwhile
  }
}

/** After all of its processes have ended: takes away what a machine that was switched off has lost. */
export async function forgetPods(pid: number): Promise<void> {
  await run('nsenter', [...enter(pid), 'bash', '-euc', FORGET]);
  for (const hierarchy of cgroupHierarchies()) {
    await removeCgroup(path.join(hierarchy, cgroup));
    makeCgroup(hierarchy);
  }
}

/**
 * Pods' mounts, inmost first; then /run but for what is the node's own. What the host has mounted under its own /run is listed too, but hidden by
 * the node's, and can't be unmounted.
 */
const FORGET = `
awk '$5 ~ "^/(run|var/lib/kubelet/pods|var/lib/containerd)/" && $5 !~ "^/run/lpk" { print $5 }' /proc/self/mountinfo |
  tac | while read -r mount; do umount --lazy "$mount" 2>/dev/null || true; done
find /run -mindepth 1 -maxdepth 1 ! -name lpk -exec rm -rf --one-file-system {} +
mkdir -p /run/netns
`;

/** Ends the node, and with it all it started, and removes everything of it but the logs. */
export async function endNode(): Promise<void> {
  const pid = findNode();
  if (pid !== undefined) {
    process.kill(pid, 'SIGKILL');
    // Its parent takes it from the process table when all the others are gone.
    const hint = `look at what it waits for: cat /proc/${pid}/stack`;
    await until('the node ends', { timeoutMs: 30_000, hint }, () => (fs.existsSync(`/proc/${pid}`) ? undefined : true));
  }
  // Link and cgroup have names of which there is one on a machine, so they could be another cache's cluster's.
  if (!nodes().some((node) => path.basename(node.state) === path.basename(state))) {
    spawnSync('ip', ['link', 'del', network.link]); // the kernel does it too, a little later
    for (const hierarchy of cgroupHierarchies()) await removeCgroup(path.join(hierarchy, cgroup));
  }
  for (const name of fs.existsSync(state) ? fs.readdirSync(state) : []) {
    if (path.join(state, name) !== logs) fs.rmSync(path.join(state, name), { recursive: true });
  }
}

/** Where the machine's cgroup hierarchies are mounted: several of version 1, or one of version 2, or both. */
function cgroupHierarchies(): string[] {
  const mounts = fs.readFileSync('/proc/self/mounts', 'utf8').trim().split('\n');
  return mounts.flatMap((line) => {
    const [, folder, type] = line.split(' ');
    return folder && (type === 'cgroup' || type === 'cgroup2') ? [folder] : [];
  });
}

function makeCgroup(hierarchy: string): void {
  fs.mkdirSync(path.join(hierarchy, cgroup), { recursive: true });
  const controllers = path.join(hierarchy, 'cgroup.controllers'); // version 2 passes them on only when told to
  if (!fs.existsSync(controllers)) return;
  const names = fs.readFileSync(controllers, 'utf8').split(/\s+/).filter(Boolean);
  fs.writeFileSync(path.join(hierarchy, 'cgroup.subtree_control'), names.map((name) => `+${name}`).join(' '));
}

async function removeCgroup(folder: string): Promise<void> {
  if (!fs.existsSync(folder)) return;
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeCgroup(path.join(folder, entry.name));
  }
  // A cgroup is busy until the kernel has put its dead processes away.
  await until(`the cgroup ${folder} goes`, { timeoutMs: 10_000, hint: `look at ${folder}/cgroup.procs` }, () => {
    try {
      fs.rmdirSync(folder);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EBUSY') return undefined;
      throw error;
    }
    return true;
  });
}

function detached(name: string, program: string, args: string[]): void {
  withLog(name, (stdio) => {
    const child = spawn(program, args, { stdio, cwd: '/', detached: true });
    child.on('error', () => {}); // whoever waits for it finds out
    child.unref();
  });
}

export function logOf(name: string): string {
  return path.join(logs, `${name}.log`);
}

function withLog(name: string, use: (stdio: StdioOptions) => void): void {
  const file = fs.openSync(logOf(name), 'a', 0o600);
  try {
    use(['ignore', file, file]);
  } finally {
    fs.closeSync(file);
  }
}
