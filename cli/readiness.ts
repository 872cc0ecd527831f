import type { Target } from '../agent/deploy/find.ts';
import { carriedProbe } from '../agent/deploy/probes.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import { containersOf } from '../agent/restore/record.ts';
import type { Readiness } from '../agent/wire/readiness.ts';
import type { ReadinessChoice } from './readiness-choice.ts';

export type ReadinessPlan = {
  readiness: Readiness;
  /** Ports of the laptop of which one has to be listened at before a pod can be ready; none: it can be without. */
  awaitedPorts: number[];
  /** Why it is not as chosen: a sentence without its end. */
  instead?: string;
};

/** When a target's pods may be called. A probe's port is added to `ports` (container's → laptop's) when it is not there. */
export function planReadiness(choice: ReadinessChoice, target: Target, ports: Map<number, number>): ReadinessPlan {
  let instead: string | undefined;
  if (choice === 'probe') {
    const container = containersOf(target.workload).find(({ name }) => name === target.container);
    const probe = carriedProbe(container);
    if (typeof probe !== 'string') {
      const laptopPort = ports.get(probe.port) ?? probe.port;
      ports.set(probe.port, laptopPort);
      return { readiness: probe, awaitedPorts: [laptopPort] };
    }
    instead = `${workloadName(target)} ${probe}`;
  }
  const awaitedPorts = choice === 'connected' ? [] : [...new Set(ports.values())];
  // Without a port there is nothing to listen at.
  const readiness = awaitedPorts.length > 0 ? 'listening' : 'connected';
  return { readiness, awaitedPorts, ...(instead ? { instead } : {}) };
}
