import { type Carrier, openWebSocket, type WebSocketOptions } from '../wire/carrier.ts';
import { LpkError, systemCode } from '../wire/errors.ts';
import type { Cluster } from './kube.ts';
import { PortForward } from './port-forward.ts';
import { networkError, upgradeError } from './status.ts';

/**
 * The two ways to a pod's port. Each gives a factory of websockets for the wire, with credentials as they are at that
 * moment; what goes wrong on the way comes as the websocket's `error`, which `reachError` puts in lpk's codes.
 */
export type Reach = () => Promise<Carrier>;

/** Straight through the API server's `pods/proxy` to the pod's address. */
export function throughProxy(cluster: Cluster, namespace: string, pod: string, port: number): Reach {
  const url = `${webSocketBase(cluster)}/api/v1/namespaces/${namespace}/pods/${pod}:${port}/proxy/`;
  const refused = (status: number, body: string) => dialError(upgradeError(status, body, cluster), port);
  return withCredentials(cluster, (credentials) => openWebSocket(url, { ...credentials, refused }));
}

/** Through `pods/portforward` to the pod's loopback: a websocket in a websocket. */
export function throughPortForward(cluster: Cluster, namespace: string, pod: string, port: number): Reach {
  const url = `${webSocketBase(cluster)}/api/v1/namespaces/${namespace}/pods/${pod}/portforward?ports=${port}`;
  return withCredentials(cluster, (credentials) => {
    const forward = new PortForward(url, credentials, cluster);
    return openWebSocket(`ws://127.0.0.1:${port}/`, { createConnection: () => forward });
  });
}

/**
 * What a websocket's `error` means. LpkError: `forbidden`, `not-found` (the pod is gone) or `unauthorized` as the API server
 * said; `agent-unreachable` (the cluster answers, the agent doesn't); `agent-not-listening` (the API server gets to the pod, which
 * refuses it); `cluster-unreachable`, which names the server.
 */
export function reachError(error: unknown, server: string): LpkError {
  if (error instanceof LpkError) return error;
  if (systemCode(error)) return networkError(error, server);
  return new LpkError('agent-unreachable', "what answered is not lpk's agent", { cause: error });
}

/** The API server has no code for it: `… dial tcp 10.0.0.5:47601: connect: connection refused`. */
function dialError(error: LpkError, port: number): LpkError {
  if (!new RegExp(`dial tcp \\S+:${port}: .*connection refused`).test(error.message)) return error;
  return new LpkError('agent-not-listening', error.message, { cause: error.cause });
}

function withCredentials(cluster: Cluster, open: (credentials: WebSocketOptions) => Carrier): Reach {
  let anew = false;
  return async () => {
    const credentials = await cluster.tlsOptions(anew);
    anew = false;
    const carrier = open(credentials);
    carrier.on('error', (error) => {
      anew = error instanceof LpkError && error.code === 'unauthorized';
    });
    return carrier;
  };
}

function webSocketBase({ server }: Cluster): string {
  return server.replace(/^http/, 'ws').replace(/\/$/, '');
}
