import assert from 'node:assert/strict';
import test from 'node:test';
import { session, sessionOnTerminal } from './session-process.ts';

test('work that ends leaves with its own exit code, everything put back', async () => {
  const program = session('ends');
  assert.equal(await program.ended(), 3);
  assert.deepEqual(program.lines, ['undone']);
});

test('work that fails is thrown after everything was put back', async () => {
  const program = session('fails');
  assert.equal(await program.ended(), 99);
  assert.deepEqual(program.lines, ['undone', 'thrown: LpkError: no such image']);
});

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
  ['SIGQUIT', 131],
] as const) {
  test(`${signal} leaves once; work that waits ends with ${code}`, async () => {
    const program = session('waits');
    await program.line(/ready/);
    program.child.kill(signal);
    assert.equal(await program.ended(), code);
    assert.deepEqual(program.lines, ['ready', 'undone']);
  });
}

test('work may call a signal its proper end', async () => {
  const program = session('stays');
  await program.line(/ready/);
  program.child.kill('SIGINT');
  assert.equal(await program.ended(), 0);
  assert.deepEqual(program.lines, ['ready', 'undone']);
});

test('work that does not notice the signal is not waited for', async () => {
  const program = session('isDeaf');
  await program.line(/ready/);
  program.child.kill('SIGTERM');
  assert.equal(await program.ended(), 143);
  assert.deepEqual(program.lines, ['ready', 'undone']);
});

test('an error that nobody caught is told at once and leaves like everything else, with 1', async () => {
  const program = session('crashes');
  assert.equal(await program.ended(), 1);
  assert.deepEqual(program.lines, ['crashed: TypeError: a bug', 'undone']);
});

test('a bug on the way out is not hidden behind the signal', async () => {
  const program = session('crashesLeaving');
  await program.line(/ready/);
  program.child.kill('SIGINT');
  assert.equal(await program.ended(), 99);
  assert.deepEqual(program.lines, ['ready', 'undone', 'thrown: TypeError: a bug while leaving']);
});

test('the second signal says what is still to do and how to do it later; it still gets done', async () => {
  const program = session('undoesSlowly');
  await program.line(/ready/);
  program.child.kill('SIGINT');
  await program.line(/undoing/);
  program.child.kill('SIGINT');
  const said = await program.line(/still to do/);
  assert.equal(said, 'still to do: restore deployment/web. Once more gives up; `lpk restore web` then puts it back');
  program.child.stdin.write('go on\n');
  assert.equal(await program.ended(), 0);
});

test('the third signal gives up at once', async () => {
  const program = session('undoesSlowly');
  await program.line(/ready/);
  program.child.kill('SIGINT');
  await program.line(/undoing/);
  program.child.kill('SIGTERM');
  await program.line(/still to do/);
  program.child.kill('SIGINT');
  assert.equal(await program.ended(), 130);
});

test('what could not be undone is in the exit code', async () => {
  const program = session('undoesBadly');
  await program.line(/ready/);
  program.child.kill('SIGINT');
  assert.equal(await program.ended(), 1);
  assert.deepEqual(program.lines, ['ready', 'undone', 'could not restore deployment/web: no answer']);
});

test('Ctrl-C at a terminal leaves', async () => {
  const program = sessionOnTerminal(['stays']);
  await program.line(/ready/);
  program.child.stdin.write('\x03');
  assert.equal(await program.ended(), 0);
  await program.line(/undone/);
});
