import { type PodRecord, podRecordOf, sessionOf } from '../restore/record.ts';
import { LpkError } from '../wire/errors.ts';
import { MANAGED_BY, SESSION_LABEL } from './agent-container.ts';
import type { Cluster, Json } from './kube.ts';
import { listPath, METADATA_ONLY, selectorString, type WorkloadRef, workloadName, workloadRef } from './workload.ts';

/** Sessions that hold a pod itself: a bare one, or one of lpk's own beside a workload's others. */

export type PodSession = { id: string; workload: WorkloadRef; record: PodRecord };

/** Those whose pod stands beside this workload's, and does not hold it. LpkError: what requests throw. */
export async function sessionsBeside(cluster: Cluster, workload: WorkloadRef): Promise<PodSession[]> {
  const name = workloadName(workload);
  return (await podSessions(cluster, workload.namespace)).filter(({ record }) => record.beside === name);
}

/** Those of a namespace. By their ConfigMaps, as a pod may be gone; who may not list these finds those whose pods are there. */
export async function podSessions(cluster: Cluster, namespace: string): Promise<PodSession[]> {
  const records = await recordsOfConfigMaps(cluster, namespace).catch((error: unknown) => {
    if (!(error instanceof LpkError) || error.code !== 'forbidden') throw error;
    return recordsOfPods(cluster, namespace);
  });
  return records.map((record) => ({ id: record.id, workload: workloadRef('pod', namespace, record.pod), record }));
}

async function recordsOfConfigMaps(cluster: Cluster, namespace: string): Promise<PodRecord[]> {
  const query = { labelSelector: selectorString({ matchLabels: MANAGED_BY }) };
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const { items } = await cluster.request('GET', path, { accept: METADATA_ONLY, query });
  return ((items ?? []) as Json[]).flatMap(({ metadata }) => podRecordOf(metadata) ?? []);
}

/** Of bare ones, whose labels are their own, nothing is known by that. */
async function recordsOfPods(cluster: Cluster, namespace: string): Promise<PodRecord[]> {
  const query = { labelSelector: SESSION_LABEL };
  const { items } = await cluster.request('GET', listPath('pod', namespace), { accept: METADATA_ONLY, query });
  return ((items ?? []) as Json[]).flatMap((pod) => {
    const record = besideRecord(pod);
    return record ? [{ ...record, pod: pod.metadata.name }] : [];
  });
}

/** A newer lpk's is its own business. */
function besideRecord(pod: Json) {
  try {
    const record = sessionOf(pod);
    return record?.beside ? record : undefined;
  } catch {
    return undefined;
  }
}
