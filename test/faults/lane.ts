import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { Json } from '../../agent/deploy/kube.ts';
import { waitRollout } from '../../agent/deploy/rollout.ts';
import { workloadRef } from '../../agent/deploy/workload.ts';
import { revisionsOnLease } from '../../agent/restore/lease.ts';
import { SESSION_ANNOTATION } from '../../agent/restore/record.ts';
import { kubectlOutput } from '../cluster/cluster.ts';
import { Lpk } from '../e2e/lpk.ts';
import { Scene } from '../e2e/scene.ts';
import { eventually } from '../e2e/shop.ts';
import { apiServer, type Relay, relayKubeconfig, startRelay } from '../relay.ts';
import { asDeveloper } from './developer.ts';
import { Streams } from './streams.ts';

/** What a process that is about to end may take for it on a busy machine. */
const ENDING_MS = 10_000;

/**
 * Where one run of a row takes place: a namespace with the workload `web`, the rest of the cluster, and a laptop of its own that
 * reaches the API server through a relay. Used for one run after the other; what a failed one leaves goes with it.
 */
export class Lane {
  readonly scene: Scene;
  readonly relay: Relay;
  /** The laptop's: its way leads through the relay. */
  readonly kubeconfig: string;
  /** What `web` is. */
  readonly kind: LaneKind;
  readonly #dir: string;
  readonly #all: Lpk[] = [];
  #marks = 0;
  #before: Json;

  private constructor(scene: Scene, kind: LaneKind, relay: Relay, dir: string, before: Json) {
    this.scene = scene;
    this.kind = kind;
    this.relay = relay;
    this.kubeconfig = path.join(dir, 'kubeconfig');
    this.#dir = dir;
    this.#before = before;
  }

  static async open(kind: LaneKind): Promise<Lane> {
    const scene = await Scene.open('faults');
    const before = kind === 'statefulset' ? await makeStatefulSet(scene) : await workloadOf(scene, kind);
    const dir = mkdtempSync(path.join(tmpdir(), 'lpk-faults-'));
    const relay = await startRelay({ target: await apiServer(scene.kubeconfig), oneWayMs: 0 });
    const kubeconfig = path.join(dir, 'kubeconfig');
    await relayKubeconfig(scene.kubeconfig, relay.port, kubeconfig);
    await asDeveloper(scene, kubeconfig);
    const lane = new Lane(scene, kind, relay, dir, before);
    open.add(lane);
    return lane;
  }

  async close(): Promise<void> {
    open.delete(this);
    await this.relay.close();
    await this.scene.close(() => {
      for (const pid of processesWith(this.#dir)) process.kill(pid, 'SIGKILL');
    });
    rmSync(this.#dir, { recursive: true });
  }

  get web() {
    return workloadRef(this.kind, this.scene.namespace, 'web');
  }

  /** The laptop’s disk, as far as lpk uses it. */
  get env(): NodeJS.ProcessEnv {
    return { XDG_STATE_HOME: this.#dir, XDG_RUNTIME_DIR: this.#dir };
  }

  /** All that lpk said since the last time that nothing was left, for a failure's message. */
  get said(): string {
    return this.#all.join('\n');
  }

  /** Name of a file that is not there yet, for a process to say that something happened. */
  mark(): string {
    return path.join(this.#dir, `mark-${this.#marks++}`);
  }

  lpk(args: string[], around?: (command: string[]) => string[]): Lpk {
    const [verb = '', ...rest] = args;
    const where = ['-n', this.scene.namespace, '--kubeconfig', this.kubeconfig];
    const lpk = new Lpk([verb, ...where, ...rest], { env: this.env, ...(around ? { around } : {}) });
    this.#all.push(lpk);
    return lpk;
  }

  /** lpk that takes the place of `web`, as it is begun. */
  begin(args: string[] = [], around?: (command: string[]) => string[], localPort = this.scene.localPort): Lpk {
    const ports = `${localPort}:8080`;
    return this.lpk(['connect', `${this.kind}/web`, '-p', ports, ...args], around);
  }

  /** A session under way, with its restorer watching and connections open in both directions. */
  async connect(args: string[] = [], around?: (command: string[]) => string[]): Promise<Session> {
    const lpk = this.begin(args, around);
    const { proxyPort, pods } = await lpk.event('ready');
    const { session: id } = await lpk.event('swap', ({ state }) => state === 'done');
    const session = { lpk, id: id as string, pod: pods[0] as string, proxyPort: proxyPort as number };
    await this.scene.reach();
    if (!args.includes('--no-restorer')) await this.watched(session.id);
    return { ...session, streams: await Streams.begin(this.scene, session.proxyPort) };
  }

  /** Until the session’s restorer watches. */
  async watched(id: string): Promise<void> {
    await eventually('the restorer watches', async () => {
      const lease = await this.#get(`/apis/coordination.k8s.io/v1/namespaces/${this.scene.namespace}/leases/lpk-${id}`);
      return lease?.metadata.annotations?.['lpk.dev/watching-since'] !== undefined;
    });
  }

  /** Until the restorer was told of so many revisions of the workload with the agent: one more with each edit of the template. */
  async restorerKnows(id: string, revisions: number): Promise<void> {
    await eventually(`the restorer knows ${revisions} revisions`, async () => {
      const lease = await this.#get(`/apis/coordination.k8s.io/v1/namespaces/${this.scene.namespace}/leases/lpk-${id}`);
      return lease !== undefined && revisionsOnLease(lease).length >= revisions;
    });
  }

  /** Whether a session got as far as having a restorer that will end it. */
  async hasRestorer(): Promise<boolean> {
    const { items } = await this.scene.cluster.request('GET', this.#path('/apis/apps/v1', 'deployments'));
    return (items as Json[]).some(({ metadata }) => metadata.name.startsWith('lpk-'));
  }

  /**
   * Starts the session's restorer again with a fail point (fail-point.ts), and waits until it runs. @returns a promise of what it
   * says until its first container ends, or nobody hears it any more.
   */
  async failRestorer(id: string, program: string, point: string): Promise<{ said: Promise<string> }> {
    const name = `lpk-${id}`;
    const text = readFileSync(program, 'utf8');
    await this.scene.apply({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'fail-point' },
      data: { 'fail-point.ts': text },
    });
    const at = '/spec/template/spec';
    const env = {
      NODE_OPTIONS: '--import /fail-point/fail-point.ts',
      LPK_FAIL_POINT: point,
      LPK_FAILED: '/failed/once',
    };
    const ops = [
      ...Object.entries(env).map(([key, value]) => ({ path: `${at}/containers/0/env/-`, value: { name: key, value } })),
      { path: `${at}/volumes/-`, value: { name: 'fail-point', configMap: { name: 'fail-point' } } },
      { path: `${at}/volumes/-`, value: { name: 'failed', emptyDir: {} } },
      { path: `${at}/containers/0/volumeMounts/-`, value: { name: 'fail-point', mountPath: '/fail-point' } },
      { path: `${at}/containers/0/volumeMounts/-`, value: { name: 'failed', mountPath: '/failed' } },
    ];
    const restorer = workloadRef('deployment', this.scene.namespace, name);
    await this.scene.cluster.request('PATCH', restorer.apiPath, {
      body: ops.map((op) => ({ op: 'add', ...op })),
      contentType: 'application/json-patch+json',
    });
    await waitRollout(this.scene.cluster, restorer, { signal: AbortSignal.timeout(PATIENCE_MS) });
    const [pod] = (await this.podsOf(id)).filter(({ metadata }) => !metadata.deletionTimestamp);
    return { said: kubectlOutput(['logs', '--follow', pod.metadata.name, '-n', this.scene.namespace]) };
  }

  async workload(): Promise<Json> {
    return await this.#get(this.web.apiPath);
  }

  /** `web` and all that is a session’s: pods, Secrets, Leases, … of the namespace by the session's label. */
  async podsOf(id: string): Promise<Json[]> {
    const query = { labelSelector: `lpk.dev/session=${id}` };
    return (await this.scene.cluster.request('GET', this.#path('/api/v1', 'pods'), { query })).items;
  }

  /** The workload's pods that are to stay. */
  async webPods(): Promise<Json[]> {
    const query = { labelSelector: 'app=web' };
    const { items } = await this.scene.cluster.request('GET', this.#path('/api/v1', 'pods'), { query });
    return (items as Json[]).filter(({ metadata }) => !metadata.deletionTimestamp);
  }

  async deletePod(name: string): Promise<void> {
    await this.scene.cluster.request('DELETE', this.#path('/api/v1', `pods/${name}`));
  }

  /** What somebody else does to `web`. */
  async edit(ops: Json[]): Promise<void> {
    const contentType = 'application/json-patch+json';
    await this.scene.cluster.request('PATCH', this.web.apiPath, { body: ops, contentType });
  }

  async delete(): Promise<void> {
    await this.scene.cluster.request('DELETE', this.web.apiPath, { query: { propagationPolicy: 'Background' } });
  }

  /** From now on nobody may write Deployments here. @returns what takes that back. */
  async refuseWrites(): Promise<() => Promise<void>> {
    const { namespace, cluster } = this.scene;
    const path = '/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic';
    const metadata = { name: namespace };
    const policy = {
      failurePolicy: 'Fail',
      matchConstraints: {
        namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': namespace } },
        resourceRules: [
          { apiGroups: ['apps'], apiVersions: ['v1'], operations: ['UPDATE'], resources: ['deployments'] },
        ],
      },
      validations: [{ expression: 'false', message: 'nobody writes here for now' }],
    };
    const binding = { policyName: namespace, validationActions: ['Deny'] };
    await cluster.request('POST', `${path}ies`, { body: { metadata, spec: policy } });
    await cluster.request('POST', `${path}ybindings`, { body: { metadata, spec: binding } });
    const probe = { body: {}, contentType: 'application/merge-patch+json', query: { dryRun: 'All' } };
    const refused = () =>
      cluster.request('PATCH', this.web.apiPath, probe).then(
        () => false,
        () => true,
      );
    await eventually('the policy counts', refused);
    return async () => {
      await cluster.request('DELETE', `${path}ybindings/${namespace}`);
      await cluster.request('DELETE', `${path}ies/${namespace}`);
    };
  }

  /** Until `web` is as it was before the first session, but for `changed`, and its pods run. */
  async restored(changed: (spec: Json) => void = () => {}): Promise<void> {
    const { spec, metadata } = structuredClone(this.#before);
    changed(spec);
    await eventually('the workload is as it was', async () => {
      const now = await this.workload();
      if (!now || ((now.metadata.managedFields ?? []) as Json[]).some(({ manager }) => manager === 'lpk')) return false;
      return isDeepStrictEqual(now.spec, spec) && isDeepStrictEqual(annotations(now), annotations({ metadata }));
    });
    await waitRollout(this.scene.cluster, this.web, { signal: AbortSignal.timeout(PATIENCE_MS) });
  }

  /** Until nothing of lpk is in the namespace, nor on the laptop once one more command of lpk's has run there. */
  async nothingLeft(): Promise<void> {
    await this.#untilLeft([]);
    const status = this.lpk(['status']);
    const { code } = await status.exit();
    const listed = status.events.filter(({ event }) => event === 'session');
    if (code !== 0 || listed.length > 0) throw new Error(`expected no session; ${status}`);
    const files = existsSync(path.join(this.#dir, 'lpk')) ? readdirSync(path.join(this.#dir, 'lpk'), LIST) : [];
    const kept = files.filter((each) => each.isFile()).map(({ name }) => name);
    if (kept.length > 0) throw new Error(`left on the laptop: ${kept.join(', ')}`);
    let running: number[] = [];
    const ended = async () => {
      running = processesWith(this.#dir);
      return running.length === 0;
    };
    await eventually('nothing runs on the laptop', ended, { withinMs: ENDING_MS }).catch(() => {
      throw new Error(`still running on the laptop: ${running.join(', ')}`);
    });
    this.#all.length = 0;
  }

  /** As `nothingLeft`, when the restorer could not know the agent's revision: the next `lpk restore` takes that away. */
  async nothingLeftButHistory(): Promise<void> {
    await this.#untilLeft(['replicasets', 'controllerrevisions']);
    await this.lpk(['restore', '--all']).exit();
    await this.nothingLeft();
  }

  /** Until nothing is left in the cluster but what is of these resources. */
  async #untilLeft(resources: string[]): Promise<void> {
    let found: string[] = [];
    const nothing = async () => {
      found = (await this.#left()).filter((each) => !resources.includes(each.split('/')[0] as string));
      return found.length === 0;
    };
    await eventually('nothing is left', nothing).catch(() => {
      throw new Error(`left in the cluster: ${found.join(', ')}`);
    });
  }

  /** `web` as it was before the first run, whatever others made of it. */
  async reset(): Promise<void> {
    const { spec, metadata } = this.#before;
    const now = await this.workload();
    const { name, labels } = metadata;
    const body = { apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name, ...(labels ? { labels } : {}) }, spec };
    if (now) await this.scene.cluster.request('PUT', this.web.apiPath, { body });
    else {
      const path = this.web.apiPath.slice(0, this.web.apiPath.lastIndexOf('/'));
      await this.scene.cluster.request('POST', path, { body });
    }
    await waitRollout(this.scene.cluster, this.web, { signal: AbortSignal.timeout(PATIENCE_MS) });
    this.#before = await this.workload();
  }

  async #left(): Promise<string[]> {
    const found: string[] = [];
    for (const [group, resources] of RESOURCES) {
      for (const resource of resources) {
        const { items } = await this.scene.cluster.request('GET', this.#path(group, resource));
        for (const item of items as Json[]) {
          const { name, labels = {}, ownerReferences = [] } = item.metadata;
          const ours = name.startsWith('lpk-') || labels['lpk.dev/session'] !== undefined;
          const agents =
            HOLD_PODS.has(resource) && ownerReferences.length > 0 && JSON.stringify(item).includes('lpk-agent');
          if (ours || agents) found.push(`${resource}/${name}`);
        }
      }
    }
    const web = await this.workload();
    if (web?.metadata.annotations?.[SESSION_ANNOTATION]) found.push('the workload’s annotation');
    return found;
  }

  #path(group: string, resource: string): string {
    return `${group}/namespaces/${this.scene.namespace}/${resource}`;
  }

  async #get(path: string): Promise<Json | undefined> {
    return await this.scene.cluster.request('GET', path).catch((error: { code?: string }) => {
      if (error.code !== 'not-found') throw error;
    });
  }
}

const open = new Set<Lane>();

/** When all is to end at once. */
export async function closeLanes(): Promise<void> {
  await Promise.allSettled([...open].map((lane) => lane.close()));
}

export type LaneKind = 'deployment' | 'statefulset';

export type Session = { lpk: Lpk; id: string; pod: string; proxyPort: number; streams: Streams };

const PATIENCE_MS = 120_000;
const LIST = { recursive: true, withFileTypes: true } as const;
const HOLD_PODS = new Set(['pods', 'replicasets', 'controllerrevisions']);
const RESOURCES: [group: string, resources: string[]][] = [
  ['/api/v1', ['pods', 'configmaps', 'secrets', 'serviceaccounts']],
  ['/apis/apps/v1', ['deployments', 'replicasets', 'controllerrevisions']],
  ['/apis/coordination.k8s.io/v1', ['leases']],
  ['/apis/rbac.authorization.k8s.io/v1', ['roles', 'rolebindings']],
];

async function workloadOf(scene: Scene, kind: LaneKind): Promise<Json> {
  return await scene.cluster.request('GET', workloadRef(kind, scene.namespace, 'web').apiPath);
}

/** In the Deployment's place, with its pods' template. */
async function makeStatefulSet(scene: Scene): Promise<Json> {
  const { spec } = await workloadOf(scene, 'deployment');
  const { apiPath } = workloadRef('deployment', scene.namespace, 'web');
  await scene.cluster.request('DELETE', apiPath, { query: { propagationPolicy: 'Foreground' } });
  const { replicas, selector, template } = spec;
  const ref = workloadRef('statefulset', scene.namespace, 'web');
  await scene.apply({
    ...{ apiVersion: 'apps/v1', kind: 'StatefulSet', metadata: { name: 'web' } },
    spec: { replicas, selector, template, serviceName: 'web' },
  });
  await waitRollout(scene.cluster, ref, { signal: AbortSignal.timeout(PATIENCE_MS) });
  return await workloadOf(scene, 'statefulset');
}

/** Without what counts rollouts. */
function annotations({ metadata }: Json): Json {
  const { 'deployment.kubernetes.io/revision': _, ...others } = metadata.annotations ?? {};
  return others;
}

/** Processes of a laptop, by the folder of their own that their environment names. */
function processesWith(folder: string): number[] {
  const found = readdirSync('/proc').filter((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      return readFileSync(`/proc/${name}/environ`, 'utf8').includes(`XDG_STATE_HOME=${folder}\0`);
    } catch {
      return false; // it has ended meanwhile
    }
  });
  return found.map(Number);
}
