import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { LpkError } from '../../../agent/wire/errors.ts';
import { isInForeground, launch } from '../../../cli/launch.ts';
import { isRunning } from '../../../cli/process-id.ts';
import { fixture, session, sessionOnTerminal } from './session-process.ts';

const node = process.execPath;
const tellsSignals = fixture('commands/tells-signals.mjs');

async function refused(command: string, cwd?: string): Promise<LpkError> {
  const error = await launch({ command, args: [], env: process.env, cwd }).then(
    () => assert.fail(`${command} was started`),
    (error: unknown) => error,
  );
  assert.ok(error instanceof LpkError, `expected an LpkError, got ${error}`);
  return error;
}

test('the exit code is the command’s', async () => {
  const running = await launch({ command: node, args: ['-e', 'process.exit(42)'], env: process.env });
  assert.ok(running.pid > 0);
  assert.deepEqual(await running.exited, { code: 42, signal: null, exitCode: 42 });
});

test('a command ended by a signal is 128 + its number, as in a shell', async () => {
  const running = await launch({
    command: node,
    args: ['-e', 'process.kill(process.pid, "SIGKILL")'],
    env: process.env,
  });
  assert.deepEqual(await running.exited, { code: null, signal: 'SIGKILL', exitCode: 137 });
});

test('the command gets exactly the environment and the folder it is given', async () => {
  const check = 'process.exit(process.env.A === "1" && !process.env.HOME && process.cwd() === "/" ? 0 : 1)';
  const running = await launch({ command: node, args: ['-e', check], env: { A: '1' }, cwd: '/' });
  assert.equal((await running.exited).exitCode, 0);
});

test('a signal to a command that has ended is no error', async () => {
  const running = await launch({ command: node, args: ['-e', ''], env: process.env });
  await running.exited;
  running.signal('SIGTERM');
});

test('commands that can not be started say why', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'lpk-launch-'));
  t.after(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'plain'), 'echo hi\n', { mode: 0o644 });
  writeFileSync(join(folder, 'lost'), '#!/no/such/interpreter\n', { mode: 0o755 });

  const unknown = await refused('no-such-command-of-lpk');
  assert.equal(unknown.code, 'command-not-found');
  assert.equal(unknown.message, 'no-such-command-of-lpk: command not found');
  const plain = await refused(join(folder, 'plain'));
  assert.equal(plain.code, 'command-not-executable');
  const lost = await refused('./lost', folder);
  assert.equal(lost.code, 'command-not-executable');
  assert.match(lost.message, /^\.\/lost: the interpreter .* does not exist$/);
  assert.equal((await refused('true', join(folder, 'nowhere'))).message, `no such folder: ${join(folder, 'nowhere')}`);
});

test('standard streams are the command’s own', async () => {
  const program = session('runs', 'sh', '-c', 'read line; echo "out $line"; echo "err $line" >&2; exit 5');
  program.child.stdin.end('hello\n');
  assert.equal(await program.ended(), 5);
  assert.deepEqual(program.lines.toSorted(), ['err hello', 'out hello', 'undone']);
});

test('signals reach the command, and it decides what they mean', async () => {
  const program = session('runs', node, tellsSignals);
  await program.line(/ready/);
  for (const signal of ['SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGCONT', 'SIGHUP'] as const) {
    program.child.kill(signal);
    await program.line(new RegExp(`got ${signal}`));
  }
  program.child.kill('SIGINT');
  program.child.kill('SIGTERM');
  assert.equal(await program.ended(), 9, 'the command’s own exit code');
  assert.equal(program.lines.at(-1), 'undone');
});

test('a command that does not end on SIGTERM is left behind by the second one, not killed', async () => {
  const program = session('runs', node, tellsSignals, 'stubborn');
  const pid = Number((await program.line(/ready/)).split(' ')[1]);
  try {
    program.child.kill('SIGTERM');
    await program.line(/got SIGTERM/);
    program.child.kill('SIGTERM');
    await program.line(/leaving without it/);
    await program.line(/undone/);
    process.kill(pid, 0); // throws when it is gone
  } finally {
    process.kill(pid, 'SIGKILL');
  }
  assert.equal(await program.ended(), 143);
});

test('Ctrl-C at a terminal reaches the command once', async () => {
  const program = sessionOnTerminal(['runs', node, tellsSignals]);
  const lpk = Number((await program.line(/ready/)).split(' of ')[1]);
  // lpk sleeps until the command has its SIGINT: two that are pending at once would be one.
  process.kill(lpk, 'SIGSTOP');
  program.child.stdin.write('\x03');
  await program.line(/got SIGINT/);
  process.kill(lpk, 'SIGCONT');
  // By way of lpk and one by one, so that a SIGINT it had passed on would be here by then.
  for (const signal of ['SIGUSR2', 'SIGUSR1', 'SIGHUP'] as const) {
    process.kill(lpk, signal);
    await program.line(new RegExp(`got ${signal}`));
  }
  process.kill(lpk, 'SIGTERM');
  assert.equal(await program.ended(), 9);
  assert.equal(program.lines.filter((line) => line.includes('got SIGINT')).length, 1, JSON.stringify(program.lines));
});

test('an interactive program has the terminal', async () => {
  const ask = "import sys; print('tty', sys.stdin.isatty(), sys.stdout.isatty()); print('Hello', input('name? '))";
  const program = sessionOnTerminal(['runs', 'python3', '-c', ask]);
  await program.line(/tty True True/);
  program.child.stdin.write('Ann\n');
  await program.line(/Hello Ann/);
  assert.equal(await program.ended(), 0);
});

test('a closed terminal ends the command and puts everything back', {
  skip: process.platform !== 'linux',
}, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'lpk-launch-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const trace = join(folder, 'trace');
  const program = sessionOnTerminal(['runs', node, fixture('commands/traces-hangup.mjs')], {
    ...process.env,
    TRACE: trace,
  });
  const lpk = Number((await program.line(/ready/)).split(' ')[1]);
  program.child.kill('SIGKILL');
  await program.ended();
  // Where nobody waits for orphans it stays a zombie.
  while (isRunning({ pid: lpk, startedAt: '' })) await new Promise(setImmediate);
  assert.equal(readFileSync(trace, 'utf8'), 'the command got SIGHUP\nundone\n');
});

test('the foreground is read from /proc/self/stat, whatever the program is called', () => {
  const stat = (name: string, pgrp: number, tpgid: number) => `12 (${name}) S 1 ${pgrp} 7 34816 ${tpgid} 4194304 1 2`;
  const isLinux = process.platform === 'linux';
  assert.equal(
    isInForeground(() => stat('node', 12, 12)),
    isLinux || isInForeground(),
  );
  if (!isLinux) return;
  assert.equal(
    isInForeground(() => stat('node', 12, 99)),
    false,
  );
  assert.equal(
    isInForeground(() => stat('node', 12, -1)),
    false,
  );
  assert.equal(
    isInForeground(() => stat('a) S 1 2 (b', 12, 12)),
    true,
  );
});
