import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { hostname, tmpdir, userInfo } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Json } from '../../agent/deploy/kube.ts';
import { endAll, Lpk, localProcess } from './lpk.ts';
import { eventually, freePort, Shop, sidecar, workload } from './shop.ts';

/** However a session ends, the workload is what it was, and nothing of lpk is left. On the real cluster, with the real CLI. */

const kinds = {
  ends: 'Deployment',
  interrupted: 'StatefulSet',
  terminated: 'DaemonSet',
  swapping: 'Deployment',
  rolling: 'StatefulSet',
  'hung-up': 'Deployment',
  typed: 'Deployment',
  killed: 'Deployment',
  early: 'StatefulSet',
  held: 'Deployment',
  contested: 'Deployment',
  deleted: 'Deployment',
  taken: 'Deployment',
  hurried: 'Deployment',
  broken: 'Deployment',
  mine: 'Deployment',
  theirs: 'Deployment',
} as const;
type Name = keyof typeof kinds;

/** For a session that is to be held still when its lpk is dead: its restorer has a day. */
const HELD = ['--restore-after', '86400'];
const COMMAND = ['--', 'sh', '-c', 'echo runs; exec sleep 1000'];
const dir = mkdtempSync(path.join(tmpdir(), 'lpk-restore-'));

let shop: Shop;
/** Of `lpk restore --all`, which no other session may be near. */
let apart: Shop;

before(async () => {
  shop = await Shop.open('restore');
  apart = await Shop.open('all');
  const names = Object.keys(kinds) as Name[];
  await Promise.all(
    names.map((name) => (name === 'broken' ? shop.create(shaped(name)) : shopOf(name).deploy(shaped(name)))),
  );
});

after(async () => {
  endAll();
  rmSync(dir, { recursive: true });
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
  if (name === 'broken') return workload('Deployment', name, { container: { command: ['/bin/false'] } });
  const given = rich ? { container, pod: { volumes: [{ name: 'scratch', emptyDir: {} }] } } : {};
  return workload(kinds[name], name, { ...given, sidecar: rich ? sidecar('side', 8090) : undefined });
}

function targetOf(name: Name): string {
  return `${kinds[name].toLowerCase()}/${name}`;
}

function connect(name: Name, ...args: string[]): Lpk {
  return shopOf(name).lpk(
    'connect',
    targetOf(name),
    ...(shaped(name).spec.template.spec.containers.length > 1 ? ['--container', 'app'] : []),
    ...args,
  );
}

/** A session under way; `spec`: the workload's before it. */
async function session(name: Name, ...args: string[]): Promise<{ lpk: Lpk; spec: string }> {
  const spec = await shopOf(name).specOf(targetOf(name));
  const lpk = connect(name, ...args);
  await lpk.event('ready');
  assert.notEqual(await shopOf(name).specOf(targetOf(name)), spec, `the session changes it; ${lpk}`);
  return { lpk, spec };
}

async function assertPutBack(name: Name, spec: string, lpk: Lpk): Promise<void> {
  const target = targetOf(name);
  assert.equal(await shopOf(name).specOf(target), spec, `${target} is not as it was; ${lpk}`);
  assert.deepEqual(await shopOf(name).leftOf(target), [], `${lpk}`);
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

/**
 * A session in a terminal of its own, in a shell of that terminal. `exitFile`: where lpk's exit code is put by a second shell,
 * which hears every signal and goes on.
 */
function inTerminal(name: Name, exitFile: string): Lpk {
  const quoted = (word: string) => `'${word.replaceAll("'", "'\\''")}'`;
  return new Lpk(shop.args('connect', targetOf(name), ...COMMAND), {
    env: { TERM: 'dumb' },
    around: (command) => {
      const second = `trap : HUP INT; ${command.map(quoted).join(' ')}; echo $? > ${exitFile}`;
      return ['script', '-q', '-c', `sh -c ${quoted(second)}; true`, '/dev/null'];
    },
  });
}

async function exitCodeIn(exitFile: string, lpk: Lpk): Promise<number> {
  const text = await eventually(
    `the end of ${lpk}`,
    async () => existsSync(exitFile) && readFileSync(exitFile, 'utf8'),
  );
  return Number(text);
}

const whoseHere = `${userInfo().username} on ${hostname()} since 20\\d\\d-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d UTC`;

describe('everything is put back', { concurrency: 3 }, () => {
  test('when the COMMAND ends; what others changed meanwhile was followed, and stays', async () => {
    const port = await freePort();
    const { lpk, spec } = await session('ends', '-p', `${port}:8080`, ...localProcess(port));
    await lpk.line(/^listens$/);
    await shop.patch('deployment/ends', meddling);
    await shop.rollout('deployment/ends');
    const attached = lpk.events.filter(({ event }) => event === 'attached').map(({ pod }) => pod);
    for (const { metadata } of await shop.pods('deployment/ends'))
      assert.ok(attached.includes(metadata.name), `expected it attached to ${metadata.name}; ${lpk}`);
    await fetch(`http://127.0.0.1:${port}/`, { headers: { 'x-exit': '7' } });
    assert.deepEqual(await lpk.exit(), { code: 7, signal: null }, `${lpk}`);
    await assertPutBack('ends', meddled(spec), lpk);
  });

  test('on SIGINT, a StatefulSet', async () => {
    const { lpk, spec } = await session('interrupted');
    lpk.signal('SIGINT');
    assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `leaving when asked to is no failure; ${lpk}`);
    await assertPutBack('interrupted', spec, lpk);
  });

  test('on SIGTERM that ends the COMMAND, a DaemonSet', async () => {
    const { lpk, spec } = await session('terminated', ...COMMAND);
    await lpk.line(/^runs$/);
    lpk.signal('SIGTERM');
    assert.deepEqual(await lpk.exit(), { code: 143, signal: null }, `${lpk}`);
    await assertPutBack('terminated', spec, lpk);
  });

  for (const [name, step] of [
    ['swapping', 'swap'],
    ['rolling', 'rollout'],
  ] as const) {
    test(`on SIGTERM in the middle of the ${step}`, async () => {
      const spec = await shop.specOf(targetOf(name));
      const lpk = connect(name, ...COMMAND);
      await lpk.event(step, ({ state }) => state === 'started');
      lpk.signal('SIGTERM');
      assert.deepEqual(await lpk.exit(), { code: 143, signal: null }, `${lpk}`);
      assert.deepEqual(lpk.lines, [], `the COMMAND never ran; ${lpk}`);
      await assertPutBack(name, spec, lpk);
    });
  }

  test('when the terminal is closed', async () => {
    const spec = await shop.specOf('deployment/hung-up');
    const exitFile = path.join(dir, 'hung-up');
    const lpk = inTerminal('hung-up', exitFile);
    await lpk.line(/^runs$/);
    lpk.signal('SIGKILL'); // `script`, which has the terminal
    assert.equal(await exitCodeIn(exitFile, lpk), 129, `128 + SIGHUP, which the kernel sent the COMMAND; ${lpk}`);
    await assertPutBack('hung-up', spec, lpk);
  });

  test('on Ctrl-C at the terminal', async () => {
    const spec = await shop.specOf('deployment/typed');
    const exitFile = path.join(dir, 'typed');
    const lpk = inTerminal('typed', exitFile);
    await lpk.line(/^runs$/);
    lpk.type('\x03');
    assert.equal(await exitCodeIn(exitFile, lpk), 130, `128 + SIGINT, which the terminal sent the COMMAND; ${lpk}`);
    await assertPutBack('typed', spec, lpk);
  });

  test('after kill -9, by lpk restore; what others changed meanwhile stays', async () => {
    const { lpk, spec } = await session('killed', ...HELD);
    lpk.signal('SIGKILL');
    await lpk.exit();
    await shop.patch('deployment/killed', meddling);
    const restorer = shop.lpk('restore', 'deployment/killed');
    assert.deepEqual(await restorer.exit(), { code: 0, signal: null }, `${restorer}`);
    const { workload, kept } = await restorer.event('restored');
    assert.deepEqual([workload, kept], ['deployment/killed', []], `${restorer}`);
    await assertPutBack('killed', meddled(spec), restorer);

    const again = shop.lpk('restore', 'deployment/killed');
    assert.deepEqual(await again.exit(), { code: 1, signal: null }, `${again}`);
    assert.match(again.stderr, /^lpk: deployment\/killed in namespace \S+ is not held by any session/m, `${again}`);
  });

  test('after kill -9 in the middle of the rollout, a StatefulSet', async () => {
    const spec = await shop.specOf('statefulset/early');
    const lpk = connect('early', ...HELD);
    await lpk.event('swap', ({ state }) => state === 'done');
    lpk.signal('SIGKILL');
    await lpk.exit();
    const restorer = shop.lpk('restore', 'statefulset/early');
    assert.deepEqual(await restorer.exit(), { code: 0, signal: null }, `${restorer}`);
    await assertPutBack('early', spec, restorer);
  });

  test('after kill -9, by lpk restore --all: one’s own sessions, once they do not run here; other people’s only on request', async () => {
    const names = ['mine', 'theirs'] as const;
    const specs = await Promise.all(names.map((name) => apart.specOf(targetOf(name))));
    const sessions = names.map((name) => connect(name, ...HELD));
    for (const lpk of sessions) await lpk.event('swap', ({ state }) => state === 'done');
    const running = apart.lpk('restore', '--all');
    assert.deepEqual(await running.exit(), { code: 0, signal: null }, `${running}`);
    const alone = running.events.filter(({ event }) => event === 'held').map(({ pid }) => pid);
    assert.deepEqual(
      alone,
      sessions.map(({ pid }) => pid),
      `${running}`,
    );
    for (const lpk of sessions) lpk.signal('SIGKILL');
    for (const lpk of sessions) await lpk.exit();
    const path = '/metadata/annotations/lpk.dev~1session';
    const record = JSON.parse((await apart.workload('deployment/theirs')).metadata.annotations['lpk.dev/session']);
    await apart.patch('deployment/theirs', [
      { op: 'replace', path, value: JSON.stringify({ ...record, owner: 'alice' }) },
    ]);
    const held = await apart.specOf('deployment/theirs');

    const all = apart.lpk('restore', '--all');
    assert.deepEqual(await all.exit(), { code: 0, signal: null }, `${all}`);
    const told = all.events.filter(({ event }) => event === 'restored' || event === 'held');
    assert.deepEqual(
      told.map(({ event, workload, owner }) => `${event} ${workload} ${owner}`).toSorted(),
      ['held deployment/theirs alice', `restored deployment/mine ${userInfo().username}`],
      `${all}`,
    );
    await assertPutBack('mine', specs[0] as string, all);
    assert.equal(await apart.specOf('deployment/theirs'), held, `${all}`);

    const everyone = apart.lpk('restore', '--all', '--everyone', '--yes');
    assert.deepEqual(await everyone.exit(), { code: 0, signal: null }, `${everyone}`);
    await assertPutBack('theirs', specs[1] as string, everyone);
  });

  test('when lpk restore takes a session that is under way: it ends by itself, and its COMMAND', async () => {
    const port = await freePort();
    const { lpk, spec } = await session('taken', '-p', `${port}:8080`, ...localProcess(port));
    await lpk.line(/^listens$/);
    const restorer = shop.lpk('restore', 'deployment/taken');
    assert.deepEqual(await restorer.exit(), { code: 0, signal: null }, `${restorer}`);
    await lpk.line(/^got SIGTERM$/);
    assert.deepEqual(await lpk.exit(), { code: 1, signal: null }, `${lpk}`);
    assert.match(lpk.stderr, /^lpk: deployment\/taken was put back by somebody else$/m, `${lpk}`);
    assert.equal((await lpk.event('error')).code, 'session-ended', `${lpk}`);
    await assertPutBack('taken', spec, lpk);
  });

  test('at once with --no-wait', async () => {
    const { lpk, spec } = await session('hurried', '--no-wait');
    lpk.signal('SIGTERM');
    assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
    const restoring = lpk.events.filter(({ event }) => event === 'restore').map(({ state }) => state);
    assert.deepEqual(restoring, ['started', 'done'], `no waiting in between; ${lpk}`);
    assert.equal(await shop.specOf('deployment/hurried'), spec, `${lpk}`);
    assert.deepEqual(await shop.objectsOf('deployment/hurried'), [], `${lpk}`);
  });
});

describe('a workload', { concurrency: 3 }, () => {
  test('that is held is refused, with whose it is; the session goes on', async () => {
    const { lpk, spec } = await session('held');
    const [during, objects] = [await shop.specOf('deployment/held'), await shop.objectsOf('deployment/held')];
    const second = connect('held');
    assert.deepEqual(await second.exit(), { code: 1, signal: null }, `${second}`);
    assert.match(second.stderr, new RegExp(`^lpk: deployment/held is already held by ${whoseHere}`, 'm'), `${second}`);
    assert.equal(await shop.specOf('deployment/held'), during, `${second}`);
    assert.deepEqual(await shop.objectsOf('deployment/held'), objects, `${second}`);
    const disturbed = lpk.events.filter(({ event }) => ['detached', 'link-down', 'trouble', 'error'].includes(event));
    assert.deepEqual(disturbed, [], `${lpk}`);
    lpk.signal('SIGTERM');
    assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
    await assertPutBack('held', spec, lpk);
  });

  test('that two want at the same moment is one’s', async () => {
    const spec = await shop.specOf('deployment/contested');
    const both = [connect('contested'), connect('contested')];
    const outcomes = await Promise.all(
      both.map((lpk) =>
        lpk.until('ready, or the end', () => lpk.events.find(({ event }) => event === 'ready' || event === 'error')),
      ),
    );
    const winner = both[outcomes.findIndex(({ event }) => event === 'ready')];
    const loser = both[outcomes.findIndex(({ code }) => code === 'already-held')];
    assert.ok(winner && loser, `expected one to be ready and one to be refused; ${both.join('\n')}`);
    assert.deepEqual(await loser.exit(), { code: 1, signal: null }, `${loser}`);
    assert.match(
      loser.stderr,
      new RegExp(`^lpk: deployment/contested is already held by ${whoseHere}`, 'm'),
      `${loser}`,
    );
    assert.equal(
      (await shop.objectsOf('deployment/contested')).length,
      8,
      `the winner's annotation, Lease, Secret, ConfigMap, and the restorer's four; ${both.join('\n')}`,
    );
    winner.signal('SIGTERM');
    assert.deepEqual(await winner.exit(), { code: 0, signal: null }, `${winner}`);
    await assertPutBack('contested', spec, winner);
  });

  test('that does not run by itself is served, and not waited for afterwards', async () => {
    const { lpk, spec } = await session('broken');
    lpk.signal('SIGTERM');
    assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
    assert.match(lpk.stderr, /✔ deployment\/broken restored; not all its pods ran before/, `${lpk}`);
    assert.equal(await shop.specOf('deployment/broken'), spec, `${lpk}`);
    assert.deepEqual(await shop.objectsOf('deployment/broken'), [], `${lpk}`);
  });

  test('that is deleted ends the session, and leaves nothing', async () => {
    const { lpk } = await session('deleted');
    await shop.delete('deployment/deleted');
    assert.deepEqual(await lpk.exit(), { code: 1, signal: null }, `${lpk}`);
    assert.match(lpk.stderr, /^lpk: deployment\/deleted was deleted$/m, `${lpk}`);
    assert.equal((await lpk.event('error')).code, 'session-ended', `${lpk}`);
    // The garbage collector takes its time.
    await eventually(`nothing is left; ${lpk}`, async () => (await shop.leftOf('deployment/deleted')).length === 0);
  });
});
