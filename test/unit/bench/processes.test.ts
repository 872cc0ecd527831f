import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test from 'node:test';
import { cpuSeconds, end, family, residentMiB, startUntil } from '../../bench/processes.ts';

const never = new AbortController().signal;

test('a process’s memory and CPU time are those it knows of itself', () => {
  const { user, system } = process.cpuUsage();
  const own = (user + system) / 1e6;
  const seen = cpuSeconds([process.pid]);
  assert.ok(seen > own - 0.1 && seen < own + 1, `${seen} s, not ${own}`);
  assert.equal(cpuSeconds([]), 0);
  const [mib, ownMib] = [residentMiB(process.pid), process.memoryUsage.rss() / 1024 ** 2];
  assert.ok(mib > ownMib * 0.8 && mib < ownMib * 1.2, `${mib} MiB, not ${ownMib}`);
});

test('a family is a process with what it started, to any depth', async () => {
  const script = 'sh -c "echo \\$\\$; read line; exit"; exit';
  const child = spawn('sh', ['-c', script], { stdio: ['pipe', 'pipe', 'inherit'] });
  const [said] = await once(child.stdout, 'data');
  const [pid, grandchild] = [child.pid as number, Number(said)];
  assert.deepEqual(family(pid), [pid, grandchild]);
  assert.deepEqual(family(grandchild), [grandchild]);
  assert.ok(family(process.pid).includes(grandchild));
  child.stdin.end();
  await once(child, 'close');
});

test('a program is waited for until it is ready', async () => {
  const command = ['sh', '-c', 'echo first >&2; echo port 42 >&2; exec cat /dev/zero'];
  const { child, found } = await startUntil(command, /^port (\d+)/, never);
  assert.equal(found[1], '42');
  await end(child);
  assert.equal(child.signalCode, 'SIGTERM');
  await end(child); // as good as done
});

test('one that ends before, or is not there, is an error with what it said', async () => {
  await assert.rejects(startUntil(['sh', '-c', 'echo no port left >&2'], /ready/, never), /^Error: sh .*no port left/);
  await assert.rejects(startUntil(['/no/such/program'], /ready/, never), /ENOENT/);
});

test('the signal ends it', async () => {
  const controller = new AbortController();
  const waiting = startUntil(['sh', '-c', 'exec cat /dev/zero'], /ready/, controller.signal);
  controller.abort();
  await assert.rejects(waiting, /sh ended/);
});
