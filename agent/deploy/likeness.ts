import { findWorkload, type TargetRef } from './find.ts';
import type { Cluster, Json } from './kube.ts';
import { readWorkload, selectorString } from './workload.ts';

/** What makes a pod of lpk's own count as one of a workload's: for network policies, rights and zone. */
export type Likeness = {
  labels: Record<string, string>;
  /** Fields of a pod's spec. */
  pod: Json;
};

/** Labels by which controllers know their own pods. With them a pod of somebody else's would be one too many. */
const CONTROLLERS_LABELS = [
  'pod-template-hash',
  'pod-template-generation',
  'controller-revision-hash',
  'statefulset.kubernetes.io/pod-name',
  'apps.kubernetes.io/pod-index',
  'controller-uid',
  'job-name',
  'batch.kubernetes.io/controller-uid',
  'batch.kubernetes.io/job-name',
  'batch.kubernetes.io/job-completion-index',
];

/** Of the template, what decides where a pod runs, as whom, and by which names it finds others. */
const FIELDS = [
  'serviceAccountName',
  'automountServiceAccountToken',
  'imagePullSecrets',
  'hostNetwork',
  'dnsPolicy',
  'dnsConfig',
  'hostAliases',
  'tolerations',
  'priorityClassName',
  'runtimeClassName',
  'enableServiceLinks',
];

/**
 * The labels, service account and node of a workload's pods, or of the one pod that is named. The node is that of a pod that
 * runs; when none does, the template's own rules say. LpkError as `findWorkload`.
 */
export async function likenessOf(cluster: Cluster, ref: TargetRef): Promise<Likeness> {
  const pods = `/api/v1/namespaces/${cluster.namespace}/pods`;
  if (ref.kind === 'pod') {
    const pod = await cluster.request('GET', `${pods}/${ref.name}`);
    return likeness(pod, pod.spec.nodeName);
  }
  const found = await findWorkload(cluster, ref);
  const workload = await readWorkload(cluster, found);
  if (found.kind === 'pod') return likeness(workload.spec.template, workload.spec.template.spec.nodeName);
  const { items } = await cluster.request('GET', pods, {
    query: { labelSelector: selectorString(workload.spec.selector), fieldSelector: 'status.phase=Running' },
  });
  const running = (items as Json[]).find(({ metadata }) => !metadata.deletionTimestamp);
  return likeness(workload.spec.template, running?.spec.nodeName);
}

function likeness({ metadata, spec }: Json, node: string | undefined): Likeness {
  const labels = Object.entries((metadata?.labels ?? {}) as Record<string, string>);
  const own = labels.filter(([name]) => !CONTROLLERS_LABELS.includes(name));
  const fields = FIELDS.filter((field) => spec[field] !== undefined).map((field) => [field, spec[field]]);
  return {
    labels: Object.fromEntries(own),
    pod: {
      ...Object.fromEntries(fields),
      ...(node ? { affinity: onNode(node) } : { nodeSelector: spec.nodeSelector, affinity: spec.affinity }),
    },
  };
}

/** By name, and still through the scheduler, which knows whether there is room. */
function onNode(name: string): Json {
  const matchFields = [{ key: 'metadata.name', operator: 'In', values: [name] }];
  return {
    nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchFields }] } },
  };
}
