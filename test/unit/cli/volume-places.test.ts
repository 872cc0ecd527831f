import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type TestContext, test } from 'node:test';
import { hides, layOf, type Mount, type Own, personsFolders, planPlacements } from '../../../cli/volume-places.ts';

function laptop(t: TestContext): string {
  const folder = realpathSync(mkdtempSync(path.join(tmpdir(), 'lpk-places-')));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

const NONE: Own = { paths: [], folders: [] };
const folderAt = (at: string): Mount => ({ source: '/copy', path: at, kind: 'folder', access: 'ro' });

test('nothing may hide what the laptop needs', () => {
  const own = ['/home/ann/shop', '/opt/node/bin'];
  for (const point of [
    '/',
    '/etc',
    '/usr',
    '/tmp',
    '/var/run',
    '/dev',
    '/dev/shm',
    '/proc/1',
    '/sys/x',
    '/home/ann',
    '/home/ann/shop',
    '/opt/node',
  ]) {
    assert.equal(hides(point, own), true, point);
  }
  for (const point of [
    '/etc/app',
    '/data',
    '/home/ann/shop/config',
    '/home/anna',
    '/tmp/x',
    '/run/secrets',
    '/devices',
  ])
    assert.equal(hides(point, own), false, point);
});

test('a mount point that exists is taken as it is, by its real path', (t) => {
  const folder = laptop(t);
  mkdirSync(path.join(folder, 'real'));
  symlinkSync('real', path.join(folder, 'link'));
  const { placements, made, left } = planPlacements([folderAt(path.join(folder, 'link'))], NONE);
  assert.deepEqual(
    [placements[0]?.point, placements[0]?.base, made, left.size],
    [path.join(folder, 'real'), undefined, [], 0],
  );
});

test('in root’s folders the nearest one gets something laid over', (t) => {
  const wanted = `/etc/lpk-test-${process.pid}/deep`;
  const { placements, made } = planPlacements([folderAt(wanted)], NONE);
  // Root's own folder, whoever asks; an ordinary user could not make it either.
  assert.deepEqual([placements[0]?.point, placements[0]?.base?.folder, made], [wanted, '/etc', []]);
  const [top] = planPlacements([folderAt(`/lpk-test-${process.pid}`)], NONE).placements;
  assert.deepEqual(top?.base, { folder: '/', lay: 'entries' });
  t.diagnostic(`uid ${process.getuid?.()}`);
});

test('a mount in another goes with it', (t) => {
  const folder = laptop(t);
  mkdirSync(path.join(folder, 'a'));
  const plan = planPlacements([folderAt(path.join(folder, 'a/b')), folderAt(path.join(folder, 'a'))], NONE);
  assert.deepEqual(
    plan.placements.map(({ point }) => point),
    [path.join(folder, 'a')],
  );
});

test('a mount in another of another access is mounted once more, over it', (t) => {
  const folder = laptop(t);
  mkdirSync(path.join(folder, 'a'));
  const mounts = ['a', 'a/b', 'a/b/c', 'a/b/d'].map((name) => folderAt(path.join(folder, name)));
  const plan = planPlacements(
    mounts.map((mount, i) => ({ ...mount, access: i === 1 || i === 2 ? 'rw' : 'ro' })),
    NONE,
  );
  assert.deepEqual(
    plan.placements.map(({ mount, point, base }) => [mount.access, point, base]),
    [
      ['ro', path.join(folder, 'a'), undefined],
      ['rw', path.join(folder, 'a/b'), undefined],
      ['ro', path.join(folder, 'a/b/d'), undefined],
    ],
  );
});

test('when the outer one is left out, the inner one is still placed', (t) => {
  const folder = laptop(t);
  mkdirSync(path.join(folder, 'a/b'), { recursive: true });
  const mounts = [folderAt(path.join(folder, 'a')), folderAt(path.join(folder, 'a/b'))];
  const plan = planPlacements(mounts, { ...NONE, paths: [path.join(folder, 'a/own')] });
  assert.deepEqual([...plan.left.keys()], [path.join(folder, 'a')]);
  assert.equal(plan.placements[0]?.point, path.join(folder, 'a/b'));
});

test('a folder where the laptop has a file, or a file in between, is left out', (t) => {
  const folder = laptop(t);
  writeFileSync(path.join(folder, 'f'), '');
  const plan = planPlacements([folderAt(path.join(folder, 'f')), folderAt(path.join(folder, 'f/below'))], NONE);
  assert.equal(plan.placements.length, 0);
  assert.equal(plan.left.size, 2);
});

test('in the person’s own folders mount points are made, and named in the order they were', (t) => {
  const folder = laptop(t);
  if (process.getuid?.() === 0) chownSync(folder, 65_534, 65_534);
  const { placements, made } = planPlacements([folderAt(path.join(folder, 'a/b'))], NONE);
  assert.deepEqual(made, [path.join(folder, 'a'), path.join(folder, 'a/b')]);
  assert.equal(placements[0]?.base, undefined);
  assert.deepEqual(readdirSync(folder), ['a']);
});

test('an overlay takes what is written below: it is for who writes nothing there', () => {
  assert.equal(layOf('/etc/app', ['/home/ann/shop'], false), 'overlay');
  assert.equal(layOf('/etc', ['/etc/nixos/shop'], false), 'entries');
  assert.equal(layOf('/etc', [], true), 'entries');
  for (const folder of ['/', '/var', '/opt', '/srv', '/mnt']) assert.equal(layOf(folder, [], false), 'entries', folder);
});

test('where everybody may make something, and where root itself works, the mount point is made', (t) => {
  const folder = laptop(t);
  if (process.getuid?.() !== 0) return t.skip('an ordinary user makes it wherever he may');
  for (const name of ['sticky', 'project/src', 'roots']) mkdirSync(path.join(folder, name), { recursive: true });
  chmodSync(path.join(folder, 'sticky'), 0o1777);
  mkdirSync(path.join(folder, 'app/src'), { recursive: true });
  const own = { paths: [], folders: [path.join(folder, 'project'), path.join(folder, 'app/src')] };
  const names = ['app/b', 'project/src/b', 'roots/c', 'sticky/a'];
  const { placements, made } = planPlacements(
    names.map((name) => folderAt(path.join(folder, name))),
    own,
  );
  assert.deepEqual(
    made,
    ['app/b', 'project/src/b', 'sticky/a'].map((name) => path.join(folder, name)),
  );
  assert.deepEqual(
    placements.map(({ base }) => base?.folder),
    [undefined, undefined, path.join(folder, 'roots'), undefined],
  );
});

test('a folder of the system is nobody’s own, even when somebody works in it', () => {
  assert.deepEqual(personsFolders(['/', '/etc', '/root', '/tmp', '/workspaces/shop']), [
    '/root',
    '/tmp',
    '/workspaces/shop',
  ]);
});
