import { containerEnvironment } from '../agent/deploy/container-environment.ts';
import { runningContainers, type Target } from '../agent/deploy/find.ts';
import type { Cluster, Json } from '../agent/deploy/kube.ts';
import type { Output } from './output.ts';

/** What only the container itself can tell of its variables, and no longer when the agent is in its place. */

/** So long the swap waits for them. */
const ANSWER_MS = 5_000;

/**
 * All that it has, its image's own included; undefined, which is said, when they can't be read. LpkError `cluster-unreachable`,
 * `unauthorized`.
 */
export async function variablesBefore(
  cluster: Cluster,
  target: Pick<Target, 'namespace' | 'podQuery' | 'container'>,
  output: Pick<Output, 'say'>,
): Promise<Record<string, string> | undefined> {
  const read = await containerEnvironment(cluster, target, { timeoutMs: ANSWER_MS });
  if ('variables' in read) return read.variables;
  const { code, message } = read.why;
  // A right that is missing is said with the others (helpful-rights.ts).
  if (code !== 'forbidden')
    output.say(`the command lacks the variables of its image: ${message}`, 'goes-without', { code });
  return undefined;
}

/** The agent's go over those from before, as its pod has the place; but limits that were raised for it are the container's own. */
export function variablesOver(
  before: Record<string, string> | undefined,
  agents: Record<string, string>,
  { workload, container }: Pick<Target, 'workload' | 'container'>,
): Record<string, string> {
  const own = runningContainers(workload.spec.template.spec).find(({ name }) => name === container);
  const result = { ...before, ...agents };
  for (const { name, valueFrom } of (own?.env ?? []) as Json[]) {
    if (valueFrom?.resourceFieldRef && before?.[name] !== undefined) result[name] = before[name];
  }
  return result;
}
