import { LpkError } from '../wire/errors.ts';
import { SAVED_PREFIX, sessionOfPod } from './agent-container.ts';
import { execInPod } from './exec.ts';
import type { PodQuery } from './find.ts';
import type { Cluster, Json } from './kube.ts';

/** What a container's first process was started with, its image's own variables included. */

type Of = { namespace: string; podQuery: PodQuery; container: string };

/** As {@link readContainerEnvironment}, or why only this can't be done. LpkError `cluster-unreachable`, `unauthorized`. */
export async function containerEnvironment(
  cluster: Cluster,
  of: Of,
  options: { timeoutMs?: number } = {},
): Promise<{ variables: Record<string, string> } | { why: LpkError }> {
  try {
    return { variables: await readContainerEnvironment(cluster, of, options) };
  } catch (error) {
    if (!(error instanceof LpkError) || concernsCluster(error)) throw error;
    return { why: error };
  }
}

/** Then nothing else will work either. */
export function concernsCluster({ code }: LpkError): boolean {
  return code === 'cluster-unreachable' || code === 'unauthorized';
}

/**
 * Of a pod that runs the workload's own container: proc(5) `/proc/1/environ`, read by `cat`. LpkError: `not-found` when none runs,
 * `forbidden` when this user may not `exec`, `internal` when the image has no `cat`; what requests throw.
 */
export async function readContainerEnvironment(
  cluster: Cluster,
  of: Of,
  options: { timeoutMs?: number } = {},
): Promise<Record<string, string>> {
  const path = `/api/v1/namespaces/${of.namespace}/pods`;
  const { labelSelector, fieldSelector } = of.podQuery;
  const inPhase = [...(fieldSelector ? [fieldSelector] : []), 'status.phase=Running'].join(',');
  const { items } = await cluster.request('GET', path, { query: { labelSelector, fieldSelector: inPhase } });
  const running = (items as Json[]).filter(
    ({ metadata, status }) => !metadata.deletionTimestamp && runs(status, of.container),
  );
  if (running.length === 0) throw new LpkError('not-found', 'no pod of it runs');
  // Else process 1 is the pause container's, or the node's own init: what is secret in that is nobody's to have.
  const pod = running.find(({ spec }) => !spec.shareProcessNamespace && !spec.hostPID);
  if (!pod) throw new LpkError('not-found', "its pod shares its process namespace: process 1 is not the container's");
  const where = { namespace: of.namespace, pod: pod.metadata.name, container: of.container };
  const variables = parseEnviron(await execInPod(cluster, where, ['cat', '/proc/1/environ'], options));
  return sessionOfPod(pod.spec) ? unsaved(variables) : variables;
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
