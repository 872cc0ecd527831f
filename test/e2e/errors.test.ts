import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Json } from '../../agent/deploy/kube.ts';
import type { ErrorCode } from '../../agent/wire/errors.ts';
import { HINTS } from '../../cli/hints.ts';
import { endAll, Lpk } from './lpk.ts';
import { type Listener, listen, Shop, service, sidecar, workload } from './shop.ts';

/** Every way to get `lpk connect` wrong (of missing rights: rights.test.ts): one clear line and what to do, an exit code, and nothing left in the cluster. */

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-errors-'));
const WORKLOADS = ['deployment/web', 'deployment/double', 'deployment/zero', 'statefulset/db'];

let shop: Shop;
let taken: Listener;

before(async () => {
  shop = await Shop.open('errors');
  taken = await listen(0, () => {});
  await shop.deploy(
    workload('Deployment', 'web'),
    service('web', [[80, 8080]]),
    service('web-old', [[80, 8080]], { selector: undefined }),
    workload('Deployment', 'double', { sidecar: sidecar('side', 8090) }),
    service('double', [8080, 8090]),
    workload('Deployment', 'zero', { spec: { replicas: 0 } }),
    service('zero', [8080]),
    workload('StatefulSet', 'db'),
    service('db', [8080], { clusterIP: 'None' }),
    workload('Deployment', 'unpullable'),
    workload('Deployment', 'without-node'),
  );
});

after(async () => {
  endAll();
  rmSync(dir, { recursive: true });
  await taken?.close();
  await shop?.close();
});

type Failure = { code: ErrorCode; says: RegExp; exitCode?: number };

/** What lpk says: exactly one line that names it, its hint, the same as JSON, and the exit code. */
async function assertFails(lpk: Lpk, { code, says, exitCode = 1 }: Failure): Promise<void> {
  assert.deepEqual(await lpk.exit(), { code: exitCode, signal: null }, `${lpk}`);
  const lines = lpk.stderr.trimEnd().split('\n');
  assert.match(lines.at(-2) ?? '', says, `${lpk}`);
  assert.equal(lines.at(-1), `  → ${HINTS[code]}`, `${lpk}`);
  assert.equal(lines.filter((line) => line.startsWith('lpk: ')).length, 1, `one line; ${lpk}`);
  const errors = lpk.events.filter(({ event }) => event === 'error');
  const message = lines.at(-2)?.slice('lpk: '.length);
  assert.deepEqual(errors, [{ event: 'error', code, message, hint: HINTS[code] }], `${lpk}`);
  assert.deepEqual(lpk.lines, [], `stdout has JSON only; ${lpk}`);
}

/** What may not change in the cluster: every workload, its number of changes and its annotations included, and every object of lpk's. */
async function scene(): Promise<object> {
  const objects = await Promise.all(['configmaps', 'secrets'].map((each) => shop.get(each)));
  const names = objects.flatMap(({ items }) => (items as Json[]).map(({ metadata }) => metadata.name)).toSorted();
  const workloads = await Promise.all(
    WORKLOADS.map(async (name) => {
      const { spec, metadata } = await shop.workload(name);
      return [name, metadata.generation, metadata.annotations, JSON.stringify(spec)];
    }),
  );
  return { names, workloads };
}

/** A kubeconfig like the admin's, with a difference. */
function kubeconfig(name: string, change: (config: Json) => void): string {
  const config = JSON.parse(readFileSync(shop.kubeconfig, 'utf8'));
  change(config);
  return written(name, JSON.stringify(config));
}

function written(name: string, text: string): string {
  const file = path.join(dir, name);
  writeFileSync(file, text);
  return file;
}

describe('before anything is changed', { concurrency: 4 }, () => {
  const nowhere = 'https://127.0.0.1:1';
  const rows: [string, () => string[], Failure][] = [
    [
      'a kubeconfig that is not there',
      () => ['web', '--kubeconfig', '/nowhere/config'],
      { code: 'kubeconfig-invalid', says: /^lpk: there is no kubeconfig at \/nowhere\/config$/ },
    ],
    [
      'a kubeconfig that is none',
      () => ['web', '--kubeconfig', written('garbage', '\x7fELF: [')],
      { code: 'kubeconfig-invalid', says: /^lpk: kubeconfig \S+garbage is not/ },
    ],
    [
      'a context that is not there',
      () => ['web', '--context', 'production'],
      {
        code: 'kubeconfig-invalid',
        says: /^lpk: kubeconfig .*there is no context "production" \(it has: lpk-cluster\)$/,
      },
    ],
    [
      'a cluster that does not answer',
      () => [
        'web',
        '--kubeconfig',
        kubeconfig('silent', ({ clusters }) => Object.assign(clusters[0].cluster, { server: nowhere })),
      ],
      {
        code: 'cluster-unreachable',
        says: /^lpk: can't reach the cluster at https:\/\/127\.0\.0\.1:1: nothing listens there/,
      },
    ],
    [
      'a cluster whose name is unknown',
      () => [
        'web',
        '--kubeconfig',
        kubeconfig('unknown', ({ clusters }) => Object.assign(clusters[0].cluster, { server: 'https://lpk.invalid' })),
      ],
      { code: 'cluster-unreachable', says: /^lpk: can't reach the cluster at https:\/\/lpk\.invalid: the name/ },
    ],
    [
      'credentials that the cluster does not know',
      () => [
        'web',
        '--kubeconfig',
        kubeconfig('stranger', ({ users }) => Object.assign(users[0], { user: { token: 'nonsense' } })),
      ],
      { code: 'unauthorized', says: /^lpk: https:\S+ does not accept the credentials of user "admin"$/ },
    ],
    [
      'a namespace that is not there',
      () => ['web', '-n', 'no-such'],
      { code: 'not-found', says: /^lpk: there is no Service "web" in namespace no-such, nor any other of its kind$/ },
    ],
    [
      'a Service that is not there',
      () => ['wep'],
      { code: 'not-found', says: /^lpk: there is no Service "wep" in namespace \S+; there is web/ },
    ],
    [
      'a workload that is not there',
      () => ['deployment/doble'],
      { code: 'not-found', says: /^lpk: there is no deployment "doble" .*; there is double$/ },
    ],
    [
      'a Service without a selector',
      () => ['web-old'],
      { code: 'no-selector', says: /^lpk: Service web-old has no selector/ },
    ],
    [
      'several containers',
      () => ['double'],
      {
        code: 'ambiguous-container',
        says: /^lpk: deployment\/double has several containers: app, side; choose one with --container$/,
      },
    ],
    [
      'a container that is not there',
      () => ['double', '--container', 'nginx'],
      { code: 'not-found', says: /^lpk: deployment\/double has no container "nginx"; it has app, side$/ },
    ],
    [
      'no replicas',
      () => ['zero'],
      { code: 'no-replicas', says: /^lpk: deployment\/zero has no pods: it is scaled to 0$/ },
    ],
    [
      'a local port that is taken',
      () => ['web', '--proxy-port', `${taken.port}`],
      { code: 'port-taken', says: /^lpk: port \d+ on 127\.0\.0\.1 is taken by another program$/ },
    ],
    [
      'an option that is not there',
      () => ['web', '--repliacs', '1'],
      { code: 'usage', exitCode: 2, says: /^lpk: Unknown argument.* repliacs/ },
    ],
    [
      'a kind that is not there',
      () => ['ingress/web'],
      { code: 'usage', exitCode: 2, says: /^lpk: "ingress\/web" names no target/ },
    ],
    [
      'a kind that ends by itself',
      () => ['cronjob/web'],
      { code: 'unsupported-workload', says: /^lpk: cronjob\/web can't be served: a Job’s pods do their work once/ },
    ],
    [
      'a port that is none',
      () => ['web', '-p', '80000'],
      { code: 'usage', exitCode: 2, says: /^lpk: -p 80000: 80000 is not a port/ },
    ],
  ];

  for (const [what, args, failure] of rows) {
    test(what, async () => {
      const before = await scene();
      const given = args();
      const lpk = given.includes('-n')
        ? new Lpk(['connect', '--kubeconfig', shop.kubeconfig, ...given])
        : shop.lpk('connect', ...given);
      await assertFails(lpk, failure);
      assert.deepEqual(await scene(), before, `${lpk}`);
    });
  }

  test('without -o json, stdout has nothing', async () => {
    const lpk = new Lpk(shop.args('connect', 'wep'), { json: false });
    assert.deepEqual(await lpk.exit(), { code: 1, signal: null }, `${lpk}`);
    assert.deepEqual([lpk.events, lpk.lines], [[], []], `${lpk}`);
    assert.match(lpk.stderr, /^lpk: there is no Service "wep"/m, `${lpk}`);
  });
});

describe('a workload that can’t roll out is put back', { concurrency: 2 }, () => {
  const rows: [string, string, string, Failure][] = [
    [
      'the agent’s image can’t be pulled',
      'unpullable',
      'registry.invalid/node:24',
      {
        code: 'image-pull',
        says: /^lpk: pod unpullable-\S+: container app: the image can't be pulled: .*registry\.invalid/,
      },
    ],
    [
      'the agent’s image has no Node',
      'without-node',
      'busybox:1',
      {
        code: 'rollout-failed',
        says: /^lpk: pod without-node-\S+: container app: ends again and again: last ended with Error \(exit code 127\)/,
      },
    ],
  ];
  for (const [what, name, image, failure] of rows) {
    test(what, async () => {
      const target = `deployment/${name}`;
      const spec = await shop.specOf(target);
      const lpk = shop.lpk('connect', target, '--agent-image', image);
      await assertFails(lpk, failure);
      assert.equal(await shop.specOf(target), spec, `${lpk}`);
      assert.deepEqual(await shop.leftOf(target), [], `${lpk}`);
    });
  }
});
