import assert from 'node:assert/strict';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import type { Json } from '../../agent/deploy/kube.ts';
import { sessionOfPod } from '../../agent/restore/record.ts';
import { kubectl } from '../cluster/cluster.ts';
import { goFetch } from '../cluster/go.ts';
import { endAll } from './lpk.ts';
import { eventually, type Listener, listen, Shop, service, workload } from './shop.ts';

/**
 * An Argo Rollout by its real CRD. Argo's controller takes too long to build for these tests: what it would do at each step (say what it
 * has seen, make the pods) the test does by hand, so this shows what lpk does to the API server and nothing of how Argo goes on from there.
 */

const ARGO = 'github.com/argoproj/argo-rollouts@v1.10.1';
const CRD = 'crd/rollouts.argoproj.io';
const TARGET = 'rollout/web';

let shop: Shop;
let laptop: Listener;

before(async () => {
  shop = await Shop.open('argo');
  const { Dir } = JSON.parse(await goFetch(['mod', 'download', '-json', ARGO], { cwd: os.tmpdir() }));
  await removeCrd(); // of a run that died
  await kubectl(['apply', '--server-side', '-f', path.join(Dir, 'manifests/crds/rollout-crd.yaml')]);
  const rollouts = `/apis/argoproj.io/v1alpha1/namespaces/${shop.namespace}/rollouts`;
  await eventually('the API server knows the kind', () => shop.cluster.request('GET', rollouts).catch(() => undefined));
  await shop.deployCaller();
  laptop = await listen(0, (socket) => socket.once('data', () => socket.end('the laptop')));
});

after(async () => {
  endAll();
  await laptop?.close();
  await removeCrd();
  await shop?.close();
});

async function removeCrd(): Promise<void> {
  await kubectl(['delete', CRD, '--ignore-not-found']);
}

/** In the controller's place: what it says of the generation that is there. */
async function say(status: Json): Promise<void> {
  const { metadata } = await shop.workload(TARGET);
  const body = { status: { observedGeneration: `${metadata.generation}`, ...status } };
  const at = `/apis/argoproj.io/v1alpha1/namespaces/${shop.namespace}/rollouts/web/status`;
  const query = { fieldManager: 'argo' };
  await shop.cluster.request('PATCH', at, { body, query, contentType: 'application/merge-patch+json' });
}

/** All pods are of the template with this hash. */
async function sayOver(hash: string): Promise<void> {
  const counts = { replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1 };
  await say({ currentPodHash: hash, stableRS: hash, phase: 'Healthy', promoteFull: null, ...counts });
}

/** In the controller's place: a ReplicaSet of the present template. */
async function makePods(hash: string): Promise<void> {
  const { apiVersion, kind, metadata, spec } = await shop.workload(TARGET);
  const labels = { app: 'web', 'rollouts-pod-template-hash': hash };
  const template = { ...spec.template, metadata: { labels } };
  const owner = { apiVersion, kind, name: metadata.name, uid: metadata.uid, controller: true };
  await shop.create({
    apiVersion: 'apps/v1',
    kind: 'ReplicaSet',
    metadata: { name: `web-${hash}`, labels, ownerReferences: [owner] },
    spec: { replicas: 1, selector: { matchLabels: labels }, template },
  });
}

async function isPromoted(): Promise<boolean> {
  return (await shop.workload(TARGET)).status.promoteFull === true;
}

async function holdsAgent(): Promise<boolean> {
  return sessionOfPod((await shop.workload(TARGET)).spec.template.spec) !== undefined;
}

test('a Rollout behind a Service is swapped, promoted past its pause, served, and put back the same way', async () => {
  const strategy = { canary: { steps: [{ setWeight: 50 }, { pause: {} }] } };
  const { metadata, spec } = workload('Deployment', 'web', { spec: { replicas: 1, strategy } });
  await shop.create({ apiVersion: 'argoproj.io/v1alpha1', kind: 'Rollout', metadata, spec }, service('web', [8080]));
  await sayOver('own');
  const before = await shop.specOf(TARGET);

  const lpk = shop.lpk('connect', 'web', '-p', `${laptop.port}:8080`);
  await eventually(`its template is the agent’s; ${lpk}`, holdsAgent);
  assert.equal(await isPromoted(), false, 'not before the controller has seen the template');
  const pause = { reason: 'CanaryPauseStep', startTime: new Date().toISOString() };
  await say({ currentPodHash: 'agent', phase: 'Paused', pauseConditions: [pause] });
  await eventually(`it is promoted; ${lpk}`, isPromoted);
  await makePods('agent');
  await lpk.event('ready');
  await say({ pauseConditions: null });
  await sayOver('agent');
  await lpk.event('serving', ({ state }) => state === 'done');
  await eventually(`the laptop answers; ${lpk}`, async () => {
    const { received } = await shop.call({ host: 'web', port: 8080, send: 'x' });
    return String(received) === 'the laptop';
  });
  const status = shop.lpk('status');
  assert.deepEqual(await status.exit(), { code: 0, signal: null }, `${status}`);
  await status.event('session', ({ workload: held }) => held === TARGET);

  lpk.signal('SIGINT');
  await eventually(`its template is its own; ${lpk}`, async () => !(await holdsAgent()));
  await say({ currentPodHash: 'own' });
  await eventually(`it is promoted back; ${lpk}`, isPromoted);
  await sayOver('own');
  assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
  assert.equal(await shop.specOf(TARGET), before, `${lpk}`);
  // The agent's ReplicaSet, which nobody has scaled down, is gone with the history, and its pod with it.
  await eventually(`nothing is left; ${lpk}`, async () => (await shop.leftOf(TARGET)).length === 0);
});
