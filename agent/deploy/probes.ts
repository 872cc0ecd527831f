import type { CarriedProbe } from '../wire/readiness.ts';
import type { Json } from './kube.ts';

/** The agent's probes in place of a container's, and what of the container's own it carries out. */

export const PROBE_FIELDS = ['livenessProbe', 'startupProbe', 'readinessProbe'] as const;

/** How long an agent may take to start where a container has a startup probe, s. */
const START_SECONDS = 120;

/**
 * A breakpoint on the laptop must not kill the pod: the agent answers liveness and startup by itself, readiness follows the
 * session. Long limits, because a container with little CPU takes its time to start Node; short periods, because a pod is
 * ready a whole period after the laptop is. `own`: the container's, which may be slower to start, and whose thresholds stay when
 * its readiness probe is `carried`.
 */
export function agentProbe(
  field: (typeof PROBE_FIELDS)[number],
  probePort: number,
  { own, carried = false }: { own?: Json; carried?: boolean } = {},
): Json {
  const path = field === 'readinessProbe' ? '/ready' : '/live';
  const common = { httpGet: { path, port: probePort, scheme: 'HTTP' }, timeoutSeconds: 5, successThreshold: 1 };
  if (field === 'livenessProbe') return { ...common, periodSeconds: 10, failureThreshold: 12 };
  if (field === 'startupProbe') return { ...common, periodSeconds: 1, failureThreshold: startSeconds(own) };
  if (!own || !carried) return { ...common, periodSeconds: 1, failureThreshold: 3 };
  const { timeoutSeconds = 1, periodSeconds = 10, successThreshold = 1, failureThreshold = 3 } = own;
  return { ...common, timeoutSeconds, periodSeconds, successThreshold, failureThreshold };
}

function startSeconds(own: Json): number {
  const { initialDelaySeconds = 0, periodSeconds = 10, failureThreshold = 3 } = own ?? {};
  return Math.max(START_SECONDS, initialDelaySeconds + periodSeconds * failureThreshold);
}

/**
 * A container's readiness probe, for the agent to carry out at the laptop's process. A text says why it can't be: the rest of a
 * sentence that begins with the workload.
 */
export function carriedProbe(container: Json): CarriedProbe | string {
  const { readinessProbe, ports = [] } = container;
  if (!readinessProbe) return 'has no readiness probe';
  const { exec, httpGet, tcpSocket, grpc, timeoutSeconds = 1 } = readinessProbe;
  if (exec) return `has a readiness probe that runs a command in the pod (${exec.command?.[0]})`;
  const named = (httpGet ?? tcpSocket ?? grpc)?.port;
  const port = typeof named === 'number' ? named : (ports as Json[]).find(({ name }) => name === named)?.containerPort;
  if (port === undefined) return `has a readiness probe of a port that its container does not name (${named})`;
  const common = { port, timeoutMs: timeoutSeconds * 1000 };
  if (grpc) return { kind: 'grpc', ...common, service: grpc.service ?? '' };
  if (tcpSocket) return { kind: 'tcpSocket', ...common };
  const { scheme = 'HTTP', host, path = '/', httpHeaders = [] } = httpGet;
  const headers = (httpHeaders as Json[]).map(({ name, value = '' }) => ({ name, value }));
  return { kind: 'httpGet', ...common, scheme, ...(host ? { host } : {}), path, headers };
}
