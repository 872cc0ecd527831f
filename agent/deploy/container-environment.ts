import { LpkError } from '../wire/errors.ts';
import { SAVED_PREFIX, sessionOfPod } from './agent-container.ts';
import { execInPod } from './exec.ts';
import type { Cluster, Json } from './kube.ts';

/** What a container's first process was started with, its image's own variables included. */

/**
 * Of a pod that runs the workload's own container: proc(5) `/proc/1/environ`, read by `cat`. Undefined when none runs, when this user may
 * not `exec`, or when the image has no `cat`. LpkError `cluster-unreachable`, `unauthorized`.
 */
export async function containerEnvironment(
  cluster: Cluster,
  of: { namespace: string; selector: string; container: string },
): Promise<Record<string, string> | undefined> {
  const path = `/api/v1/namespaces/${of.namespace}/pods`;
  try {
    const { items } = await cluster.request('GET', path, {
      query: { labelSelector: of.selector, fieldSelector: 'status.phase=Running' },
    });
    const pod = (items as Json[]).find(
      ({ metadata, spec, status }) =>
        !metadata.deletionTimestamp &&
        !spec.shareProcessNamespace && // there process 1 is none of the container's
        runs(status, of.container),
    );
    if (!pod) return undefined;
    const where = { namespace: of.namespace, pod: pod.metadata.name, container: of.container };
    const variables = parseEnviron(await execInPod(cluster, where, ['cat', '/proc/1/environ']));
    return sessionOfPod(pod.spec) ? unsaved(variables) : variables;
  } catch (error) {
    if (error instanceof LpkError && (error.code === 'cluster-unreachable' || error.code === 'unauthorized'))
      throw error;
    return undefined;
  }
}

/** Of an agent in the container's place: what its start script set aside gets its name back. */
function unsaved(variables: Record<string, string>): Record<string, string> {
  const saved = Object.entries(variables).filter(([name]) => name.startsWith(SAVED_PREFIX));
  const rest = Object.entries(variables).filter(([name]) => !name.startsWith(SAVED_PREFIX));
  return Object.fromEntries([...rest, ...saved.map(([name, value]) => [name.slice(SAVED_PREFIX.length), value])]);
}

function runs(status: Json, container: string): boolean {
  return ((status?.containerStatuses ?? []) as Json[]).some(({ name, state }) => name === container && state?.running);
}

/** `NAME=value` and a NUL, over and over; what has no name is passed over. */
export function parseEnviron(bytes: Buffer): Record<string, string> {
  const entries = bytes.toString('utf8').split('\0');
  return Object.fromEntries(
    entries.flatMap((entry) => {
      const at = entry.indexOf('=');
      return at > 0 ? [[entry.slice(0, at), entry.slice(at + 1)]] : [];
    }),
  );
}
