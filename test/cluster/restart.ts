import fs from 'node:fs';
import { locked } from './lock.ts';
import { enter, findNode, forgetPods, processesIn, running, startInNode } from './node.ts';
import { pieces } from './pieces.ts';
import { ClusterError, clusterName, network } from './place.ts';
import { step, until } from './progress.ts';
import { run } from './run.ts';
import { apiServerIsReady, containerdAnswers, works } from './up.ts';

/*
 * Faults of the cluster itself: its pieces, or the whole node, end as in a crash (SIGKILL) and start again with the data they
 * had. etcd runs without fsync, which only a crash of the machine would notice, not one of the process. Whoever asks for the
 * cluster meanwhile (`up`) waits.
 */

const END_MS = 30_000;
const WHOLE_MS = 120_000;

/** In the order in which they are started. */
export const PIECES = Object.keys(pieces);

/** Ends these pieces, does `meanwhile`, starts them again, and returns when all of the cluster works. */
export async function crash(names: string[], meanwhile: () => Promise<void> = async () => {}): Promise<void> {
  const unknown = names.find((name) => !pieces[name]);
  if (unknown) throw new ClusterError(`no piece is called ${unknown}; there are ${PIECES.join(', ')}`);
  await locked(clusterName, async () => {
    const node = theNode();
    await endPieces(node, names);
    try {
      await meanwhile();
    } finally {
      for (const name of PIECES.filter((each) => names.includes(each))) {
        // It gives up when it finds no containerd; a machine's own init would start it again.
        if (name === 'kubelet') await until('containerd answers', WAIT, () => answers(node));
        startInNode(node, name, pieces[name] as string[]);
      }
      await whole();
    }
  });
}

/**
 * The node without power and back: everything that runs in it ends at once, with the network down so that nobody is told; what
 * a machine has in memory (/run, mounts, links, packet filter, cgroups) is gone, what it has on disk stays.
 */
export async function reboot(): Promise<void> {
  await locked(clusterName, async () => {
    const node = theNode();
    await inNode(node, 'ip link set eth0 down');
    for (const pid of processesIn(node)) end(pid);
    await until('all of the node’s processes end', { timeoutMs: END_MS, hint: 'look at ps' }, () => {
      const left = processesIn(node);
      for (const pid of left) end(pid); // a shim that was just starting one
      return left.length === 0 || undefined;
    });
    await forgetPods(node);
    await inNode(node, UP_AGAIN);
    const start = (...names: string[]) => {
      for (const name of names) startInNode(node, name, pieces[name] as string[]);
    };
    start('etcd', 'containerd', 'kube-apiserver');
    await until('the API server is ready', WAIT, async () => (await apiServerIsReady()) || undefined);
    start(...PIECES.filter((name) => !running(node).has(name)));
    await whole();
  });
}

const WAIT = { timeoutMs: WHOLE_MS, hint: 'see the logs beside the kubeconfig' };

/** Routes go with a link that is down. */
const UP_AGAIN = `nft flush ruleset; ip link set eth0 up; ip route replace default via ${network.host}`;

async function answers(node: number): Promise<true | undefined> {
  return (await containerdAnswers(node)) || undefined;
}

async function whole(): Promise<void> {
  await step('waiting until all of it works again', () =>
    until('the cluster works again', WAIT, async () => (await works()) || undefined),
  );
}

async function endPieces(node: number, names: string[]): Promise<void> {
  const pids = names.flatMap((name) => running(node).get(name) ?? []);
  for (const pid of pids) end(pid);
  const hint = `look at ps ${pids.join(' ')}`;
  await until(`${names.join(', ')} ends`, { timeoutMs: END_MS, hint }, () =>
    pids.some((pid) => fs.existsSync(`/proc/${pid}`)) ? undefined : true,
  );
}

function end(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

async function inNode(node: number, script: string): Promise<void> {
  await run('nsenter', [...enter(node), 'sh', '-euc', script]);
}

function theNode(): number {
  const node = findNode();
  if (!node) throw new ClusterError('no cluster is running: start one with scripts/cluster up');
  return node;
}
