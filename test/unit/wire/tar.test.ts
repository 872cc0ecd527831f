import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { encodeTarHeader, readTar, type TarEntry, tarPadding } from '../../../agent/wire/tar.ts';

const plain: TarEntry = { type: 'file', path: 'a', target: '', mode: 0o640, modifiedMs: 1_700_000_000_000, bytes: 0 };

function archive(entries: (Partial<TarEntry> & { content?: string })[]): Buffer {
  return Buffer.concat(
    entries.flatMap(({ content = '', ...entry }) => {
      const bytes = Buffer.from(content);
      return [encodeTarHeader({ ...plain, ...entry, bytes: bytes.length }), bytes, tarPadding(bytes.length)];
    }),
  );
}

/** In pieces of this many bytes. */
async function* pieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function read(bytes: Buffer, size = 65_536): Promise<(TarEntry & { text: string })[]> {
  const found: (TarEntry & { text: string })[] = [];
  for await (const { content, ...entry } of readTar(pieces(bytes, size))) {
    const all: Buffer[] = [];
    for await (const piece of content) all.push(piece);
    found.push({ ...entry, text: Buffer.concat(all).toString() });
  }
  return found;
}

const LONG = `${'folder/'.repeat(40)}naïve\nname`;

test('entries come back as they were put in, however the bytes are cut', async () => {
  const bytes = archive([
    { type: 'folder', path: '.', mode: 0o1777 },
    { path: 'a', content: 'x'.repeat(700) },
    { path: LONG, content: 'y' },
    { type: 'link', path: 'l', target: `${'../'.repeat(50)}target` },
    { path: 'b'.repeat(100), content: 'z' },
    { path: 'c'.repeat(101) },
    { type: 'removed', path: 'gone' },
    { type: 'skipped', path: 'disk', content: 'why' },
    { type: 'round', path: '.', content: '{}' },
  ]);
  for (const size of [1, 511, 513, 65_536]) {
    const found = await read(bytes, size);
    assert.deepEqual(
      found.map(({ type, path, target, text }) => [type, path, target, text.length]),
      [
        ['folder', '.', '', 0],
        ['file', 'a', '', 700],
        ['file', LONG, '', 1],
        ['link', 'l', `${'../'.repeat(50)}target`, 0],
        ['file', 'b'.repeat(100), '', 1],
        ['file', 'c'.repeat(101), '', 0],
        ['removed', 'gone', '', 0],
        ['skipped', 'disk', '', 3],
        ['round', '.', '', 2],
      ],
    );
    assert.equal(found[0]?.mode, 0o1777);
    assert.equal(found[1]?.modifiedMs, plain.modifiedMs);
  }
});

test('a pax record’s length counts its own digits, at every length', async () => {
  for (let length = 101; length < 1_030; length++) {
    const [found] = await read(archive([{ path: 'p'.repeat(length) }]));
    assert.equal(found?.path.length, length);
  }
});

test('GNU tar reads it', () => {
  const bytes = archive([
    { type: 'folder', path: 'd', mode: 0o755 },
    { path: `d/${'e'.repeat(150)}`, content: 'hello' },
    { type: 'link', path: 'd/l', target: 'f'.repeat(120) },
  ]);
  const listed = execFileSync('tar', ['-tvf', '-'], { input: Buffer.concat([bytes, Buffer.alloc(1_024)]) }).toString();
  assert.match(listed, /^drwxr-xr-x .* d\n-rw-r----- .* 5 .* d\/e{150}\n.* d\/l -> f{120}\n$/);
});

test('what the reader leaves of a content is passed over', async () => {
  const names: string[] = [];
  for await (const { path } of readTar(pieces(archive([{ content: 'x'.repeat(5_000) }, { path: 'b' }]), 100)))
    names.push(path);
  assert.deepEqual(names, ['a', 'b']);
});

test('and what is left when the reader breaks off', async () => {
  const names: string[] = [];
  for await (const { path, content } of readTar(
    pieces(archive([{ content: 'x'.repeat(5_000) }, { path: 'b' }]), 100),
  )) {
    names.push(path);
    for await (const _ of content) break;
  }
  assert.deepEqual(names, ['a', 'b']);
});

test('a mark is as it was put in, and no longer than it may be', async () => {
  const marks: (string | undefined)[] = [];
  const sent = [{}, { mark: '' }, { mark: '12 345 6 420' }, { mark: 'm', path: 'p'.repeat(300) }];
  for await (const { mark } of readTar(pieces(archive(sent), 100))) marks.push(mark);
  assert.deepEqual(marks, [undefined, '', '12 345 6 420', 'm']);
  const long = readTar(pieces(archive([{ mark: 'm'.repeat(129) }]), 100));
  await assert.rejects(long.next(), { code: 'protocol' });
});

test('8 GiB and more have no room', () => {
  assert.throws(() => encodeTarHeader({ ...plain, bytes: 8 ** 11 }), { code: 'limit-exceeded' });
});

/** A header with bytes changed, and its checksum made right again. */
function forged(change: (header: Buffer) => void): Buffer {
  const header = archive([{}]);
  change(header);
  header.fill(0x20, 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return header;
}

const pax = (records: string, claimed = records.length) => {
  const header = forged((bytes) => {
    bytes.write('x', 156);
    bytes.write(claimed.toString(8).padStart(11, '0'), 124);
  });
  return Buffer.concat([header, Buffer.from(records), tarPadding(records.length), archive([{}])]);
};

const HOSTILE: [name: string, bytes: Buffer][] = [
  ['no header at all', Buffer.alloc(512, 1)],
  ['zeros', Buffer.alloc(512)],
  ['a wrong checksum', Buffer.concat([archive([{}]).fill('z', 0, 1)])],
  ['half a header', archive([{}]).subarray(0, 300)],
  ['half a content', archive([{ content: 'x'.repeat(2_000) }]).subarray(0, 1_000)],
  ...[...'1346 7gKLVZ'].map((letter): [string, Buffer] => [
    `type ${letter}`,
    forged((header) => header.write(letter, 156)),
  ]),
  ['a size that is no number', forged((header) => header.write('99999999999', 124))],
  ['a size in GNU’s binary', forged((header) => header.writeUInt8(0x80, 124))],
  ['a negative size', forged((header) => header.write('-0000000001', 124))],
  ['a name that is not UTF-8', forged((header) => header.writeUInt8(0xff, 0))],
  ['a pax header of 17 KiB', pax('x', 17 * 1_024)],
  ['a pax record longer than its header', pax('99 path=a\n')],
  ['a pax record of length 0', pax('0 path=a\n')],
  ['a pax record without a length', pax('path=a\n')],
  ['a pax record that is negative', pax('-5 path=a\n')],
];

for (const [name, bytes] of HOSTILE) {
  test(`refused: ${name}`, async () => {
    await assert.rejects(read(bytes), { code: 'protocol' });
  });
}
