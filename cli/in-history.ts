import { type WorkloadRef, workloadName } from '../agent/deploy/workload.ts';
import type { Output } from './output.ts';

/** The agent could not be taken out of a workload's history yet; `why` its pods still run, if that is known. */
export function sayInHistory(output: Output, workload: WorkloadRef, why?: string): void {
  const name = workloadName(workload);
  const { namespace } = workload;
  const then = `\`lpk restore ${name} -n ${namespace}\` takes it out later`;
  output.warn(
    `the agent stays in the history of ${name} while pods of it run${why ? `: ${why}` : ''}; ${then}`,
    'history',
    { workload: name, namespace },
  );
}
