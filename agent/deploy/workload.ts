import { partitionOf } from '../restore/follow.ts';
import { LpkError } from '../wire/errors.ts';
import type { Cluster, Json } from './kube.ts';

/** The kinds of workload whose pods lpk can serve, and where their parts are. */

export type WorkloadKind = 'deployment' | 'statefulset' | 'daemonset' | 'replicaset' | 'pod';

/** Those that people name, and that a Service is compared with. ReplicaSets are mostly a Deployment's: they are found by their pods. */
export const WORKLOAD_KINDS = ['deployment', 'statefulset', 'daemonset'] as const satisfies WorkloadKind[];

export const ALL_KINDS = [...WORKLOAD_KINDS, 'replicaset'] as const satisfies WorkloadKind[];

/** Which workload; or a pod itself. `apiPath`: `/apis/apps/v1/namespaces/shop/deployments/web`. */
export type WorkloadRef = { kind: WorkloadKind; namespace: string; name: string; apiPath: string };

export function workloadRef(kind: WorkloadKind, namespace: string, name: string): WorkloadRef {
  return { kind, namespace, name, apiPath: `${listPath(kind, namespace)}/${name}` };
}

/** Path of all workloads of a kind, in one namespace or (undefined) in all. */
export function listPath(kind: WorkloadKind, namespace: string | undefined): string {
  if (kind === 'pod') return `/api/v1/${namespace ? `namespaces/${namespace}/` : ''}pods`;
  return `/apis/apps/v1/${namespace ? `namespaces/${namespace}/` : ''}${kind}s`;
}

/** `deployment/web`, as `kubectl` and `lpk` take it. */
export function workloadName({ kind, name }: { kind: string; name: string }): string {
  return `${kind}/${name}`;
}

export function replicasOf(kind: WorkloadKind, workload: Json): number {
  // A DaemonSet has as many pods as there are nodes for it; its controller has counted them.
  if (kind === 'daemonset') return workload.status?.desiredNumberScheduled ?? 0;
  return workload.spec.replicas ?? 1;
}

/** How many of a workload's pods a changed template reaches. */
export function servedOf(kind: WorkloadKind, workload: Json): number {
  return Math.max(0, replicasOf(kind, workload) - (kind === 'statefulset' ? partitionOf(workload) : 0));
}

/** `metav1.LabelSelector` as the string that `labelSelector=` takes. */
export function selectorString(selector: Json): string {
  const equal = Object.entries(selector?.matchLabels ?? {}).map(([key, value]) => `${key}=${value}`);
  const others = ((selector?.matchExpressions ?? []) as Json[]).map(({ key, operator, values }) => {
    if (operator === 'Exists') return key;
    if (operator === 'DoesNotExist') return `!${key}`;
    return `${key} ${operator === 'In' ? 'in' : 'notin'} (${values.join(',')})`;
  });
  return [...equal, ...others].join(',');
}

export function isReady(pod: Json): boolean {
  return ((pod.status?.conditions ?? []) as Json[]).some(({ type, status }) => type === 'Ready' && status === 'True');
}

/** Does a Service's `selector` pick pods with these labels? */
export function selects(selector: Record<string, string>, labels: Record<string, string> | undefined): boolean {
  return Object.entries(selector).every(([key, value]) => labels?.[key] === value);
}

/**
 * Refuses a workload none of whose pods a changed template would reach, or that could not run the agent. LpkError
 * `unsupported-workload`, `no-replicas`.
 */
export function assertServable(kind: WorkloadKind, workload: Json): void {
  const name = workloadName({ kind, name: workload.metadata.name });
  const unsupported = (why: string) => new LpkError('unsupported-workload', `${name} ${why}`);
  const { spec } = workload;
  const pod = spec.template.spec;
  if (spec.paused) throw unsupported('is paused: its pods would not follow a change; kubectl rollout resume it first');
  if (pod.os?.name === 'windows' || pod.nodeSelector?.['kubernetes.io/os'] === 'windows') {
    throw unsupported('runs on Windows nodes; the agent is a Linux container');
  }
  if (workload.metadata.deletionTimestamp && kind === 'pod') throw unsupported('is being deleted');
  if (kind === 'pod' && ['Succeeded', 'Failed'].includes(workload.status?.phase)) {
    throw new LpkError(
      'no-replicas',
      `${name} has ended (${workload.status.phase}); made anew it would do its work again`,
    );
  }
  // A DaemonSet that is only just made has not been counted yet.
  const counted = kind !== 'daemonset' || workload.status?.observedGeneration >= 1;
  if (counted && replicasOf(kind, workload) === 0) {
    const why = kind === 'daemonset' ? 'no node wants a pod of it' : 'it is scaled to 0';
    throw new LpkError('no-replicas', `${name} has no pods: ${why}`);
  }
  if (counted && servedOf(kind, workload) === 0) {
    const [partition, replicas] = [partitionOf(workload), replicasOf(kind, workload)];
    const remedy = `lower it below ${replicas} (spec.updateStrategy.rollingUpdate.partition) to serve the last of them`;
    throw unsupported(`has the update partition ${partition}, which none of its ${replicas} pods is beyond: ${remedy}`);
  }
}

/** Which of a workload's pods are served, in words, where it is not simply all. `asked`: only one was wanted. */
export function whichPods(
  of: { kind: WorkloadKind; workload: Json; one: boolean },
  asked: boolean,
): string | undefined {
  const { kind, workload, one } = of;
  const [all, served] = [replicasOf(kind, workload), one ? 1 : servedOf(kind, workload)];
  if (asked && !one) return '--replicas one is the same as all: there is one pod';
  if (served === all) return undefined;
  if (kind === 'deployment') return `one more pod beside its ${all} (--replicas one); it is not changed itself`;
  const why = one ? '--replicas one' : `update partition ${partitionOf(workload)}`;
  if (kind !== 'statefulset') return `1 of its ${all} pods (${why})`;
  const pod = (index: number) => `${workload.metadata.name}-${index + (workload.spec.ordinals?.start ?? 0)}`;
  return `${served === 1 ? pod(all - 1) : `${pod(all - served)} to ${pod(all - 1)}`} of its ${all} pods (${why})`;
}

/** LpkError: what requests throw. */
export async function readWorkload(cluster: Cluster, ref: { kind: WorkloadKind; apiPath: string }): Promise<Json> {
  const object = await cluster.request('GET', ref.apiPath);
  return ref.kind === 'pod' ? asWorkload(object) : object;
}

/** A pod as a workload of one pod: with its spec where a workload has it. */
export function asWorkload(pod: Json): Json {
  const { labels, annotations } = pod.metadata;
  const template = { metadata: { labels, annotations }, spec: pod.spec };
  return { apiVersion: 'v1', kind: 'Pod', metadata: pod.metadata, spec: { replicas: 1, template }, status: pod.status };
}
