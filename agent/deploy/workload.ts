import { partitionOf } from '../restore/follow.ts';
import { LpkError } from '../wire/errors.ts';
import type { Cluster, Json } from './kube.ts';

/** The kinds of workload whose pods lpk can serve, and where their parts are. */

export type WorkloadKind = 'deployment' | 'statefulset' | 'daemonset' | 'replicaset' | 'rollout' | 'pod';

/** Those that people name, and that a Service is compared with. ReplicaSets are mostly a Deployment's: they are found by their pods. */
export const WORKLOAD_KINDS = ['deployment', 'statefulset', 'daemonset'] as const satisfies WorkloadKind[];

export const ALL_KINDS = [...WORKLOAD_KINDS, 'replicaset', 'rollout'] as const satisfies WorkloadKind[];

/** Argo Rollouts, which most clusters don't have: their API server doesn't know the group (404). */
const ARGO = { group: 'argoproj.io', version: 'v1alpha1' };

/** API group of a kind; '' is the core one. */
export function groupOf(kind: WorkloadKind): string {
  if (kind === 'pod') return '';
  return kind === 'rollout' ? ARGO.group : 'apps';
}

/** `apps/v1`, as its objects and `ownerReferences` to them have it. */
export function apiVersionOf(kind: WorkloadKind): string {
  if (kind === 'pod') return 'v1';
  return `${groupOf(kind)}/${kind === 'rollout' ? ARGO.version : 'v1'}`;
}

/** Which workload; or a pod itself. `apiPath`: `/apis/apps/v1/namespaces/shop/deployments/web`. */
export type WorkloadRef = { kind: WorkloadKind; namespace: string; name: string; apiPath: string };

export function workloadRef(kind: WorkloadKind, namespace: string, name: string): WorkloadRef {
  return { kind, namespace, name, apiPath: `${listPath(kind, namespace)}/${name}` };
}

/** Path of all workloads of a kind, in one namespace or (undefined) in all. */
export function listPath(kind: WorkloadKind, namespace: string | undefined): string {
  const api = kind === 'pod' ? '/api' : '/apis';
  return `${api}/${apiVersionOf(kind)}/${namespace ? `namespaces/${namespace}/` : ''}${kind}s`;
}

/** What a list is asked for when only its items' metadata is looked at. */
export const METADATA_ONLY = 'application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json';

/** Of an owner, if lpk serves its kind. */
export function kindOf(owner: { apiVersion: string; kind: string } | undefined): WorkloadKind | undefined {
  return ALL_KINDS.find((each) => each === owner?.kind.toLowerCase() && apiVersionOf(each) === owner.apiVersion);
}

/** Does a list's failure say that the cluster has no such kind? Only Argo's can be absent. */
export function isUnknownKind(kind: WorkloadKind, error: unknown): boolean {
  return kind === 'rollout' && error instanceof LpkError && error.code === 'not-found';
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

/** Argo's controller adds it to the selectors of Services that it leads from one ReplicaSet to the next; no template has it. */
const ROLLOUT_HASH = 'rollouts-pod-template-hash';

/** Does a Service pick the pods that are made by this template? */
export function picks({ spec: { selector } }: Json, kind: WorkloadKind, template: Json): boolean {
  const { [ROLLOUT_HASH]: hash, ...others } = selector ?? {};
  const wanted = kind === 'rollout' ? others : (selector ?? {});
  return Object.keys(wanted).length > 0 && selects(wanted, template.metadata?.labels);
}

/**
 * Refuses a workload none of whose pods a changed template would reach, or that could not run the agent. LpkError
 * `unsupported-workload`, `no-replicas`.
 */
export function assertServable(kind: WorkloadKind, workload: Json): void {
  const name = workloadName({ kind, name: workload.metadata.name });
  const unsupported = (why: string) => new LpkError('unsupported-workload', `${name} ${why}`);
  const { spec, status = {} } = workload;
  if (!spec.template) {
    const { kind: of = 'workload', name: referred } = spec.workloadRef ?? {};
    const its = `takes the template of its pods from ${String(of).toLowerCase()}/${referred} (spec.workloadRef)`;
    throw unsupported(`${its}; lpk serves Rollouts that have their own (spec.template)`);
  }
  const pod = spec.template.spec;
  const resume = kind === 'rollout' ? 'kubectl argo rollouts promote' : 'kubectl rollout resume';
  if (spec.paused) throw unsupported(`is paused: its pods would not follow a change; ${resume} it first`);
  // One that somebody promoted fully, as lpk does, will be over by itself.
  if (kind === 'rollout' && status.stableRS && status.currentPodHash !== status.stableRS && !status.promoteFull) {
    const where = status.message ? ` (${status.message})` : '';
    throw unsupported(
      `is in the middle of a rollout${where}, which a session would complete: promote or undo it first`,
    );
  }
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
