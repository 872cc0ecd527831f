import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import fsPromises from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type TestContext, test } from 'node:test';
import { MountFiles } from '../../../agent/pod/files.ts';
import type { Stream } from '../../../agent/wire/stream.ts';
import { VolumeCopy, type VolumeReport } from '../../../cli/volume-copy.ts';
import { SessionPair, until } from '../wire/harness.ts';

/** The agent's end and the laptop's, over a real websocket: what is in `pod` comes to be in `copy`. */
async function copying(
  t: TestContext,
  fill: (pod: string) => void,
  options: { limitBytes?: number; maxEntries?: number; except?: string[]; inside?: string } = {},
) {
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-files-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const pod = path.join(folder, 'pod');
  mkdirSync(pod);
  mkdirSync(path.join(folder, 'staging'));
  fill(pod);
  const pair = await SessionPair.open(t);
  const files = new MountFiles();
  pair.agent.on('stream', (stream: Stream) => void files.serve(stream));
  const { limitBytes = 1_000_000, maxEntries = 100, except = [], inside = '.' } = options;
  const place = path.join(folder, 'copy');
  const limits = { limitBytes, maxEntries };
  const copy = new VolumeCopy({ place, staging: path.join(folder, 'staging'), reserved: except, limits });
  const stream = pair.laptop.openFiles(
    Buffer.from(JSON.stringify({ path: path.join(pod, inside), except, ...limits })),
  );
  t.after(() => stream.destroy());
  const reports: VolumeReport[] = [];
  let failed: unknown;
  copy
    .receive(stream, (report) => reports.push(report))
    .catch((error: unknown) => {
      failed = error;
    });
  return {
    pod,
    place,
    reports,
    stream,
    pair,
    /** The `count`th round has come. */
    round: (count: number) => until(() => reports.length >= count || failed !== undefined, `round ${count}`),
    failure: async () => {
      await until(() => failed !== undefined, 'the failure');
      return failed;
    },
  };
}

/** As kubelet's atomic writer does it. */
function publish(pod: string, version: string, content: string): void {
  const made = `..${version}`;
  mkdirSync(path.join(pod, made));
  for (const name of ['key', 'last']) writeFileSync(path.join(pod, made, name), content);
  symlinkSync(made, path.join(pod, '..data_tmp'));
  const before = readdirSync(pod).includes('..data') ? readlinkSync(path.join(pod, '..data')) : undefined;
  renameSync(path.join(pod, '..data_tmp'), path.join(pod, '..data'));
  if (before) rmSync(path.join(pod, before), { recursive: true });
}

test('a volume of kubelet’s comes as it is, and its next version by itself', async (t) => {
  const { pod, place, round, reports } = await copying(t, (at) => {
    publish(at, '1', 'old');
    symlinkSync('..data/key', path.join(at, 'key'));
  });
  await round(1);
  assert.equal(readFileSync(path.join(place, 'key'), 'utf8'), 'old');
  assert.equal(readlinkSync(path.join(place, '..data')), '..1');
  publish(pod, '2', 'new');
  await round(2);
  assert.equal(readFileSync(path.join(place, 'key'), 'utf8'), 'new');
  assert.deepEqual(readdirSync(place).sort(), ['..2', '..data', 'key']);
  assert.equal(reports[1]?.skippedCount, 0);
});

/** Has `act` done before each call of this function of node:fs/promises for a path with this ending. */
function before(t: TestContext, name: 'lstat' | 'open', ending: string, act: () => void): void {
  const original = fsPromises[name] as (...args: unknown[]) => Promise<unknown>;
  t.mock.method(fsPromises, name, (...args: unknown[]) => {
    if (String(args[0]).endsWith(ending)) act();
    return original(...args);
  });
  syncBuiltinESMExports();
  t.after(() => {
    t.mock.restoreAll();
    syncBuiltinESMExports();
  });
}

for (const [when, name, ending] of [
  ['looked at', 'lstat', '/..data'],
  ['sent', 'open', '/..2/last'],
] as const) {
  test(`a version that is over before it is all ${when} is never seen, and the former one until the next is whole`, async (t) => {
    const { pod, place, round, reports } = await copying(t, (at) => {
      publish(at, '1', 'one');
      for (const key of ['key', 'last']) symlinkSync(`..data/${key}`, path.join(at, key));
    });
    await round(1);
    let isOver = false;
    before(t, name, ending, () => {
      if (!isOver) publish(pod, '3', 'three');
      isOver = true;
    });
    publish(pod, '2', 'two');
    const seen = new Set<string>();
    await until(() => {
      for (const key of ['key', 'last']) seen.add(readFileSync(path.join(place, key), 'utf8'));
      return seen.has('three');
    }, 'the third version');
    assert.deepEqual([...seen], ['one', 'three']);
    await round(2);
    assert.deepEqual(readdirSync(place).sort(), ['..3', '..data', 'key', 'last']);
    assert.deepEqual(
      reports.map(({ skippedCount }) => skippedCount),
      [0, 0],
    );
  });
}

test('a volume whose every look is torn is copied all the same', async (t) => {
  const { place, round, pod } = await copying(t, (at) => publish(at, '1', '1'));
  await round(1);
  let version = 1;
  before(t, 'lstat', '/..data', () => publish(pod, `${++version}`, `${version}`));
  await round(2);
  assert.ok(readlinkSync(path.join(place, '..data')) !== '..1');
});

test('only what changed is sent, and nothing when nothing does', async (t) => {
  const big = 'x'.repeat(500_000);
  const { pod, place, round, pair, reports } = await copying(t, (at) => {
    writeFileSync(path.join(at, 'big'), big);
    writeFileSync(path.join(at, 'small'), '1');
  });
  await round(1);
  const before = pair.laptop.bytes.in;
  assert.ok(before > 500_000);
  writeFileSync(path.join(pod, 'small'), '22');
  await round(2);
  assert.equal(readFileSync(path.join(place, 'small'), 'utf8'), '22');
  chmodSync(path.join(pod, 'small'), 0o600);
  rmSync(path.join(pod, 'big'));
  await round(3);
  assert.deepEqual(readdirSync(place), ['small']);
  assert.equal(lstatSync(path.join(place, 'small')).mode & 0o777, 0o600);
  assert.ok(pair.laptop.bytes.in - before < 10_000, `${pair.laptop.bytes.in - before} bytes for what changed`);
  assert.equal(reports.length, 3);
});

test('a file that is mounted alone', async (t) => {
  const { pod, place, round } = await copying(t, (at) => writeFileSync(path.join(at, 'f'), 'one'), { inside: 'f' });
  await round(1);
  writeFileSync(path.join(pod, 'f'), 'second');
  await round(2);
  assert.equal(readFileSync(place, 'utf8'), 'second');
});

test('another mount in it is named and not entered', async (t) => {
  const fill = (at: string) => {
    mkdirSync(path.join(at, 'inner'));
    writeFileSync(path.join(at, 'inner/x'), '');
    writeFileSync(path.join(at, 'file'), '');
  };
  const { place, round, reports } = await copying(t, fill, { except: ['inner', 'file'] });
  await round(1);
  assert.deepEqual(readdirSync(place), ['inner']);
  assert.deepEqual(readdirSync(path.join(place, 'inner')), []);
  assert.equal(reports[0]?.skippedCount, 0);
});

test('a hostile pod: what can not be had is named, the rest is there', async (t) => {
  const server = net.createServer();
  t.after(() => server.close());
  const { place, round, reports } = await copying(t, (at) => {
    writeFileSync(path.join(at, 'sparse'), '');
    truncateSync(path.join(at, 'sparse'), 2 ** 40);
    execFileSync('mkfifo', [path.join(at, 'pipe')]);
    if (process.getuid?.() === 0) execFileSync('mknod', [path.join(at, 'disk'), 'b', '259', '0']);
    symlinkSync('/etc/passwd', path.join(at, 'passwd'));
    symlinkSync('../../..', path.join(at, 'up'));
    writeFileSync(Buffer.concat([Buffer.from(`${at}/`), Buffer.of(0xff, 0x62)]), '');
    writeFileSync(path.join(at, 'with\nnewline'), 'kept');
    let deep = at;
    for (let i = 0; i < 12; i++) {
      deep = path.join(deep, 'd'.repeat(100));
      mkdirSync(deep);
    }
    server.listen(path.join(at, 'socket'));
  });
  await round(1);
  const told = reports[0]?.skipped ?? new Map();
  for (const [name, why] of [
    ['sparse', /1099511627776 bytes/],
    ['pipe', /pipe/],
    ['passwd', /links out/],
    ['up', /links out/],
    ['socket', /socket/],
    ['\ufffdb', /UTF-8/],
  ] as const) {
    assert.match(told.get(name) ?? '', why, name);
  }
  if (process.getuid?.() === 0) assert.match(told.get('disk'), /device/);
  assert.ok([...told.values()].some((why) => /path is too long/.test(why)));
  assert.deepEqual(readdirSync(place).sort(), ['d'.repeat(100), 'with\nnewline']);
});

test('more files than may be: as many as may, told', async (t) => {
  const { place, round, reports } = await copying(
    t,
    (at) => {
      for (let i = 0; i < 2_000; i++) writeFileSync(path.join(at, `${i}`), '');
    },
    { maxEntries: 50 },
  );
  await round(1);
  assert.equal(readdirSync(place).length, 49); // the folder itself is one
  assert.match([...(reports[0]?.skipped.values() ?? [])].join(), /more than 50 files/);
});

test('the limit is for all files together, and smaller ones still fit', async (t) => {
  const { place, round, reports } = await copying(
    t,
    (at) => {
      writeFileSync(path.join(at, 'a'), 'x'.repeat(600));
      writeFileSync(path.join(at, 'b'), 'x'.repeat(600));
      writeFileSync(path.join(at, 'c'), 'x'.repeat(400));
    },
    { limitBytes: 1_000 },
  );
  await round(1);
  assert.deepEqual(readdirSync(place), ['a', 'c']);
  assert.match(reports[0]?.skipped.get('b') ?? '', /600 bytes are more than the limit leaves/);
});

test('a path that is not there is an answer', async (t) => {
  const { failure } = await copying(t, () => {}, { inside: 'nothing' });
  assert.match(String(await failure()), /ENOENT/);
});

test('the agent stops looking when the laptop has enough', async (t) => {
  const { stream, pair, round } = await copying(t, () => {});
  await round(1);
  stream.destroy();
  await until(() => pair.agent.streamCount === 0, 'the agent forgets the stream');
});
