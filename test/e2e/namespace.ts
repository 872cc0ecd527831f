import { setTimeout as pause } from 'node:timers/promises';
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

/** A machine whose cluster has only just started takes its time. */
const IN_FORCE_MS = 120_000;
const POLL_MS = 50;

/** Makes a namespace that enforces the Pod Security Standard "restricted" and has a ResourceQuota that is in force; pods are accepted. */
export async function createNamespace(cluster: Cluster, name: string, { root }: Strictness = {}): Promise<void> {
  const labels = {
    'pod-security.kubernetes.io/enforce': root ? 'privileged' : 'restricted',
    'pod-security.kubernetes.io/enforce-version': 'latest',
  };
  await cluster.request('POST', '/api/v1/namespaces', { body: { metadata: { name, labels } } });
  await createQuota(cluster, name, 'everything', HARD);
}

/**
 * Makes a ResourceQuota, and waits until it is in force: a pod has room in it, or is refused in its name. Until its controller has counted,
 * and the API server has heard of that, the API server refuses whatever it would count with other words ("status unknown for quota").
 */
export async function createQuota(cluster: Cluster, namespace: string, name: string, hard: object): Promise<void> {
  const path = `/api/v1/namespaces/${namespace}/resourcequotas`;
  await cluster.request('POST', path, { body: { metadata: { name }, spec: { hard } } });
  const until = performance.now() + IN_FORCE_MS;
  for (;;) {
    const { status } = await cluster.request('GET', `${path}/${name}`);
    const refusal = await podRefusal(cluster, namespace);
    if (refusal?.message.includes(`exceeded quota: ${name},`)) return;
    const hasRoom = status?.hard && !(Number(status.used?.pods) >= Number(status.hard.pods));
    if (hasRoom && !refusal) return;
    if (performance.now() > until) {
      const said = `${refusal?.message ?? 'a pod is accepted'}; its status: ${JSON.stringify(status)}`;
      throw new Error(`the ResourceQuota ${name} of ${namespace} is not in force: ${said}`, { cause: refusal });
    }
    await pause(POLL_MS);
  }
}

/** Why a pod would be refused now; `undefined`: it would not be. A new namespace's lacks its ServiceAccount for a moment, for one. */
async function podRefusal(cluster: Cluster, namespace: string): Promise<Error | undefined> {
  const spec = { containers: [{ name: 'app', image: 'busybox:1' }] };
  const body = conforming({ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'would-be' }, spec });
  const asked = cluster.request('POST', `/api/v1/namespaces/${namespace}/pods`, { body, query: { dryRun: 'All' } });
  return await asked.then(
    () => undefined,
    (error: Error) => error,
  );
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
