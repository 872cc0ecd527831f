import { LpkError } from '../wire/errors.ts';
import type { Cluster, Json } from './kube.ts';

/** The three kinds of workload whose pods lpk can serve, and where their parts are. */

export type WorkloadKind = 'deployment' | 'statefulset' | 'daemonset';

export const WORKLOAD_KINDS = ['deployment', 'statefulset', 'daemonset'] as const satisfies WorkloadKind[];

/** Which workload. `apiPath`: `/apis/apps/v1/namespaces/shop/deployments/web`. */
export type WorkloadRef = { kind: WorkloadKind; namespace: string; name: string; apiPath: string };

export function workloadRef(kind: WorkloadKind, namespace: string, name: string): WorkloadRef {
  return { kind, namespace, name, apiPath: `${listPath(kind, namespace)}/${name}` };
}

/** Path of all workloads of a kind, in one namespace or (undefined) in all. */
export function listPath(kind: WorkloadKind, namespace: string | undefined): string {
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

/** Does a Service's `selector` pick pods with these labels? */
export function selects(selector: Record<string, string>, labels: Record<string, string> | undefined): boolean {
  return Object.entries(selector).every(([key, value]) => labels?.[key] === value);
}

/**
 * Refuses a workload whose pods a changed template would not reach, or could not run the agent. LpkError
 * `unsupported-workload`, `no-replicas`.
 */
export function assertServable(kind: WorkloadKind, workload: Json): void {
  const name = workloadName({ kind, name: workload.metadata.name });
  const unsupported = (why: string) => new LpkError('unsupported-workload', `${name} ${why}`);
  const { spec } = workload;
  const pod = spec.template.spec;
  if (spec.paused) throw unsupported('is paused: its pods would not follow a change; kubectl rollout resume it first');
  if (spec.updateStrategy?.type === 'OnDelete') {
    throw unsupported('has the update strategy OnDelete: its pods would not follow a change by themselves');
  }
  const partition = spec.updateStrategy?.rollingUpdate?.partition;
  if (partition > 0) throw unsupported(`has the update partition ${partition}: not all its pods would follow a change`);
  if (pod.os?.name === 'windows' || pod.nodeSelector?.['kubernetes.io/os'] === 'windows') {
    throw unsupported('runs on Windows nodes; the agent is a Linux container');
  }
  // A DaemonSet that is only just made has not been counted yet.
  const counted = kind !== 'daemonset' || workload.status?.observedGeneration >= 1;
  if (counted && replicasOf(kind, workload) === 0) {
    const why = kind === 'daemonset' ? 'no node wants a pod of it' : 'it is scaled to 0';
    throw new LpkError('no-replicas', `${name} has no pods: ${why}`);
  }
}

export async function readWorkload(cluster: Cluster, ref: { apiPath: string }): Promise<Json> {
  return await cluster.request('GET', ref.apiPath);
}
