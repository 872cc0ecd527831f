import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test, { type TestContext } from 'node:test';
import { keptLogs, LogFile, logFolders, strangeFolders } from '../../../cli/log-file.ts';

function temporary(t: TestContext): string {
  const folder = fs.mkdtempSync(path.join(tmpdir(), 'lpk-log-test-'));
  t.after(() => fs.rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const modeOf = (at: string) => fs.statSync(at).mode & 0o777;

test('folder 0700, file 0600, whatever the umask', (t) => {
  const before = process.umask(0);
  t.after(() => process.umask(before));
  const folders = logFolders(temporary(t));
  const log = new LogFile('connect', { folders });
  t.after(() => log.close());
  assert.equal(path.dirname(log.path), folders[0]);
  assert.deepEqual([modeOf(path.dirname(log.path)), modeOf(log.path)], [0o700, 0o600]);
});

test('a folder that is a link, a file, or open to others is not used, but the next one', (t) => {
  const makes: ((at: string, elsewhere: string) => void)[] = [
    (at, elsewhere) => fs.symlinkSync(elsewhere, at),
    (at) => fs.writeFileSync(at, ''),
    (at) => {
      fs.mkdirSync(at);
      fs.chmodSync(at, 0o777);
    },
  ];
  for (const make of makes) {
    const folders = logFolders(temporary(t));
    const elsewhere = temporary(t);
    make(folders[0] as string, elsewhere);
    const log = new LogFile('connect', { folders });
    log.close();
    assert.equal(path.dirname(log.path), folders[1]);
    assert.deepEqual(fs.readdirSync(elsewhere), []);
  }
});

test('another user’s folder is not used', { skip: process.getuid?.() !== 0 && 'only root can make one' }, (t) => {
  const folders = logFolders(temporary(t));
  fs.mkdirSync(folders[0] as string, { mode: 0o700 });
  fs.chownSync(folders[0] as string, 12_345, 12_345);
  const log = new LogFile('connect', { folders });
  log.close();
  assert.equal(path.dirname(log.path), folders[1]);
  assert.deepEqual(fs.readdirSync(folders[0] as string), []);
  assert.deepEqual(strangeFolders(folders), [folders[0]]);
});

test('with no folder of one’s own it says so', (t) => {
  const folders = logFolders(temporary(t));
  for (const folder of folders) fs.writeFileSync(folder, '');
  assert.throws(() => new LogFile('connect', { folders }), /is not this user's own folder/);
  assert.deepEqual(keptLogs(folders), []);
});

test('lines are written beside the work, in order, and the rest at once when told', async (t) => {
  const log = new LogFile('connect', { folders: logFolders(temporary(t)) });
  t.after(() => log.close());
  log.write('one');
  assert.equal(fs.readFileSync(log.path, 'utf8'), '');
  while (fs.readFileSync(log.path, 'utf8') === '') await new Promise((resolve) => setTimeout(resolve, 5));
  log.write('two');
  log.write('three');
  log.flush();
  log.flush();
  assert.equal(fs.readFileSync(log.path, 'utf8'), 'one\ntwo\nthree\n');
});

test('a process that exits, or dies of an error, leaves its last line', (t) => {
  const folder = temporary(t);
  for (const end of ['process.exit(3)', 'throw new Error()', 'setTimeout(() => process.exit(3), 199)']) {
    const program = `import { LogFile } from ${JSON.stringify(path.join(import.meta.dirname, '../../../cli/log-file.ts'))};
      const log = new LogFile('connect', { folders: [${JSON.stringify(folder)}] });
      log.write('last words'); ${end}`;
    spawnSync(process.execPath, ['--input-type=module', '-e', program]);
    const [log] = keptLogs([folder]);
    assert.equal(fs.readFileSync(log?.path as string, 'utf8'), 'last words\n', end);
    fs.rmSync(log?.path as string);
  }
});

test('a full disk loses lines, says how many, and is no error', (t) => {
  const log = new LogFile('connect', { folders: logFolders(temporary(t)) });
  t.after(() => log.close());
  const write = t.mock.method(fs, 'writeSync', () => {
    throw Object.assign(new Error(), { code: 'ENOSPC' });
  });
  log.write('lost');
  log.write('lost too');
  log.flush();
  write.mock.restore();
  log.write('kept');
  log.flush();
  assert.equal(fs.readFileSync(log.path, 'utf8'), '… 2 lines are missing here\nkept\n');
});

test('what waits is bounded', (t) => {
  const log = new LogFile('connect', { folders: logFolders(temporary(t)) });
  t.after(() => log.close());
  for (let i = 0; i < 1_000; i++) log.write('x'.repeat(1_000));
  log.flush();
  log.write('next');
  log.flush();
  const lines = fs.readFileSync(log.path, 'utf8').trimEnd().split('\n');
  assert.ok(fs.statSync(log.path).size < 300_000, `${fs.statSync(log.path).size} bytes`);
  assert.match(lines.at(-2) as string, /^… \d+ lines are missing here$/);
  assert.equal(lines.at(-1), 'next');
});

test('a file that is full becomes the one before, of which there is one', async (t) => {
  const folders = logFolders(temporary(t));
  const log = new LogFile('connect', { folders, maxBytes: 100 });
  t.after(() => log.close());
  const before = log.path.replace(/\.log$/, '.1.log');
  const read = (at: string) => (fs.existsSync(at) ? fs.readFileSync(at, 'utf8') : '');
  for (const letter of ['a', 'b', 'c', 'd']) {
    log.write(letter.repeat(150));
    while (!read(log.path).startsWith(letter)) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.equal(read(log.path), `${'d'.repeat(150)}\n`);
  assert.equal(read(before), `${'c'.repeat(150)}\n`);
  assert.equal(fs.readdirSync(path.dirname(log.path)).length, 2);
});

test('old logs go: by number of their verb, by age, by size in all; not those of running processes, nor what is no log', (t) => {
  const folder = temporary(t);
  const now = new Date('2026-11-26T10:00:00Z');
  const DEAD = 4_194_305; // above Linux's highest pid_max
  const put = (name: string, { hours = 1, bytes = 1 } = {}) => {
    const at = path.join(folder, name);
    fs.writeFileSync(at, '');
    fs.truncateSync(at, bytes);
    const time = new Date(now.getTime() - hours * 3_600_000);
    fs.utimesSync(at, time, time);
  };
  const name = (verb: string, i: number, pid = DEAD) =>
    `${verb}-20261126T0000${String(i).padStart(2, '0')}Z-${pid}.log`;
  for (let i = 0; i < 15; i++) put(name('connect', i), { hours: i + 1 });
  put(name('connect', 20, process.pid), { hours: 1_000 });
  put(name('proxy-up', 1), { hours: 24 * 15 });
  put(name('status', 1), { hours: 2 });
  put(name('run', 1), { hours: 20, bytes: 15 * 2 ** 20 });
  put(name('run', 2), { hours: 19, bytes: 15 * 2 ** 20 });
  put('HELPERS.md', { hours: 10_000 });
  fs.mkdirSync(path.join(folder, name('connect', 40)));
  const log = new LogFile('connect', { folders: [folder], now });
  t.after(() => log.close());
  const left = fs.readdirSync(folder).filter((each) => each !== path.basename(log.path));
  const expected = [
    ...Array.from({ length: 9 }, (_, i) => name('connect', i)),
    ...[name('connect', 20, process.pid), name('connect', 40), name('status', 1), name('run', 2), 'HELPERS.md'],
  ];
  assert.deepEqual(left.toSorted(), expected.toSorted());
});

test('what is kept is told, newest first; links and other people’s files are none', (t) => {
  const folder = temporary(t);
  const secret = path.join(temporary(t), 'secret');
  fs.writeFileSync(secret, 'x');
  for (const [i, verb] of ['connect', 'proxy-up'].entries()) {
    const at = path.join(folder, `${verb}-20261126T000000Z-${i + 10}.log`);
    fs.writeFileSync(at, 'text');
    fs.utimesSync(at, i, i);
  }
  fs.symlinkSync(secret, path.join(folder, 'connect-20261126T000009Z-99.log'));
  const found = keptLogs([folder]).map(({ verb, pid, bytes }) => ({ verb, pid, bytes }));
  assert.deepEqual(found, [
    { verb: 'proxy-up', pid: 11, bytes: 4 },
    { verb: 'connect', pid: 10, bytes: 4 },
  ]);
});
