import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { clusterUp, kubectl } from '../cluster/cluster.ts';
import { apiServer, forkRelay, type RelayProcess, relayKubeconfig } from '../relay.ts';
import { PORTS } from './servers.ts';

/** A namespace with the servers, and one workload for each transport of lpk to take the place of. */
export type Scene = {
  namespace: string;
  kubeconfig: string;
  /** The servers' Service: its name, as a program in the cluster would say, and its address. */
  service: { name: string; address: string };
  close(): Promise<void>;
};

export const SEATS = { proxy: 'seat-proxy', 'port-forward': 'seat-port-forward' } as const;

const SERVERS = 'bench';
const IMAGE = 'node:24-alpine';
const GRACE_SECONDS = 1;

/** `folder` takes the kubeconfig of a cluster that is `oneWayMs` away; 0: the cluster as it is. */
export async function openScene(folder: string, oneWayMs: number): Promise<Scene> {
  const { kubeconfig: direct } = await clusterUp();
  const namespace = `bench-${randomBytes(3).toString('hex')}`;
  await kubectl(['create', 'namespace', namespace]);
  let relay: RelayProcess | undefined;
  const close = async () => {
    await relay?.close();
    await kubectl(['delete', 'namespace', namespace, '--wait=false']);
  };
  try {
    const objects = {
      apiVersion: 'v1',
      kind: 'List',
      items: [...(await servers()), ...Object.values(SEATS).flatMap(seat)],
    };
    await kubectl(['apply', '-n', namespace, '-f', '-'], { input: JSON.stringify(objects) });
    for (const name of [SERVERS, ...Object.values(SEATS)]) {
      await kubectl(['rollout', 'status', '-n', namespace, `deployment/${name}`, '--timeout=120s']);
    }
    const address = await kubectl(['get', 'service', SERVERS, '-n', namespace, '-o', 'jsonpath={.spec.clusterIP}']);
    let kubeconfig = direct;
    if (oneWayMs > 0) {
      relay = await forkRelay({ target: await apiServer(direct), oneWayMs });
      kubeconfig = path.join(folder, 'kubeconfig');
      await relayKubeconfig(direct, relay.port, kubeconfig);
    }
    return { namespace, kubeconfig, service: { name: SERVERS, address: address.trim() }, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function servers(): Promise<object[]> {
  const script = await readFile(path.join(import.meta.dirname, 'servers.ts'), 'utf8');
  const ports = Object.entries(PORTS).map(([name, port]) => ({ name, port }));
  return [
    { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: SERVERS }, data: { 'servers.ts': script } },
    { apiVersion: 'v1', kind: 'Service', metadata: { name: SERVERS }, spec: { selector: { app: SERVERS }, ports } },
    deployment(SERVERS, {
      volumes: [{ name: 'script', configMap: { name: SERVERS } }],
      containers: [
        {
          ...{ name: 'servers', image: IMAGE, imagePullPolicy: 'IfNotPresent' },
          command: ['node', '--disable-warning=ExperimentalWarning', '/script/servers.ts'],
          // A ConfigMap's files are links; Node would otherwise compare the script's name with where they lead.
          env: [{ name: 'NODE_OPTIONS', value: '--preserve-symlinks --preserve-symlinks-main' }],
          ports: ports.map(({ port }) => ({ containerPort: port })),
          readinessProbe: { tcpSocket: { port: PORTS.banner }, periodSeconds: 1 },
          volumeMounts: [{ name: 'script', mountPath: '/script' }],
        },
      ],
    }),
  ];
}

function seat(name: string): object[] {
  const containerPort = 8080;
  return [
    {
      ...{ apiVersion: 'v1', kind: 'Service', metadata: { name } },
      spec: { selector: { app: name }, ports: [{ port: 80, targetPort: containerPort }] },
    },
    deployment(name, {
      containers: [
        {
          ...{ name, image: IMAGE, imagePullPolicy: 'IfNotPresent', command: ['sleep', 'infinity'] },
          ports: [{ containerPort }],
        },
      ],
    }),
  ];
}

/** One pod, chosen by the label `app`. */
export function deployment(name: string, spec: object): object {
  const labels = { app: name };
  return {
    ...{ apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name } },
    spec: {
      ...{ replicas: 1, selector: { matchLabels: labels } },
      template: { metadata: { labels }, spec: { terminationGracePeriodSeconds: GRACE_SECONDS, ...spec } },
    },
  };
}
