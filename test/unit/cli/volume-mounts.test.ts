import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { type Mounted, mountVolumes } from '../../../cli/volume-mounts.ts';
import type { Lay, Placement } from '../../../cli/volume-places.ts';

const NAME = `lpk-test-${process.pid}`;

function scene(t: TestContext, within = tmpdir()) {
  const folder = realpathSync(mkdtempSync(path.join(within, 'lpk-mounts-')));
  t.after(() => rmSync(folder, { recursive: true }));
  for (const name of ['work', 'volume', 'cwd']) mkdirSync(path.join(folder, name));
  writeFileSync(path.join(folder, 'volume/key'), 'from the pod');
  symlinkSync('key', path.join(folder, 'volume/link'));
  const place = (
    point: string,
    base: string | undefined,
    { kind = 'folder', lay = 'entries' }: { kind?: 'folder' | 'file'; lay?: Lay } = {},
  ): Placement => {
    const source = path.join(folder, kind === 'folder' ? 'volume' : 'volume/key');
    const mount = { source, path: point, kind, access: 'ro' } as const;
    return { mount, point, base: base === undefined ? undefined : { folder: base, lay } };
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

/** What is in folders that something may be laid over, and in a file there. */
const LISTING = 'find / /etc /run /usr /usr/local -mindepth 1 -maxdepth 1; cat /etc/passwd';

test('missing folders at the root, in a folder, and in one with mounts are there for the program only', async (t) => {
  const { folder, place } = scene(t);
  const points = [`/${NAME}/config`, `/etc/${NAME}/deep/er`, `/run/${NAME}`, `/usr/local/${NAME}/file`];
  const mounted = await mount(t, folder, [
    place(points[0] as string, '/'),
    place(points[1] as string, '/etc', { lay: 'overlay' }),
    place(points[2] as string, '/run'),
    place(points[3] as string, '/usr/local', { kind: 'file' }),
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
  const outside = async () => (await promisify(execFile)('/bin/sh', ['-c', LISTING])).stdout.split('\n');
  const before = await outside();
  const inside = (await sh(mounted, LISTING)).split('\n');
  const after = await outside(); // other programs make and remove things meanwhile
  const there = [...before, ...after];
  const missing = before.filter((line) => after.includes(line) && !inside.includes(line));
  assert.deepEqual(missing, []);
  assert.deepEqual(
    inside.filter((line) => !there.includes(line)).sort(),
    ['/etc/', '/', '/run/', '/usr/local/'].map((at) => at + NAME),
  );
});

test('what is laid over a folder leaves what is in it the real, writable thing, and copies stay fresh', async (t) => {
  const { folder, place } = scene(t, '/var/tmp');
  const mounted = await mount(t, folder, [place(`/var/${NAME}`, '/var')]);
  if (!mounted) return;
  assert.deepEqual([...mounted.left], []);
  assert.equal(await sh(mounted, 'echo mine > "$1/cwd/new" && cat "$1/cwd/new"', folder), 'mine\n');
  assert.equal(readFileSync(path.join(folder, 'cwd/new'), 'utf8'), 'mine\n');
  writeFileSync(path.join(folder, 'next'), 'rotated');
  renameSync(path.join(folder, 'next'), path.join(folder, 'volume/key'));
  assert.equal(await sh(mounted, 'cat "$1/key"', `/var/${NAME}`), 'rotated');
});

test('what is mounted in a folder is there still when something is laid over it', async (t) => {
  const { folder, place } = scene(t);
  const disk = path.join(folder, 'mnt/disk');
  mkdirSync(disk, { recursive: true });
  try {
    execFileSync('mount', ['-t', 'tmpfs', 'lpk-test', disk], { stdio: 'ignore' });
  } catch (error) {
    if (process.getuid?.() === 0 && process.env.CI === 'true') throw error;
    return t.skip('no right to mount');
  }
  try {
    writeFileSync(path.join(disk, 'project'), 'there');
    for (const lay of ['entries', 'overlay'] as const) {
      const mounted = await mount(t, folder, [place(path.join(folder, 'mnt/new'), path.dirname(disk), { lay })]);
      if (!mounted) return;
      assert.equal(await sh(mounted, 'cat "$1/project" "$1/../new/key"', disk), 'therefrom the pod', lay);
      mounted.close();
    }
  } finally {
    execFileSync('umount', ['-l', disk]);
  }
});

test('where nothing can be laid over a folder, nothing is made in it', async (t) => {
  const { folder, place } = scene(t);
  const base = path.join(folder, 'full');
  mkdirSync(base);
  for (let i = 0; i <= 1_000; i++) writeFileSync(path.join(base, `${i}`), '');
  const good = place(path.join(folder, 'cwd'), undefined);
  const mounted = await mount(t, folder, [good, place(path.join(base, 'new/deep'), base)]);
  if (!mounted) return;
  assert.deepEqual([...mounted.left], [[path.join(base, 'new/deep'), 'nothing can be laid over its folder']]);
  assert.equal(existsSync(path.join(base, 'new')), false);
});

test('what changes in a copy is seen at once', async (t) => {
  const { folder, place } = scene(t);
  const mounted = await mount(t, folder, [place(`/var/${NAME}`, '/var')]);
  if (!mounted) return;
  writeFileSync(path.join(folder, 'volume/later'), 'fresh');
  assert.equal(await sh(mounted, 'cat $1/later', `/var/${NAME}`), 'fresh');
});

test('what is written to a copy lands in it, and not in what is laid over; within it, another stays read-only', async (t) => {
  const { folder, place } = scene(t);
  mkdirSync(path.join(folder, 'volume/inner'));
  const outer = place(`/var/${NAME}`, '/var');
  const inner = place(`/var/${NAME}/inner`, undefined);
  inner.mount.source = path.join(folder, 'volume/inner');
  outer.mount.access = 'rw';
  const mounted = await mount(t, folder, [outer, inner]);
  if (!mounted) return;
  assert.deepEqual([...mounted.left], []);
  const script = 'cd "$1" && echo new > new && rm link && mv key was && mkdir -p d/e && echo no > inner/x; ls';
  assert.equal(await sh(mounted, `{ ${script}; } 2>/dev/null`, `/var/${NAME}`), 'd\ninner\nnew\nwas\n');
  assert.equal(readFileSync(path.join(folder, 'volume/new'), 'utf8'), 'new\n');
  assert.deepEqual(readdirSync(path.join(folder, 'volume')).sort(), ['d', 'inner', 'new', 'was']);
  assert.deepEqual(readdirSync(path.join(folder, 'volume/inner')), []);
});

test('over a folder that exists, names with spaces, quotes, newlines and $( are names', async (t) => {
  const { folder, place } = scene(t);
  const point = path.join(folder, `o'dd "name" $(touch ${folder}/pwned)\n-x`);
  mkdirSync(point, { recursive: true });
  writeFileSync(path.join(point, 'hidden'), '');
  const mounted = await mount(t, folder, [place(point, undefined), place(`/var/${NAME} '"\n$(id)`, '/var')]);
  if (!mounted) return;
  assert.deepEqual([...mounted.left], []);
  assert.equal(await sh(mounted, 'ls "$1"', point), 'key\nlink\n');
  assert.equal(await sh(mounted, 'ls "$1"', `/var/${NAME} '"\n$(id)`), 'key\nlink\n');
  assert.equal(existsSync(path.join(folder, 'pwned')), false);
  assert.equal(existsSync(path.join(point, 'hidden')), true);
});

test('the environment and the arguments reach the program as they are', async (t) => {
  const { folder, place } = scene(t);
  const mounted = await mount(t, folder, [place(`/var/${NAME}`, '/var')]);
  if (!mounted) return;
  const { command, args } = mounted.wrap('/usr/bin/env', ['-0', '--']);
  const env = { 'spring.datasource.url': 'x', 'a-b': '', PATH: '/nowhere' };
  const { stdout } = await promisify(execFile)(command, args, { env });
  assert.deepEqual(stdout.split('\0').filter(Boolean).sort(), ['PATH=/nowhere', 'a-b=', 'spring.datasource.url=x']);
});

test('a program that can not be started is left to the usual error', async (t) => {
  const { folder, place } = scene(t);
  const mounted = await mount(t, folder, [place(`/var/${NAME}`, '/var')]);
  if (!mounted) return;
  assert.deepEqual(mounted.wrap('/no/such/program', ['a']), { command: '/no/such/program', args: ['a'] });
  assert.deepEqual(mounted.wrap(path.join(folder, 'volume/key'), []).command, path.join(folder, 'volume/key'));
});

test('one mount that fails leaves the others; none at all is a failure', async (t) => {
  const { folder, place } = scene(t);
  const good = place(`/var/${NAME}`, '/var');
  const bad = { ...good, mount: { ...good.mount, source: '/no/such/copy', path: '/bad' }, point: `/var/${NAME}-bad` };
  const mounted = await mount(t, folder, [good, bad]);
  if (!mounted) return;
  assert.deepEqual([...mounted.left.keys()], ['/bad']);
  assert.match(mounted.left.get('/bad') ?? '', /does not exist|No such file/);
  assert.equal(await sh(mounted, 'cat $1/key', `/var/${NAME}`), 'from the pod');
  await assert.rejects(mountVolumes({ placements: [bad], work: path.join(folder, 'work'), cwd: folder }), /exist|such/);
});
