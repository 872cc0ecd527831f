import type { Target } from '../agent/deploy/find.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import { LpkError } from '../agent/wire/errors.ts';
import type { PortMapping } from './connect-options.ts';

/** The container's TCP ports that calls come to: its Services' targets first, else what it declares. Ascending, each once. */
export function servedPorts(target: Pick<Target, 'service' | 'servicePorts' | 'containerPorts'>): number[] {
  const ofServices = target.servicePorts
    .filter(({ protocol }) => protocol === 'TCP')
    .map(({ targetPort }) => targetPort);
  const declared = target.containerPorts.filter(({ protocol }) => protocol === 'TCP').map(({ port }) => port);
  const ports = target.service ? ofServices : [...ofServices, ...declared];
  return [...new Set(ports)].sort((a, b) => a - b);
}

/**
 * Which port of the laptop answers for which of the container. Without `-p` every served port goes to the same number; a `-p LOCAL` alone
 * goes to the port it can only mean. LpkError `usage`.
 */
export function mapPorts(mappings: PortMapping[], target: Target): Map<number, number> {
  const served = servedPorts(target);
  if (mappings.length === 0) return new Map(served.map((port) => [port, port]));
  const result = new Map<number, number>();
  for (const { laptopPort, containerPort } of mappings) {
    const port = containerPort ?? onlyMeaning(laptopPort, served, target);
    if (result.has(port)) throw new LpkError('usage', `-p: the container's port ${port} is mapped twice`);
    result.set(port, laptopPort);
  }
  return result;
}

function onlyMeaning(laptopPort: number, served: number[], target: Target): number {
  const [only, ...others] = served;
  if (only === undefined || served.includes(laptopPort)) return laptopPort;
  if (others.length === 0) return only;
  const all = served.join(', ');
  throw new LpkError(
    'usage',
    `-p ${laptopPort}: ${workloadName(target)} has several ports (${all}); say which: -p ${laptopPort}:${only}`,
  );
}
