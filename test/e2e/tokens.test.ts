import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { Json } from '../../agent/deploy/kube.ts';
import { cluster } from '../cluster/up.ts';
import { endAll } from './lpk.ts';
import { eventually, Shop, workload } from './shop.ts';
import type { Use } from './token-caller.ts';

/**
 * A day with hourly tokens, in a minute: no token expires in use.
 *
 * Kubelet replaces a pod's token at 80 % of its life, 30 times in 24 h for one of an hour, and the old one is good for another 12
 * minutes. Neither the API server nor kubelet makes tokens of less than 10 minutes, so the rotation is the test's: the pod's service
 * account volume has its token from a Secret that the test replaces 30 times. All else is real. Each token is one of the API server's own
 * for the pod's service account, bound to an object of its own (TokenRequest, `boundObjectRef`): the API server refuses it once that object is deleted,
 * and it is, 10 s after the next token is in the pod, instead of 12 minutes. Kubelet writes the files, lpk's agent finds them, and
 * the local process (token-caller.ts) calls the API server, reading the file before each call; client-go does so once a minute.
 *
 * The API server may go by its memory of a token for 10 s, so when a token was used is compared with the clock too.
 */

const ROTATIONS = 30;
/** What a token has left when the next one is in the pod: more than lpk takes by its promise, for a machine that stalls. */
const OVERLAP_MS = 10_000;
/** As long as lpk takes. */
const PROMISED_MS = 5_000;
const NUDGE_MS = 500;
const FOLDER = '/var/run/secrets/kubernetes.io/serviceaccount';
/** More than a tar stream's piece, so that a file that is written in place would be seen half. */
const FILLER = 'x'.repeat(300_000);
const FOLLOW = `last=; while :; do n=$(cat ${FOLDER}/number); [ "$n" = "$last" ] || echo "$n"; last=$n; sleep 0.05; done`;

let shop: Shop;
const tokens: string[] = [];

before(async () => {
  shop = await Shop.open('tokens');
  const role = { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'looker' };
  await shop.create(
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'looker' } },
    {
      ...{ apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'Role', metadata: { name: 'looker' } },
      rules: [{ apiGroups: [''], resources: ['pods'], verbs: ['list'] }],
    },
    {
      ...{ apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'RoleBinding', metadata: { name: 'looker' } },
      ...{ roleRef: role, subjects: [{ kind: 'ServiceAccount', name: 'looker', namespace: shop.namespace }] },
    },
  );
  tokens.push(...(await Promise.all(Array.from({ length: ROTATIONS + 1 }, (_, n) => newToken(n)))));
  await shop.create(secretOf(0));
  const sources = [
    { secret: { name: 'rotated' } },
    { configMap: { name: 'kube-root-ca.crt' } },
    { downwardAPI: { items: [{ path: 'namespace', fieldRef: { fieldPath: 'metadata.namespace' } }] } },
  ];
  await shop.deploy(
    workload('Deployment', 'client', {
      container: { volumeMounts: [{ name: 'token', mountPath: FOLDER }] },
      pod: { serviceAccountName: 'looker', volumes: [{ name: 'token', projected: { sources } }] },
    }),
  );
});

after(async () => {
  endAll();
  await shop?.close();
});

/** A token of the service account's that is good as long as the Secret `life-N` is there. */
async function newToken(n: number): Promise<string> {
  const base = `/api/v1/namespaces/${shop.namespace}`;
  const name = `life-${n}`;
  const { metadata } = await shop.cluster.request('POST', `${base}/secrets`, { body: { metadata: { name } } });
  const boundObjectRef = { apiVersion: 'v1', kind: 'Secret', name, uid: metadata.uid };
  const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { boundObjectRef } };
  const { status } = await shop.cluster.request('POST', `${base}/serviceaccounts/looker/token`, { body });
  return status.token;
}

function secretOf(n: number): Json {
  const begun = `${n} ${FILLER}`;
  const whole = `${begun} ${createHash('sha256').update(begun).digest('hex')}`;
  const stringData = { token: tokens[n], number: `${n}`, whole };
  return { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'rotated' }, stringData };
}

async function isGood(token: string): Promise<boolean> {
  const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenReview', spec: { token } };
  const { status } = await shop.cluster.request('POST', '/apis/authentication.k8s.io/v1/tokenreviews', { body });
  return status.authenticated === true;
}

/** When each rotation was first seen in the pod, ms since 1970, for as long as `end` is not called. */
function followPod(pod: string): { seenMs: Map<number, number>; end(): Promise<void> } {
  const seenMs = new Map<number, number>();
  const args = ['exec', '-n', shop.namespace, pod, '-c', 'app', '--', '/bin/sh', '-c', FOLLOW];
  const child = spawn(cluster().kube, ['kubectl', '--kubeconfig', shop.kubeconfig, ...args]);
  createInterface(child.stdout).on('line', (line) => seenMs.set(Number(line), Date.now()));
  return {
    seenMs,
    async end() {
      child.kill();
      await once(child, 'close');
    },
  };
}

test('through a day’s rotations no token expires in use, and every file is whole', async () => {
  const caller = path.join(import.meta.dirname, 'token-caller.ts');
  const lpk = shop.lpk('connect', 'deployment/client', '--no-wait', '--', process.execPath, caller);
  const uses = () => lpk.lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as Use);
  const usedAfter = (ms: number) => lpk.until('a call with a token', () => uses().find(({ atMs }) => atMs > ms));
  await usedAfter(0);

  const { pods } = await lpk.event('ready');
  const followed = followPod(pods[0]);
  const base = `/api/v1/namespaces/${shop.namespace}`;
  const expiresMs = new Map<string, number>();
  const lateMs: number[] = [];
  const deaths: Promise<unknown>[] = [];
  for (let n = 1; n <= ROTATIONS; n++) {
    await shop.cluster.request('PUT', `${base}/secrets/rotated`, { body: secretOf(n) });
    let nudgedMs = 0;
    const arrivedMs = await eventually(`rotation ${n} in the pod`, async () => {
      if (!followed.seenMs.has(n) && performance.now() - nudgedMs > NUDGE_MS) {
        nudgedMs = performance.now();
        await nudge(pods[0], n); // else kubelet looks once a minute
      }
      return followed.seenMs.get(n);
    });
    const life = `life-${n - 1}`;
    expiresMs.set(life, arrivedMs + OVERLAP_MS);
    deaths.push(pause(OVERLAP_MS).then(() => shop.cluster.request('DELETE', `${base}/secrets/${life}`)));
    const used = await lpk.until(`a use of token ${n}`, () => uses().find((each) => each.life === `life-${n}`));
    lateMs.push(used.atMs - arrivedMs);
  }
  await Promise.all(deaths);
  await usedAfter(Date.now());
  await followed.end();
  lpk.signal('SIGINT');
  await lpk.exit();

  const all = uses();
  const expired = all.filter(({ life, atMs }) => atMs >= (expiresMs.get(life) ?? Number.POSITIVE_INFINITY));
  assert.deepEqual(expired, []);
  const kept = lateMs.filter((ms) => ms < PROMISED_MS).length;
  assert.ok(kept >= ROTATIONS * 0.9, `the new token is here so many ms after it is in the pod: ${lateMs}`);
  assert.deepEqual(
    all.filter(({ status, seen }) => status !== 200 || seen.includes('torn')),
    [],
  );
  const lives = [...new Set(all.map(({ life }) => life))];
  assert.deepEqual(
    lives,
    tokens.map((_, n) => `life-${n}`),
    'each in its turn, and no old one again',
  );
  // That they do expire.
  await eventually('the API server refuses the first', async () => !(await isGood(tokens[0] as string)));
  assert.equal(await isGood(tokens[ROTATIONS] as string), true);
});

async function nudge(pod: string, n: number): Promise<void> {
  await shop.cluster.request('PATCH', `/api/v1/namespaces/${shop.namespace}/pods/${pod}`, {
    body: { metadata: { annotations: { rotation: `${n}-${Date.now()}` } } },
    contentType: 'application/merge-patch+json',
  });
}
