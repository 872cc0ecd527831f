import type { Cluster, Json } from '../../agent/deploy/kube.ts';

/** Namespaces as companies keep them: restricted Pod Security, and a quota that counts everything. All tests live in such. */

/** `root`: for what only root in a pod can show, Pod Security is not enforced. */
export type Strictness = { root?: boolean };

/** Room for every test; what it is for is that containers without requests and limits are refused. */
const HARD = {
  ...{ 'requests.cpu': '1k', 'requests.memory': '1Ti', 'limits.cpu': '1k', 'limits.memory': '1Ti', pods: '1k' },
  ...{ configmaps: '1k', secrets: '1k', services: '1k', persistentvolumeclaims: '1k' },
  ...{ 'count/leases.coordination.k8s.io': '1k', 'count/serviceaccounts': '1k' },
  ...{ 'count/deployments.apps': '1k', 'count/roles.rbac.authorization.k8s.io': '1k' },
};

/** Makes a namespace that enforces the Pod Security Standard "restricted" and has a ResourceQuota that is in force. */
export async function createNamespace(cluster: Cluster, name: string, { root }: Strictness = {}): Promise<void> {
  const labels = {
    'pod-security.kubernetes.io/enforce': root ? 'privileged' : 'restricted',
    'pod-security.kubernetes.io/enforce-version': 'latest',
  };
  await cluster.request('POST', '/api/v1/namespaces', { body: { metadata: { name, labels } } });
  await createQuota(cluster, name, 'everything', HARD);
}

/** Until its controller has counted, the API server refuses whatever it would count. */
export async function createQuota(cluster: Cluster, namespace: string, name: string, hard: object): Promise<void> {
  const path = `/api/v1/namespaces/${namespace}/resourcequotas`;
  await cluster.request('POST', path, { body: { metadata: { name }, spec: { hard } } });
  const query = { fieldSelector: `metadata.name=${name}` };
  for await (const quotas of cluster.follow(path, { query, signal: AbortSignal.timeout(30_000) })) {
    const [quota] = quotas.values();
    if (quota?.status?.hard) return;
  }
  throw new Error(`the ResourceQuota ${name} of ${namespace} is not counted`);
}

const POD_SECURITY = { runAsNonRoot: true, runAsUser: 1000, seccompProfile: { type: 'RuntimeDefault' } };
const CONTAINER_SECURITY = { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } };
/** An agent takes them over: they must not hold it back. */
const RESOURCES = { requests: { cpu: '1m', memory: '8Mi' }, limits: { cpu: '4', memory: '512Mi' } };

/** The object (a workload, a pod, or another, which stays) with what such a namespace asks of pods, where it says nothing else. */
export function conforming(object: Json, { root }: Strictness = {}): Json {
  const conformed = structuredClone(object);
  const pod = conformed.kind === 'Pod' ? conformed.spec : conformed.spec?.template?.spec;
  if (!pod?.containers) return conformed;
  if (!root) pod.securityContext = { ...POD_SECURITY, ...pod.securityContext };
  for (const container of [...pod.containers, ...(pod.initContainers ?? [])]) {
    if (!root) container.securityContext = { ...CONTAINER_SECURITY, ...container.securityContext };
    container.resources = { ...RESOURCES, ...container.resources };
  }
  return conformed;
}
