import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { kubectl } from '../cluster/cluster.ts';
import { cluster } from '../cluster/up.ts';
import { Lpk } from '../e2e/lpk.ts';
import type { Order } from './load.ts';
import { type Scene, SEATS } from './scene.ts';
import { PORTS } from './servers.ts';

export type ServerName = keyof typeof PORTS;

/** One of the programs that are measured side by side, running. */
export type Subject = {
  name: string;
  /** How the load reaches a server through it. `byAddress`: without the cluster's DNS, where that makes a difference. */
  way(server: ServerName, byAddress?: boolean): Pick<Order, 'port' | 'socks'>;
  /** The process on the laptop, and its counterpart in the pod where it has one of its own that can be seen from here. */
  pids: { laptop: number; agent?: number };
  close(): Promise<void>;
};

export async function openKubectl({ namespace, kubeconfig }: Scene): Promise<Subject> {
  const args = ['kubectl', 'port-forward', '-n', namespace, 'service/bench'];
  // Ports of its own choice: ":9000" says so.
  const child = spawn(cluster().kube, [...args, ...Object.values(PORTS).map((port) => `:${port}`)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, KUBECONFIG: kubeconfig },
  });
  const ports = await forwardedPorts(child);
  return {
    name: 'kubectl port-forward',
    way: (server) => ({ port: ports.get(PORTS[server]) as number }),
    pids: { laptop: child.pid as number },
    close: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill();
      await once(child, 'exit');
    },
  };
}

/** Reads `Forwarding from 127.0.0.1:PORT -> PORT` for every port. */
async function forwardedPorts(child: ChildProcess): Promise<Map<number, number>> {
  const ports = new Map<number, number>();
  for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) {
    const [, laptop, pod] = /^Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)/.exec(line) ?? [];
    if (pod) ports.set(Number(pod), Number(laptop));
    if (ports.size === Object.keys(PORTS).length) break;
  }
  if (ports.size < Object.keys(PORTS).length) throw new Error('kubectl port-forward ended');
  child.stdout?.resume(); // it goes on about every connection
  return ports;
}

export async function openLpk(scene: Scene, transport: keyof typeof SEATS): Promise<Subject> {
  const { namespace, kubeconfig, service } = scene;
  const lpk = new Lpk([
    ...['connect', `deployment/${SEATS[transport]}`, '-n', namespace, '--kubeconfig', kubeconfig],
    ...['--transport', transport, '--no-wait'],
  ]);
  const { proxyPort, pods } = await lpk.event('ready');
  return {
    name: `lpk --transport ${transport}`,
    way: (server, byAddress = false) => ({
      port: proxyPort,
      socks: { host: byAddress ? service.address : service.name, port: PORTS[server] },
    }),
    pids: { laptop: lpk.pid, agent: await agentPid(namespace, pods[0] as string) },
    close: async () => {
      lpk.signal('SIGINT');
      await lpk.exit();
    },
  };
}

/** The test cluster's pods are processes of this machine: the agent is the pod's only Node. */
async function agentPid(namespace: string, pod: string): Promise<number | undefined> {
  const uid = (await kubectl(['get', 'pod', pod, '-n', namespace, '-o', 'jsonpath={.metadata.uid}'])).trim();
  const found = readdirSync('/proc').find((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const group = readFileSync(`/proc/${pid}/cgroup`, 'utf8').replaceAll('_', '-');
      return group.includes(uid) && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('agent.mjs');
    } catch {
      return false; // ended meanwhile
    }
  });
  return found === undefined ? undefined : Number(found);
}

/** User and system time of a process so far: proc(5), stat's 14th and 15th field, in ticks of 1/100 s. */
export function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
