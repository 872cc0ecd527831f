import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { type Mounted, mountVolumes } from '../../../cli/volume-mounts.ts';
import type { Placement } from '../../../cli/volume-places.ts';

const NAME = `lpk-test-${process.pid}`;

function scene(t: TestContext) {
  const folder = realpathSync(mkdtempSync(path.join(tmpdir(), 'lpk-mounts-')));
  t.after(() => rmSync(folder, { recursive: true }));
  for (const name of ['work', 'volume', 'cwd']) mkdirSync(path.join(folder, name));
  writeFileSync(path.join(folder, 'volume/key'), 'from the pod');
  symlinkSync('key', path.join(folder, 'volume/link'));
  const place = (point: string, base: string | undefined, kind: 'folder' | 'file' = 'folder'): Placement => {
    const source = path.join(folder, kind === 'folder' ? 'volume' : 'volume/key');
    return { mount: { source, path: point, kind, access: 'ro' }, point, base };
  };
  return { folder, place };
}

/** Undefined: this machine allows no namespaces, which is a failure where tests must not be skipped. */
async function mount(t: TestContext, folder: string, placements: Placement[]): Promise<Mounted | undefined> {
  try {
    const mounted = await mountVolumes({ placements, work: path.join(folder, 'work'), cwd: path.join(folder, 'cwd') });
    t.after(() => mounted.close());
    return mounted;
  } catch (error) {
    if (process.env.CI === 'true' || process.getuid?.() === 0) throw error;
    t.skip(String(error));
    return undefined;
  }
}

async function sh(mounted: Mounted, script: string, ...args: string[]): Promise<string> {
  const { command, args: words } = mounted.wrap('/bin/sh', ['-c', script, 'sh', ...args]);
  return (await promisify(execFile)(command, words)).stdout;
}

/** A file system as `stat -f` names it. */
const above = 'for f in /etc /usr /run; do ls -A $f; done | sort | cksum';

test('missing folders at the root, in a folder, and in one with mounts are there for the program only', async (t) => {
  const { folder, place } = scene(t);
  const points = [`/${NAME}/config`, `/etc/${NAME}/deep/er`, `/run/${NAME}`, `/usr/local/${NAME}/file`];
  const mounted = await mount(t, folder, [
    place(points[0] as string, '/'),
    place(points[1] as string, '/etc'),
    place(points[2] as string, '/run'),
    place(points[3] as string, '/usr/local', 'file'),
  ]);
  if (!mounted) return;
  assert.deepEqual([...mounted.left], []);
  for (const point of points.slice(0, 3)) assert.equal(await sh(mounted, 'cat $1/link', point), 'from the pod', point);
  assert.equal(await sh(mounted, 'cat $1', points[3] as string), 'from the pod');
  for (const point of points) assert.equal(existsSync(point), false, point);
  assert.match(await sh(mounted, 'echo x > $1/key; echo x > $1/new; ls $1 2>&1', points[1] as string), /^key\nlink\n$/);
  assert.equal(
    (await sh(mounted, 'pwd; id -u; id -g')).trim(),
    `${folder}/cwd\n${process.getuid?.()}\n${process.getgid?.()}`,
  );
  // Everything else is there as before: what was laid over has the old entries.
  const { stdout: outside } = await promisify(execFile)('/bin/sh', [
    '-c',
    'ls -A /; ls -A /etc /usr/local; cat /etc/passwd',
  ]);
  const inside = await sh(mounted, 'ls -A /; ls -A /etc /usr/local; cat /etc/passwd');
  assert.equal(inside.replaceAll(`${NAME}\n`, ''), outside);
  assert.notEqual(await sh(mounted, above), '');
});

test('what changes in a copy is seen at once', async (t) => {
  const { folder, place } = scene(t);
  const mounted = await mount(t, folder, [place(`/etc/${NAME}`, '/etc')]);
  if (!mounted) return;
  writeFileSync(path.join(folder, 'volume/later'), 'fresh');
  assert.equal(await sh(mounted, 'cat $1/later', `/etc/${NAME}`), 'fresh');
});

test('what is written to a copy lands in it, and not in what is laid over; within it, another stays read-only', async (t) => {
  const { folder, place } = scene(t);
  mkdirSync(path.join(folder, 'volume/inner'));
  const outer = place(`/etc/${NAME}`, '/etc');
  const inner = place(`/etc/${NAME}/inner`, undefined);
  inner.mount.source = path.join(folder, 'volume/inner');
  outer.mount.access = 'rw';
  const mounted = await mount(t, folder, [outer, inner]);
  if (!mounted) return;
  assert.deepEqual([...mounted.left], []);
  const script = 'cd "$1" && echo new > new && rm link && mv key was && mkdir -p d/e && echo no > inner/x; ls';
  assert.equal(await sh(mounted, `{ ${script}; } 2>/dev/null`, `/etc/${NAME}`), 'd\ninner\nnew\nwas\n');
  assert.equal(readFileSync(path.join(folder, 'volume/new'), 'utf8'), 'new\n');
  assert.deepEqual(readdirSync(path.join(folder, 'volume')).sort(), ['d', 'inner', 'new', 'was']);
  assert.deepEqual(readdirSync(path.join(folder, 'volume/inner')), []);
});

test('over a folder that exists, names with spaces, quotes, newlines and $( are names', async (t) => {
  const { folder, place } = scene(t);
  const point = path.join(folder, `o'dd "name" $(touch ${folder}/pwned)\n-x`);
  mkdirSync(point, { recursive: true });
  writeFileSync(path.join(point, 'hidden'), '');
  const mounted = await mount(t, folder, [place(point, undefined), place(`/etc/${NAME} '"\n$(id)`, '/etc')]);
  if (!mounted) return;
  assert.deepEqual([...mounted.left], []);
  assert.equal(await sh(mounted, 'ls "$1"', point), 'key\nlink\n');
  assert.equal(await sh(mounted, 'ls "$1"', `/etc/${NAME} '"\n$(id)`), 'key\nlink\n');
  assert.equal(existsSync(path.join(folder, 'pwned')), false);
  assert.equal(existsSync(path.join(point, 'hidden')), true);
});

test('the environment and the arguments reach the program as they are', async (t) => {
  const { folder, place } = scene(t);
  const mounted = await mount(t, folder, [place(`/etc/${NAME}`, '/etc')]);
  if (!mounted) return;
  const { command, args } = mounted.wrap('/usr/bin/env', ['-0', '--']);
  const env = { 'spring.datasource.url': 'x', 'a-b': '', PATH: '/nowhere' };
  const { stdout } = await promisify(execFile)(command, args, { env });
  assert.deepEqual(stdout.split('\0').filter(Boolean).sort(), ['PATH=/nowhere', 'a-b=', 'spring.datasource.url=x']);
});

test('a program that can not be started is left to the usual error', async (t) => {
  const { folder, place } = scene(t);
  const mounted = await mount(t, folder, [place(`/etc/${NAME}`, '/etc')]);
  if (!mounted) return;
  assert.deepEqual(mounted.wrap('/no/such/program', ['a']), { command: '/no/such/program', args: ['a'] });
  assert.deepEqual(mounted.wrap(path.join(folder, 'volume/key'), []).command, path.join(folder, 'volume/key'));
});

test('one mount that fails leaves the others; none at all is a failure', async (t) => {
  const { folder, place } = scene(t);
  const good = place(`/etc/${NAME}`, '/etc');
  const bad = { ...good, mount: { ...good.mount, source: '/no/such/copy', path: '/bad' }, point: `/etc/${NAME}-bad` };
  const mounted = await mount(t, folder, [good, bad]);
  if (!mounted) return;
  assert.deepEqual([...mounted.left.keys()], ['/bad']);
  assert.match(mounted.left.get('/bad') ?? '', /does not exist|No such file/);
  assert.equal(await sh(mounted, 'cat $1/key', `/etc/${NAME}`), 'from the pod');
  await assert.rejects(mountVolumes({ placements: [bad], work: path.join(folder, 'work'), cwd: folder }), /exist|such/);
});
