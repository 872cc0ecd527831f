import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { bundleAgent } from '../../agent/deploy/bundle.ts';
import { type Cluster, type Json, openCluster } from '../../agent/deploy/kube.ts';
import { clusterUp, kubectl } from '../cluster/cluster.ts';
import { endAll, Lpk, type LpkEvent } from './lpk.ts';
import { conforming, createNamespace } from './namespace.ts';
import type { Errand } from './peer.ts';
import { eventually } from './shop.ts';
import type { Got, Visit } from './strangers.ts';
import { type Order, type Result, Transfers } from './transfers.ts';

const LABELS = { peer: { app: 'peer' }, web: { app: 'web' } };
/** Of the Service `web`, and of its container. */
const WEB_PORT = 80;
const CONTAINER_PORT = 8080;
const GRACE = { terminationGracePeriodSeconds: 1 };

/**
 * A namespace with `web`, the workload whose place lpk takes, and a pod that plays the rest of the cluster. The test itself
 * is the local process: `transfers` answers at `localPort` for what comes to `web`.
 */
export class Scene {
  readonly namespace: string;
  readonly kubeconfig: string;
  readonly cluster: Cluster;
  readonly transfers = new Transfers();
  #local: net.Server;

  private constructor(namespace: string, kubeconfig: string, cluster: Cluster, local: net.Server) {
    this.namespace = namespace;
    this.kubeconfig = kubeconfig;
    this.cluster = cluster;
    this.#local = local;
    local.on('connection', (socket) => this.transfers.serve(socket));
  }

  static async open(name: string): Promise<Scene> {
    const { kubeconfig } = await clusterUp();
    const namespace = `lnk-${name}-${randomBytes(3).toString('hex')}`;
    const local = net
      .createServer({ allowHalfOpen: true, noDelay: true })
      .listen({ port: 0, host: '127.0.0.1', backlog: 1024 });
    await once(local, 'listening');
    const scene = new Scene(namespace, kubeconfig, await openCluster({ kubeconfig, namespace }), local);
    try {
      await createNamespace(scene.cluster, namespace);
      await scene.apply(...(await scene.#objects()));
      await kubectl(['rollout', 'status', '-n', namespace, 'deployment/peer', '--timeout=240s']);
      await kubectl(['rollout', 'status', '-n', namespace, 'deployment/web', '--timeout=240s']);
    } catch (error) {
      await scene.close();
      throw error;
    }
    return scene;
  }

  get localPort(): number {
    return (this.#local.address() as net.AddressInfo).port;
  }

  /** Takes the place of `web` and waits until calls to it arrive here. `kubeconfig`: another way to the cluster. */
  async connect(args: string[] = [], kubeconfig = this.kubeconfig): Promise<Connected> {
    const lpk = new Lpk([
      ...['connect', 'web', '-n', this.namespace, '-p', `${this.localPort}:${CONTAINER_PORT}`],
      ...['--kubeconfig', kubeconfig, '--no-wait', ...args],
    ]);
    const { proxyPort } = await lpk.event('ready');
    const { pods } = await lpk.serving();
    await this.reach();
    return { lpk, proxyPort, pod: pods[0] as string };
  }

  /** Until no namespace is being deleted, as those of earlier tests are: that their pods end would show in what is measured. */
  async calm(): Promise<void> {
    await eventually('no namespace is being deleted', async () => {
      const { items } = await this.cluster.request('GET', '/api/v1/namespaces');
      return (items as Json[]).every(({ metadata }) => !metadata.deletionTimestamp);
    });
  }

  /** Until a call of the peer to `web` arrives here and is answered. */
  async reach(): Promise<void> {
    await this.#peer('reach', this.#web);
  }

  /** An `up` or `down` from the peer to `web`. */
  async beginInbound(order: Order): Promise<void> {
    await this.#peer('begin', { ...this.#web, order });
  }

  /** Connections from the peer to `web`, all open at once: how many were answered differently. */
  async gatherInbound(id: string, guests: number): Promise<number> {
    return (await this.#peer('gather', { ...this.#web, id, guests })).different;
  }

  async peerReached(id: string, condition: { bytes?: number; since?: number }): Promise<void> {
    await this.#peer('reached', { id, ...condition });
  }

  /** How a transfer went at the peer's end; waits for its end. */
  async peerResult(id: string): Promise<Result> {
    return await this.#peer('result', { id });
  }

  /** A visit to an address in the cluster, from the peer. */
  async visitFromPod(to: Errand, visit: Visit): Promise<Got> {
    return await this.#peer('visit', { ...to, ...visit });
  }

  async floodFromPod(to: Errand, count: number, atOnce: number): Promise<Record<string, number>> {
    return await this.#peer('flood', { ...to, count, atOnce });
  }

  /** Ends every transfer without a fixed size, at both ends. */
  async stop(): Promise<void> {
    this.transfers.stop();
    await this.#peer('stop', {});
  }

  /** The host's number of the process that a pod's container `app` runs: the cluster's pods are the machine's own processes. */
  async processOf(pod: string): Promise<number> {
    const { metadata } = await this.cluster.request('GET', `/api/v1/namespaces/${this.namespace}/pods/${pod}`);
    const uid = metadata.uid as string;
    const found = readdirSync('/proc').filter((name) => {
      if (!/^\d+$/.test(name)) return false;
      try {
        const inPod = readFileSync(`/proc/${name}/cgroup`, 'utf8').replaceAll('_', '-').includes(uid);
        return inPod && readFileSync(`/proc/${name}/cmdline`, 'utf8').startsWith('node\0');
      } catch {
        return false; // it has ended meanwhile
      }
    });
    if (found.length !== 1) throw new Error(`pod ${pod} has ${found.length} Node processes`);
    return Number(found[0]);
  }

  async apply(...objects: Json[]): Promise<void> {
    const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects.map((each) => conforming(each)) });
    await kubectl(['apply', '-n', this.namespace, '-f', '-'], { input });
  }

  /** `end`: ends what runs of lpk; all there is, unless scenes are side by side. */
  async close(end: () => void = endAll): Promise<void> {
    end();
    this.cluster.close();
    this.#local.close();
    await kubectl(['delete', 'namespace', this.namespace, '--wait=false', '--ignore-not-found']);
  }

  get #web(): Errand {
    return { host: `web.${this.namespace}`, port: WEB_PORT };
  }

  async #peer(operation: string, given: object): Promise<Json> {
    const path = `/api/v1/namespaces/${this.namespace}/services/peer:8080/proxy/${operation}`;
    return await this.cluster.request('POST', path, { body: given, timeoutMs: 300_000 });
  }

  async #objects(): Promise<Json[]> {
    const program = await bundleAgent(path.join(import.meta.dirname, 'peer.ts'));
    const peer = {
      name: 'app',
      image: 'node:24-alpine',
      command: ['node', '/code/peer.mjs'],
      readinessProbe: { httpGet: { path: '/', port: 8080 }, periodSeconds: 1, timeoutSeconds: 10 },
      volumeMounts: [{ name: 'code', mountPath: '/code' }],
    };
    const web = {
      name: 'app',
      image: 'busybox:1',
      command: ['sleep', '100000'],
      ports: [{ containerPort: CONTAINER_PORT }],
    };
    const volumes = [{ name: 'code', configMap: { name: 'peer' } }];
    return [
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'peer' }, data: { 'peer.mjs': program } },
      deployment('peer', { ...GRACE, containers: [peer], volumes }),
      deployment('web', { ...GRACE, containers: [web] }),
      service('peer', { 7000: 7000, 7001: 7001, 8080: 8080 }),
      service('web', { [WEB_PORT]: CONTAINER_PORT }),
    ];
  }
}

export type Connected = { lpk: Lpk; proxyPort: number; pod: string };

/** As Ctrl-C; the exit code. */
export async function leave({ lpk }: Connected): Promise<number | null> {
  lpk.signal('SIGINT');
  return (await lpk.exit()).code;
}

/** The first event of this name after the first `from` events. */
export async function eventAfter({ lpk }: Connected, from: number, name: string): Promise<LpkEvent> {
  return await lpk.until(`the event "${name}"`, () => lpk.events.slice(from).find(({ event }) => event === name));
}

/** What tells how the beginning of a session ended, however long after it was ready. */
const BEGINNING = new Set(['serving', 'self-test']);

/** All that lpk said after its first `from` events, but for what belongs to its beginning. */
export function saidSince({ lpk }: Pick<Connected, 'lpk'>, from: number): LpkEvent[] {
  return lpk.events.slice(from).filter(({ event, ok }) => !BEGINNING.has(event) || ok === false);
}

/** The most memory a process ever had resident, MiB: proc(5), VmHWM. */
export function peakMemoryMiB(pid: number): number {
  return Math.round(statusKiB(pid, 'VmHWM') / 1024);
}

/** Of what its memory is now: its own, or pages of files, of which the program's are not its doing. For a failure's message. */
export function memoryInWords(pid: number): string {
  const parts = ['RssAnon', 'RssFile', 'VmHWM'].map((name) => `${name} ${Math.round(statusKiB(pid, name) / 1024)}`);
  return `${parts.join(', ')} MiB`;
}

function statusKiB(pid: number, name: string): number {
  const kib = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  if (!kib) throw new Error(`process ${pid} has no ${name}`);
  return Number(kib);
}

function deployment(name: keyof typeof LABELS, spec: object): Json {
  const labels = LABELS[name];
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name },
    spec: { selector: { matchLabels: labels }, template: { metadata: { labels }, spec } },
  };
}

function service(name: keyof typeof LABELS, ports: Record<number, number>): Json {
  const list = Object.entries(ports).map(([port, targetPort]) => ({
    name: `p${port}`,
    port: Number(port),
    targetPort,
  }));
  return { apiVersion: 'v1', kind: 'Service', metadata: { name }, spec: { selector: LABELS[name], ports: list } };
}

const SUCCEEDED = 0;

/** A connection through the SOCKS door, as any SOCKS5 client with names makes it (RFC 1928). */
export async function connectSocks(proxyPort: number, host: string, port: number): Promise<net.Socket> {
  const socket = net.connect({ port: proxyPort, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
  const name = Buffer.from(host);
  socket.write(Buffer.of(5, 1, 0));
  await take(socket, 2);
  socket.write(Buffer.concat([Buffer.of(5, 1, 0, 3, name.length), name, Buffer.of(port >> 8, port & 255)]));
  const answer = await take(socket, 10);
  if (answer[1] !== SUCCEEDED) throw new Error(`the SOCKS door answered ${answer[1]} for ${host}:${port}`);
  return socket;
}

async function take(socket: net.Socket, bytes: number): Promise<Buffer> {
  for (;;) {
    const taken: Buffer | null = socket.read(bytes);
    if (taken) return taken;
    if (socket.readableEnded || socket.destroyed) throw new Error('the SOCKS door closed the connection');
    await Promise.race([once(socket, 'readable'), once(socket, 'end'), once(socket, 'close')]);
  }
}
