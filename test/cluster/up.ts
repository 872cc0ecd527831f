import fs from 'node:fs';
import path from 'node:path';
import { create, get } from './api.ts';
import { corednsBinary, kubeBinary } from './build.ts';
import { corednsObjects } from './coredns.ts';
import { makeCredentials } from './credentials.ts';
import { imageArchive } from './images.ts';
import { locked } from './lock.ts';
import { endNode, enter, findNode, logOf, running, startInNode, startNode } from './node.ts';
import { installPackages } from './packages.ts';
import { pieces, writeSettings } from './pieces.ts';
import {
  ClusterError,
  clusterName,
  DEFAULT_VERSION,
  kubeconfigFile,
  logs,
  network,
  state,
  writePrivate,
} from './place.ts';
import { elapsed, step, until } from './progress.ts';
import { interruption, run } from './run.ts';

/** What the state folder tells about its cluster. */
type Facts = { version: string; kube: string };

const factsFile = path.join(state, 'cluster.json');

/** Ready within this time even on a busy machine; usually in a tenth of it. */
const READY_MS = 120_000;

/** How long a running cluster may take to show that it works. */
const ANSWER_MS = 20_000;
/** The same for a test, whose fellows may keep the machine busy. */
const TEST_ANSWER_MS = 120_000;

/**
 * Makes sure that a cluster runs and works; of this version, if one is named. Gives its kubeconfig's path. A cluster
 * that only half works is started again.
 */
export async function up(version?: string): Promise<string> {
  return locked(clusterName, async () => {
    const facts = runningFacts();
    if (facts && (!version || version === facts.version) && (await works())) return kubeconfigFile;
    return startAnew(version, facts);
  });
}

/** As `up`, in the middle of a run of tests: what runs is never ended. Throws a ClusterError when it does not work. */
export async function upForTest(): Promise<string> {
  return locked(clusterName, async () => {
    const facts = runningFacts();
    if (!facts) return startAnew();
    if (await works(TEST_ANSWER_MS)) return kubeconfigFile;
    const next = 'scripts/cluster up starts it again';
    throw new ClusterError(`the cluster of v${facts.version} does not work, see ${logs}; ${next}`);
  });
}

async function startAnew(version?: string, facts?: Facts): Promise<string> {
  const started = Date.now();
  const wanted = version ?? facts?.version ?? DEFAULT_VERSION;
  if (facts) {
    const why = wanted === facts.version ? 'does not work' : 'is another version';
    await step(`ending the cluster of v${facts.version}, which ${why}`, endNode);
  }
  await start(wanted);
  console.error(`cluster: Kubernetes v${wanted} is ready, ${elapsed(started)}`);
  return kubeconfigFile;
}

/** Ends the cluster. What was built stays in the cache, the logs in the state folder. */
export async function down(): Promise<void> {
  await locked(clusterName, endNode);
}

/** The running cluster's facts. Throws a ClusterError when there is none. */
export function cluster(): Facts & { pid: number } {
  const facts = runningFacts();
  const pid = findNode();
  if (!facts || !pid) throw new ClusterError('no cluster is running: start one with scripts/cluster up');
  return { ...facts, pid };
}

function runningFacts(): Facts | undefined {
  return findNode() && fs.existsSync(factsFile) ? JSON.parse(fs.readFileSync(factsFile, 'utf8')) : undefined;
}

async function start(version: string): Promise<void> {
  const { kube, archive } = await locked('build', async () => {
    await installPackages();
    return { kube: await kubeBinary(version), archive: await imageArchive(await corednsBinary()) };
  });
  await endNode(); // what a node that died has left
  try {
    let awaited = '';
    const begin = () =>
      startCluster({ version, kube }, archive, (what) => {
        awaited = what && `waiting: ${what}`;
      });
    await step(`starting Kubernetes v${version}`, begin, () => awaited);
  } catch (error) {
    await endNode();
    throw error;
  }
}

/** `tell` hears what is waited for. */
async function startCluster(facts: Facts, archive: string, tell: (what: string) => void): Promise<void> {
  fs.rmSync(logs, { recursive: true, force: true });
  for (const folder of [path.join(logs, 'pods'), path.join(state, 'root')]) {
    fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  }
  writePrivate(factsFile, JSON.stringify(facts));
  writeSettings();
  await makeCredentials();
  const pid = await startNode(facts.kube);
  const begin = (name: string) => startInNode(pid, name, pieces[name]!);
  const wait = waiter(pid, tell);

  begin('etcd');
  begin('containerd');
  begin('kube-apiserver');
  await wait('containerd', 'containerd answers', () => containerdAnswers(pid));
  tell('the images are imported');
  await importImages(pid, archive);
  await wait('kube-apiserver', 'the API server answers', () => get('/livez/ping'));
  begin('kubelet');
  await wait('kube-apiserver', 'the API server is ready', apiServerIsReady);
  begin('kube-controller-manager'); // it gives up when its role isn't there yet
  begin('kube-scheduler');
  for (const { path, object } of corednsObjects) await create(path, object);
  await wait('kubelet', 'the node is ready', nodeIsReady);
  begin('kube-proxy'); // it would wait for the node in steps of seconds
  await wait('kube-controller-manager', 'pods have a service account', defaultAccount);
  await wait('kubelet', 'CoreDNS is available', corednsIsAvailable);
  await wait('kube-proxy', 'a Service answers', () => dnsAnswers(pid));
  tell('');
}

/** Waits for a condition, but not longer than all that was started keeps running; `name` is whose log to look at. */
function waiter(pid: number, tell: (what: string) => void) {
  const seen = new Set<string>();
  return (name: string, what: string, check: () => Promise<unknown>) => {
    const hint = `see ${logOf(name)}`;
    tell(what);
    return until(what, { timeoutMs: READY_MS, hint }, async () => {
      interruption.throwIfAborted();
      const now = running(pid);
      const dead = [...seen].find((piece) => !now.has(piece));
      if (dead) throw new ClusterError(`${dead} has ended; see ${logOf(dead)}`);
      for (const piece of Object.keys(pieces)) if (now.has(piece)) seen.add(piece);
      return (await check()) || undefined;
    });
  };
}

async function importImages(pid: number, archive: string): Promise<void> {
  const file = fs.openSync(archive, 'r');
  try {
    await run('nsenter', [...enter(pid), 'ctr', '--namespace', 'k8s.io', 'images', 'import', '-'], { stdin: file });
  } finally {
    fs.closeSync(file);
  }
}

/** Whether all of the cluster works, or comes to within a time that a busy machine may need for an answer. */
export async function works(withinMs = ANSWER_MS): Promise<boolean> {
  const { pid } = cluster();
  const deadline = Date.now() + withinMs;
  do {
    interruption.throwIfAborted();
    const now = running(pid);
    if (!Object.keys(pieces).every((name) => now.has(name))) return false;
    const checks = [apiServerIsReady(), nodeIsReady(), defaultAccount(), corednsIsAvailable(), dnsAnswers(pid)];
    if ((await Promise.all(checks)).every(Boolean)) return true;
  } while (Date.now() < deadline);
  return false;
}

type Conditions = { status: { conditions?: { type: string; status: string }[] } };

async function holds(path: string, condition: string): Promise<boolean> {
  const text = await get(path);
  if (!text) return false;
  const { status }: Conditions = JSON.parse(text);
  return status.conditions?.some(({ type, status }) => type === condition && status === 'True') ?? false;
}

/** Whether the API server says so. */
export const apiServerIsReady = () => get('/readyz');
const nodeIsReady = () => holds('/api/v1/nodes/node1', 'Ready');
const defaultAccount = () => get('/api/v1/namespaces/default/serviceaccounts/default');
const corednsIsAvailable = () => holds('/apis/apps/v1/namespaces/kube-system/deployments/coredns', 'Available');

/** Whether the node gets an answer of CoreDNS through its Service. */
function dnsAnswers(pid: number): Promise<boolean> {
  const ask = ['timeout', '5', 'busybox', 'nslookup', `kubernetes.default.svc.${network.domain}`, network.dns];
  return succeeds('nsenter', [...enter(pid), ...ask]);
}

export function containerdAnswers(pid: number): Promise<boolean> {
  return succeeds('nsenter', [...enter(pid), 'ctr', 'version']);
}

async function succeeds(program: string, args: string[]): Promise<boolean> {
  try {
    await run(program, args);
    return true;
  } catch {
    return false;
  }
}
