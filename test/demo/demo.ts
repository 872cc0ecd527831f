/**
 * `scripts/demo`: a real one-node cluster, a small shop in it, and lpk: every promise of the README's first screen as one line
 * with a tick. Exit code 0 only if all hold.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { isDeepStrictEqual } from 'node:util';
import { clusterUp, kubectl } from '../cluster/cluster.ts';
import { demoProxy } from './proxy.ts';

const root = join(import.meta.dirname, '../..');
const began = performance.now();
let failures = 0;

const { kubeconfig } = await clusterUp();
say('a one-node Kubernetes cluster runs');

await kubectl(['apply', '-f', join(import.meta.dirname, 'shop.yaml')]);
for (const workload of ['deployment/web', 'deployment/api', 'statefulset/db']) {
  await kubectl(['rollout', 'status', '-n', 'shop', workload, '--timeout=120s']);
}
say('the shop runs: web, api, and db (a StatefulSet behind a headless Service)');
const before = await webSpec();

const port = await freePort();
const lpk = spawn(
  join(root, 'scripts/lpk'),
  [
    ...['connect', 'web', '-n', 'shop', '-p', `${port}:80`, '--kubeconfig', kubeconfig],
    ...['--', process.execPath, join(import.meta.dirname, 'local-web.ts'), String(port)],
  ],
  { stdio: ['ignore', 'pipe', 'pipe'] },
);
for (const stream of [lpk.stdout, lpk.stderr]) {
  createInterface({ input: stream }).on('line', (line) => console.log(`    ${line}`));
}
try {
  await until(lpk, 'the pod of deployment/web leads here');
  const answer = await callWeb();
  check('a pod calls http://web: the local process answers', answer.servedBy?.includes('process '), answer.servedBy);
  check('the local process calls http://api by its short name', answer.api?.startsWith('api in pod api-'), answer.api);
  check('… and the StatefulSet pod db-1.db by its name', answer.db === 'db in pod db-1', answer.db);
  check(
    'the local process has the Secret’s variable',
    answer.password === 'correct horse battery staple',
    'DB_PASSWORD',
  );
} catch (error) {
  check('the pod behind web becomes a local process', false, String(error));
}
const left = await leave(lpk);
const after = await webSpec();
check(
  'Ctrl-C puts deployment/web back to exactly what it was',
  left && isDeepStrictEqual(after, before),
  'its spec, byte for byte',
);
await demoProxy({ lpk: join(root, 'scripts/lpk'), kubeconfig, check });
const rest = (await kubectl(['get', 'configmaps,secrets,pods', '-n', 'shop', '-o', 'name'])).match(/\S*\blpk\S*/g);
check('nothing named lpk is left in the cluster', rest === null, rest?.join(' ') ?? 'no ConfigMap, Secret or pod');

const seconds = ((performance.now() - began) / 1_000).toFixed(1);
console.log(failures === 0 ? `All of it works (${seconds} s).` : `${failures} of it failed (${seconds} s).`);
console.log('The cluster stays for you to try: scripts/cluster kubectl get pods -A; scripts/cluster down ends it.');
process.exit(failures === 0 ? 0 : 1);

function say(text: string): void {
  console.log(`✔ ${text} (${((performance.now() - began) / 1_000).toFixed(1)} s)`);
}

function check(text: string, holds: boolean | undefined, seen: string | undefined): void {
  if (holds) return console.log(`✔ ${text}: ${seen}`);
  failures += 1;
  console.log(`✖ ${text}: ${seen}`);
}

async function webSpec(): Promise<unknown> {
  return JSON.parse(await kubectl(['get', 'deployment', 'web', '-n', 'shop', '-o', 'json'])).spec;
}

type Answer = Partial<Record<'servedBy' | 'api' | 'db' | 'password', string>>;

/** A pod's call, until the local process has it: kube-proxy follows within a second. */
async function callWeb(): Promise<Answer> {
  const script = `fetch('http://web/').then(r => r.text()).then(console.log)`;
  for (let tries = 1; ; tries++) {
    const text = await kubectl(['exec', '-n', 'shop', 'deployment/api', '--', 'node', '-e', script]).catch((error) => {
      if (tries === 20) throw error;
      return '';
    });
    if (text.startsWith('{')) return JSON.parse(text);
    if (tries === 20) throw new Error(`web answered: ${text}`);
  }
}

function until(child: ChildProcess, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const look = (chunk: Buffer) => {
      if (chunk.includes(text)) resolve();
    };
    child.stdout?.on('data', look);
    child.stderr?.on('data', look);
    child.once('exit', (code) => reject(new Error(`lpk ended with ${code}`)));
  });
}

function leave(child: ChildProcess): Promise<boolean> {
  return new Promise((resolve) => {
    if (child.exitCode !== null) return resolve(false);
    child.once('exit', () => resolve(true));
    child.kill('SIGINT');
  });
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}
