import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import test from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { ABIS, ERRNO } from '../../../../proxy/capture/abi.ts';
import { loadKernel } from '../../../../proxy/capture/kernel.ts';
import { LearnedAddresses } from '../../../../proxy/capture/learned.ts';
import { Names } from '../../../../proxy/capture/names.ts';
import { Namespace } from '../../../../proxy/capture/namespace.ts';
import { PLACES } from '../../../../proxy/capture/namespace-program.ts';
import type { Address } from '../../../../proxy/capture/sockaddr.ts';

const NAMESERVER: Address = { family: 4, host: '192.0.2.53', port: 53 };
const names = () => new Names({ askDns: async (question) => question }, new LearnedAddresses());

test('a helper that was held up gives no socket, and then no socket twice', { timeout: 120_000 }, async (t) => {
  const kernel = loadKernel();
  const namespace = await Namespace.open(kernel, names());
  const helper = helperPid();
  const place = `/proc/${helper}/fd/${PLACES[6]}`; // the last that it fills
  const sockets: number[] = [];
  t.after(() => {
    process.kill(helper, 'SIGCONT');
    for (const socket of sockets) kernel.close(socket);
    namespace.close();
  });
  const take = () => {
    const socket = namespace.socketFor(NAMESERVER);
    if (socket >= 0) sockets.push(socket);
    return socket >= 0;
  };
  assert.ok(take());
  process.kill(helper, 'SIGSTOP');
  while (take()); // one may have been made before
  const before = readlinkSync(place);
  process.kill(helper, 'SIGCONT');
  while (readlinkSync(place) === before || !isReading(helper)) await setTimeout(1); // its byte is there, late

  process.kill(helper, 'SIGSTOP');
  const waker = spawn('sh', ['-c', `sleep 0.1; kill -CONT ${helper}`]);
  for (let left = 3; left > 0; ) left -= take() ? 1 : 0;
  await once(waker, 'exit');
  assert.equal(new Set(sockets.map((socket) => kernel.cookie(socket))).size, sockets.length);
});

test('where a namespace gives no rights, nothing is left, and nothing is closed twice: the number may be of another by then', async () => {
  const kernel = loadKernel();
  const closed: number[] = [];
  const close: typeof kernel.close = (fd) => {
    const result = kernel.close(fd);
    closed.push(result);
    return result;
  };
  const opened = Namespace.open({ ...kernel, close, copyFdOf: () => -ERRNO.EPERM }, names());
  await assert.rejects(opened, { code: 'laptop-setup' });
  assert.deepEqual(closed, [0, 0, 0, 0]); // the channel's two ends, the program, the helper
});

function helperPid(): number {
  const children = readdirSync('/proc/self/task').flatMap((thread) =>
    readFileSync(`/proc/self/task/${thread}/children`, 'latin1').split(' ').filter(Boolean),
  );
  return Number(children.find((pid) => readFileSync(`/proc/${pid}/cmdline`, 'latin1').startsWith('lpk-namespace')));
}

/** Waits for its input (proc(5), syscall). */
function isReading(pid: number): boolean {
  return readFileSync(`/proc/${pid}/syscall`, 'latin1').startsWith(`${ABIS[process.arch]?.calls.read} `);
}
