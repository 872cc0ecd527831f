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
  // It lacks its ServiceAccount for a moment, for one.
  await untilRefusal(cluster, name, `${name} takes pods`, {}, (refusal) => refusal === undefined);
}

/**
 * Makes a ResourceQuota, and waits until it is in force: its controller has counted, and the API server has heard of that. Until then it
 * refuses whatever would be counted with other words ("status unknown for quota"), or lets it pass.
 */
export async function createQuota(
  cluster: Cluster,
  namespace: string,
  name: string,
  hard: Record<string, string>,
): Promise<void> {
  const path = `/api/v1/namespaces/${namespace}/resourcequotas`;
  await cluster.request('POST', path, { body: { metadata: { name }, spec: { hard } } });
  const memory = twice(hard['requests.memory']);
  const tooMuch = memory ? { requests: { cpu: '1m', memory }, limits: { cpu: '1m', memory } } : undefined;
  await untilRefusal(
    cluster,
    namespace,
    `the ResourceQuota ${name} is in force`,
    { resources: tooMuch },
    async (said) => {
      if (said?.includes(`exceeded quota: ${name},`)) return true;
      if (tooMuch || said) return false;
      // One pod may not be too much: it is refused or not by what there is.
      const { status } = await cluster.request('GET', `${path}/${name}`);
      return status?.hard && Number(status.used?.pods) < Number(status.hard.pods);
    },
  );
}

/** Until what a pod would be refused with now (`undefined`: it would not be) fits; `container` is put over the pod's. */
async function untilRefusal(
  cluster: Cluster,
  namespace: string,
  what: string,
  container: object,
  fits: (refusal: string | undefined) => boolean | Promise<boolean>,
): Promise<void> {
  const spec = { containers: [{ name: 'app', image: 'busybox:1', ...container }] };
  const body = conforming({ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'would-be' }, spec });
  const path = `/api/v1/namespaces/${namespace}/pods`;
  const until = performance.now() + IN_FORCE_MS;
  for (;;) {
    const refusal = await cluster.request('POST', path, { body, query: { dryRun: 'All' } }).then(
      () => undefined,
      (error: Error) => error.message,
    );
    if (await fits(refusal)) return;
    if (performance.now() > until)
      throw new Error(`expected within ${IN_FORCE_MS / 1_000} s: ${what}; a pod: ${refusal}`);
    await pause(POLL_MS);
  }
}

/** `70Mi`: `140Mi`. */
function twice(quantity: string | undefined): string | undefined {
  return quantity?.replace(/^\d+/, (digits) => `${2 * Number(digits)}`);
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
