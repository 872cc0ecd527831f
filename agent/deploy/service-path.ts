import { LpkError } from '../wire/errors.ts';
import { type ServicePort, servicePorts, type Target } from './find.ts';
import type { Cluster, Json } from './kube.ts';
import { picks, replicasOf, selectorString, selects, servedOf, workloadName } from './workload.ts';

/** The way of a call through a Service into the container, hop by hop, and which hop it fails at. */

export type Hop = 'selector' | 'port' | 'listener' | 'readiness' | 'policy' | 'mesh' | 'network';

/** Which hop fails and why, and what to do about it; a sentence each, without its end. */
export type Finding = { hop: Hop; message: string; remedy: string };

/** `host` and `port`: what a pod calls; `proxy`: the same by the API server's `services/proxy`, as a path. */
export type ServicePath = {
  service: string;
  servicePort: number;
  host: string;
  port: number;
  podPort: number;
  selector: Record<string, string>;
  proxy: string;
};

const SIDECARS = ['istio-proxy', 'linkerd-proxy', 'kuma-sidecar', 'consul-dataplane', 'envoy-sidecar'];
const WHEN_READY = 'see the pod’s conditions with kubectl describe; calls arrive once it is ready';
/** As many names as a line holds. */
const MAX_NAMED = 4;

/**
 * The TCP ports of Services that lead to `served` ports of the target's container: of the Service it was found by, else of all that pick
 * its pods. `findings`: why there are none, or fewer. LpkError: `forbidden` (Services may not be read), and what requests throw.
 */
export async function servicePaths(
  cluster: Cluster,
  target: Target,
  served: number[],
): Promise<{ paths: ServicePath[]; findings: Finding[] }> {
  const list = `/api/v1/namespaces/${target.namespace}/services`;
  const all: Json[] = target.service
    ? [await cluster.request('GET', `${list}/${target.service}`)]
    : (await cluster.request('GET', list)).items;
  return pathsOf(all, target, served);
}

export function pathsOf(
  services: Json[],
  target: Pick<Target, 'kind' | 'namespace' | 'name' | 'container' | 'workload'>,
  served: number[],
): { paths: ServicePath[]; findings: Finding[] } {
  const name = workloadName(target);
  const template = target.workload.spec.template ?? target.workload; // a bare pod is its own
  const { metadata = {}, spec } = template;
  const leading = services.filter((service) => picks(service, target.kind, template));
  if (leading.length === 0) return { paths: [], findings: [noService(services, name, metadata.labels ?? {})] };

  const paths: ServicePath[] = [];
  const findings: Finding[] = [];
  const elsewhere: string[] = [];
  for (const service of leading) {
    const container = (spec.containers as Json[]).find((each) => each.name === target.container);
    for (const port of ((service.spec.ports ?? []) as Json[]).filter(({ protocol = 'TCP' }) => protocol === 'TCP')) {
      const where = `Service ${service.metadata.name} port ${port.port}`;
      const [found] = servicePorts({ spec: { ports: [port] } }, container, spec.containers);
      if (!found && typeof port.targetPort === 'string' && !isNamed(port.targetPort, spec.containers)) {
        const known = portNames(spec.containers).join(', ') || 'none has a name';
        findings.push({
          hop: 'port',
          message: `${where} leads to a port named "${port.targetPort}", which no container of ${name} has (${known})`,
          remedy: 'correct the targetPort of the Service, or the name of the container’s port',
        });
      } else if (found && !served.includes(found.targetPort)) {
        elsewhere.push(`${where} leads to the container’s port ${found.targetPort}`);
      } else if (found) paths.push(pathOf(service, found, target.namespace));
    }
  }
  if (paths.length === 0 && elsewhere.length > 0) {
    findings.push({
      hop: 'port',
      message: `${elsewhere.slice(0, MAX_NAMED).join(', ')}; served here: ${served.join(', ') || 'none'}`,
      remedy: 'map that port with -p PORT:CONTAINER_PORT, or correct the targetPort of the Service',
    });
  }
  return { paths, findings };
}

function pathOf({ metadata, spec }: Json, { port, targetPort }: ServicePort, namespace: string): ServicePath {
  const headless = !spec.clusterIP || spec.clusterIP === 'None';
  return {
    service: metadata.name,
    servicePort: port,
    // By its address, as a pod may have a resolver that doesn't know the cluster's names; a headless Service is nothing but
    // a name, and the port is the pod's own.
    host: headless ? `${metadata.name}.${namespace}` : spec.clusterIP,
    port: headless ? targetPort : port,
    podPort: targetPort,
    selector: spec.selector,
    proxy: `/api/v1/namespaces/${namespace}/services/${metadata.name}:${port}/proxy`,
  };
}

/** What a person may have meant: a Service of the workload's name, or one that shares a label with its pods. */
function noService(services: Json[], name: string, labels: Record<string, string>): Finding {
  const near = services.filter(({ metadata, spec }) => {
    const selector = Object.entries(spec.selector ?? {});
    const shares = selector.some(([key, value]) => labels[key] === value);
    return selector.length > 0 && (shares || name.endsWith(`/${metadata.name}`));
  });
  const meant = near.map(
    ({ metadata, spec }) => `Service ${metadata.name} picks ${selectorString({ matchLabels: spec.selector })}`,
  );
  const own = selectorString({ matchLabels: labels });
  return {
    hop: 'selector',
    message: `no Service leads to ${name} (its pods have ${own})${meant.length > 0 ? `; ${meant.slice(0, MAX_NAMED).join(', ')}` : ''}`,
    remedy: meant.length > 0 ? 'correct the selector of the Service' : 'only calls to the pod itself arrive here',
  };
}

/**
 * Whether part of a Service's calls, or all, goes to ready pods that are not `ours`: another workload's, or the pods of before.
 * LpkError: what requests throw.
 */
export async function sharedWith(
  cluster: Cluster,
  target: Pick<Target, 'kind' | 'namespace' | 'workload' | 'one'>,
  path: ServicePath,
  ours: string[],
): Promise<Finding | undefined> {
  const query = { labelSelector: selectorString({ matchLabels: path.selector }) };
  const { items } = await cluster.request('GET', `/api/v1/namespaces/${target.namespace}/pods`, { query });
  const found = othersAmong(items, target.workload.spec.selector, path, ours);
  // Where others are to stay, calls go to them as well.
  return found?.hop === 'readiness' && isPartial(target) ? undefined : found;
}

function isPartial({ kind, workload, one }: Pick<Target, 'kind' | 'workload' | 'one'>): boolean {
  return one || servedOf(kind, workload) < replicasOf(kind, workload);
}

/** `selector`: of the workload; a bare pod has none. */
export function othersAmong(
  pods: Json[],
  selector: Json | undefined,
  path: ServicePath,
  ours: string[],
): Finding | undefined {
  const others = pods.filter(
    (pod) => !pod.metadata.deletionTimestamp && isReady(pod) && !ours.includes(pod.metadata.name),
  );
  const named = (list: Json[]) =>
    list
      .map(({ metadata }) => metadata.name)
      .slice(0, MAX_NAMED)
      .join(', ') + (list.length > MAX_NAMED ? ', …' : '');
  const strangers = others.filter(({ metadata }) => !selector || !matches(selector, metadata.labels ?? {}));
  if (strangers.length > 0) {
    return {
      hop: 'selector',
      message: `Service ${path.service} leads to pods of another workload, too: ${named(strangers)}`,
      remedy: 'part of the calls goes to them; make the selector of the Service narrower',
    };
  }
  if (others.length === 0) return undefined;
  const unready = pods.find((pod) => ours.includes(pod.metadata.name) && !isReady(pod));
  return {
    hop: 'readiness',
    message: `Service ${path.service} still leads to the pods of before: ${named(others)}${unready ? `; ${whyUnready(unready)}` : ''}`,
    remedy: WHEN_READY,
  };
}

/** What is known of a path that fails; undefined: it could not be looked at. */
export type Seen = {
  /** Pods that run this session's agent, whole. */
  pods: Json[];
  endpointSlices: Json[] | undefined;
  networkPolicies: Json[] | undefined;
};

/** Reads what {@link failedHop} looks at. What the user may not read is `notSeen`, by resource. */
export async function lookAlong(
  cluster: Cluster,
  namespace: string,
  path: ServicePath,
  ours: string[],
): Promise<Seen & { notSeen: string[] }> {
  const notSeen: string[] = [];
  const list = async (resource: string, labelSelector?: string): Promise<Json[] | undefined> => {
    const at = resource.indexOf('/') < 0 ? `/api/v1/namespaces/${namespace}/${resource}` : resource;
    try {
      return (await cluster.request('GET', at, { query: { labelSelector } })).items;
    } catch (error) {
      if (!(error instanceof LpkError)) throw error;
      notSeen.push(at.split('/').at(-1) as string);
      return undefined;
    }
  };
  const [pods, endpointSlices, networkPolicies] = await Promise.all([
    list('pods', selectorString({ matchLabels: path.selector })),
    list(
      `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`,
      `kubernetes.io/service-name=${path.service}`,
    ),
    list(`/apis/networking.k8s.io/v1/namespaces/${namespace}/networkpolicies`),
  ]);
  const own = (pods ?? []).filter(({ metadata }) => ours.includes(metadata.name));
  return { pods: own, endpointSlices, networkPolicies, notSeen };
}

/** Which hop of `path` a call failed at, by what is `seen` there and how it failed. */
export function failedHop(path: ServicePath, seen: Seen, failure: LpkError): Finding {
  const where = `Service ${path.service} port ${path.servicePort}`;
  return (
    (seen.endpointSlices && endpointHop(path, where, seen.endpointSlices, seen.pods)) ?? wayHop(where, seen, failure)
  );
}

function endpointHop(path: ServicePath, where: string, slices: Json[], pods: Json[]): Finding | undefined {
  const names = pods.map(({ metadata }) => metadata.name as string);
  const endpoints = slices.flatMap((slice) =>
    ((slice.endpoints ?? []) as Json[])
      .filter(({ targetRef }) => names.includes(targetRef?.name))
      .map((endpoint) => ({ endpoint, ports: (slice.ports ?? []) as Json[] })),
  );
  // discovery/v1: a nil `ready` is to be taken for true.
  const ready = endpoints.filter(({ endpoint }) => endpoint.conditions?.ready !== false);
  if (ready.length === 0) {
    const unready = pods.find((pod) => !isReady(pod));
    const why = unready ? whyUnready(unready) : 'its EndpointSlices do not have the pod yet';
    return { hop: 'readiness', message: `${where} has no ready endpoint here: ${why}`, remedy: WHEN_READY };
  }
  if (ready.some(({ ports }) => ports.some(({ port }) => port === path.podPort))) return undefined;
  const lead = [...new Set(ready.flatMap(({ ports }) => ports.map(({ port }) => port)))].join(', ') || 'none';
  return {
    hop: 'port',
    message: `${where} leads to other ports of the pod by its EndpointSlices (${lead}), not to ${path.podPort}`,
    remedy: 'correct the targetPort of the Service',
  };
}

/** The endpoints are as they should be (or not to be seen): what lies between a pod and them. */
function wayHop(where: string, { pods, networkPolicies }: Seen, failure: LpkError): Finding {
  const [pod] = pods;
  const policies = (networkPolicies ?? [])
    .filter(({ spec }) => pod && matches(spec.podSelector ?? {}, pod.metadata.labels ?? {}))
    .map(({ metadata }) => metadata.name as string);
  const sidecar = pod && meshSidecar(pod);
  const how = `a call from the pod to ${where} failed: ${failure.message}`;
  const wrongAnswer = failure.code === 'protocol' || failure.code === 'connection-reset';
  if (sidecar && (wrongAnswer || policies.length === 0)) {
    return {
      hop: 'mesh',
      message: `${how}; the mesh’s sidecar ${sidecar} is in between`,
      remedy:
        'check its authorization and its ports; excluding the port from capture, or the pod from the mesh, goes around it',
    };
  }
  if (policies.length > 0) {
    return {
      hop: 'policy',
      message: `${how}; NetworkPolicies pick the pod: ${policies.slice(0, MAX_NAMED).join(', ')}`,
      remedy:
        'check that they let calls to that port in; where the cluster enforces none, look at kube-proxy and hairpin mode',
    };
  }
  return {
    hop: 'network',
    message: `${how}, though its endpoints are ready`,
    remedy: 'other pods may still get through; look at kube-proxy and the network plugin (hairpin mode)',
  };
}

function readyCondition(pod: Json): Json | undefined {
  return ((pod.status?.conditions ?? []) as Json[]).find(({ type }) => type === 'Ready');
}

function isReady(pod: Json): boolean {
  return readyCondition(pod)?.status === 'True';
}

function whyUnready(pod: Json): string {
  const { reason, message } = readyCondition(pod) ?? {};
  return `pod ${pod.metadata.name} is not ready${reason ? ` (${message || reason})` : ''}`;
}

function meshSidecar({ spec }: Json): string | undefined {
  const all = [...(spec.containers ?? []), ...(spec.initContainers ?? [])] as Json[];
  return all.map(({ name }) => name).find((name) => SIDECARS.includes(name));
}

function isNamed(name: string, containers: Json[]): boolean {
  return containers.some(({ ports = [] }) => (ports as Json[]).some((port) => port.name === name));
}

function portNames(containers: Json[]): string[] {
  return containers.flatMap(({ ports = [] }) => (ports as Json[]).flatMap(({ name }) => name ?? []));
}

/** `metav1.LabelSelector`: an empty one picks everything. */
function matches({ matchLabels = {}, matchExpressions = [] }: Json, labels: Record<string, string>): boolean {
  return (
    selects(matchLabels, labels) &&
    (matchExpressions as Json[]).every(({ key, operator, values = [] }) => {
      if (operator === 'Exists') return Object.hasOwn(labels, key);
      if (operator === 'DoesNotExist') return !Object.hasOwn(labels, key);
      return values.includes(labels[key]) === (operator === 'In');
    })
  );
}
