import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test from 'node:test';
import { isRunning, processId } from '../../../cli/process-id.ts';

test('a process is known by its pid and its start', async (t) => {
  const own = processId();
  assert.equal(own.pid, process.pid);
  assert.match(own.startedAt, /^\w*$/);
  assert.deepEqual(processId(), own);
  assert.equal(isRunning(own), true);
  assert.equal(isRunning({ ...own, startedAt: '' }), true, 'its start is not known');
  if (process.platform !== 'win32') {
    assert.equal(isRunning({ ...own, startedAt: `${own.startedAt}0` }), false, 'an earlier one with this pid');
  }

  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
  t.after(() => child.kill('SIGKILL'));
  await once(child, 'spawn');
  const other = processId(child.pid);
  assert.equal(isRunning(other), true);
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.equal(isRunning(other), false);
});

test('one that has ended does not run, also when nobody has waited for it', {
  skip: process.platform !== 'linux',
}, async (t) => {
  // The shell becomes a sleep, which waits for no child.
  const parent = spawn('sh', ['-c', 'sh -c "echo \\$\\$; exit" & exec sleep 1000'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => parent.kill('SIGKILL'));
  const [said] = await once(parent.stdout, 'data');
  const child = { pid: Number(said), startedAt: '' };
  while (isRunning(child)) await new Promise(setImmediate);
  process.kill(child.pid, 0); // throws when nothing has that pid
});
