import { randomBytes, randomInt } from 'node:crypto';
import net from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { type Cluster, type Json, openCluster } from '../../agent/deploy/kube.ts';
import { waitRollout } from '../../agent/deploy/rollout.ts';
import { type WorkloadKind, workloadRef } from '../../agent/deploy/workload.ts';
import { clusterUp, kubectl } from '../cluster/cluster.ts';
import { Lpk } from './lpk.ts';
import { conforming, createNamespace, type Strictness } from './namespace.ts';

/** A namespace of the real cluster with workloads in it, and a pod that calls others, as a cluster's own programs would. */

/** For a whole rollout on a busy machine: `waitRollout` itself gives up after 180 s, and says what it waited for. */
const PATIENCE_MS = 240_000;
/** Of what a session makes; first what owns the others. */
const SESSION_RESOURCES = [
  '/apis/coordination.k8s.io/v1/leases',
  '/api/v1/configmaps',
  '/api/v1/secrets',
  '/api/v1/serviceaccounts',
  '/apis/rbac.authorization.k8s.io/v1/roles',
  '/apis/rbac.authorization.k8s.io/v1/rolebindings',
  '/apis/apps/v1/deployments',
];
const POLL_MS = 50;

/** What came of a pod's call. `connected` with an error: taken, then broken off. */
export type Answer =
  | { received: Buffer; error?: undefined }
  | { received?: undefined; error: string; connected: boolean };

export type Call = {
  host: string;
  port: number;
  send?: Buffer | string;
  /** `first`: speaks and half-closes at once. `last`: when the other end has finished. `only`: at once, and never closes. */
  speaks?: 'first' | 'last' | 'only';
};

/** Connects, says its piece, and tells what it got until the other end closed. */
const CALLER = `
import http from 'node:http';
import net from 'node:net';
http.createServer(async (request, response) => {
  let body = '';
  for await (const chunk of request) body += chunk;
  const { host, port, send, speaks } = JSON.parse(body);
  const answer = (told) => response.writableEnded || response.setHeader('content-type', 'application/json').end(JSON.stringify(told));
  const socket = net.connect({ host, port, allowHalfOpen: true });
  const received = [];
  let connected = false;
  const piece = Buffer.from(send, 'base64');
  socket.setTimeout(5000, () => socket.destroy(Object.assign(new Error(), { code: 'HANGS' })));
  socket.on('connect', () => {
    connected = true;
    if (speaks === 'first') socket.end(piece);
    if (speaks === 'only') socket.write(piece);
  });
  socket.on('data', (chunk) => received.push(chunk));
  socket.on('end', () => socket.end(speaks === 'last' ? piece : undefined));
  socket.on('error', (error) => answer({ error: error.code, connected }));
  socket.on('close', () => answer({ received: Buffer.concat(received).toString('base64') }));
}).listen(8080);
process.on('SIGTERM', () => process.exit(0));
`;

/** Answers HTTP with who it is, on $PORT, and ends at once when told to. Whatever PATH says. */
const SERVER = `/bin/mkdir -p /tmp/www
echo "$ROLE in pod $HOSTNAME" > /tmp/www/index.html
trap 'exit 0' TERM
/bin/httpd -f -p $PORT -h /tmp/www & wait`;

export class Shop {
  readonly namespace: string;
  readonly kubeconfig: string;
  readonly cluster: Cluster;

  #strictness: Strictness;

  private constructor(namespace: string, kubeconfig: string, cluster: Cluster, strictness: Strictness) {
    this.#strictness = strictness;
    this.namespace = namespace;
    this.kubeconfig = kubeconfig;
    this.cluster = cluster;
  }

  /** A new namespace; see namespace.ts. */
  static async open(name: string, strictness: Strictness = {}): Promise<Shop> {
    const { kubeconfig } = await clusterUp();
    const namespace = `con-${name}-${randomBytes(3).toString('hex')}`;
    const cluster = await openCluster({ kubeconfig, namespace });
    await createNamespace(cluster, namespace, strictness);
    return new Shop(namespace, kubeconfig, cluster, strictness);
  }

  async close(): Promise<void> {
    await kubectl(['delete', 'namespace', this.namespace, '--wait=false']);
    this.cluster.close();
  }

  /** lpk with this cluster and namespace: `lpk('connect', 'web', '--', 'npm', 'start')`. */
  lpk(verb: string, ...args: string[]): Lpk {
    return new Lpk(this.args(verb, ...args));
  }

  args(verb: string, ...args: string[]): string[] {
    return [
      verb,
      '-n',
      this.namespace,
      ...(args.includes('--kubeconfig') ? [] : ['--kubeconfig', this.kubeconfig]),
      ...args,
    ];
  }

  /** Creates the objects and waits until the workloads among them run. */
  async deploy(...objects: Json[]): Promise<void> {
    await this.create(...objects);
    await Promise.all(
      objects.filter(({ apiVersion }) => apiVersion === 'apps/v1').map((each) => this.rollout(nameOf(each))),
    );
  }

  /** As the namespace wants them (namespace.ts). */
  async create(...objects: Json[]): Promise<void> {
    await Promise.all(
      objects.map((object) =>
        this.cluster.request('POST', this.#listPath(object), {
          body: conforming(object, this.#strictness),
          query: { fieldManager: 'shop' },
        }),
      ),
    );
  }

  #listPath({ apiVersion, kind }: Json): string {
    const base = apiVersion === 'v1' ? '/api/v1' : `/apis/${apiVersion}`;
    return `${base}/namespaces/${this.namespace}/${kind.toLowerCase()}s`;
  }

  /** Creates the pod that `call` speaks through, and waits for it. */
  async deployCaller(): Promise<void> {
    const container = {
      name: 'caller',
      image: 'node:24-alpine',
      command: ['node', '--input-type=module', '-e', CALLER],
    };
    const probe = { tcpSocket: { port: 8080 }, periodSeconds: 1 };
    await this.deploy({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'caller' },
      spec: { terminationGracePeriodSeconds: 1, containers: [{ ...container, readinessProbe: probe }] },
    });
    await eventually('the caller is ready', async () => {
      const { status } = await this.get('pods/caller');
      return status.conditions?.some(({ type, status: is }: Json) => type === 'Ready' && is === 'True');
    });
  }

  /** A pod's call over TCP. */
  async call({ host, port, send = '', speaks = 'first' }: Call): Promise<Answer> {
    const url = `/api/v1/namespaces/${this.namespace}/pods/caller:8080/proxy/`;
    const body = { host, port, send: Buffer.from(send).toString('base64'), speaks };
    const { received, error, connected } = await this.cluster.request('POST', url, { body });
    return error ? { error, connected } : { received: Buffer.from(received, 'base64') };
  }

  /** A pod's call over HTTP: the whole answer. */
  async callHttp(host: string, port: number, headers: Record<string, string> = {}): Promise<Answer> {
    const lines = Object.entries({ Host: host, Connection: 'close', ...headers }).map(
      ([name, value]) => `${name}: ${value}\r\n`,
    );
    return await this.call({ host, port, send: `GET / HTTP/1.1\r\n${lines.join('')}\r\n`, speaks: 'only' });
  }

  /** `pods/caller`, `services/web`, `configmaps`… */
  async get(what: string, query?: Record<string, string>): Promise<Json> {
    return await this.cluster.request('GET', `/api/v1/namespaces/${this.namespace}/${what}`, { query });
  }

  async workload(name: string): Promise<Json> {
    return await this.cluster.request('GET', this.#ref(name).apiPath);
  }

  /** The spec as JSON, byte for byte as the API server gives it. */
  async specOf(name: string): Promise<string> {
    return JSON.stringify((await this.workload(name)).spec);
  }

  async pods(name: string): Promise<Json[]> {
    const { items } = await this.get('pods', { labelSelector: `app=${name.split('/')[1]}` });
    return (items as Json[]).filter(({ metadata }) => !metadata.deletionTimestamp);
  }

  async patch(name: string, ops: Json[]): Promise<void> {
    const contentType = 'application/json-patch+json';
    await this.cluster.request('PATCH', this.#ref(name).apiPath, { body: ops, contentType });
  }

  async delete(name: string): Promise<void> {
    await this.cluster.request('DELETE', this.#ref(name).apiPath, { query: { propagationPolicy: 'Background' } });
  }

  async deletePod(name: string): Promise<void> {
    await this.cluster.request('DELETE', `/api/v1/namespaces/${this.namespace}/pods/${name}`);
  }

  /** Until all pods are of the present template, ready, and the others gone from the count. */
  async rollout(name: string): Promise<void> {
    await waitRollout(this.cluster, this.#ref(name), { signal: AbortSignal.timeout(PATIENCE_MS) });
  }

  /** What a session makes: objects that the workload owns, or its Lease does, and what names lpk in the workload itself. */
  async objectsOf(name: string): Promise<string[]> {
    const found: string[] = [];
    const owners = [this.#ref(name).name];
    for (const resource of SESSION_RESOURCES) {
      const path = `${resource.slice(0, resource.lastIndexOf('/'))}/namespaces/${this.namespace}`;
      const plural = resource.slice(resource.lastIndexOf('/') + 1);
      for (const { metadata } of (await this.cluster.request('GET', `${path}/${plural}`)).items as Json[]) {
        if (!metadata.ownerReferences?.some((owner: Json) => owners.includes(owner.name))) continue;
        found.push(`${plural}/${metadata.name}`);
        if (plural === 'leases') owners.push(metadata.name);
      }
    }
    const [mention] = JSON.stringify(await this.workload(name).catch(() => '')).match(/.{0,60}lpk.{0,60}/) ?? [];
    return mention ? [...found, `${name}: ${mention}`] : found;
  }

  /** What is left of a session once its rollout is over: nothing, the workload's history included; pods on their way out don't count. */
  async leftOf(name: string): Promise<string[]> {
    const { kind, name: app } = this.#ref(name);
    const revisions = kind === 'deployment' || kind === 'rollout' ? 'replicasets' : 'controllerrevisions';
    const history = `/apis/apps/v1/namespaces/${this.namespace}/${revisions}`;
    const { items } =
      kind === 'replicaset'
        ? { items: [] }
        : await this.cluster.request('GET', history, { query: { labelSelector: `app=${app}` } });
    const agents = [...(await this.pods(name)), ...(items as Json[])].filter((each) =>
      JSON.stringify(each).includes('lpk'),
    );
    return [...(await this.objectsOf(name)), ...agents.map(({ metadata }) => `a pod or revision: ${metadata.name}`)];
  }

  #ref(name: string) {
    const [kind, bare] = name.split('/') as [WorkloadKind, string];
    return workloadRef(kind, this.namespace, bare);
  }
}

function nameOf({ kind, metadata }: Json): string {
  return `${kind.toLowerCase()}/${metadata.name}`;
}

type Shape = { container?: object; pod?: object; spec?: object; env?: Record<string, string>; sidecar?: object };

/** One that answers HTTP on the port that `env.PORT` says (8080), labelled `app: NAME`, with whatever is given put over it. */
export function workload(
  kind: 'Deployment' | 'StatefulSet' | 'DaemonSet' | 'ReplicaSet',
  name: string,
  given: Shape = {},
): Json {
  const { container, pod, spec, env, sidecar } = given;
  const port = Number(env?.PORT ?? 8080);
  const all = Object.entries({ ROLE: name, PORT: `${port}`, ...env }).map(([key, value]) => ({ name: key, value }));
  const app = {
    name: 'app',
    image: 'busybox:1',
    command: ['/bin/sh', '-c', SERVER],
    env: all,
    ports: [{ name: 'http', containerPort: port }],
    readinessProbe: { httpGet: { path: '/', port: 'http' }, periodSeconds: 1 },
    livenessProbe: { httpGet: { path: '/', port: 'http' }, initialDelaySeconds: 5 },
    ...container,
  };
  return {
    apiVersion: 'apps/v1',
    kind,
    metadata: { name },
    spec: {
      selector: { matchLabels: { app: name } },
      template: {
        metadata: { labels: { app: name } },
        spec: { terminationGracePeriodSeconds: 1, containers: sidecar ? [app, sidecar] : [app], ...pod },
      },
      ...(kind === 'StatefulSet' ? { serviceName: name } : {}),
      ...spec,
    },
  };
}

/** A second container that answers HTTP on this port. */
export function sidecar(name: string, port: number): object {
  const env = [
    { name: 'ROLE', value: name },
    { name: 'PORT', value: `${port}` },
  ];
  return { name, image: 'busybox:1', command: ['/bin/sh', '-c', SERVER], env, ports: [{ containerPort: port }] };
}

/** Port to the same port of the pods labelled `app: NAME`, unless `spec` says otherwise. */
export function service(name: string, ports: (number | [number, number])[], spec: object = {}): Json {
  const all = ports.map((each) => (typeof each === 'number' ? [each, each] : each) as [number, number]);
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name },
    spec: {
      selector: { app: name },
      ports: all.map(([port, targetPort]) => ({ name: `p${port}`, port, targetPort })),
      ...spec,
    },
  };
}

/** Waits for a condition that nothing announces, by asking again. */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | undefined | false>,
  { withinMs = PATIENCE_MS } = {},
): Promise<T> {
  const until = performance.now() + withinMs;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (performance.now() > until) throw new Error(`expected within ${withinMs / 1_000} s: ${what}`);
    await pause(POLL_MS);
  }
}

const givenPorts = new Set<number>();

/** A port that nobody listens at. It is used only later, so it is none of those that the kernel gives to whoever connects meanwhile. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(10_240, 30_000);
    if (givenPorts.has(port)) continue;
    givenPorts.add(port);
    const listener = await listen(port, () => {}).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EADDRINUSE') throw error;
    });
    if (!listener) continue;
    await listener.close();
    return port;
  }
}

export type Listener = { port: number; close(): Promise<void> };

/** A program on the laptop that serves a port. */
export async function listen(port: number, serve: (socket: net.Socket) => void): Promise<Listener> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket)).on('error', () => {});
    serve(socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(port, '127.0.0.1', resolve);
  });
  return {
    port: (server.address() as net.AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

/** Reads to the end, then answers: shows that an end is passed on alone, and that every byte came. */
export function answering(answer: (received: Buffer) => Buffer): (socket: net.Socket) => void {
  return (socket) => {
    const pieces: Buffer[] = [];
    socket.on('data', (piece: Buffer) => pieces.push(piece));
    socket.on('end', () => socket.end(answer(Buffer.concat(pieces))));
  };
}
