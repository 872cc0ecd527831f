import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type TestContext, test } from 'node:test';
import { MountFiles } from '../../../agent/pod/files.ts';
import { ownMountPoints } from '../../../agent/pod/mount-writes.ts';
import { markOf } from '../../../agent/wire/look.ts';
import type { Stream } from '../../../agent/wire/stream.ts';
import { encodeTarHeader, type TarEntry, tarPadding } from '../../../agent/wire/tar.ts';
import { SessionPair, until } from '../wire/harness.ts';

type Sent = Partial<TarEntry> & { path: string; content?: string };

/** The agent's end over a real websocket, told that `mount` and what is in `inner` are mounts. */
async function scene(t: TestContext, inner: string[] = []) {
  const folder = realpathSync(mkdtempSync(path.join(tmpdir(), 'lpk-mount-')));
  t.after(() => rmSync(folder, { recursive: true }));
  const mount = path.join(folder, 'mount');
  mkdirSync(mount);
  writeFileSync(path.join(folder, 'neighbour'), 'untouched');
  const files = new MountFiles(async () => ['/', '/proc', mount, ...inner.map((name) => path.join(mount, name))]);
  const pair = await SessionPair.open(t);
  pair.agent.on('stream', (stream: Stream) => void files.serve(stream));
  const at = (name: string) => path.join(mount, name);
  const open = (where = mount) => {
    const stream = pair.laptop.openFileWrites();
    stream.write(header({ type: 'mount', path: where }));
    return stream;
  };
  return {
    ...{ folder, mount, at, pair, open },
    mark: (name: string) => markOf(lstatSync(at(name), { bigint: true })),
    /** The answers to these entries; rejects as the stream does. */
    async write(entries: Sent[], where = mount): Promise<object[]> {
      const stream = open(where);
      for (const { content = '', ...entry } of entries) {
        const data = Buffer.from(content);
        stream.write(Buffer.concat([header({ bytes: data.length, ...entry }), data, tarPadding(data.length)]));
      }
      stream.end();
      let text = '';
      for await (const piece of stream.iterator({ destroyOnReturn: false })) text += piece;
      return text
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line));
    },
  };
}

function header(entry: Partial<TarEntry> & { path: string }): Buffer {
  return encodeTarHeader({ type: 'file', target: '', mode: 0o644, modifiedMs: 0, bytes: 0, ...entry });
}

test('what is not there is made, with the answer’s mark; what is as said is replaced or removed', async (t) => {
  const { write, at, mark, mount } = await scene(t);
  const made = await write([
    { type: 'folder', path: 'd', mode: 0o750 },
    { path: 'd/f', content: 'one', mode: 0o4640 },
    { type: 'link', path: 'd/l', target: 'f' },
    { path: 'x', content: 'x' },
  ]);
  assert.deepEqual(
    made,
    ['d', 'd/f', 'd/l', 'x'].map((name) => ({ mark: mark(name) })),
  );
  assert.deepEqual([readFileSync(at('d/l'), 'utf8'), statSync(at('d/f')).mode & 0o7777], ['one', 0o640]);
  assert.equal(statSync(at('d')).mode & 0o777, 0o750);
  const changed = await write([
    { path: 'd/f', content: 'two', mark: mark('d/f') },
    { type: 'link', path: 'd/l', target: '../x', mark: mark('d/l') },
    { type: 'folder', path: 'd', mode: 0o700, mark: mark('d') },
    { type: 'removed', path: 'x', mark: mark('x') },
  ]);
  assert.deepEqual(changed, [...['d/f', 'd/l', 'd'].map((name) => ({ mark: mark(name) })), {}]);
  assert.deepEqual([readFileSync(at('d/f'), 'utf8'), readlinkSync(at('d/l'))], ['two', '../x']);
  assert.deepEqual(await write([{ type: 'removed', path: 'x', mark: 'any' }]), [{}]); // it was so already
  assert.deepEqual(readdirSync(mount), ['d']);
  assert.deepEqual(readdirSync(at('d')).sort(), ['f', 'l']);
});

test('what is not as said stays as it is', async (t) => {
  const { write, at, mark } = await scene(t);
  writeFileSync(at('f'), 'theirs');
  const before = mark('f');
  writeFileSync(at('f'), 'theirs again');
  symlinkSync('f', at('l'));
  mkdirSync(at('d'));
  writeFileSync(at('d/in'), '');
  const answers = await write([
    { path: 'f', content: 'mine', mark: before },
    { path: 'f', content: 'mine' },
    { type: 'removed', path: 'f', mark: before },
    { type: 'link', path: 'l', target: 'd' },
    { type: 'link', path: 'f', target: 'd', mark: before },
    { path: 'd', content: 'mine', mark: mark('d') },
    { type: 'removed', path: 'd', mark: mark('d') },
    { type: 'folder', path: 'f' },
    { path: 'gone/f', content: 'mine' },
    { path: 'f/f', content: 'mine' },
    { path: 'gone', content: 'mine', mark: before },
  ]);
  assert.deepEqual(answers, Array(11).fill({ changed: true }));
  assert.equal(readFileSync(at('f'), 'utf8'), 'theirs again');
  assert.deepEqual(readdirSync(at('.')).sort(), ['d', 'f', 'l']);
  assert.deepEqual(readdirSync(at('d')), ['in']);
});

test('what is already as it is to be is answered as done', async (t) => {
  const { write, at, mark } = await scene(t);
  writeFileSync(at('f'), 'same');
  symlinkSync('f', at('l'));
  mkdirSync(at('d'));
  const answers = await write([
    { path: 'f', content: 'same', mark: 'of an earlier one' },
    { type: 'link', path: 'l', target: 'f' },
    { type: 'folder', path: 'd' },
  ]);
  assert.deepEqual(
    answers,
    ['f', 'l', 'd'].map((name) => ({ mark: mark(name) })),
  );
});

/** Nothing of these leaves the mount. */
for (const [name, entry] of [
  ['..', { path: '../neighbour', content: 'x' }],
  ['.. inside', { path: 'd/../../neighbour', content: 'x' }],
  ['an absolute path', { path: '/tmp/lpk-hostile', content: 'x' }],
  ['an empty name', { path: 'd//x', content: 'x' }],
  ['the mount itself', { type: 'removed', path: '.' }],
  ['a zero byte', { path: `a\0${'b'.repeat(100)}`, content: 'x' }],
  ['a link out', { type: 'link', path: 'l', target: '../neighbour' }],
  ['an absolute link', { type: 'link', path: 'l', target: '/etc' }],
  ['a link out by way of a name', { type: 'link', path: 'l', target: 'd/../../neighbour' }],
  ['another mount', { path: 'inner/x', content: 'x' }],
  ['a folder that leads to another mount', { type: 'removed', path: 'inner' }],
] as [string, Sent][]) {
  test(`refused: ${name}`, async (t) => {
    const { write, at, folder } = await scene(t, ['inner/mount']);
    mkdirSync(at('d'));
    mkdirSync(at('inner/mount'), { recursive: true });
    const target = entry.path === 'inner/x' ? { ...entry, path: 'inner/mount/x' } : entry;
    const [answer] = (await write([target])) as { refused?: string }[];
    assert.match(answer?.refused ?? '', /leads out|zero byte|links out|not changed|another mount/);
    assert.equal(readFileSync(path.join(folder, 'neighbour'), 'utf8'), 'untouched');
    assert.deepEqual(readdirSync(folder).sort(), ['mount', 'neighbour']);
    assert.equal(existsSync('/tmp/lpk-hostile'), false);
  });
}

test('a folder that is a link, or becomes one, is not gone through', async (t) => {
  const { write, at, folder } = await scene(t);
  mkdirSync(path.join(folder, 'outside'));
  symlinkSync('../outside', at('l'));
  mkdirSync(at('d'));
  const entries: Sent[] = [
    { path: 'l/x', content: 'x' },
    { type: 'folder', path: 'l/x' },
    { type: 'link', path: 'l/x', target: 'y' },
    { type: 'removed', path: 'l/x', mark: '1' },
  ];
  assert.deepEqual(await write(entries), Array(4).fill({ changed: true }));
  // In a race, again and again: it is written within, or not at all.
  const racing = setInterval(() => {
    renameSync(at('d'), at('was'));
    symlinkSync('../outside', at('d'));
    rmSync(at('d'));
    renameSync(at('was'), at('d'));
  }, 0);
  try {
    for (let i = 0; i < 50; i++) await write([{ path: `d/${i}`, content: 'x' }]);
  } finally {
    clearInterval(racing);
  }
  assert.deepEqual(readdirSync(path.join(folder, 'outside')), []);
});

for (const where of ['/', '/proc', '/proc/self', '/etc', 'folder', 'missing']) {
  test(`no mount: ${where}`, async (t) => {
    const { write, at } = await scene(t);
    mkdirSync(at('folder'));
    const place = path.resolve(at('.'), where);
    await assert.rejects(write([{ path: 'x', content: 'x' }], place), { name: 'LpkError' });
    assert.equal(existsSync(path.join(place, 'x')), false);
  });
}

test('an archive without a mount, and an entry that is none for the agent, end the stream', async (t) => {
  const { pair, write } = await scene(t);
  const stream = pair.laptop.openFileWrites();
  stream.end(header({ path: 'x' }));
  await assert.rejects(stream.toArray(), { code: 'protocol' });
  await assert.rejects(write([{ type: 'round', path: '.' }]), { code: 'protocol' });
});

test('a write that breaks off leaves the old file, and nothing beside it', async (t) => {
  const { open, at, mark, mount } = await scene(t);
  writeFileSync(at('f'), 'old');
  const stream = open();
  stream.write(header({ path: 'f', bytes: 1_000_000, mark: mark('f') }));
  stream.write(Buffer.alloc(600_000));
  await until(() => readdirSync(mount).length === 2, 'the part');
  stream.destroy();
  await until(() => readdirSync(mount).length === 1, 'the part is gone');
  assert.equal(readFileSync(at('f'), 'utf8'), 'old');
});

test('what an agent was writing when it was killed is removed once it is old, and nothing else', async (t) => {
  const { write, at, mount, folder } = await scene(t, ['inner']);
  const part = '.lpk-0123456789abcdef.part';
  const young = '.lpk-fedcba9876543210.part';
  for (const name of ['d/e', 'inner', '../outside']) mkdirSync(at(name), { recursive: true });
  symlinkSync('../outside', at('link'));
  for (const name of [part, `d/e/${part}`, young, `inner/${part}`, `../outside/${part}`, 'd/old']) {
    writeFileSync(at(name), 'half');
    if (!name.endsWith(young)) utimesSync(at(name), 1, 1);
  }
  await write([{ path: 'x', content: 'x' }]);
  await until(() => !existsSync(at(part)) && !existsSync(at(`d/e/${part}`)), 'both are gone');
  assert.deepEqual(readdirSync(mount).sort(), [young, 'd', 'inner', 'link', 'x']);
  assert.deepEqual([readdirSync(at('d')), readdirSync(at('inner'))], [['e', 'old'], [part]]);
  assert.deepEqual(readdirSync(path.join(folder, 'outside')), [part]);
});

test('what the volume refuses is answered by its code, and the rest goes on', async (t) => {
  const { write, at, mount } = await scene(t);
  try {
    // As root nothing is refused by modes.
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'lpk-test', mount], { stdio: 'ignore' });
  } catch (error) {
    if (process.getuid?.() === 0 && process.env.CI === 'true') throw error;
    return t.skip('no right to mount');
  }
  try {
    const full = await write([
      { path: 'big', content: 'x'.repeat(200_000) },
      { path: 'small', content: 'y' },
    ]);
    assert.deepEqual([full[0], Object.keys(full[1] ?? {})], [{ refused: 'ENOSPC' }, ['mark']]);
    assert.deepEqual(readdirSync(mount), ['small']);
    execFileSync('mount', ['-o', 'remount,ro', mount]);
    assert.deepEqual(await write([{ path: 'more', content: 'y' }]), [{ refused: 'EROFS' }]);
    assert.equal(existsSync(at('more')), false);
  } finally {
    execFileSync('umount', ['-l', mount]);
  }
});

test('the owner stays where that is allowed', async (t) => {
  if (process.getuid?.() !== 0) return t.skip('only root may give files away');
  const { write, at, mark } = await scene(t);
  writeFileSync(at('f'), 'old');
  execFileSync('chown', ['65534:65533', at('f')]);
  chmodSync(at('f'), 0o600);
  await write([{ path: 'f', content: 'new', mode: 0o640, mark: mark('f') }]);
  const { uid, gid, mode } = statSync(at('f'));
  assert.deepEqual([uid, gid, mode & 0o777], [65_534, 65_533, 0o640]);
});

test('mount points are read as the kernel writes them', async () => {
  const points = await ownMountPoints();
  assert.ok(points.includes('/proc'));
});
