import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PassThrough } from 'node:stream';
import { type TestContext, test } from 'node:test';
import type { Target } from '../../../agent/deploy/find.ts';
import { MountFiles } from '../../../agent/pod/files.ts';
import type { Session } from '../../../agent/wire/session.ts';
import type { Stream } from '../../../agent/wire/stream.ts';
import { Output } from '../../../cli/output.ts';
import { Undo } from '../../../cli/undo.ts';
import { containerMounts, copyVolumes } from '../../../cli/volumes.ts';
import { SessionPair, until } from '../wire/harness.ts';
import { FakeCluster } from './fake-cluster.ts';

/** A pod whose volumes are folders of this machine, and a session to its agent. */
async function scene(t: TestContext, names: string[]) {
  const folder = realpathSync(mkdtempSync(path.join(tmpdir(), 'lpk-pod-')));
  t.after(() => rmSync(folder, { recursive: true }));
  const { XDG_STATE_HOME } = process.env;
  process.env.XDG_STATE_HOME = path.join(folder, 'state');
  t.after(() => {
    if (XDG_STATE_HOME === undefined) delete process.env.XDG_STATE_HOME;
    else process.env.XDG_STATE_HOME = XDG_STATE_HOME;
  });
  const fake = new FakeCluster();
  const volumeMounts = names.map((name) => ({ name, mountPath: path.join(folder, name) }));
  const volumes = names.map((name) => ({ name, emptyDir: {} }));
  fake.objects.set('/api/v1/namespaces/shop/pods/web-1', {
    metadata: { name: 'web-1' },
    spec: { volumes, containers: [{ name: 'app', volumeMounts }] },
  });
  let session: Session | undefined;
  const connect = async (serve?: (stream: Stream) => void) => {
    const pair = await SessionPair.open(t);
    const files = new MountFiles(async () => names.map((name) => path.join(folder, name)));
    pair.agent.on('stream', serve ?? ((stream: Stream) => void files.serve(stream)));
    session = pair.laptop;
    return pair;
  };
  const said: string[] = [];
  const stdout = new PassThrough()
    .setEncoding('utf8')
    .on('data', (text: string) => said.push(...text.trim().split('\n')));
  const output = new Output({ format: 'json', stdout, stderr: new PassThrough().resume() });
  const failures: string[] = [];
  const undo = new Undo((failure) => failures.push(failure));
  t.after(() => undo.run());
  const target = { namespace: 'shop', container: 'app' } as Target;
  const copy = (more: Partial<Parameters<typeof copyVolumes>[0]> = {}) =>
    copyVolumes({
      cluster: fake.cluster,
      target,
      pod: 'web-1',
      agent: () => session && { pod: 'web-1', session },
      limitBytes: 1_000,
      writeBack: false,
      undo,
      output,
      ...more,
    });
  const events = () => said.map((line) => JSON.parse(line));
  return { folder, connect, copy, undo, failures, events };
}

function rootOf(events: { event: string; state?: string; folder?: string }[]): string | undefined {
  return events.find(({ event, state }) => event === 'volumes' && state === 'done')?.folder;
}

test('mounts are the container’s own, without lpk’s, in order; claims and emptyDirs are written to', () => {
  const spec = {
    volumes: [
      { name: 'a', emptyDir: {} },
      { name: 'b', persistentVolumeClaim: { claimName: 'b' } },
      { name: 'c', persistentVolumeClaim: { claimName: 'c', readOnly: true } },
      { name: 'd', configMap: { name: 'd' } },
    ],
    containers: [
      { name: 'side', volumeMounts: [{ name: 'x', mountPath: '/x' }] },
      {
        name: 'app',
        volumeMounts: [
          { name: 'b', mountPath: '/b/' },
          { name: 'lpk-agent', mountPath: '/.lpk' },
          { name: 'a', mountPath: 'a/../c//d' },
          { name: 'a', mountPath: '/ro', readOnly: true },
          { name: 'c', mountPath: '/claim' },
          { name: 'd', mountPath: '/config' },
          { name: 'b', mountPath: '/b' },
        ],
      },
    ],
  };
  assert.deepEqual(
    containerMounts({ spec }, 'app').map((each) => [each.path, each.isWritable]),
    [
      ['/b', true],
      ['/c/d', true],
      ['/claim', false],
      ['/config', false],
      ['/ro', false],
    ],
  );
  assert.deepEqual(containerMounts({ spec }, 'other'), []);
});

test('copies are fresh by whichever agent there is, and gone at the end', async (t) => {
  const { folder, connect, copy, undo, events } = await scene(t, ['data']);
  mkdirSync(path.join(folder, 'data'));
  writeFileSync(path.join(folder, 'data/f'), 'one');
  const first = await connect();
  await copy();
  const root = rootOf(events()) as string;
  const copied = path.join(root, folder, 'data/f');
  assert.equal(readFileSync(copied, 'utf8'), 'one');
  first.laptop.close();
  writeFileSync(path.join(folder, 'data/f'), 'two');
  await connect();
  await until(() => readFileSync(copied, 'utf8') === 'two', 'the next agent’s copy');
  await undo.run();
  assert.equal(existsSync(path.dirname(root)), false);
  assert.deepEqual(undo.failed, []);
});

test('what is wrong for a while is told once, and the copy is fresh again', async (t) => {
  const { folder, connect, copy, events } = await scene(t, ['data']);
  mkdirSync(path.join(folder, 'data'));
  writeFileSync(path.join(folder, 'data/token'), 'one');
  await connect();
  await copy();
  const root = rootOf(events()) as string;
  const staging = path.join(root, '../staging');
  renameSync(staging, `${staging}-away`);
  writeFileSync(path.join(folder, 'data/token'), 'two');
  const told = (event: string) => events().filter((each) => each.event === event);
  await until(() => told('volume-stale').length > 0, 'it is told');
  assert.match(told('volume-stale')[0].text, /data is not kept fresh for now: ENOENT.*; lpk goes on trying$/);
  renameSync(`${staging}-away`, staging);
  await until(() => told('volume-fresh').length > 0, 'it is fresh');
  assert.equal(readFileSync(path.join(root, folder, 'data/token'), 'utf8'), 'two');
  assert.deepEqual([told('volume-stale').length, told('volume-lost').length], [1, 0]);
});

test('a volume that can not be read is told and left out; the others are there', async (t) => {
  const { folder, connect, copy, events } = await scene(t, ['data', 'missing']);
  mkdirSync(path.join(folder, 'data'));
  writeFileSync(path.join(folder, 'data/f'), 'x');
  writeFileSync(path.join(folder, 'data/too\u001b[31mbig'), 'x'.repeat(2_000));
  await connect();
  await copy();
  assert.equal(existsSync(path.join(rootOf(events()) as string, folder, 'data/f')), true);
  const lost = events().find(({ event }) => event === 'volume-lost');
  assert.equal(lost.path, path.join(folder, 'missing'));
  const skipped = events().find(({ event }) => event === 'volume-skipped');
  assert.match(skipped.text, /too\\u001b\[31mbig" \(its 2000 bytes are more than the limit leaves\)/);
  assert.equal(skipped.skippedCount, 1);
});

test('what can not be at its path is named by LPK_VOLUMES', async (t) => {
  const { folder, connect, copy, events } = await scene(t, ['data']);
  mkdirSync(path.join(folder, 'data'));
  t.mock.method(process, 'cwd', () => path.join(folder, 'data/project')); // which a mount would hide
  await connect();
  const volumes = await copy();
  assert.equal(volumes?.env.LPK_VOLUMES, rootOf(events()));
  const left = events().find(({ event }) => event === 'volumes-left');
  assert.deepEqual(Object.keys(left.left), [path.join(folder, 'data')]);
  assert.deepEqual(volumes?.wrap('true', ['a']), { command: 'true', args: ['a'] });
});

for (const [writeBack, access] of [
  [false, /, copies that are not written back, in \//],
  [true, /, copies that are not written back but for .*data, written back to pod web-1, in \//],
] as const) {
  test(`where namespaces are refused all is in LPK_VOLUMES: ${writeBack ? 'rw' : 'ro'}`, async (t) => {
    const { folder, connect, copy, undo, events } = await scene(t, ['data']);
    mkdirSync(path.join(folder, 'data'));
    writeFileSync(path.join(folder, 'data/f'), 'x');
    await connect();
    const volumes = await copy({
      writeBack,
      // As the kernel says where an administrator forbids it.
      mount: async ({ placements }) => {
        assert.equal(placements[0]?.point, path.join(folder, 'data'));
        throw new Error('unshare: unshare failed: Operation not permitted');
      },
    });
    const root = rootOf(events()) as string;
    assert.deepEqual(volumes?.env, { LPK_VOLUMES: root });
    assert.deepEqual(volumes?.wrap('true', ['a']), { command: 'true', args: ['a'] });
    assert.equal(readFileSync(path.join(volumes?.find(path.join(folder, 'data')) ?? '', 'f'), 'utf8'), 'x');
    const left = events().find(({ event }) => event === 'volumes-left');
    assert.match(left.text, /only in LPK_VOLUMES=.*data \(unshare: .*not permitted\)$/);
    assert.match(events().find(({ event, state }) => event === 'volumes' && state === 'done').text, access);
    await undo.run();
    assert.equal(existsSync(path.dirname(root)), false);
  });
}

test('a first copy from which nothing comes is told and left out', async (t) => {
  const { folder, connect, copy, events, undo } = await scene(t, ['dead', 'data']);
  mkdirSync(path.join(folder, 'data'));
  writeFileSync(path.join(folder, 'data/f'), 'x');
  const files = new MountFiles();
  // As an agent whose file system (a dead NFS server's) answers nothing.
  await connect((stream) => {
    stream.once('data', (request: Buffer) => {
      stream.unshift(request);
      if (!String(request).includes('/dead')) void files.serve(stream);
    });
  });
  await copy({ silenceMs: 3_000 });
  const lost = events().filter(({ event }) => event === 'volume-lost');
  assert.deepEqual(
    lost.map((each) => each.path),
    [path.join(folder, 'dead')],
  );
  assert.match(lost[0]?.text, /the pod has sent nothing for 3 s/);
  assert.equal(existsSync(path.join(rootOf(events()) as string, folder, 'data/f')), true);
  await undo.run();
  assert.deepEqual(undo.failed, []);
});

test('what is changed in a copy is written back, and at the end before it is removed', async (t) => {
  const { folder, connect, copy, undo, events } = await scene(t, ['data']);
  mkdirSync(path.join(folder, 'data'));
  await connect();
  await copy({ writeBack: true });
  const root = rootOf(events()) as string;
  writeFileSync(path.join(root, folder, 'data/f'), 'mine');
  await undo.run();
  assert.equal(readFileSync(path.join(folder, 'data/f'), 'utf8'), 'mine');
  assert.equal(existsSync(path.dirname(root)), false);
  const done = events().find(({ event, state }) => event === 'volumes' && state === 'done');
  assert.deepEqual(done.written, [path.join(folder, 'data')]);
  assert.match(done.text, /read-only but for .*data, written back to pod web-1/);
});

for (const [what, isPlaceLost] of [
  ['can not be kept one by one is kept whole', false],
  ['can not be kept at all stays where it is', true],
] as const) {
  test(`what is not written back and ${what}, and that place is told`, async (t) => {
    const { folder, connect, copy, undo, failures, events } = await scene(t, ['data']);
    mkdirSync(path.join(folder, 'data'));
    const pair = await connect();
    await copy({ writeBack: true });
    const root = rootOf(events()) as string;
    pair.laptop.close();
    writeFileSync(path.join(root, folder, 'data/f'), 'mine');
    const keepIn = path.join(folder, 'state/lpk/unwritten', `shop-${path.basename(path.dirname(root))}`);
    const inTheWay = isPlaceLost ? keepIn : path.join(keepIn, folder, 'data');
    mkdirSync(path.dirname(inTheWay), { recursive: true });
    writeFileSync(inTheWay, '');
    await undo.run();
    const place = isPlaceLost ? root : keepIn;
    assert.equal(failures.length, 1);
    assert.equal(failures[0]?.slice(failures[0].indexOf('; ')), `; what the pod does not have is in ${place}`);
    assert.equal(readFileSync(path.join(place, folder, isPlaceLost ? 'data/f' : 'data.more/f'), 'utf8'), 'mine');
    assert.equal(existsSync(root), isPlaceLost);
    rmSync(path.dirname(root), { recursive: true, force: true });
  });
}

test('a pod without volumes has none', async (t) => {
  const { copy } = await scene(t, []);
  assert.equal(await copy(), undefined);
});
