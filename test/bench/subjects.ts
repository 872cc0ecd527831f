import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { cluster } from '../cluster/up.ts';
import { Lpk } from '../e2e/lpk.ts';
import type { Order } from './load.ts';
import { end, processInPod } from './processes.ts';
import { type Scene, SEATS } from './scene.ts';
import { PORTS } from './servers.ts';

export type ServerName = keyof typeof PORTS;

/** One of the programs that are measured side by side, running. */
export type Subject = {
  name: string;
  /** How the load reaches a server through it. `byAddress`: without the cluster's DNS, where that makes a difference. */
  way(server: ServerName, byAddress?: boolean): Pick<Order, 'host' | 'port' | 'socks'>;
  /** The command line that runs the load where it can reach the program; absent: as it is. */
  on?: (command: string[]) => string[];
  /** The processes on the laptop, and their counterpart in the pod where there is one that can be seen from here. */
  pids: { laptop: number[]; agent?: number };
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
    pids: { laptop: [child.pid as number] },
    close: () => end(child),
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

/** `lpk connect`, whose SOCKS door is that of `lpk proxy`, too. */
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
    pids: { laptop: [lpk.pid], agent: await processInPod(namespace, pods[0], 'agent.mjs') },
    close: async () => {
      lpk.signal('SIGINT');
      await lpk.exit();
    },
  };
}
