import { SESSION_ANNOTATION } from '../restore/record.ts';
import { LpkError } from '../wire/errors.ts';
import type { Cluster, Json } from './kube.ts';
import {
  apiVersionOf,
  assertServable,
  asWorkload,
  isUnknownKind,
  kindOf,
  listPath,
  picks,
  readWorkload,
  replicasOf,
  selectorString,
  servedOf,
  WORKLOAD_KINDS,
  type WorkloadKind,
  type WorkloadRef,
  workloadName,
  workloadRef,
} from './workload.ts';

/** From what a person names (a Service, a workload, a pod) to the workload and container behind it. */

export type TargetRef = { kind: 'service' | 'pod' | WorkloadKind; name: string };

export type ContainerPort = { name?: string; port: number; protocol: string };
/** `targetPort`: the number in the chosen container. */
export type ServicePort = { name?: string; port: number; targetPort: number; protocol: string };

/** As a list of pods takes it. */
export type PodQuery = { labelSelector?: string; fieldSelector?: string };

export type Target = WorkloadRef & {
  uid: string;
  /** The Service it was found by. */
  service?: string;
  container: string;
  containerPorts: ContainerPort[];
  /** Ports of the Service it was found by, else of all Services that pick its pods, that lead to the container. */
  servicePorts: ServicePort[];
  replicas: number;
  /** Only one of its pods is to be served, as was asked; never where there is only one. */
  one: boolean;
  hostNetwork: boolean;
  /** Picks its pods. */
  podQuery: PodQuery;
  /** It is a pod of lpk's own beside this workload's; see `heldTarget`. */
  beside?: WorkloadRef;
  /** As the API server gave it. */
  workload: Json;
};

const KINDS: Record<string, TargetRef['kind']> = {
  service: 'service',
  services: 'service',
  svc: 'service',
  deployment: 'deployment',
  deployments: 'deployment',
  deploy: 'deployment',
  statefulset: 'statefulset',
  statefulsets: 'statefulset',
  sts: 'statefulset',
  daemonset: 'daemonset',
  daemonsets: 'daemonset',
  ds: 'daemonset',
  replicaset: 'replicaset',
  replicasets: 'replicaset',
  rs: 'replicaset',
  rollout: 'rollout',
  rollouts: 'rollout',
  ro: 'rollout',
  pod: 'pod',
  pods: 'pod',
  po: 'pod',
};

/** Kinds that people may name, and why there is no place to take. */
const REFUSED: Record<string, string> = Object.fromEntries(
  ['job', 'jobs', 'cronjob', 'cronjobs', 'cj'].map((kind) => [kind, 'a Job’s pods do their work once and end']),
);
/** By its owner. */
const STATIC = { kind: 'Node', why: 'a static pod is its kubelet’s, made from a file on the node' };
const INSTEAD = 'run its program here with `lpk run -- COMMAND`';

/** RFC 1123 subdomain, as Kubernetes names are (the API server has the last word). */
const NAME = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;

/** `web`, `svc/web`, `deployment/web`, `sts/db`, `pod/web-0`… with kubectl's short names. LpkError `usage`, `unsupported-workload`. */
export function parseTarget(text: string): TargetRef {
  const parts = text.split('/');
  const [given, name] = parts.length === 1 ? ['service', text] : (parts as [string, string]);
  if (parts.length === 2 && Object.hasOwn(REFUSED, given.toLowerCase())) {
    throw new LpkError('unsupported-workload', `${text} can't be served: ${REFUSED[given.toLowerCase()]}; ${INSTEAD}`);
  }
  const kind = Object.hasOwn(KINDS, given.toLowerCase()) ? KINDS[given.toLowerCase()] : undefined;
  if (!kind || parts.length > 2) {
    const known = 'a Service, or service/, deployment/, statefulset/, daemonset/, replicaset/, rollout/ or pod/NAME';
    throw new LpkError('usage', `"${text}" names no target: give ${known}`);
  }
  if (!NAME.test(name)) throw new LpkError('usage', `"${text}" names no target: "${name}" is no Kubernetes name`);
  return { kind, name };
}

/**
 * Finds the workload and container behind `ref` in the cluster's namespace; changes nothing. LpkError: `not-found`,
 * `no-selector`, `no-workload`, `ambiguous-workload`, `ambiguous-container`, `unsupported-workload`, `no-replicas`, and what
 * requests throw.
 */
export async function findTarget(
  cluster: Cluster,
  ref: TargetRef,
  options: { container?: string; one?: boolean } = {},
): Promise<Target> {
  const { namespace } = cluster;
  const service = ref.kind === 'service' ? await readService(cluster, ref.name) : undefined;
  const { kind, workload } = await workloadBehind(cluster, ref, service);
  assertServable(kind, workload);
  const services = service ? [service] : await servicesOf(cluster, kind, workload);
  const name = workloadName({ kind, name: workload.metadata.name });
  const one = options.one === true && servedOf(kind, workload) > 1;
  if (one && kind === 'rollout') {
    throw new LpkError('unsupported-workload', `${name} is served whole: --replicas one is not for Argo Rollouts`);
  }
  const container = chooseContainer(name, workload, options.container, services);
  return {
    ...workloadRef(kind, namespace, workload.metadata.name),
    uid: workload.metadata.uid,
    ...(service ? { service: ref.name } : {}),
    container: container.name,
    containerPorts: containerPorts(container),
    servicePorts: services.flatMap((each) =>
      servicePorts(each, container, runningContainers(workload.spec.template.spec)),
    ),
    replicas: replicasOf(kind, workload),
    one,
    hostNetwork: workload.spec.template.spec.hostNetwork === true,
    podQuery:
      kind === 'pod'
        ? { fieldSelector: `metadata.name=${workload.metadata.name}` }
        : { labelSelector: selectorString(workload.spec.selector) },
    workload,
  };
}

/** The workload behind `ref`, fit to be served or not: to take a session out of it. LpkError as {@link findTarget}. */
export async function findWorkload(cluster: Cluster, ref: TargetRef): Promise<WorkloadRef> {
  const service = ref.kind === 'service' ? await readService(cluster, ref.name) : undefined;
  const { kind, workload } = await workloadBehind(cluster, ref, service);
  return workloadRef(kind, cluster.namespace, workload.metadata.name);
}

type Found = { kind: WorkloadKind; workload: Json };

async function workloadBehind(cluster: Cluster, ref: TargetRef, service: Json | undefined): Promise<Found> {
  if (service) return await behindService(cluster, service);
  if (ref.kind === 'pod') return await behindPod(cluster, ref.name);
  const kind = ref.kind as WorkloadKind;
  const workload = await orNotFound(readWorkload(cluster, workloadRef(kind, cluster.namespace, ref.name)), async () => {
    const all = await cluster.request('GET', listPath(kind, cluster.namespace)).catch((error: unknown) => {
      if (!isUnknownKind(kind, error)) throw error;
    });
    if (!all) return `this cluster has no Argo Rollouts (${apiVersionOf(kind)})`;
    return missing(cluster, `no ${kind}`, ref.name, names(all));
  });
  if (kind !== 'replicaset' || !controllerOf(workload)) return { kind, workload };
  return await ofOwners(cluster, `replicaset ${ref.name} is`, await ownerOf(cluster, workload));
}

async function readService(cluster: Cluster, name: string): Promise<Json> {
  const list = `/api/v1/namespaces/${cluster.namespace}/services`;
  const service = await orNotFound(cluster.request('GET', `${list}/${name}`), async () => {
    const services = names(await cluster.request('GET', list));
    const same: string[] = [];
    for (const kind of WORKLOAD_KINDS) {
      if (names(await cluster.request('GET', listPath(kind, cluster.namespace))).includes(name))
        same.push(`${kind}/${name}`);
    }
    if (same.length === 0) return missing(cluster, 'no Service', name, services);
    return `there is no Service "${name}" in namespace ${cluster.namespace}; there is ${same.join(' and ')}`;
  });
  if (service.spec.type === 'ExternalName') {
    const { externalName } = service.spec;
    throw new LpkError(
      'no-selector',
      `Service ${name} is only another name for ${externalName}: there is no pod behind it`,
    );
  }
  if (Object.keys(service.spec.selector ?? {}).length === 0) {
    throw new LpkError(
      'no-selector',
      `Service ${name} has no selector: it leads to addresses set by hand, not to a workload`,
    );
  }
  return service;
}

async function behindService(cluster: Cluster, service: Json): Promise<Found> {
  const { name } = service.metadata;
  const matching: Found[] = [];
  const refused: string[] = [];
  for (const kind of [...WORKLOAD_KINDS, 'rollout'] as const) {
    // Who may not list one kind can still use the others.
    const list = await cluster.request('GET', listPath(kind, cluster.namespace)).catch((error: unknown) => {
      if (isUnknownKind(kind, error)) return;
      if (!(error instanceof LpkError) || error.code !== 'forbidden') throw error;
      // Rollouts are then found by their pods.
      if (kind !== 'rollout') refused.push(`${kind}s.apps`);
    });
    for (const workload of (list?.items ?? []) as Json[]) {
      const template = workload.spec.template ?? templateReferred(workload, matching);
      if (template && picks(service, kind, template)) matching.push({ kind, workload });
    }
  }
  const [only, ...others] = matching;
  if (only && others.length === 0) return only;
  if (only) {
    const all = matching.map(({ kind, workload }) => `${kind}/${workload.metadata.name}`);
    throw ambiguous(name, all);
  }
  if (refused.length > 0) {
    const lacking = `user "${cluster.user}" lacks rights in namespace ${cluster.namespace} to find what is behind`;
    throw new LpkError('forbidden', `${lacking} Service ${name}: list ${refused.join(', ')}`);
  }
  return await behindPodsOf(cluster, name, service.spec.selector);
}

/** A Rollout may have its template from a Deployment, beside whose pods its own are. */
function templateReferred({ spec: { workloadRef } }: Json, among: Found[]): Json {
  return among.find(({ workload }) => workload.metadata.name === workloadRef?.name)?.workload.spec.template;
}

function ambiguous(service: string, all: string[]): LpkError {
  const several = `Service ${service} leads to several workloads: ${all.join(', ')}; name one of them`;
  return new LpkError('ambiguous-workload', several);
}

/** Behind a Service that fits no template: what its pods belong to. */
async function behindPodsOf(cluster: Cluster, service: string, selector: Record<string, string>): Promise<Found> {
  const labelSelector = selectorString({ matchLabels: selector });
  const list = await cluster.request('GET', podsPath(cluster), { query: { labelSelector } });
  const pods = (list.items as Json[]).filter(({ metadata }) => !metadata.deletionTimestamp);
  if (pods.length === 0) {
    throw new LpkError('no-workload', `Service ${service} has no workload and no pods (selector ${labelSelector})`);
  }
  // One pod of each controller speaks for all.
  const byController = new Map(pods.map((pod) => [controllerOf(pod)?.uid ?? pod.metadata.uid, pod]));
  const owners = await Promise.all(
    [...byController.values()].map(async (pod) => ({ pod, owner: await ownerOf(cluster, pod) })),
  );
  const named = ({ pod, owner }: (typeof owners)[number]) => {
    const last = owner.at(-1);
    if (!last) return `pod/${pod.metadata.name}`;
    const kind = kindOf(last);
    return kind && workloadName({ kind, name: last.name });
  };
  const servable = owners.filter(named);
  const all = new Set(servable.map(named) as string[]);
  if (all.size > 1) throw ambiguous(service, [...all].toSorted());
  const { pod, owner } = (servable[0] ?? owners[0]) as (typeof owners)[number];
  return await ofPod(cluster, pod, `Service ${service} leads to pod ${pod.metadata.name}, which is`, owner);
}

async function behindPod(cluster: Cluster, name: string): Promise<Found> {
  const list = podsPath(cluster);
  const pod = await orNotFound(cluster.request('GET', `${list}/${name}`), async () =>
    missing(cluster, 'no pod', name, names(await cluster.request('GET', list))),
  );
  return await ofPod(cluster, pod, `pod ${name} is`, await ownerOf(cluster, pod));
}

function podsPath({ namespace }: Cluster): string {
  return `/api/v1/namespaces/${namespace}/pods`;
}

/** What a pod is of; itself when it is bare, or a session holds it and not what it is of. */
async function ofPod(cluster: Cluster, pod: Json, what: string, owner: Owner[]): Promise<Found> {
  const itself = owner.length === 0 || pod.metadata.annotations?.[SESSION_ANNOTATION] !== undefined;
  return itself ? { kind: 'pod', workload: asWorkload(pod) } : await ofOwners(cluster, what, owner);
}

/** The last of a chain of controllers, if lpk serves its kind. `what`: "pod web-0 is". LpkError `unsupported-workload`. */
async function ofOwners(cluster: Cluster, what: string, owner: Owner[]): Promise<Found> {
  const last = owner.at(-1);
  const kind = kindOf(last);
  if (!kind) throw new LpkError('unsupported-workload', `${what} not of a kind lpk can serve: ${belonging(owner)}`);
  return { kind, workload: await readWorkload(cluster, workloadRef(kind, cluster.namespace, last?.name as string)) };
}

type Owner = { apiVersion: string; kind: string; name: string; uid: string };

/** The chain of controllers above a pod or ReplicaSet, nearest first. */
async function ownerOf(cluster: Cluster, object: Json): Promise<Owner[]> {
  const chain: Owner[] = [];
  let owner = controllerOf(object);
  while (owner && chain.length < 4) {
    chain.push(owner);
    if (owner.kind !== 'ReplicaSet' || owner.apiVersion !== 'apps/v1') break;
    const path = `/apis/apps/v1/namespaces/${cluster.namespace}/replicasets/${owner.name}`;
    // Without the right to read ReplicaSets the chain ends here, and the message says as much as we know.
    const replicaSet = await cluster.request('GET', path).catch(() => undefined);
    owner = replicaSet && controllerOf(replicaSet);
  }
  return chain;
}

function controllerOf(object: Json): Owner | undefined {
  return ((object.metadata.ownerReferences ?? []) as (Owner & { controller?: boolean })[]).find(
    (each) => each.controller,
  );
}

function belonging(owner: Owner[]): string {
  const chain = owner.map(
    ({ kind, name, apiVersion }) => `${kind} ${name}${apiVersion.includes('.') ? ` (${apiVersion})` : ''}`,
  );
  const kind = owner.at(-1)?.kind ?? '';
  const why = kind === STATIC.kind ? STATIC.why : REFUSED[kind.toLowerCase()];
  const supported = 'lpk serves Deployments, StatefulSets, DaemonSets, ReplicaSets, Argo Rollouts and bare pods';
  return `it belongs to ${chain.join(' of ')}; ${why ? `${why}; ${INSTEAD}` : supported}`;
}

/** Services of the namespace that pick the workload's pods; none when they may not be listed. */
async function servicesOf(cluster: Cluster, kind: WorkloadKind, workload: Json): Promise<Json[]> {
  const path = `/api/v1/namespaces/${cluster.namespace}/services`;
  const list = await cluster.request('GET', path).catch((error: unknown) => {
    if (!(error instanceof LpkError) || error.code !== 'forbidden') throw error;
  });
  return ((list?.items ?? []) as Json[]).filter((service) => picks(service, kind, workload.spec.template));
}

/** The container to swap: as asked, else the only one, else the one that has a Service's target port. `of`: for messages. */
export function chooseContainer(of: string, workload: Json, asked: string | undefined, services: Json[]): Json {
  const containers = workload.spec.template.spec.containers as Json[];
  const all = containers.map((each) => each.name).join(', ');
  if (asked) {
    const container = containers.find((each) => each.name === asked);
    if (container) return container;
    throw new LpkError('not-found', `${of} has no container "${asked}"; it has ${all}`);
  }
  if (containers.length === 1) return containers[0];
  const wanted = services.flatMap((each) => each.spec.ports ?? []) as Json[];
  const serving = containers.filter((container) =>
    wanted.some((port) => (container.ports ?? []).some((own: Json) => leadsTo(port, own))),
  );
  if (serving.length === 1) return serving[0];
  throw new LpkError('ambiguous-container', `${of} has several containers: ${all}; choose one with --container`);
}

/** Does a Service's port lead to a container's? By number or by name (`targetPort`, which is `port` when absent). */
function leadsTo(servicePort: Json, containerPort: Json): boolean {
  if ((servicePort.protocol ?? 'TCP') !== (containerPort.protocol ?? 'TCP')) return false;
  const target = servicePort.targetPort ?? servicePort.port;
  return typeof target === 'number' ? containerPort.containerPort === target : containerPort.name === target;
}

function containerPorts(container: Json): ContainerPort[] {
  return ((container.ports ?? []) as Json[]).map((own) => ({
    ...(own.name ? { name: own.name } : {}),
    port: own.containerPort,
    protocol: own.protocol ?? 'TCP',
  }));
}

/** The containers that run while a pod does: native sidecars (init containers that are restarted for ever) too. */
export function runningContainers({ containers, initContainers = [] }: Json): Json[] {
  return [...containers, ...(initContainers as Json[]).filter(({ restartPolicy }) => restartPolicy === 'Always')];
}

/** A Service's ports as the container has them; those that another of the pod's containers has are left out. */
export function servicePorts(service: Json, container: Json, containers: Json[]): ServicePort[] {
  return ((service.spec.ports ?? []) as Json[]).flatMap((port) => {
    const target = port.targetPort ?? port.port;
    const leadsInto = (each: Json) => ((each.ports ?? []) as Json[]).find((own) => leadsTo(port, own));
    const own = leadsInto(container);
    // Declaring a port is optional, so a number that nobody declares may be this container's.
    if (!own && (typeof target !== 'number' || containers.some(leadsInto))) return [];
    const number: number = own?.containerPort ?? target;
    const name = port.name ? { name: port.name } : {};
    return [{ ...name, port: port.port, targetPort: number, protocol: port.protocol ?? 'TCP' }];
  });
}

function names(list: Json): string[] {
  return (list.items as Json[]).map((item) => item.metadata.name);
}

/** The object, or `not-found` in words of our own; `explain` may be refused, then the API server's words stay. */
async function orNotFound(reading: Promise<Json>, explain: () => Promise<string>): Promise<Json> {
  try {
    return await reading;
  } catch (error) {
    if (!(error instanceof LpkError) || error.code !== 'not-found') throw error;
    const message = await explain().catch(() => error.message);
    throw new LpkError('not-found', message, { cause: error.cause });
  }
}

function missing({ namespace }: Cluster, what: string, name: string, there: string[]): string {
  const alike = similarNames(name, there);
  const instead =
    alike.length > 0 ? `; there is ${alike.join(', ')}` : there.length === 0 ? ', nor any other of its kind' : '';
  return `there is ${what} "${name}" in namespace ${namespace}${instead}`;
}

/** At most three of `there` that a person may have meant by `name`, the nearest first. */
export function similarNames(name: string, there: string[]): string[] {
  const scored = there.map((other) => {
    const contained = other.includes(name) || name.includes(other);
    return { other, distance: contained ? 1 : editDistance(name, other) };
  });
  const near = scored.filter(({ distance }) => distance <= Math.max(1, Math.floor(name.length / 3)));
  near.sort((a, b) => a.distance - b.distance || a.other.localeCompare(b.other));
  return near.slice(0, 3).map(({ other }) => other);
}

/** Levenshtein: inserted, deleted and replaced letters between two names. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[b.length] as number;
}
