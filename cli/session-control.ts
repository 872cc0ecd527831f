import { rmSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import type { Target } from '../agent/deploy/find.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import type { Transport } from '../agent/deploy/preflight.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import type { Attachment } from './attachment.ts';
import type { ConnectOptions } from './connect-options.ts';
import { ask, listenOn, reply, socketPath } from './control-socket.ts';
import { childEnvironment } from './environment.ts';
import { stateFolder, stateFolderName } from './state-folder.ts';

/** A session of `lpk connect` as other lpk commands of this user find it, beside its note (sessions-here.ts). */

/** Names only: a status may be shown to anybody. */
export type SessionStatus = {
  session: string;
  pid: number;
  context: string;
  namespace: string;
  workload: string;
  /** Of a pod of lpk's own: the workload beside whose pods it stands. */
  beside?: string;
  container: string;
  pods: string[];
  transport: Transport;
  link: 'up' | 'down';
  rttMs: number | undefined;
  proxyPort: number;
  ports: { containerPort: number; laptopPort: number }[];
  /** Names of the variables that the command has from the pod and from options; those of the pod's that it has not. */
  variables: { handed: string[]; leftOut: string[] };
};

/** `whole`: with those of the container's image. */
export type SessionEnvironment = { variables: Record<string, string>; whole: boolean };

/** What a running session says of itself. `variables`: the pod's. */
export function sessionStatus(given: {
  cluster: Cluster;
  target: Target;
  ports: Map<number, number>;
  proxyPort: number;
  attachment: Attachment;
  variables: Record<string, string>;
  options: Pick<ConnectOptions, 'environment' | 'command'>;
}): SessionStatus {
  const { cluster, target, ports, proxyPort, attachment, variables, options } = given;
  const { env, leftOut } = childEnvironment({ laptop: {}, pod: variables, choice: options.environment });
  return {
    session: attachment.id,
    pid: process.pid,
    context: cluster.context,
    namespace: target.namespace,
    workload: workloadName(target),
    beside: target.beside && workloadName(target.beside),
    container: target.container,
    pods: attachment.pods,
    transport: attachment.transport,
    link: attachment.session?.isUp ? 'up' : 'down',
    rttMs: attachment.session?.link.rttMs,
    proxyPort,
    ports: [...ports].map(([containerPort, laptopPort]) => ({ containerPort, laptopPort })),
    variables: { handed: options.command ? Object.keys(env).toSorted() : [], leftOut },
  };
}

/** Serves other commands until it is closed. Where no socket can be made, it does without. */
export async function openSessionControl(
  session: string,
  answers: { status: () => SessionStatus; environment: () => SessionEnvironment },
  folder = () => stateFolder('sessions'),
): Promise<() => void> {
  const server = http.createServer((request, response) => {
    if (request.method === 'GET' && request.url === '/status') return reply(response, answers.status());
    if (request.method === 'GET' && request.url === '/environment') return reply(response, answers.environment());
    response.writeHead(404).end();
  });
  try {
    const socket = socketPath(folder(), session);
    rmSync(socket, { force: true }); // ids are never used twice
    await listenOn(server, socket);
  } catch {
    return () => {};
  }
  return () => {
    server.close(); // removes the socket too
    server.closeAllConnections();
  };
}

/** Of a session of this laptop. Rejects when it doesn't answer: it is starting, ending, or another version of lpk's. */
export function askSession(session: string, what: 'status', folder?: string): Promise<SessionStatus>;
export function askSession(session: string, what: 'environment', folder?: string): Promise<SessionEnvironment>;
export function askSession(session: string, what: string, folder = path.join(stateFolderName(), 'sessions')) {
  return ask(socketPath(folder, session), 'GET', `/${what}`);
}

/** What a session that died left. */
export function removeSessionSocket(session: string, folder: string): void {
  if (process.platform !== 'win32') rmSync(socketPath(folder, session), { force: true });
}
