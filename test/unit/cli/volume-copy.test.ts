import assert from 'node:assert/strict';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type TestContext, test } from 'node:test';
import { encodeTarHeader, type TarEntry, tarPadding } from '../../../agent/wire/tar.ts';
import { VolumeCopy, type VolumeReport } from '../../../cli/volume-copy.ts';

type Sent = Partial<TarEntry> & { path: string; content?: string };

const ROUND: Sent = { type: 'round', path: '.', content: '{"skipped":0}' };
const ROOT: Sent = { type: 'folder', path: '.', mode: 0o755 };

async function* stream(entries: Sent[]): AsyncGenerator<Buffer> {
  for (const { content = '', bytes, ...entry } of entries) {
    const data = Buffer.from(content);
    const base = { type: 'file', target: '', mode: 0o644, modifiedMs: 0 } as const;
    yield encodeTarHeader({ ...base, ...entry, bytes: bytes ?? data.length });
    yield Buffer.concat([data, tarPadding(data.length)]);
  }
}

/** A session's folder with a neighbour that must stay as it is, and a copy in it. */
function scene(t: TestContext, options: { limitBytes?: number; maxEntries?: number; reserved?: string[] } = {}) {
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-copy-'));
  t.after(() => rmSync(folder, { recursive: true }));
  writeFileSync(path.join(folder, 'neighbour'), 'untouched');
  mkdirSync(path.join(folder, 'staging'));
  const place = path.join(folder, 'files/data');
  const { limitBytes = 1_000, maxEntries = 10, reserved = [] } = options;
  const staging = path.join(folder, 'staging');
  const copy = new VolumeCopy({ place, staging, reserved, limits: { limitBytes, maxEntries } });
  const reports: VolumeReport[] = [];
  return {
    folder,
    place,
    copy,
    reports,
    at: (name: string) => path.join(place, name),
    receive: (...entries: Sent[]) => copy.receive(stream(entries), (report) => reports.push(report)),
  };
}

test('files, folders and links are there with their modes and times', async (t) => {
  const { receive, at, reports } = scene(t);
  await receive(
    ROOT,
    { type: 'folder', path: '..2026', mode: 0o555 },
    { path: '..2026/key', content: 'secret', mode: 0o6400, modifiedMs: 1_700_000_000_000 },
    { type: 'link', path: '..data', target: '..2026' },
    { type: 'link', path: 'key', target: '..data/key' },
    { type: 'skipped', path: 'sock', content: 'it is a socket' },
    { ...ROUND, content: '{"skipped":1}' },
  );
  assert.equal(readFileSync(at('key'), 'utf8'), 'secret');
  assert.equal(lstatSync(at('..2026/key')).mode & 0o7777, 0o400);
  assert.equal(lstatSync(at('..2026/key')).mtimeMs, 1_700_000_000_000);
  assert.equal(lstatSync(at('..2026')).mode & 0o7777, 0o755); // its owner can write
  assert.equal(readlinkSync(at('key')), '..data/key');
  const [report] = reports;
  assert.deepEqual(report && { ...report, skipped: [...report.skipped] }, {
    kind: 'folder',
    files: 3,
    bytes: 6,
    skipped: [['sock', 'it is a socket']],
    skippedCount: 1,
  });
});

test('changes come in place: a reader of the folder sees the new files', async (t) => {
  const { receive, at, place } = scene(t);
  await receive(
    ROOT,
    { type: 'folder', path: '..1' },
    { path: '..1/k', content: 'old' },
    { type: 'link', path: '..data', target: '..1' },
    ROUND,
    { type: 'folder', path: '..2' },
    { path: '..2/k', content: 'new' },
    { type: 'link', path: '..data', target: '..2' },
    { type: 'removed', path: '..1' },
    { type: 'removed', path: '..1/k' },
    { type: 'folder', path: 'was' },
    { path: 'was/x' },
    { path: 'was', content: 'a folder' },
    ROUND,
  );
  assert.equal(readFileSync(at('..data/k'), 'utf8'), 'new');
  assert.equal(readFileSync(at('was'), 'utf8'), 'a folder');
  assert.deepEqual(readdirSync(place).sort(), ['..2', '..data', 'was']);
});

test('the next agent’s first round takes away what is no longer there', async (t) => {
  const { receive, place, copy, reports } = scene(t);
  await receive(
    ROOT,
    { path: 'a', content: '1' },
    { type: 'folder', path: 'd' },
    { path: 'd/b', content: '22' },
    ROUND,
  );
  const before = statSync(place).ino;
  await receive(ROOT, { path: 'c', content: '333' }, ROUND);
  assert.deepEqual(readdirSync(copy.place), ['c']);
  assert.equal(statSync(place).ino, before); // it is mounted elsewhere
  assert.deepEqual(
    reports.map(({ files, bytes }) => [files, bytes]),
    [
      [2, 3],
      [1, 3],
    ],
  );
});

test('a mounted file keeps its inode', async (t) => {
  const { receive, place, reports } = scene(t);
  await receive({ path: '.', content: 'long content', mode: 0o400 }, ROUND);
  const before = statSync(place).ino;
  await receive({ path: '.', content: 'short', mode: 0o400 }, ROUND);
  assert.equal(readFileSync(place, 'utf8'), 'short');
  assert.deepEqual([statSync(place).ino, statSync(place).mode & 0o777], [before, 0o400]);
  assert.deepEqual([reports[1]?.kind, reports[1]?.bytes], ['file', 5]);
});

test('a mount within another keeps its place', async (t) => {
  const { receive, place, at } = scene(t, { reserved: ['sub/inner'] });
  mkdirSync(at('sub/inner'));
  writeFileSync(at('sub/inner/x'), 'inner');
  await receive(
    ROOT,
    { type: 'folder', path: 'sub' },
    { type: 'folder', path: 'sub/inner', mode: 0o700 },
    { path: 'sub/inner/x', content: 'outer' },
    { type: 'link', path: 'sub', target: 'elsewhere' },
    { type: 'removed', path: 'sub' },
    ROUND,
  );
  await receive(ROOT, ROUND);
  assert.equal(readFileSync(path.join(place, 'sub/inner/x'), 'utf8'), 'inner');
});

/** Entries after a good root, what is told of them, and what must not have come of them. */
const HOSTILE: [name: string, entries: Sent[], why: RegExp][] = [
  ['a path with ..', [{ path: '../neighbour', content: 'x' }], /leads out/],
  [
    'a path with .. inside',
    [
      { type: 'folder', path: 'd' },
      { path: 'd/../../../neighbour', content: 'x' },
    ],
    /leads out/,
  ],
  ['..', [{ type: 'folder', path: '..', mode: 0o777 }], /leads out/],
  ['an absolute path', [{ path: '/tmp/lpk-hostile', content: 'x' }], /leads out/],
  ['an empty path', [{ path: '', content: 'x' }], /leads out/],
  ['a path that ends in a slash', [{ type: 'folder', path: 'd/' }], /leads out/],
  ['a path with a dot', [{ path: './a' }], /leads out/],
  ['a file in no folder', [{ path: 'nowhere/a' }], /folder is missing/],
  ['a file in a file', [{ path: 'f' }, { path: 'f/a' }], /folder is missing/],
  ['a link out, absolute', [{ type: 'link', path: 'l', target: '/etc' }], /links out/],
  ['a link out, relative', [{ type: 'link', path: 'l', target: '../..' }], /links out/],
  ['a link out by one', [{ type: 'link', path: 'l', target: '../neighbour' }], /links out/],
  ['a link to nothing', [{ type: 'link', path: 'l', target: '' }], /links out/],
  [
    'a link out by way of a link',
    [
      { type: 'folder', path: 'a' },
      { type: 'folder', path: 'a/b' },
      { type: 'link', path: 'a/b/top', target: '../..' },
      { type: 'link', path: 'l', target: 'a/b/top/../../..' },
    ],
    /links out/,
  ],
  [
    'a file through a link',
    [
      { type: 'folder', path: 'd' },
      { type: 'link', path: 'l', target: 'd' },
      { path: 'l/a', content: 'x' },
    ],
    /folder is missing/,
  ],
  [
    'a folder that became a link',
    [
      { type: 'folder', path: 'd' },
      { type: 'link', path: 'd', target: 'e' },
      { path: 'd/a', content: 'x' },
    ],
    /folder is missing/,
  ],
  ['the mount itself a link', [{ type: 'link', path: '.', target: 'a' }], /can not be that|links out/],
  ['the mount itself removed', [{ type: 'removed', path: '.' }], /can not be that/],
  ['something above removed', [{ type: 'removed', path: '../../neighbour' }], /leads out/],
  ['a name of 256 bytes', [{ path: 'n'.repeat(256) }], /too long/],
  ['a path of 1,025 bytes', [{ path: `${'n'.repeat(200)}/`.repeat(5) + 'n'.repeat(20) }], /too long/],
];

for (const [name, entries, why] of HOSTILE) {
  test(`refused and told: ${name}`, async (t) => {
    const { receive, folder, reports } = scene(t);
    await receive(ROOT, ...entries, ROUND);
    const told = [...(reports[0]?.skipped.values() ?? [])];
    assert.ok(
      told.some((each) => why.test(each)),
      told.join(),
    );
    assert.ok((reports[0]?.skippedCount ?? 0) > 0);
    assert.equal(readFileSync(path.join(folder, 'neighbour'), 'utf8'), 'untouched');
    assert.deepEqual(readdirSync(folder).sort(), ['files', 'neighbour', 'staging']);
    assert.deepEqual(readdirSync(path.join(folder, 'files')), ['data']);
    assert.deepEqual(readdirSync(path.join(folder, 'staging')), []);
    assert.equal(existsSync('/tmp/lpk-hostile'), false);
  });
}

test('names with newlines and control bytes are names', async (t) => {
  const { receive, place } = scene(t);
  await receive(ROOT, { path: 'a\nb', content: 'x' }, { path: '\u001b[2J', content: 'y' }, ROUND);
  assert.deepEqual(readdirSync(place).sort(), ['\u001b[2J', 'a\nb']);
});

test('a refusal is told until it is no longer true', async (t) => {
  const { receive, reports } = scene(t);
  const link: Sent = { type: 'link', path: 'l', target: '/etc' };
  await receive(ROOT, link, ROUND, { path: 'a' }, ROUND, { path: 'l' }, ROUND);
  assert.deepEqual(
    reports.map(({ skippedCount }) => skippedCount),
    [1, 1, 0],
  );
});

test('twice the bytes that were agreed on end the copy before they are written', async (t) => {
  const { receive, at } = scene(t, { limitBytes: 100 });
  await assert.rejects(receive(ROOT, { path: 'huge', bytes: 8 ** 11 - 1 }), { code: 'limit-exceeded' });
  assert.equal(existsSync(at('huge')), false);
  await assert.rejects(receive(ROOT, { path: 'a', content: 'x'.repeat(150) }, { path: 'b', content: 'x'.repeat(51) }), {
    code: 'limit-exceeded',
  });
});

test('old and new of a whole volume have room side by side', async (t) => {
  const { receive, reports } = scene(t, { limitBytes: 100, maxEntries: 3 });
  const half = (name: string): Sent[] => [
    { type: 'folder', path: name },
    { path: `${name}/x`, content: 'x'.repeat(100) },
  ];
  await receive(ROOT, ...half('1'), ROUND, ...half('2'), { type: 'removed', path: '1' }, ROUND);
  assert.deepEqual(reports[1]?.bytes, 100);
});

test('twice the files that were agreed on end the copy', async (t) => {
  const many = (type: 'file' | 'link'): Sent[] =>
    Array.from({ length: 30 }, (_, i) => ({ type, path: `${i}`, target: type === 'link' ? '/out' : '' }));
  await assert.rejects(scene(t).receive(ROOT, ...many('file')), { code: 'limit-exceeded' });
  await assert.rejects(scene(t).receive(ROOT, ...many('link')), { code: 'limit-exceeded' }); // refusals are remembered too
});

test('a reason longer than 1 KiB ends the copy', async (t) => {
  await assert.rejects(scene(t).receive(ROOT, { type: 'skipped', path: 'a', content: 'x'.repeat(1_025) }), {
    code: 'protocol',
  });
});
