import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test, { type TestContext } from 'node:test';
import {
  assertMayChangeLaptop,
  changesFolders,
  LaptopChanges,
  type Step,
  undoLeftovers,
} from '../../../cli/laptop-changes.ts';
import { isRunning, processId } from '../../../cli/process-id.ts';

/** The pid of a process that has ended: never one that runs, as the journal says when it started. */
const GONE = '1-1bdeadbeef';

function place(t: TestContext) {
  const root = fs.mkdtempSync(path.join(tmpdir(), 'lpk-changes-'));
  t.after(() => fs.rmSync(root, { recursive: true, force: true }));
  const journals = path.join(root, 'state', 'changes');
  const file = (name: string) => path.join(root, name);
  return { root, journals, file, text: (name: string) => fs.readFileSync(file(name), 'utf8') };
}

/** A file with a line of ours, as /etc/resolv.conf is changed. */
function edit(file: string, original: string, block = '# ours\n'): Step {
  const from = block + original;
  return {
    what: path.basename(file),
    do: [{ write: file, content: from }],
    undo: [{ putBack: file, from, ours: [[block, '']], to: original }],
  };
}

function names(folder: string): string[] {
  return fs.existsSync(folder) ? fs.readdirSync(folder) : [];
}

test('what is done is undone in reverse, and then there is no journal', async (t) => {
  const { journals, file, text } = place(t);
  fs.writeFileSync(file('a'), 'original\n', { mode: 0o640 });
  const changes = LaptopChanges.open(journals);
  assert.deepEqual(names(journals), [], 'nothing is written before there is something to undo');
  await changes.apply([
    edit(file('a'), 'original\n'),
    {
      what: 'b',
      do: [{ write: file('b/c'), content: 'new\n' }],
      undo: [
        { run: ['sh', '-c', `cat "$0" >"$1"`, file('a'), file('seen')] },
        { remove: file('b/c') },
        { removeEmpty: file('b') },
      ],
    },
  ]);
  assert.equal(text('a'), '# ours\noriginal\n');
  assert.equal(text('b/c'), 'new\n');
  assert.deepEqual(changes.pending, ['a', 'b']);
  const [journal] = names(journals);
  assert.equal(journal, `${process.pid}-${processId().startedAt}.json`);
  assert.equal(fs.statSync(path.join(journals, journal!)).mode & 0o777, 0o600);

  await changes.undo();
  assert.equal(text('seen'), '# ours\noriginal\n', 'the later step was undone before the earlier one');
  assert.equal(text('a'), 'original\n');
  assert.equal(fs.statSync(file('a')).mode & 0o777, 0o640);
  assert.equal(fs.existsSync(file('b')), false);
  assert.deepEqual(names(journals), []);
  fs.writeFileSync(file('a'), 'of somebody else\n');
  await changes.undo();
  assert.equal(text('a'), 'of somebody else\n', 'what is undone is undone once');
});

test('the way back is on disk before the step is begun', async (t) => {
  const { journals, file, text } = place(t);
  const changes = LaptopChanges.open(journals);
  await changes.apply([
    {
      what: 'one',
      do: [{ run: ['sh', '-c', 'cat "$0"/*.json >"$1"', journals, file('seen')] }],
      undo: [{ remove: file('seen') }],
    },
  ]);
  assert.deepEqual(JSON.parse(text('seen')), { v: 1, steps: [{ what: 'one', undo: [{ remove: file('seen') }] }] });
  await changes.undo();
});

test('a step that fails says why, those after it are not begun, and its half is undone too', async (t) => {
  const { journals, file } = place(t);
  const changes = LaptopChanges.open(journals);
  const half: Step = {
    what: 'the half',
    do: [{ write: file('half'), content: '' }, { run: ['sh', '-c', 'echo one >&2; echo two >&2; exit 3'] }],
    undo: [{ remove: file('half') }],
  };
  const after: Step = { what: 'after', do: [{ write: file('after'), content: '' }], undo: [{ remove: file('after') }] };
  await assert.rejects(changes.apply([half, after]), {
    code: 'laptop-setup',
    message: 'could not change the half: sh -c echo one >&2; echo two >&2; exit 3: one | two',
  });
  assert.deepEqual(changes.pending, ['the half']);
  assert.ok(fs.existsSync(file('half')));
  assert.equal(fs.existsSync(file('after')), false);
  await changes.undo();
  assert.equal(fs.existsSync(file('half')), false);
});

test('a program that is not there, and one that fails and may', async (t) => {
  const { journals } = place(t);
  const changes = LaptopChanges.open(journals);
  await changes.apply([{ what: 'x', do: [{ run: ['false'], mayFail: true }], undo: [] }]);
  await changes.apply([{ what: 'x', do: [{ run: ['false'], ifExists: path.join(journals, 'nothing') }], undo: [] }]);
  await assert.rejects(changes.apply([{ what: 'x', do: [{ run: ['no-such-program-of-lpk', 'a'] }], undo: [] }]), {
    code: 'laptop-setup',
    message: 'could not change x: there is no no-such-program-of-lpk to run: no-such-program-of-lpk a',
  });
  await changes.undo();
});

test('input is the program’s stdin', async (t) => {
  const { journals, file, text } = place(t);
  const changes = LaptopChanges.open(journals);
  await changes.apply([
    { what: 'x', do: [{ run: ['sh', '-c', 'cat >"$0"', file('got')], input: 'a\nb\n' }], undo: [] },
  ]);
  assert.equal(text('got'), 'a\nb\n');
  await changes.undo();
});

test('an undo that fails keeps no other from its turn, and stays for the next time', async (t) => {
  const { journals, file, text } = place(t);
  fs.writeFileSync(file('a'), 'original\n');
  const changes = LaptopChanges.open(journals);
  await changes.apply([
    edit(file('a'), 'original\n'),
    {
      what: 'stubborn',
      do: [],
      undo: [{ run: ['sh', '-c', 'test -e "$0"', file('now')] }, { write: file('tried'), content: '' }],
    },
  ]);
  await assert.rejects(changes.undo(), { code: 'laptop-setup', message: /^stubborn: sh -c test -e/ });
  assert.equal(text('a'), 'original\n');
  assert.ok(fs.existsSync(file('tried')), 'the same step’s next action was tried too');
  assert.deepEqual(changes.pending, ['stubborn']);
  assert.equal(names(journals).length, 1);
  fs.writeFileSync(file('now'), '');
  await changes.undo();
  assert.deepEqual(names(journals), []);
});

test('an undo that is asked for while a step is under way waits for it', async (t) => {
  const { journals, file } = place(t);
  execFileSync('mkfifo', [file('gate')]);
  const changes = LaptopChanges.open(journals);
  const script = 'read line <"$0"; : >"$1"';
  const applied = changes.apply([
    { what: 'slow', do: [{ run: ['sh', '-c', script, file('gate'), file('slow')] }], undo: [{ remove: file('slow') }] },
  ]);
  const undone = changes.undo();
  await fs.promises.writeFile(file('gate'), 'go\n');
  await Promise.all([applied, undone]);
  assert.equal(fs.existsSync(file('slow')), false);
});

test('a file is changed where it is: the symlink, the inode and the mode stay', async (t) => {
  const { journals, file, text } = place(t);
  fs.writeFileSync(file('target'), 'original\n', { mode: 0o604 });
  fs.symlinkSync('target', file('link'));
  const inode = fs.statSync(file('target')).ino;
  const changes = LaptopChanges.open(journals);
  await changes.apply([edit(file('link'), 'original\n')]);
  assert.equal(text('target'), '# ours\noriginal\n');
  await changes.undo();
  assert.equal(text('target'), 'original\n');
  assert.equal(fs.readlinkSync(file('link')), 'target');
  const { ino, mode } = fs.statSync(file('target'));
  assert.deepEqual([ino, mode & 0o777], [inode, 0o604]);
});

test('somebody else’s edit is kept: whole, or all but our block', async (t) => {
  const { journals, file, text } = place(t);
  for (const name of ['anew', 'edited', 'removed', 'same']) fs.writeFileSync(file(name), 'original\n');
  const changes = LaptopChanges.open(journals);
  await changes.apply(['anew', 'edited', 'removed', 'same'].map((name) => edit(file(name), 'original\n')));
  fs.writeFileSync(file('anew'), 'by DHCP\n');
  fs.writeFileSync(file('edited'), 'before $&\n# ours\nafter\n');
  fs.rmSync(file('removed'));
  fs.writeFileSync(file('same'), 'original\n');
  const said: string[] = [];
  await changes.undo((line) => said.push(line));
  assert.equal(text('anew'), 'by DHCP\n');
  assert.equal(text('edited'), 'before $&\nafter\n');
  assert.equal(fs.existsSync(file('removed')), false);
  assert.deepEqual(said, [
    `${file('edited')} was changed by another program meanwhile: only lpk's lines were taken out`,
    `${file('anew')} was written anew by another program meanwhile: it is left as it is`,
  ]);
});

test('two lpk change one file, and in whichever order they end it is as it was', async (t) => {
  const { root, file, text } = place(t);
  for (const order of [
    [0, 1],
    [1, 0],
  ] as const) {
    fs.writeFileSync(file('a'), 'original\n');
    const two = ['1', '2'].map((name) => LaptopChanges.open(path.join(root, name)));
    await two[0]!.apply([edit(file('a'), 'original\n', '# one\n')]);
    await two[1]!.apply([edit(file('a'), text('a'), '# two\n')]);
    assert.equal(text('a'), '# two\n# one\noriginal\n');
    await two[order[0]]!.undo();
    assert.equal(text('a'), order[0] === 0 ? '# two\noriginal\n' : '# one\noriginal\n');
    await two[order[1]]!.undo();
    assert.equal(text('a'), 'original\n', `in the order ${order}`);
  }
});

test('a file that was not there goes', async (t) => {
  const { journals, file } = place(t);
  const changes = LaptopChanges.open(journals);
  await changes.apply([
    {
      what: 'a',
      do: [{ write: file('a'), content: 'x' }],
      undo: [{ putBack: file('a'), from: 'x', ours: [['x', '']], to: undefined }],
    },
  ]);
  await changes.undo();
  assert.equal(fs.existsSync(file('a')), false);
});

async function child(t: TestContext, script: string): Promise<ChildProcess> {
  const process_ = spawn('sh', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => process_.kill('SIGKILL'));
  await once(process_.stdout!, 'data');
  return process_;
}

test('a process is ended, the stubborn one too, and no other one with its pid', async (t) => {
  const { journals } = place(t);
  const [obedient, stubborn, other] = await Promise.all([
    child(t, 'echo ready; exec sleep 1000'),
    child(t, 'trap "" TERM; echo ready; while :; do sleep 0.05; done'),
    child(t, 'echo ready; exec sleep 1000'),
  ]);
  const changes = LaptopChanges.open(journals);
  await changes.apply([
    { what: 'obedient', do: [], undo: [{ end: { pid: obedient!.pid! } }] },
    { what: 'stubborn', do: [], undo: [{ end: { pid: stubborn!.pid! } }] },
    { what: 'other', do: [], undo: [{ end: { pid: other!.pid!, startedAt: 'long before' } }] },
  ]);
  await changes.undo();
  assert.equal(isRunning(processId(obedient!.pid)), false);
  assert.equal(isRunning(processId(stubborn!.pid)), false);
  assert.equal(isRunning(processId(other!.pid)), true);
});

/** The journal of an lpk that ended without undoing: made by a real one, under the name of one that is gone. */
async function leftover(journals: string, steps: Step[], name = `${GONE}.json`): Promise<void> {
  await LaptopChanges.open(journals).apply(steps);
  fs.renameSync(path.join(journals, `${process.pid}-${processId().startedAt}.json`), path.join(journals, name));
}

test('what an lpk left that is gone is undone, byte for byte', async (t) => {
  const { journals, file, text } = place(t);
  const original = 'search home\nnameserver 10.0.0.1 ';
  fs.writeFileSync(file('a'), original);
  await leftover(journals, [edit(file('a'), original)]);
  const said: string[] = [];
  await undoLeftovers([journals], (line) => said.push(line));
  assert.equal(text('a'), original);
  assert.deepEqual(said, ['undid what an lpk that is gone (pid 1) had changed: a']);
  assert.deepEqual(names(journals), []);
  await undoLeftovers([journals, file('no-such-folder')], (line) => said.push(line));
  assert.equal(said.length, 1);
});

test('what lpk processes changed that run is left alone', async (t) => {
  const { journals, file, text } = place(t);
  fs.writeFileSync(file('a'), 'original\n');
  const changes = LaptopChanges.open(journals);
  await changes.apply([edit(file('a'), 'original\n')]);
  await undoLeftovers([journals], assert.fail);
  assert.equal(text('a'), '# ours\noriginal\n');
  assert.equal(names(journals).length, 1);
  await changes.undo();
});

test('an lpk that died while it undid another’s is followed by the next', async (t) => {
  const { journals, file, text } = place(t);
  fs.writeFileSync(file('a'), 'original\n');
  await leftover(journals, [edit(file('a'), 'original\n')], `${GONE}.2-2bdeadbeef.json`);
  await undoLeftovers([journals], () => {});
  assert.equal(text('a'), 'original\n');
  assert.deepEqual(names(journals), []);
});

test('what one has in hand that runs is left to it', async (t) => {
  const { journals, file, text } = place(t);
  fs.writeFileSync(file('a'), 'original\n');
  const name = `${GONE}.${process.pid}-${processId().startedAt}.json`;
  await leftover(journals, [edit(file('a'), 'original\n')], name);
  await undoLeftovers([journals], assert.fail);
  assert.equal(text('a'), '# ours\noriginal\n');
  assert.deepEqual(names(journals), [name]);
});

test('of many lpk at the same time one undoes', async (t) => {
  const { journals, file, text } = place(t);
  fs.writeFileSync(file('log'), '');
  await leftover(journals, [{ what: 'x', do: [], undo: [{ run: ['sh', '-c', 'echo once >>"$0"', file('log')] }] }]);
  const module = path.join(import.meta.dirname, '../../../cli/laptop-changes.ts');
  const script = `import { undoLeftovers } from ${JSON.stringify(module)}; await undoLeftovers([process.argv[1]], console.log);`;
  const lpks = Array.from({ length: 4 }, () =>
    spawn(process.execPath, ['--input-type=module', '-e', script, journals], { stdio: 'inherit' }),
  );
  assert.deepEqual(await Promise.all(lpks.map(async (lpk) => (await once(lpk, 'exit'))[0])), [0, 0, 0, 0]);
  assert.equal(text('log'), 'once\n');
});

test('a leftover that can not be undone is said, and tried again', async (t) => {
  const { journals, file, text } = place(t);
  fs.writeFileSync(file('a'), 'original\n');
  await leftover(journals, [
    edit(file('a'), 'original\n'),
    { what: 'stubborn', do: [], undo: [{ run: ['sh', '-c', 'echo no >&2; test -e "$0"', file('now')] }] },
  ]);
  const said: string[] = [];
  await undoLeftovers([journals], (line) => said.push(line));
  assert.equal(text('a'), 'original\n');
  assert.equal(said.length, 2);
  assert.equal(said[0], 'undid what an lpk that is gone (pid 1) had changed: a');
  assert.match(said[1]!, /^could not undo stubborn: sh -c .*: no$/);
  assert.deepEqual(names(journals), [`${GONE}.json`]);
  fs.writeFileSync(file('now'), '');
  await undoLeftovers([journals], (line) => said.push(line));
  assert.deepEqual(said.slice(2), ['undid what an lpk that is gone (pid 1) had changed: stubborn']);
  assert.deepEqual(names(journals), []);
});

test('a journal that is none is said, and the others are followed', async (t) => {
  const { journals, file, text } = place(t);
  fs.writeFileSync(file('a'), 'original\n');
  await leftover(journals, [edit(file('a'), 'original\n')], '3-3b.json');
  fs.writeFileSync(path.join(journals, `${GONE}.json`), 'no JSON');
  fs.writeFileSync(path.join(journals, `${GONE}.json.tmp`), 'half a jour');
  fs.writeFileSync(path.join(journals, 'README'), '');
  const said: string[] = [];
  await undoLeftovers([journals], (line) => said.push(line));
  assert.match(said[0]!, /^could not undo what an lpk that is gone \(pid 1\) changed on this computer: /);
  assert.equal(text('a'), 'original\n');
  assert.deepEqual(
    names(journals).filter((name) => name.endsWith('.tmp')),
    [],
  );
});

test('root follows no journal that another user wrote', { skip: process.getuid?.() !== 0 }, async (t) => {
  const { journals, file } = place(t);
  await leftover(journals, [{ what: 'x', do: [], undo: [{ write: file('owned'), content: '' }] }]);
  fs.chownSync(path.join(journals, `${GONE}.json`), 65534, 65534);
  const said: string[] = [];
  await undoLeftovers([journals], (line) => said.push(line));
  assert.equal(fs.existsSync(file('owned')), false);
  assert.equal(said.length, 1);
});

test('a user is told what takes root’s changes back', { skip: process.getuid?.() !== 0 }, async (t) => {
  const { root, journals, file } = place(t);
  await leftover(journals, [{ what: 'x', do: [], undo: [{ remove: file('x') }] }]);
  for (const folder of [root, path.dirname(journals)]) fs.chmodSync(folder, 0o755);
  assert.equal(fs.statSync(journals).mode & 0o777, 0o755, 'every user sees that there is one');
  assert.equal(fs.statSync(path.join(journals, `${GONE}.json`)).mode & 0o777, 0o600, 'and not what is in it');
  const said: string[] = [];
  process.seteuid!(65534);
  // What asks for the effective user's id gets it; the file's owner is root.
  const getuid = process.getuid!;
  process.getuid = () => process.geteuid!();
  try {
    await undoLeftovers([journals], (line) => said.push(line));
  } finally {
    process.getuid = getuid;
    process.seteuid!(0);
  }
  assert.deepEqual(said, [
    'an lpk that is gone (pid 1) left changes on this computer; this takes them back: sudo -E lpk proxy down',
  ]);
  assert.deepEqual(names(journals), [`${GONE}.json`]);
});

test('with nothing to undo it costs less than a millisecond', async (t) => {
  const { journals } = place(t);
  fs.mkdirSync(journals, { recursive: true });
  const times: number[] = [];
  for (let i = 0; i < 50; i++) {
    const began = performance.now();
    await undoLeftovers([journals, '/no/such/folder'], assert.fail);
    times.push(performance.now() - began);
  }
  const best = Math.min(...times);
  assert.ok(best < 1, `${best} ms`);
});

test('root’s journals are where every user sees them, unless a place is named', {
  skip: process.getuid?.() !== 0,
}, () => {
  assert.deepEqual(changesFolders('/state/lpk', {}), ['/var/lib/lpk/changes', '/state/lpk/changes']);
  assert.deepEqual(changesFolders('/state/lpk', { XDG_STATE_HOME: '/state' }), [
    '/state/lpk/changes',
    '/var/lib/lpk/changes',
  ]);
});

test('who is not root is told before anything is begun', { skip: !process.getuid }, () => {
  const getuid = process.getuid!;
  try {
    process.getuid = () => 1000;
    assert.throws(() => assertMayChangeLaptop('--system-dns'), {
      code: 'needs-root',
      message: "--system-dns changes this computer's own network, which only root may",
    });
    process.getuid = () => 0;
    assertMayChangeLaptop('--system-dns');
  } finally {
    process.getuid = getuid;
  }
});
