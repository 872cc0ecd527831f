import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { load as parseYaml } from 'js-yaml';
import { kubectl } from '../cluster/cluster.ts';
import { run } from '../cluster/run.ts';
import type { Setting } from './mode.ts';
import { end, processInPod, startUntil } from './processes.ts';
import { deployment, type Scene } from './scene.ts';
import { PORTS } from './servers.ts';
import type { Subject } from './subjects.ts';

const NAME = 'chisel';
const PORT = 8080;

/** chisel's SOCKS door, its server in a pod, by the API server's `pods/proxy` as lpk does: with the user's own certificate. */
export async function openChisel(
  { namespace, kubeconfig, service }: Scene,
  { folder, interrupted }: Setting,
): Promise<Subject> {
  const built = await run(path.join(import.meta.dirname, '../../scripts/chisel'), []);
  const program = built.trim().split('\n').at(-1) as string;
  await kubectl(['apply', '-n', namespace, '-f', '-'], { input: JSON.stringify(server(path.dirname(program))) });
  await kubectl(['rollout', 'status', '-n', namespace, `deployment/${NAME}`, '--timeout=120s']);
  const chosen = ['-l', `app=${NAME}`, '-o', 'jsonpath={.items[0].metadata.name}'];
  const pod = (await kubectl(['get', 'pods', '-n', namespace, ...chosen])).trim();

  const { url, files } = credentials(kubeconfig, folder);
  const port = await freePort();
  const { child } = await startUntil(
    [
      ...[
        program,
        'client',
        '--max-retry-count',
        '3',
        ...files,
        `${url}/api/v1/namespaces/${namespace}/pods/${pod}:${PORT}/proxy`,
      ],
      `127.0.0.1:${port}:socks`,
    ],
    /client: Connected/,
    interrupted,
  );
  return {
    // scripts/go-tool's folders carry the version.
    name: path.basename(path.dirname(program)).replace('-v', ' '),
    way: (server, byAddress = false) => ({
      port,
      socks: { host: byAddress ? service.address : service.name, port: PORTS[server] },
    }),
    pids: { laptop: [child.pid as number], agent: await processInPod(namespace, pod, NAME) },
    close: () => end(child),
  };
}

/** `folder`, with the static program, serves the pod, too: the test cluster's node sees this machine's files. */
function server(folder: string): object {
  return deployment(NAME, {
    volumes: [{ name: 'program', hostPath: { path: folder, type: 'Directory' } }],
    containers: [
      {
        ...{ name: NAME, image: 'busybox:1', imagePullPolicy: 'IfNotPresent' },
        command: ['/program/chisel', 'server', '--socks5', '--port', String(PORT)],
        ports: [{ containerPort: PORT }],
        readinessProbe: { tcpSocket: { port: PORT }, periodSeconds: 1 },
        volumeMounts: [{ name: 'program', mountPath: '/program', readOnly: true }],
      },
    ],
  });
}

type Kubeconfig = {
  clusters: { cluster: { server: string; 'certificate-authority-data': string } }[];
  users: { user: { 'client-certificate-data': string; 'client-key-data': string } }[];
};

/** Of the test cluster's kubeconfig: one cluster, one user, and an address in the URL. */
function credentials(kubeconfig: string, folder: string): { url: string; files: string[] } {
  const config = parseYaml(readFileSync(kubeconfig, 'utf8')) as Kubeconfig;
  const [cluster, user] = [config.clusters[0]?.cluster, config.users[0]?.user];
  if (!cluster || !user) throw new Error(`${kubeconfig} has no cluster or no user`);
  const files = Object.entries({
    '--tls-ca': cluster['certificate-authority-data'],
    '--tls-cert': user['client-certificate-data'],
    '--tls-key': user['client-key-data'],
  }).flatMap(([option, base64]) => {
    const file = path.join(folder, `chisel${option}`);
    writeFileSync(file, Buffer.from(base64, 'base64'), { mode: 0o600 });
    return [option, file];
  });
  return { url: cluster.server, files };
}

/** chisel does not say which one it took, were it to choose. */
async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
