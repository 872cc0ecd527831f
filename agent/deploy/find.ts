import { LpkError } from '../wire/errors.ts';
import type { Cluster, Json } from './kube.ts';
import {
  assertServable,
  listPath,
  readWorkload,
  replicasOf,
  selectorString,
  selects,
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

export type Target = WorkloadRef & {
  uid: string;
  /** The Service it was found by. */
  service?: string;
  container: string;
  containerPorts: ContainerPort[];
  /** Ports of the Service it was found by, else of all Services that pick its pods, that lead to the container. */
  servicePorts: ServicePort[];
  replicas: number;
  hostNetwork: boolean;
  /** Picks its pods, as `labelSelector=` takes it. */
  selector: string;
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
  pod: 'pod',
  pods: 'pod',
  po: 'pod',
};

/** RFC 1123 subdomain, as Kubernetes names are (the API server has the last word). */
const NAME = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;

/** `web`, `svc/web`, `deployment/web`, `sts/db`, `pod/web-0`… with kubectl's short names. LpkError `usage`. */
export function parseTarget(text: string): TargetRef {
  const parts = text.split('/');
  const [given, name] = parts.length === 1 ? ['service', text] : (parts as [string, string]);
  const kind = Object.hasOwn(KINDS, given.toLowerCase()) ? KINDS[given.toLowerCase()] : undefined;
  if (!kind || parts.length > 2) {
    const known = 'a Service, or service/, deployment/, statefulset/, daemonset/ or pod/NAME';
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
  options: { container?: string } = {},
): Promise<Target> {
  const { namespace } = cluster;
  const service = ref.kind === 'service' ? await readService(cluster, ref.name) : undefined;
  const { kind, workload } = await workloadBehind(cluster, ref, service);
  assertServable(kind, workload);
  const services = service ? [service] : await servicesOf(cluster, workload);
  const name = workloadName({ kind, name: workload.metadata.name });
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
    hostNetwork: workload.spec.template.spec.hostNetwork === true,
    selector: selectorString(workload.spec.selector),
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
    const all = await cluster.request('GET', listPath(kind, cluster.namespace));
    return missing(cluster, `no ${kind}`, ref.name, names(all));
  });
  return { kind, workload };
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
  const selector = service.spec.selector as Record<string, string>;
  const matching: Found[] = [];
  const refused: string[] = [];
  for (const kind of WORKLOAD_KINDS) {
    // Who may not list one kind can still use the others.
    const list = await cluster.request('GET', listPath(kind, cluster.namespace)).catch((error: unknown) => {
      if (!(error instanceof LpkError) || error.code !== 'forbidden') throw error;
      refused.push(`${kind}s.apps`);
    });
    for (const workload of (list?.items ?? []) as Json[]) {
      if (selects(selector, workload.spec.template.metadata?.labels)) matching.push({ kind, workload });
    }
  }
  const [only, ...others] = matching;
  if (only && others.length === 0) return only;
  if (only) {
    const all = matching.map(({ kind, workload }) => `${kind}/${workload.metadata.name}`);
    throw new LpkError(
      'ambiguous-workload',
      `Service ${name} leads to several workloads: ${all.join(', ')}; name one of them`,
    );
  }
  if (refused.length > 0) {
    const lacking = `user "${cluster.user}" lacks rights in namespace ${cluster.namespace} to find what is behind`;
    throw new LpkError('forbidden', `${lacking} Service ${name}: list ${refused.join(', ')}`);
  }
  throw await nothingBehind(cluster, name, selector);
}

/** Why no workload is behind a Service: what else its pods belong to. */
async function nothingBehind(cluster: Cluster, service: string, selector: Record<string, string>): Promise<LpkError> {
  const labelSelector = selectorString({ matchLabels: selector });
  const pods = await cluster.request('GET', `/api/v1/namespaces/${cluster.namespace}/pods`, {
    query: { labelSelector },
  });
  const pod = (pods.items as Json[]).find((each) => !each.metadata.deletionTimestamp);
  if (!pod)
    return new LpkError('no-workload', `Service ${service} has no workload and no pods (selector ${labelSelector})`);
  const owner = await ownerOf(cluster, pod);
  return new LpkError(
    'unsupported-workload',
    `Service ${service} leads to pod ${pod.metadata.name}, ${belonging(owner)}`,
  );
}

async function behindPod(cluster: Cluster, name: string): Promise<Found> {
  const list = `/api/v1/namespaces/${cluster.namespace}/pods`;
  const pod = await orNotFound(cluster.request('GET', `${list}/${name}`), async () =>
    missing(cluster, 'no pod', name, names(await cluster.request('GET', list))),
  );
  const owner = await ownerOf(cluster, pod);
  const kind = WORKLOAD_KINDS.find((each) => each === owner.at(-1)?.kind.toLowerCase());
  if (!kind || owner.at(-1)?.apiVersion !== 'apps/v1') {
    throw new LpkError('unsupported-workload', `pod ${name} is not of a workload lpk can serve: ${belonging(owner)}`);
  }
  const ref = workloadRef(kind, cluster.namespace, owner.at(-1)?.name as string);
  return { kind, workload: await readWorkload(cluster, ref) };
}

type Owner = { apiVersion: string; kind: string; name: string };

/** The chain of controllers above a pod, nearest first. */
async function ownerOf(cluster: Cluster, pod: Json): Promise<Owner[]> {
  const chain: Owner[] = [];
  let owner = controllerOf(pod);
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
  const supported = 'lpk serves Deployments, StatefulSets and DaemonSets';
  if (owner.length === 0) return `a bare pod, which no controller would bring back; ${supported}`;
  const chain = owner.map(
    ({ kind, name, apiVersion }) => `${kind} ${name}${apiVersion.includes('.') ? ` (${apiVersion})` : ''}`,
  );
  return `which belongs to ${chain.join(' of ')}; ${supported}`;
}

/** Services of the namespace that pick the workload's pods; none when they may not be listed. */
async function servicesOf(cluster: Cluster, workload: Json): Promise<Json[]> {
  const path = `/api/v1/namespaces/${cluster.namespace}/services`;
  const list = await cluster.request('GET', path).catch((error: unknown) => {
    if (!(error instanceof LpkError) || error.code !== 'forbidden') throw error;
  });
  const labels = workload.spec.template.metadata?.labels;
  return ((list?.items ?? []) as Json[]).filter(
    ({ spec }) => Object.keys(spec.selector ?? {}).length > 0 && selects(spec.selector, labels),
  );
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
