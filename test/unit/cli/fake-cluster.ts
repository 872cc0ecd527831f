import type { Cluster, Json, RequestOptions } from '../../../agent/deploy/kube.ts';
import { planSwap } from '../../../agent/deploy/swap.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import { applyPatch, mergePatch } from '../deploy/workloads.ts';

/** As an object that `owner` owns names it. */
export function ownerReference({ apiVersion, kind, metadata: { name, uid } }: Json): Json {
  return { apiVersion, kind, name, uid };
}

/** The objects of a cluster by API path, and as much of an API server as a restore needs. */
export class FakeCluster {
  readonly objects = new Map<string, Json>();
  /** Requests that are refused, by `METHOD path`. */
  readonly refused = new Set<string>();
  /** Those that get no answer. */
  readonly failing = new Set<string>();
  /** Rights that the user has not: `delete secrets in shop`, `patch deployments/web in shop`. */
  readonly lacking = new Set<string>();
  /** Called when somebody begins to watch a workload. */
  onFollow = () => {};
  /** Called when somebody reads a Lease. */
  onLease = (_lease: Json) => {};
  namespace = 'shop';
  /** Its clock. */
  nowMs = Date.parse('2026-11-24T12:00:00Z');

  deployment(name: string, namespace = 'shop'): Json {
    const workload = {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name, namespace, uid: `uid-${namespace}-${name}`, resourceVersion: '1', generation: 1 },
      spec: {
        replicas: 1,
        selector: { matchLabels: { app: name } },
        template: {
          metadata: { labels: { app: name } },
          spec: { containers: [{ name, image: `${name}:1`, ports: [{ containerPort: 80 }] }] },
        },
      },
      status: { observedGeneration: 9, replicas: 1, updatedReplicas: 1, availableReplicas: 1 },
    };
    this.objects.set(`/apis/apps/v1/namespaces/${namespace}/deployments/${name}`, workload);
    return workload;
  }

  /** Makes `name` a session of `owner`, with its ConfigMap and Secret. */
  hold(name: string, session: { id: string; owner: string; host: string; namespace?: string }): void {
    const namespace = session.namespace ?? 'shop';
    const path = `/apis/apps/v1/namespaces/${namespace}/deployments/${name}`;
    const { id, owner, host } = session;
    const agent = { session: id, image: 'node:24-alpine', probePort: 47602, servedPorts: [80] };
    const holder = { id, owner, host, since: '2026-11-24T10:00:00.000Z' };
    const workload = this.objects.get(path);
    this.objects.set(path, applyPatch(workload, planSwap(workload, name, agent, holder).ops));
    this.leave(id, { namespace, createdAt: holder.since, owner: workload });
  }

  /** Objects of a session that no workload knows. */
  leave(id: string, left: { namespace?: string; createdAt: string; owner?: Json }): void {
    const { namespace = 'shop', createdAt, owner } = left;
    for (const resource of ['configmaps', 'secrets']) {
      this.objects.set(`/api/v1/namespaces/${namespace}/${resource}/lpk-${id}`, {
        metadata: {
          name: `lpk-${id}`,
          namespace,
          creationTimestamp: createdAt,
          ...(owner && { ownerReferences: [ownerReference(owner)] }),
          labels: { 'app.kubernetes.io/managed-by': 'lpk', 'lpk.dev/session': id },
        },
      });
    }
  }

  /** The session of a pod itself, which is there or not; `manifest`: what a bare one was. */
  holdPod(
    name: string,
    session: { id: string; owner: string; host: string },
    more: { manifest?: Json; beside?: string },
  ) {
    const { manifest, beside } = more;
    const { id } = session;
    this.leave(id, { createdAt: '2026-11-24T10:00:00.000Z' });
    const configMap = this.objects.get(`/api/v1/namespaces/shop/configmaps/lpk-${id}`);
    const record = {
      v: 1,
      ...session,
      since: '2026-11-24T10:00:00.000Z',
      container: 'app',
      changed: [],
      pod: name,
      beside,
    };
    configMap.metadata.annotations = { 'lpk.dev/pod': JSON.stringify(record) };
    if (manifest) configMap.data = { 'pod.json': JSON.stringify({ uid: 'uid-before', manifest }) };
  }

  lease(id: string, given: { holderIdentity: string; createdAt: string; namespace?: string }): void {
    const { holderIdentity, createdAt, namespace = 'shop' } = given;
    const labels = { 'app.kubernetes.io/managed-by': 'lpk', 'lpk.dev/session': id };
    this.objects.set(`/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/lpk-${id}`, {
      metadata: { name: `lpk-${id}`, namespace, creationTimestamp: createdAt, labels },
      spec: { holderIdentity, renewTime: createdAt, leaseDurationSeconds: 45 },
    });
  }

  /** Everything there is, as JSON that can be compared; versions aside. */
  get state(): Record<string, Json> {
    return Object.fromEntries(
      [...this.objects].toSorted().map(([path, { metadata, ...rest }]) => {
        const { resourceVersion: _, ...others } = metadata;
        return [path, { metadata: others, ...rest }];
      }),
    );
  }

  get cluster(): Cluster {
    return {
      context: 'test',
      server: 'https://test',
      namespace: this.namespace,
      user: 'me',
      request: async (method, path, options) => structuredClone(this.#answer(method, path, options)),
      follow: (path, { query }) => this.#follow(path, String(query?.fieldSelector).replace('metadata.name=', '')),
      tlsOptions: () => Promise.reject(new Error('not in this test')),
      nowMs: () => this.nowMs,
      close() {},
    };
  }

  async *#follow(path: string, name: string): AsyncGenerator<Map<string, Json>> {
    if (this.refused.has(`FOLLOW ${path}`)) throw new LpkError('forbidden', `may not FOLLOW ${path}`);
    this.onFollow();
    const workload = this.objects.get(`${path}/${name}`);
    yield new Map([[workload.metadata.uid, workload]]);
  }

  #answer(method: string, path: string, options: RequestOptions = {}): Json {
    if (path.endsWith('/selfsubjectaccessreviews')) return this.#review((options.body as Json).spec.resourceAttributes);
    if (this.refused.has(`${method} ${path}`)) throw new LpkError('forbidden', `may not ${method} ${path}`);
    if (this.failing.has(`${method} ${path}`)) throw new LpkError('cluster-unreachable', `no answer to ${path}`);
    const object = this.objects.get(path);
    if (method === 'GET' && /(s|configmaps|secrets)$/.test(path) && !object) {
      const list = this.#list(path);
      // As an API server has it.
      const partial = options.accept?.includes('PartialObjectMetadataList');
      return partial && list.items.length === 0 ? { ...list, items: null } : list;
    }
    if (method === 'POST') {
      const { metadata } = options.body as Json;
      const made = { ...(options.body as Json), metadata: { ...metadata, uid: `uid-made-${metadata.name}` } };
      this.objects.set(`${path}/${metadata.name}`, made);
      return made;
    }
    if (!object) throw new LpkError('not-found', `${path} not found`);
    if (method === 'GET' && path.includes('/leases/')) this.onLease(object);
    if (method === 'DELETE') this.objects.delete(path);
    if (method === 'PATCH')
      this.objects.set(path, (Array.isArray(options.body) ? applyPatch : mergePatch)(object, options.body as Json));
    return this.objects.get(path);
  }

  #review({ namespace, verb, resource, name }: Json): Json {
    const right = `${verb} ${resource}${name ? `/${name}` : ''} in ${namespace}`;
    return { status: { allowed: !this.lacking.has(right) } };
  }

  /** `/api/v1/namespaces/NS/RESOURCE`, or `/api/v1/RESOURCE` for all namespaces. */
  #list(path: string): Json {
    const [, base, namespace, resource] = /^(.*\/v1[^/]*)(?:\/namespaces\/([^/]+))?\/([^/]+)$/.exec(
      path,
    ) as RegExpExecArray;
    const items = [...this.objects].filter(([at]) => {
      const within = at.startsWith(`${base}/namespaces/${namespace ?? ''}`) && at.split('/').at(-2) === resource;
      return within && (!namespace || at.includes(`/namespaces/${namespace}/`));
    });
    return { metadata: { resourceVersion: '1' }, items: items.map(([, object]) => object) };
  }
}
