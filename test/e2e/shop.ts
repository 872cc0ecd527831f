import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { type Cluster, type Json, openCluster } from '../../agent/deploy/kube.ts';
import { waitRollout } from '../../agent/deploy/rollout.ts';
import { type WorkloadKind, workloadRef } from '../../agent/deploy/workload.ts';
import { clusterUp, kubectl } from '../cluster/cluster.ts';
import { Lpk } from './lpk.ts';

/** A namespace of the real cluster with workloads in it, and a pod that calls others, as a cluster's own programs would. */

const PATIENCE_MS = 60_000;
const POLL_MS = 50;

/** What came of a pod's call. `connected` with an error: taken, then broken off. */
export type Answer = { received: Buffer; error?: undefined } | { received?: undefined; error: string; connected: boolean };

export type Call = {
  host: string;
  port: number;
  send?: Buffer | string;
  /** When the caller speaks and half-closes: at once, or when the other end has finished. */
  speaks?: 'first' | 'last';
};

/** Connects, says its piece, half-closes, and tells what it got until the other end closed. */
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
  const speak = () => socket.end(Buffer.from(send, 'base64'));
  socket.setTimeout(5000, () => socket.destroy(Object.assign(new Error(), { code: 'HANGS' })));
  socket.on('connect', () => { connected = true; if (speaks === 'first') speak(); });
  socket.on('data', (chunk) => received.push(chunk));
  socket.on('end', () => { if (speaks === 'last') speak(); });
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

  private constructor(namespace: string, kubeconfig: string, cluster: Cluster) {
    this.namespace = namespace;
    this.kubeconfig = kubeconfig;
    this.cluster = cluster;
  }

  /** A new namespace. */
  static async open(name: string): Promise<Shop> {
    const { kubeconfig } = await clusterUp();
    const namespace = `con-${name}-${randomBytes(3).toString('hex')}`;
    const cluster = await openCluster({ kubeconfig, namespace });
    await cluster.request('POST', '/api/v1/namespaces', { body: { metadata: { name: namespace } } });
    return new Shop(namespace, kubeconfig, cluster);
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
    return [verb, '-n', this.namespace, ...(args.includes('--kubeconfig') ? [] : ['--kubeconfig', this.kubeconfig]), ...args];
  }

  /** Creates the objects and waits until the workloads among them run. */
  async deploy(...objects: Json[]): Promise<void> {
    await Promise.all(objects.map((object) => this.cluster.request('POST', this.#listPath(object), { body: object })));
    await Promise.all(objects.filter(({ apiVersion }) => apiVersion === 'apps/v1').map((each) => this.rollout(nameOf(each))));
  }

  #listPath({ apiVersion, kind }: Json): string {
    const base = apiVersion === 'v1' ? '/api/v1' : `/apis/${apiVersion}`;
    return `${base}/namespaces/${this.namespace}/${kind.toLowerCase()}s`;
  }

  /** Creates the pod that `call` speaks through, and waits for it. */
  async deployCaller(): Promise<void> {
    const container = { name: 'caller', image: 'node:24-alpine', command: ['node', '--input-type=module', '-e', CALLER] };
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

  /** Until all pods are of the present template, ready, and the others gone from the count. */
  async rollout(name: string): Promise<void> {
    await waitRollout(this.cluster, this.#ref(name), { signal: AbortSignal.timeout(PATIENCE_MS) });
  }

  /** Everything in the namespace that still names lpk, the workload's own metadata and its history included. */
  async leftOf(name: string): Promise<string[]> {
    const left: string[] = [];
    const ofApp = { labelSelector: `app=${name.split('/')[1]}` };
    const lists: [string, Record<string, string>?][] = [
      ['/api/v1/', { labelSelector: 'app.kubernetes.io/managed-by=lpk' }],
    ].flatMap(() => []);
    void lists;
    for (const resource of ['configmaps', 'secrets']) {
      for (const { metadata } of (await this.get(resource)).items as Json[]) {
        const ours = metadata.ownerReferences?.some((owner: Json) => owner.name === name.split('/')[1]);
        if (ours && metadata.name.startsWith('lpk-')) left.push(`${resource}/${metadata.name}`);
      }
    }
    for (const { metadata, spec } of (await this.get('pods', ofApp)).items as Json[]) {
      if (JSON.stringify(spec).includes('lpk')) left.push(`pods/${metadata.name}`);
    }
    const workload = await this.workload(name).catch(() => undefined);
    if (JSON.stringify(workload ?? '').includes('lpk')) left.push(`${name}: ${whereIs('lpk', workload).join(', ')}`);
    return left;
  }

  #ref(name: string) {
    const [kind, bare] = name.split('/') as [WorkloadKind, string];
    return workloadRef(kind, this.namespace, bare);
  }
}
