import { type Help, missingHelp } from '../agent/deploy/helpful-rights.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import type { Output } from './output.ts';

/** Says what lpk goes on without, a line for each, with the rights that would help. */
export async function sayGoesWithout(cluster: Cluster, helps: Help[], output: Output): Promise<void> {
  for (const line of await missingHelp(cluster, helps)) output.say(line, 'goes-without');
}
