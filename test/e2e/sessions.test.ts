import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { hostname, tmpdir, userInfo } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { userKubeconfig } from '../cluster/cluster.ts';
import { type Rule, rightsOf } from '../rbac.ts';
import { inForce } from './in-force.ts';
import { endAll, Lpk } from './lpk.ts';
import { eventually, Shop, workload } from './shop.ts';

/** One cluster, several people: who holds what, and how one ends, waits for or takes over the other's session. */

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-sessions-'));
const me = `${userInfo().username} on ${hostname()}`;

let shop: Shop;

before(async () => {
  shop = await Shop.open('sessions');
  await shop.deploy(
    ...['listed', 'released', 'awaited', 'taken', 'dead', 'plain', 'queued', 'lost', 'other'].map((name) =>
      workload('Deployment', name),
    ),
  );
});

after(async () => {
  endAll();
  rmSync(dir, { recursive: true });
  await shop?.close();
});

async function session(name: string, ...args: string[]): Promise<{ lpk: Lpk; spec: string; id: string }> {
  const spec = await shop.specOf(`deployment/${name}`);
  const lpk = shop.lpk('connect', `deployment/${name}`, ...args);
  await lpk.event('ready');
  return { lpk, spec, id: (await lpk.event('swap', ({ state }) => state === 'done')).session };
}

async function assertEnded(name: string, spec: string, lpk: Lpk): Promise<void> {
  const target = `deployment/${name}`;
  await eventually(`nothing is left of ${target}`, async () => (await shop.objectsOf(target)).length === 0);
  assert.equal(await shop.specOf(target), spec, `${lpk}`);
}

/** The same session as somebody else's: the record says another owner. */
async function disguise(name: string, owner: string): Promise<void> {
  const { metadata } = await shop.workload(`deployment/${name}`);
  const value = JSON.stringify({ ...JSON.parse(metadata.annotations['lpk.dev/session']), owner });
  await shop.patch(`deployment/${name}`, [{ op: 'replace', path: '/metadata/annotations/lpk.dev~1session', value }]);
}

/** A colleague with ordinary rights: those of `lpk connect`, and, unless told otherwise, Leases. */
async function colleague(name: string, leases = true): Promise<string> {
  const file = path.join(dir, name);
  await userKubeconfig(file, name);
  const meta = { apiVersion: 'rbac.authorization.k8s.io/v1', metadata: { name } };
  const rules: Rule[] = [
    { apiGroups: ['apps'], resources: ['deployments'], verbs: ['get', 'list', 'watch', 'patch'] },
    { apiGroups: [''], resources: ['pods'], verbs: ['list', 'watch'] },
    { apiGroups: [''], resources: ['configmaps', 'secrets'], verbs: ['create', 'delete'] },
    { apiGroups: [''], resources: ['pods/proxy'], verbs: ['get'] },
    ...(leases
      ? [
          {
            apiGroups: ['coordination.k8s.io'],
            resources: ['leases'],
            verbs: ['create', 'get', 'list', 'watch', 'patch', 'delete'],
          },
        ]
      : []),
  ];
  const roleRef = { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name };
  await shop.create(
    { ...meta, kind: 'Role', rules },
    { ...meta, kind: 'RoleBinding', roleRef, subjects: [{ kind: 'User', name }] },
  );
  await inForce(file, shop.namespace, rules.flatMap(rightsOf));
  return file;
}

describe('sessions', { concurrency: 2 }, () => {
  test('are listed, with whose, since when, and when last heard of', async () => {
    const { lpk, spec, id } = await session('listed');
    const status = shop.lpk('status');
    assert.deepEqual(await status.exit(), { code: 0, signal: null }, `${status}`);
    const found = await status.event('session', ({ session }) => session === id);
    const { event: _, since, lastSeen, ...rest } = found;
    assert.deepEqual(rest, {
      session: id,
      namespace: shop.namespace,
      workload: 'deployment/listed',
      kind: 'connect',
      owner: userInfo().username,
      host: hostname(),
      mine: true,
      state: 'alive',
      pid: lpk.pid,
    });
    assert.ok(Date.parse(lastSeen) >= Date.parse(since), `${status}`);

    const text = new Lpk(shop.args('status', '-A'), { json: false });
    assert.deepEqual(await text.exit(), { code: 0, signal: null }, `${text}`);
    await text.line(
      new RegExp(
        `^deployment/listed in ${shop.namespace}: ${me} \\(you\\) since .* UTC; alive, last seen \\d+ s ago, process ${lpk.pid} here$`,
      ),
    );

    lpk.signal('SIGINT');
    assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
    await assertEnded('listed', spec, lpk);
    const empty = shop.lpk('status');
    assert.deepEqual(await empty.exit(), { code: 0, signal: null }, `${empty}`);
    assert.equal(empty.events.filter(({ workload }) => workload === 'deployment/listed').length, 0, `${empty}`);
  });

  test('are released by a colleague with ordinary rights; theirs ends and says who did it', async () => {
    const { lpk, spec } = await session('released');
    await disguise('released', 'alice');
    const bob = await colleague('bob');
    const unasked = shop.lpk('release', 'deployment/released', '--kubeconfig', bob);
    assert.deepEqual(await unasked.exit(), { code: 2, signal: null }, `${unasked}`);
    assert.match(unasked.stderr, /^lpk: nobody is at a terminal to be asked: confirm it with --yes$/m, `${unasked}`);

    const restore = shop.lpk('restore', 'deployment/released', '--kubeconfig', bob);
    assert.deepEqual(await restore.exit(), { code: 1, signal: null }, `${restore}`);
    assert.match(
      restore.stderr,
      /^lpk: deployment\/released .* is held by alice on \S+, seen \d+ s ago$/m,
      `${restore}`,
    );

    const release = shop.lpk('release', 'deployment/released', '--yes', '--kubeconfig', bob);
    assert.deepEqual(await release.exit(), { code: 0, signal: null }, `${release}`);
    const { workload: released, owner } = await release.event('released');
    assert.deepEqual([released, owner], ['deployment/released', 'alice'], `${release}`);
    assert.deepEqual(await lpk.exit(), { code: 1, signal: null }, `${lpk}`);
    assert.match(lpk.stderr, new RegExp(`^lpk: deployment/released was taken back by ${me}$`, 'm'), `${lpk}`);
    assert.equal((await lpk.event('error')).code, 'session-ended', `${lpk}`);
    await assertEnded('released', spec, lpk);

    const again = shop.lpk('release', 'deployment/released', '--yes');
    assert.deepEqual(await again.exit(), { code: 1, signal: null }, `${again}`);
    assert.match(
      again.stderr,
      /^lpk: deployment\/released .* is not held by any session: nothing to release$/m,
      `${again}`,
    );
  });

  test('of the dead are released without waiting for them', async () => {
    const { lpk, spec } = await session('dead', '--restore-after', '86400');
    lpk.signal('SIGKILL');
    await lpk.exit();
    const release = shop.lpk('release', 'deployment/dead', '--yes');
    assert.deepEqual(await release.exit(), { code: 0, signal: null }, `${release}`);
    await assertEnded('dead', spec, lpk);
  });

  test('of a laptop that died where nothing watched are offered to be restored by the next lpk there', async () => {
    const { lpk, spec, id } = await session('lost', '--kubeconfig', await colleague('eve', false));
    lpk.signal('SIGKILL');
    await lpk.exit();
    const again = shop.lpk('connect', 'deployment/other');
    await again.event('ready');
    const { text, session: found } = await again.event('left-behind', ({ workload }) => workload === 'deployment/lost');
    assert.equal(found, id, `${again}`);
    assert.match(
      text,
      /^left behind: deployment\/lost is still held by your session since .*; `lpk restore deployment\/lost -n \S+` puts it back$/,
    );
    const services = shop.lpk('services');
    assert.deepEqual(await services.exit(), { code: 0, signal: null }, `${services}`);
    assert.ok(
      services.events.some(({ event, session: of }) => event === 'left-behind' && of === id),
      `${services}`,
    );
    again.signal('SIGINT');
    assert.deepEqual(await again.exit(), { code: 0, signal: null }, `${again}`);
    const restore = shop.lpk('restore', 'deployment/lost');
    assert.deepEqual(await restore.exit(), { code: 0, signal: null }, `${restore}`);
    await assertEnded('lost', spec, restore);
  });

  test('are waited for with --wait', async () => {
    const first = await session('awaited');
    const second = shop.lpk('connect', 'deployment/awaited', '--wait');
    await second.event('wait', ({ state }) => state === 'started');
    first.lpk.signal('SIGINT');
    assert.deepEqual(await first.lpk.exit(), { code: 0, signal: null }, `${first.lpk}`);
    await second.event('ready');
    second.signal('SIGINT');
    assert.deepEqual(await second.exit(), { code: 0, signal: null }, `${second}`);
    await assertEnded('awaited', first.spec, second);
  });

  test('are waited for by two with --wait: one after the other has it', async () => {
    const first = await session('queued');
    const waiting = [0, 1].map(() => shop.lpk('connect', 'deployment/queued', '--wait'));
    for (const lpk of waiting) await lpk.event('wait', ({ state }) => state === 'started');
    first.lpk.signal('SIGINT');
    assert.deepEqual(await first.lpk.exit(), { code: 0, signal: null }, `${first.lpk}`);
    const isReady = (lpk: Lpk) => lpk.events.some(({ event }) => event === 'ready');
    await eventually('one of them is ready', async () => waiting.some(isReady));
    for (const lpk of waiting.toSorted((a, b) => Number(isReady(b)) - Number(isReady(a)))) {
      await lpk.event('ready');
      lpk.signal('SIGINT');
      assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
    }
    await assertEnded('queued', first.spec, first.lpk);
  });

  test('that are waited for can be given up', async () => {
    const first = await session('plain');
    const second = shop.lpk('connect', 'deployment/plain', '--wait');
    await second.event('wait', ({ state }) => state === 'started');
    second.signal('SIGINT');
    assert.deepEqual(await second.exit(), { code: 130, signal: null }, `${second}`);
    assert.equal(first.lpk.events.filter(({ event }) => event === 'error').length, 0, `${first.lpk}`);
    first.lpk.signal('SIGINT');
    assert.deepEqual(await first.lpk.exit(), { code: 0, signal: null }, `${first.lpk}`);
    await assertEnded('plain', first.spec, first.lpk);
  });

  test('are taken over with --take-over; the other ends and says who has it', async () => {
    const first = await session('taken');
    const second = shop.lpk('connect', 'deployment/taken', '--take-over');
    await second.event('ready');
    assert.deepEqual(await first.lpk.exit(), { code: 1, signal: null }, `${first.lpk}`);
    assert.match(first.lpk.stderr, new RegExp(`^lpk: deployment/taken was taken back by ${me}`, 'm'), `${first.lpk}`);
    second.signal('SIGINT');
    assert.deepEqual(await second.exit(), { code: 0, signal: null }, `${second}`);
    await assertEnded('taken', first.spec, second);
  });
});
