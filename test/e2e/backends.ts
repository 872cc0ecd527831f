import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, globSync, mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Json } from '../../agent/deploy/kube.ts';
import { installPackages } from '../cluster/packages.ts';
import { network } from '../cluster/place.ts';
import { run } from '../cluster/run.ts';
import { cluster } from '../cluster/up.ts';
import { eventually, type Shop } from './shop.ts';

/**
 * What a shop's pods talk to: PostgreSQL and Redis beside the cluster (on the node, behind Services without a selector, as
 * managed databases are), and pods that echo datagrams and send as much as is asked for.
 */
export class Backends {
  readonly #folder = mkdtempSync(path.join(tmpdir(), 'lpk-backends-'));
  readonly #children: ChildProcess[] = [];

  static async start(shop: Shop): Promise<Backends> {
    await installPackages({ postgresql: '/usr/bin/pg_createcluster', 'redis-tools': '/usr/bin/redis-check-rdb' });
    const backends = new Backends();
    try {
      await Promise.all([backends.#postgres(shop), backends.#redis(shop), deployPods(shop)]);
      return backends;
    } catch (error) {
      await backends.stop();
      throw error;
    }
  }

  async stop(): Promise<void> {
    await Promise.all(
      this.#children.map(async (child) => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        child.kill('SIGINT'); // "fast shutdown" of the one, end of the other
        await once(child, 'exit');
      }),
    );
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** One more: the command line of a server for an address and port of the node. */
  async add(
    shop: Shop,
    { name, port }: { name: string; port: number },
    server: (address: string, port: number) => string[],
  ): Promise<void> {
    const targetPort = await this.#freePort();
    this.#onNode(server(network.node, targetPort));
    await this.#serve(shop, name, port, targetPort);
  }

  async #postgres(shop: Shop): Promise<void> {
    const [bin] = globSync('/usr/lib/postgresql/*/bin');
    const data = path.join(this.#folder, 'pg');
    const asPostgres = (command: string[]) => [
      'setpriv',
      '--reuid',
      'postgres',
      '--regid',
      'postgres',
      '--clear-groups',
      ...command,
    ];
    chownSync(this.#folder, Number(await run('id', ['-u', 'postgres'])), Number(await run('id', ['-g', 'postgres'])));
    const [program, ...args] = asPostgres([`${bin}/initdb`, '-D', data, '-A', 'trust', '-N']);
    await run(program as string, args);
    const allow = path.join(data, 'pg_hba.conf');
    await run('sh', ['-c', `echo 'host all all all trust' >> ${allow}`]);
    const port = await this.#freePort();
    this.#onNode(
      asPostgres([`${bin}/postgres`, '-D', data, '-h', network.node, '-p', `${port}`, '-k', this.#folder, '-F']),
    );
    await this.#serve(shop, 'pg', 5432, port);
  }

  async #redis(shop: Shop): Promise<void> {
    const port = await this.#freePort();
    const args = ['--bind', network.node, '--port', `${port}`, '--save', '', '--protected-mode', 'no'];
    // One program with two names; Debian has it in redis-tools under this one.
    this.#onNode(['bash', '-c', 'exec -a redis-server /usr/bin/redis-check-rdb "$@"', 'redis', ...args]);
    await this.#serve(shop, 'redis', 6379, port);
  }

  #onNode(command: string[]): void {
    const inItsNetwork = ['--target', `${cluster().pid}`, '--net', ...command];
    const child = spawn('nsenter', inItsNetwork, { stdio: ['ignore', 'ignore', 'inherit'], cwd: this.#folder });
    this.#children.push(child);
  }

  /** Of the node, as it is now. */
  async #freePort(): Promise<number> {
    const listener = net.createServer().listen(0, '127.0.0.1');
    await once(listener, 'listening');
    const { port } = listener.address() as net.AddressInfo;
    listener.close();
    return port;
  }

  async #serve(shop: Shop, name: string, port: number, targetPort: number): Promise<void> {
    await shop.create({
      ...{ apiVersion: 'v1', kind: 'Service', metadata: { name } },
      spec: { ports: [{ name: 'db', port, targetPort }] },
    });
    await shop.create({
      ...{ apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', addressType: 'IPv4' },
      metadata: { name, labels: { 'kubernetes.io/service-name': name } },
      ports: [{ name: 'db', port: targetPort }],
      endpoints: [{ addresses: [network.node], conditions: { ready: true } }],
    });
    const look = `exec 3<>/dev/tcp/${network.node}/${targetPort}`;
    const inItsNetwork = ['--target', `${cluster().pid}`, '--net', 'bash', '-c', look];
    await eventually(`${name} listens`, () =>
      run('nsenter', inItsNetwork).then(
        () => true,
        () => false,
      ),
    );
  }
}

/** Bytes 0 to 250, over and over: their sha256 is known without having them. */
export const PATTERN_BYTES = 251 * 4_177;

const SERVERS = `
import dgram from 'node:dgram';
import http from 'node:http';
const piece = Buffer.from(Array.from({ length: ${PATTERN_BYTES} }, (_, i) => i % 251));
http.createServer((request, response) => {
  let left = Number(request.url.slice(1)) || 0;
  response.writeHead(200, { 'content-length': left });
  const send = () => {
    while (left > 0) {
      const bytes = Math.min(left, piece.length);
      left -= bytes;
      if (!response.write(piece.subarray(0, bytes))) return response.once('drain', send);
    }
    response.end();
  };
  send();
}).listen(8080);
const echo = dgram.createSocket('udp4');
echo.on('message', (datagram, { port, address }) => echo.send(datagram, port, address));
echo.bind(7777);
process.on('SIGTERM', () => process.exit(0));
`;

async function deployPods(shop: Shop): Promise<void> {
  const container = {
    ...{ name: 'bulk', image: 'node:24-alpine', command: ['node', '--input-type=module', '-e', SERVERS] },
    readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 },
  };
  await shop.create(
    {
      ...{ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'bulk', labels: { app: 'bulk' } } },
      spec: { terminationGracePeriodSeconds: 1, containers: [container] },
    },
    {
      ...{ apiVersion: 'v1', kind: 'Service', metadata: { name: 'bulk' } },
      spec: {
        selector: { app: 'bulk' },
        ports: [
          { name: 'http', port: 80, targetPort: 8080 },
          { name: 'echo', protocol: 'UDP', port: 7777 },
        ],
      },
    },
  );
  await eventually('the bulk pod is ready', async () => {
    const { status } = await shop.get('pods/bulk');
    return status.conditions?.some(({ type, status: is }: Json) => type === 'Ready' && is === 'True');
  });
}
