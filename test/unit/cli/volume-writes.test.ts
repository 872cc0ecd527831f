import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import {
  appendFileSync,
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
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PassThrough } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { MountFiles } from '../../../agent/pod/files.ts';
import type { Stream } from '../../../agent/wire/stream.ts';
import { Output } from '../../../cli/output.ts';
import { type Conflict, VolumeCopy } from '../../../cli/volume-copy.ts';
import { type Agent, VolumeFollower } from '../../../cli/volume-follower.ts';
import { finishWrites } from '../../../cli/volume-unwritten.ts';
import { SessionPair, until } from '../wire/harness.ts';

/** A pod's volume (a folder, which the agent is told is a mount), its copy, and what both say. */
async function scene(t: TestContext, fill: (pod: string) => void = () => {}) {
  const made = await silent(t, fill, true);
  await made.follower.first;
  return made;
}

/** An agent that answers nothing, unless `answers`. */
async function silent(t: TestContext, fill: (pod: string) => void = () => {}, answers = false) {
  const folder = realpathSync(mkdtempSync(path.join(tmpdir(), 'lpk-writes-')));
  t.after(() => rmSync(folder, { recursive: true }));
  const pod = path.join(folder, 'pod');
  for (const name of ['pod', 'staging']) mkdirSync(path.join(folder, name));
  fill(pod);
  let agent: Agent | undefined;
  const connect = async (name: string) => {
    const pair = await SessionPair.open(t);
    const files = new MountFiles(async () => ['/', pod]);
    if (answers) pair.agent.on('stream', (stream: Stream) => void files.serve(stream));
    agent = { pod: name, session: pair.laptop };
    return pair;
  };
  const first = await connect('web-1');
  const said: { event: string; text: string }[] = [];
  const whenTold: (string | undefined)[] = [];
  const stdout = new PassThrough().setEncoding('utf8').on('data', (text: string) => {
    for (const line of text.trim().split('\n')) said.push(JSON.parse(line));
  });
  const output = new Output({ format: 'json', stdout, stderr: new PassThrough().resume() });
  const place = path.join(folder, 'copy');
  const limits = { limitBytes: 50_000_000, maxEntries: 1_000 };
  const follower = new VolumeFollower({
    path: pod,
    copy: (tell) => {
      const onConflict = (conflict: Conflict) => {
        const at = path.join(place, conflict.path);
        whenTold.push(isFile(at) ? readFileSync(at, 'utf8') : undefined);
        tell?.(conflict);
      };
      return new VolumeCopy({ place, staging: path.join(folder, 'staging'), reserved: [], limits, onConflict });
    },
    request: { path: pod, except: [], ...limits },
    agent: () => agent,
    output,
    stamp: path.join(folder, 'stamp'),
  });
  t.after(() => follower.close());
  const keepIn = path.join(folder, 'kept');
  return {
    ...{ folder, pod, place, follower, said, connect, first, keepIn },
    /** What was where a conflict was, at the moment it was told. */
    whenTold,
    here: (name: string) => path.join(place, name),
    there: (name: string) => path.join(pod, name),
    told: (event: string) => said.filter((each) => each.event === event).map(({ text }) => text),
    /** From now on, a look has found that the pod has all of it. */
    clean: async () => {
      const nowMs = Date.now();
      await until(() => statSync(path.join(folder, 'stamp')).mtimeMs > nowMs, 'a look that finds nothing');
    },
    finish: async (silenceMs = 20_000) => {
      await follower.close();
      await finishWrites([follower], { keepIn, output, silenceMs });
    },
  };
}

const readIf = (file: string) => (existsSync(file) ? readFileSync(file, 'utf8') : undefined);

const isFile = (file: string) => statSync(file, { throwIfNoEntry: false })?.isFile() === true;

/** The link of laptop and pod is cut, and what is done meanwhile is unknown to the other end. */
async function apart(pair: SessionPair, work: () => void): Promise<void> {
  pair.carriers?.[0].terminate();
  await until(() => !pair.laptop.isUp, 'the link is down');
  work();
  await pair.connect();
}

test('what is made, changed, renamed and removed here comes to be in the pod', async (t) => {
  const { here, there, pod, said, follower, first } = await scene(t, (at) => {
    mkdirSync(path.join(at, 'old'));
    writeFileSync(path.join(at, 'old/a'), 'a');
    writeFileSync(path.join(at, 'old/b'), 'b');
    writeFileSync(path.join(at, 'c'), 'c');
    writeFileSync(path.join(at, 'untouched'), 'u');
  });
  const before = statSync(there('untouched')).ino;
  mkdirSync(here('new/er'), { recursive: true });
  writeFileSync(here('new/er/file'), 'made');
  chmodSync(here('new/er/file'), 0o750);
  chmodSync(here('new'), 0o710);
  symlinkSync('er/file', here('new/link'));
  writeFileSync(here('empty'), '');
  writeFileSync(here('c'), 'changed');
  chmodSync(here('untouched'), 0o600);
  renameSync(here('old/a'), here('moved'));
  rmSync(here('old'), { recursive: true });
  await until(() => !existsSync(there('old')) && readIf(there('moved')) === 'a', 'the removal');
  await until(() => readIf(there('new/er/file')) === 'made' && readIf(there('c')) === 'changed', 'the changes');
  await until(() => (lstatSync(there('untouched')).mode & 0o777) === 0o600, 'the mode');
  assert.equal(lstatSync(there('new/er/file')).mode & 0o777, 0o750);
  assert.equal(lstatSync(there('new')).mode & 0o777, 0o710);
  assert.equal(readlinkSync(there('new/link')), 'er/file');
  assert.equal(readIf(there('empty')), '');
  assert.deepEqual(readdirSync(pod).sort(), ['c', 'empty', 'moved', 'new', 'untouched']);
  assert.notEqual(statSync(there('untouched')).ino, before); // written beside it, and renamed
  // What was written does not come back, and the copy goes on as before.
  const received = first.laptop.bytes.in;
  writeFileSync(there('later'), 'later');
  await until(() => readIf(here('later')) === 'later', 'the pod’s own change');
  assert.ok(first.laptop.bytes.in - received < 5_000);
  assert.deepEqual(
    said.filter(({ event }) => event.startsWith('volume')),
    [],
  );
  assert.equal(follower.pod, 'web-1');
});

test('a file becomes a folder, and a folder a file', async (t) => {
  const { here, there, told } = await scene(t, (at) => {
    writeFileSync(path.join(at, 'f'), 'f');
    mkdirSync(path.join(at, 'd'));
    writeFileSync(path.join(at, 'd/x'), 'x');
  });
  rmSync(here('f'));
  mkdirSync(here('f'));
  writeFileSync(here('f/in'), 'in');
  rmSync(here('d'), { recursive: true });
  writeFileSync(here('d'), 'file');
  await until(() => readIf(there('f/in')) === 'in', 'the folder');
  await until(() => isFile(there('d')) && readIf(there('d')) === 'file', 'the file');
  assert.deepEqual(told('volume-conflict'), []);
});

test('a big file comes whole, in pieces', async (t) => {
  const { here, there } = await scene(t);
  const content = randomBytes(20_000_000);
  writeFileSync(here('big'), content);
  await until(() => existsSync(there('big')), 'the file', 30_000);
  const digest = (data: Buffer) => createHash('sha256').update(data).digest('hex');
  assert.equal(digest(readFileSync(there('big'))), digest(content));
});

test('changed on both sides: the pod’s stays, the laptop’s is beside it and is told', async (t) => {
  const { here, there, told, whenTold, first, pod, finish, keepIn } = await scene(t, (at) =>
    writeFileSync(path.join(at, 'f'), 'one'),
  );
  await apart(first, () => {
    writeFileSync(here('f'), 'mine');
    writeFileSync(there('f'), 'theirs');
  });
  await until(() => told('volume-conflict').length > 0, 'the conflict');
  assert.deepEqual(whenTold, ['theirs']);
  assert.equal(readIf(there('f')), 'theirs');
  assert.equal(readIf(here('f')), 'theirs');
  assert.equal(readIf(here('f.lpk-conflict')), 'mine');
  assert.match(told('volume-conflict')[0] ?? '', /\/f: changed here and in the pod; .* as f\.lpk-conflict$/);
  // It is the person's to put it in its place; until then it is in no pod.
  writeFileSync(here('other'), 'x');
  await until(() => existsSync(there('other')), 'another file');
  assert.deepEqual(readdirSync(pod).sort(), ['f', 'other']);
  await finish();
  assert.equal(readIf(`${keepIn}${pod}/f.lpk-conflict`), 'mine');
  assert.match(told('volumes-unwritten')[0] ?? '', /f\.lpk-conflict \(set aside\); your files are kept in/);
});

test('renamed into its place by the person, it is written', async (t) => {
  const { here, there, told, first } = await scene(t, (at) => writeFileSync(path.join(at, 'f'), 'one'));
  await apart(first, () => {
    writeFileSync(here('f'), 'mine');
    writeFileSync(there('f'), 'theirs');
  });
  await until(() => existsSync(here('f.lpk-conflict')), 'the conflict');
  renameSync(here('f.lpk-conflict'), here('f'));
  await until(() => readIf(there('f')) === 'mine', 'it is written');
  assert.equal(told('volume-conflict').length, 1);
});

test('both made the same change: no conflict', async (t) => {
  const { here, there, told, first, clean } = await scene(t, (at) => writeFileSync(path.join(at, 'f'), 'one'));
  await apart(first, () => {
    for (const name of [here, there]) writeFileSync(name('f'), 'second');
    for (const name of [here, there]) writeFileSync(name('new'), 'same');
    for (const name of [here, there]) mkdirSync(name('folder'));
  });
  await clean();
  writeFileSync(here('f'), 'three');
  writeFileSync(here('new'), 'next');
  await until(() => readIf(there('f')) === 'three' && readIf(there('new')) === 'next', 'the next change');
  assert.deepEqual(told('volume-conflict'), []);
});

test('removed here and changed in the pod: it is back; changed here and removed in the pod: it is beside', async (t) => {
  const { here, there, told, first } = await scene(t, (at) => {
    for (const name of ['a', 'b']) writeFileSync(path.join(at, name), name);
  });
  await apart(first, () => {
    rmSync(here('a'));
    writeFileSync(there('a'), 'changed');
    writeFileSync(here('b'), 'changed');
    rmSync(there('b'));
  });
  await until(() => told('volume-conflict').length === 2, 'both conflicts');
  assert.equal(readIf(here('a')), 'changed');
  assert.equal(readIf(here('b')), undefined);
  assert.equal(readIf(here('b.lpk-conflict')), 'changed');
  assert.equal(existsSync(there('b')), false);
  const both = told('volume-conflict').sort().join('\n');
  assert.match(
    both,
    /\/a: removed here, changed in the pod; it is back\n.*\/b: changed here, removed in the pod; your version/,
  );
});

test('a folder that went in the pod keeps what is new here, and is made again', async (t) => {
  const { here, there, told, first } = await scene(t, (at) => {
    mkdirSync(path.join(at, 'd'));
    writeFileSync(path.join(at, 'd/x'), 'x');
  });
  await apart(first, () => {
    writeFileSync(here('d/new'), 'new');
    rmSync(there('d'), { recursive: true });
  });
  await until(() => readIf(there('d/new')) === 'new', 'the folder with the new file');
  await until(() => !existsSync(here('d/x')), 'the other went');
  assert.deepEqual(told('volume-conflict'), []);
});

test('a folder removed here stays when the pod has put something into it', async (t) => {
  const { here, there, first } = await scene(t, (at) => {
    mkdirSync(path.join(at, 'd'));
    writeFileSync(path.join(at, 'd/x'), 'x');
  });
  await apart(first, () => {
    rmSync(here('d'), { recursive: true });
    writeFileSync(there('d/new'), 'new');
  });
  await until(() => readIf(here('d/new')) === 'new', 'the pod’s file');
  await until(() => !existsSync(there('d/x')), 'the removal');
  assert.equal(readIf(there('d/new')), 'new');
});

test('the pod has a file where the laptop has a folder, and the other way round', async (t) => {
  const { here, there, told, first } = await scene(t, (at) => writeFileSync(path.join(at, 'b'), 'b'));
  await apart(first, () => {
    mkdirSync(here('a'));
    writeFileSync(here('a/mine'), 'mine');
    writeFileSync(there('a'), 'theirs');
    writeFileSync(here('b'), 'mine');
    rmSync(there('b'));
    mkdirSync(there('b'));
    writeFileSync(there('b/theirs'), 'theirs');
  });
  await until(() => readIf(here('b/theirs')) === 'theirs' && told('volume-conflict').length === 2, 'both conflicts');
  assert.equal(readIf(here('a')), 'theirs');
  assert.equal(readIf(here('a.lpk-conflict/mine')), 'mine');
  assert.equal(readIf(here('b.lpk-conflict')), 'mine');
  assert.equal(readIf(there('a')), 'theirs');
  assert.deepEqual(readdirSync(there('b')), ['theirs']);
});

test('a folder made a link here is no way out: neither is what arrives written there, nor is it sent', async (t) => {
  const { folder, here, there, told, first } = await scene(t, (at) => {
    mkdirSync(path.join(at, 'd'));
    writeFileSync(path.join(at, 'd/x'), 'x');
  });
  const outside = path.join(folder, 'outside');
  mkdirSync(outside);
  writeFileSync(path.join(outside, 'x'), 'untouched');
  await apart(first, () => {
    rmSync(here('d'), { recursive: true });
    symlinkSync(outside, here('d'));
    writeFileSync(there('d/x'), 'changed');
    writeFileSync(there('d/y'), 'new');
  });
  await until(() => readIf(here('d/y')) === 'new', 'the pod’s file');
  assert.equal(lstatSync(here('d')).isDirectory(), true);
  assert.deepEqual([readdirSync(outside), readIf(path.join(outside, 'x'))], [['x'], 'untouched']);
  assert.equal(readlinkSync(here('d.lpk-conflict')), outside);
  symlinkSync('/etc/passwd', here('passwd'));
  const refused = /passwd \(it links out of the volume, to \/etc\/passwd\)/;
  await until(() => told('volume-refused').some((each) => refused.test(each)), 'the refusal');
  assert.equal(existsSync(there('passwd')), false);
});

test('a link to the pod that is lost only delays', async (t) => {
  const { here, there, first } = await scene(t);
  await apart(first, () => writeFileSync(here('f'), 'meanwhile'));
  await until(() => readIf(there('f')) === 'meanwhile', 'the write');
});

test('the next agent is written to once its copy has come, and that is told', async (t) => {
  const { here, there, first, connect, told } = await scene(t, (at) => writeFileSync(path.join(at, 'f'), 'one'));
  first.laptop.close();
  writeFileSync(here('f'), 'second'); // another length: the clock of file times may stand still for 10 ms
  await connect('web-2');
  await until(() => readIf(there('f')) === 'second', 'the write');
  assert.match(told('volume-pod')[0] ?? '', /is now written back to pod web-2, as web-1 is gone/);
  assert.deepEqual(told('volume-conflict'), []);
});

test('what was not written when the session ends is written then', async (t) => {
  const { here, there, finish, told, keepIn } = await scene(t);
  for (let i = 0; i < 50; i++) writeFileSync(here(`${i}`), `${i}`);
  await finish();
  assert.equal(readdirSync(there('.')).length, 50);
  assert.match(told('volumes-flush').at(-1) ?? '', /^writing 50 changes back to pod web-1: .* sent$/);
  assert.equal(existsSync(keepIn), false);
});

test('what the pod does not take is kept, and told', async (t) => {
  const { here, finish, told, keepIn, first, pod } = await scene(t, (at) => writeFileSync(path.join(at, 'gone'), ''));
  first.carriers?.[0].terminate();
  await until(() => !first.laptop.isUp, 'the link is down');
  mkdirSync(here('d'));
  writeFileSync(here('d/a'), 'mine');
  symlinkSync('a', here('d/link'));
  writeFileSync(here(`odd\u001b[31m`), '');
  rmSync(here('gone'));
  await finish(200);
  assert.equal(readIf(`${keepIn}${pod}/d/a`), 'mine');
  assert.equal(readlinkSync(`${keepIn}${pod}/d/link`), 'a');
  assert.equal(lstatSync(keepIn).mode & 0o777, 0o700);
  const [text = ''] = told('volumes-unwritten');
  assert.match(text, /gone \(not removed there: the pod did not take it in time\)/);
  assert.match(text, /odd\\u001b\[31m/);
  assert.ok(text.endsWith(`; your files are kept in ${keepIn}`), text);
});

test('what is refused is told once, and tried again only when something changes', async (t) => {
  const { here, there, told, first, follower } = await scene(t, (at) => mkdirSync(path.join(at, 'd')));
  // A name that the pod has, and that the copy leaves out.
  symlinkSync('/etc', there('d/taken'));
  await until(() => follower.heard.bytes > 0 && told('volume-skipped').length > 0, 'the skipped link');
  writeFileSync(here('d/taken'), 'mine');
  writeFileSync(here('marker'), '1');
  await until(() => existsSync(there('marker')), 'another file');
  writeFileSync(here('marker'), '2');
  await until(() => readIf(there('marker')) === '2', 'it is written');
  const sent = first.laptop.bytes.out;
  writeFileSync(here('marker'), '3');
  await until(() => readIf(there('marker')) === '3', 'it is written');
  assert.ok(first.laptop.bytes.out - sent < 4_000);
  assert.equal(readlinkSync(there('d/taken')), '/etc');
});

test('a file that grows all the time is written nonetheless, as far as it was', async (t) => {
  const { here, there } = await scene(t);
  writeFileSync(here('log'), 'line\n');
  const writing = setInterval(() => appendFileSync(here('log'), 'line\n'), 20);
  t.after(() => clearInterval(writing));
  await until(() => existsSync(there('log')), 'a part of it', 20_000);
  assert.match(readIf(there('log')) ?? '', /^(line\n)+$/);
});

test('the stamp says since when the pod has all of it', async (t) => {
  const { folder, here, there, first, clean } = await scene(t);
  const stamp = path.join(folder, 'stamp');
  await clean();
  await apart(first, () => {
    writeFileSync(here('f'), 'mine');
    writeFileSync(there('f'), 'theirs');
  });
  await until(() => existsSync(here('f.lpk-conflict')), 'the conflict');
  await until(() => statSync(stamp).mtimeMs === 0, 'the stamp of a copy with something of its own');
});

test('silence is the pod’s only while there is a link', async (t) => {
  const { follower, first, told, said } = await silent(t);
  first.carriers?.[0].terminate();
  await until(() => !first.laptop.isUp, 'the link is down');
  follower.giveUpAfter(0);
  assert.deepEqual(said, []);
  await first.connect();
  follower.giveUpAfter(0);
  assert.equal(await follower.first, undefined);
  assert.match(told('volume-lost')[0] ?? '', /not copied any more: the pod has sent nothing for 0 s$/);
});
