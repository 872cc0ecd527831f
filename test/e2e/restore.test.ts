import assert from 'node:assert/strict';
import { hostname, userInfo } from 'node:os';
import { after, before, describe, test } from 'node:test';
import type { Json } from '../../agent/deploy/kube.ts';
import { endAll, Lpk, MAIN } from './lpk.ts';
import { eventually, Shop, sidecar, workload } from './shop.ts';

/** However a session ends, the workload is what it was, and nothing of lpk is left. On the real cluster, with the real CLI. */

const kinds = {
  ends: 'Deployment',
  interrupted: 'StatefulSet',
  terminated: 'DaemonSet',
  'hung-up': 'Deployment',
  typed: 'Deployment',
  killed: 'Deployment',
  early: 'StatefulSet',
  held: 'Deployment',
  contested: 'Deployment',
  deleted: 'Deployment',
  taken: 'Deployment',
  hurried: 'Deployment',
  mine: 'Deployment',
  theirs: 'Deployment',
} as const;
type Name = keyof typeof kinds;

const COMMAND = ['--', 'sleep', '1000'];

let shop: Shop;
/** Of `lpk restore --all`, which no other session may be near. */
let apart: Shop;

before(async () => {
  [shop, apart] = await Promise.all([Shop.open('restore'), Shop.open('all')]);
  const names = Object.keys(kinds) as Name[];
  await Promise.all(names.map((name) => shopOf(name).deploy(shaped(name))));
});

after(async () => {
  endAll();
  await Promise.all([shop?.close(), apart?.close()]);
});

function shopOf(name: Name): Shop {
  return name === 'mine' || name === 'theirs' ? apart : shop;
}

/** With something in every field that a session changes. */
function shaped(name: Name): Json {
  const container = {
    workingDir: '/tmp',
    args: ['unused'],
    lifecycle: { preStop: { exec: { command: ['/bin/true'] } } },
    startupProbe: { httpGet: { path: '/', port: 'http' }, periodSeconds: 1 },
    volumeMounts: [{ name: 'scratch', mountPath: '/scratch' }],
  };
  const rich = name === 'ends' || name === 'killed';
  const given = rich ? { container, pod: { volumes: [{ name: 'scratch', emptyDir: {} }] } } : {};
  return workload(kinds[name], name, { ...given, sidecar: rich ? sidecar('side', 8090) : undefined });
}

function targetOf(name: Name): string {
  return `${kinds[name].toLowerCase()}/${name}`;
}

function connect(name: Name, ...args: string[]): Lpk {
  return shopOf(name).lpk('connect', targetOf(name), ...(shaped(name).spec.template.spec.containers.length > 1 ? ['--container', 'app'] : []), ...args);
}

/** A session under way; `spec`: the workload's before it. */
async function session(name: Name, ...args: string[]): Promise<{ lpk: Lpk; spec: string }> {
  const spec = await shopOf(name).specOf(targetOf(name));
  const lpk = connect(name, '-p', '39999', ...args);
  await lpk.event('ready');
  assert.notEqual(await shopOf(name).specOf(targetOf(name)), spec, `the session changes it; ${lpk}`);
  return { lpk, spec };
}

async function assertPutBack(name: Name, spec: string, lpk: Lpk): Promise<void> {
  const target = targetOf(name);
  assert.equal(await shopOf(name).specOf(target), spec, `${target} is not as it was; ${lpk}`);
  // The last pod that ran the agent may still be on its way out.
  await eventually(`nothing of lpk is left of ${target}`, async () => (await shopOf(name).leftOf(target)).length === 0).catch(async () => {
    assert.deepEqual(await shopOf(name).leftOf(target), [], `${lpk}`);
  });
}

/** What others do to a workload while it is held: as a patch, and what it makes of the spec before. */
const meddling: Json[] = [
  { op: 'replace', path: '/spec/replicas', value: 2 },
  { op: 'add', path: '/spec/template/metadata/labels/team', value: 'blue' },
  { op: 'add', path: '/spec/template/spec/containers/0/env/-', value: { name: 'ADDED', value: 'meanwhile' } },
  { op: 'replace', path: '/spec/template/spec/containers/1/image', value: 'docker.io/library/busybox:1' },
];

function meddled(spec: string): string {
  const changed = JSON.parse(spec);
  const { metadata, spec: pod } = changed.template;
  changed.replicas = 2;
  metadata.labels.team = 'blue';
  pod.containers[0].env.push({ name: 'ADDED', value: 'meanwhile' });
  pod.containers[1].image = 'docker.io/library/busybox:1';
  return JSON.stringify(changed);
}

/** Runs its arguments, and says with which code they ended, when the terminal around it is closed and its shell told so. */
function inTerminal(name: Name, exitFile: string): Lpk {
  const command = `trap : HUP INT; ${process.execPath} ${MAIN} "$@"; echo $? > ${exitFile}`;
  return new Lpk(shop.args('connect', targetOf(name), '-p', '39999', ...COMMAND), { program: ['script', '-q', '-c', command, '/dev/null', '--'] });
}

describe('a session is over', { concurrency: 3 }, () => {
  test('when the COMMAND ends; what others changed meanwhile stays', async () => {
    const { lpk, spec } = await session('ends', '--', 'sh', '-c', 'read line; exit 7');
    lpk.signal('SIGKILL');
  });
});
