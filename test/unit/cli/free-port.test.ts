/** Who has a port, and how it is made free. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { join } from 'node:path';
import { after, test } from 'node:test';
import {
  listenersLeft,
  listenersOf,
  parseLsof,
  parseNetstat,
  parseProcNetTcp,
  parseTasklist,
  stopListeners,
} from '../../../cli/free-port.ts';
import { processId } from '../../../cli/process-id.ts';
import { freePorts } from '../../../cli/taken-ports.ts';

const children: ChildProcess[] = [];
after(() => {
  for (const child of children) child.kill('SIGKILL');
});

/** A process that listens on a port of its own choice. */
async function server(
  options: { stubborn?: boolean; uid?: number; port?: number } = {},
): Promise<{ child: ChildProcess; port: number }> {
  const stay = options.stubborn ? `process.on('SIGTERM', () => {});` : '';
  const drop = options.uid === undefined ? '' : `process.setgid(${options.uid}); process.setuid(${options.uid});`;
  const program = `${drop} ${stay} const s = require('net').createServer().listen(${options.port ?? 0}, '127.0.0.1', () => console.log(s.address().port));`;
  const child = spawn(process.execPath, ['-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  const [line] = await once(child.stdout as NodeJS.ReadableStream, 'data');
  return { child, port: Number(String(line)) };
}

function told() {
  const lines: string[] = [];
  const output = { say: (text: string) => void lines.push(text), warn: (text: string) => void lines.push(`! ${text}`) };
  return { lines, output };
}

const linux = { skip: process.platform !== 'linux' && 'reads /proc' };

test('the process behind a port is found by name and pid', linux, async () => {
  const { child, port } = await server();
  const [listener, ...others] = await listenersOf(port);
  assert.deepEqual(others, []);
  assert.equal(listener?.pid, child.pid);
  assert.match(listener?.name ?? '', /node|MainThread/);
  assert.equal(listener?.isOwn, true);
});

test('nobody listens on a port that was given back', linux, async () => {
  const holder = net.createServer().listen(0, '127.0.0.1');
  await once(holder, 'listening');
  const { port } = holder.address() as net.AddressInfo;
  assert.deepEqual(
    (await listenersOf(port)).map(({ pid }) => pid),
    [process.pid],
  );
  holder.close();
  await once(holder, 'close');
  assert.deepEqual(await listenersOf(port), []);
});

test('what was stopped has a moment to let go of its port, and no more', linux, async () => {
  const holder = net.createServer().listen(0, '127.0.0.1');
  await once(holder, 'listening');
  const { port } = holder.address() as net.AddressInfo;
  const pids = (await listenersLeft(port, 0)).map(({ pid }) => pid);
  assert.deepEqual(pids, [process.pid]);
  const left = listenersLeft(port, 60_000);
  assert.equal((await listenersOf(port)).length, 1); // it has looked at least once
  holder.close();
  assert.deepEqual(await left, []);
});

test('SIGTERM first; SIGKILL for what does not end on it; lpk itself never', linux, async () => {
  const willing = await server();
  const willingEnd = once(willing.child, 'exit');
  await stopListeners(await listenersOf(willing.port));
  assert.deepEqual(await willingEnd, [null, 'SIGTERM']);

  const stubborn = await server({ stubborn: true });
  const stubbornEnd = once(stubborn.child, 'exit');
  const begun = performance.now();
  await stopListeners(await listenersOf(stubborn.port), 200);
  assert.ok(performance.now() - begun >= 200, 'it had its time');
  assert.deepEqual(await stubbornEnd, [null, 'SIGKILL']);

  await stopListeners([{ ...processId(), isOwn: true }], 50);
});

test('a process of another user is left alone', linux, async (t) => {
  if (process.getuid?.() !== 0) return t.skip('only root can be two users');
  const { child, port } = await server({ uid: 65534 });
  const [listener] = await listenersOf(port);
  assert.deepEqual([listener?.pid, listener?.isOwn], [child.pid, false]);
  await stopListeners([listener as NonNullable<typeof listener>], 100);
  const { lines, output } = told();
  await freePorts([port], { free: true, ask: undefined, output });
  assert.match(
    lines.join('\n'),
    /^! port \d+ is taken by .* \(pid \d+\), which is left alone: it is not yours, or what lpk was started by$/,
  );
  assert.equal(child.exitCode ?? child.signalCode, null);
});

test('what lpk was started by is not its to stop', linux, async () => {
  const holder = net.createServer().listen(0, '127.0.0.1');
  await once(holder, 'listening');
  const { port } = holder.address() as net.AddressInfo;
  const module = join(import.meta.dirname, '../../../cli/free-port.ts');
  const program = `import { listenersOf, stopListeners } from '${module}'; const found = await listenersOf(${port});
    console.log(JSON.stringify(found)); await stopListeners(found, 50);`;
  // One process further down: lpk by a shell by us.
  const child = spawn('sh', ['-c', '"$0" --input-type=module-typescript -e "$1"; true', process.execPath, program]);
  children.push(child);
  const [line] = await once(child.stdout, 'data');
  const [listener] = JSON.parse(String(line));
  assert.deepEqual([listener.pid, listener.isOwn], [process.pid, false]);
  await once(child, 'exit'); // we are still here
  holder.close();
});

test('a taken port is reported, offered, or freed', linux, async () => {
  const { child, port } = await server();
  const who = /(node|MainThread) \(pid \d+\)/.source;

  const reported = told();
  await freePorts([port, port], { free: false, ask: undefined, output: reported.output });
  assert.match(reported.lines.join('\n'), new RegExp(`^! port ${port} is taken by ${who}; --free-ports stops it$`));

  const offered = told();
  const asked: [string, boolean][] = [];
  const ask = async () => ({
    confirm: async (question: string, initial: boolean) => {
      asked.push([question, initial]);
      return false;
    },
  });
  await freePorts([port], { free: false, ask, output: offered.output });
  assert.match(asked[0]?.[0] ?? '', new RegExp(`^Stop ${who}\\?$`));
  assert.equal(asked[0]?.[1], false, 'Enter alone stops nobody’s program');
  assert.equal(child.exitCode ?? child.signalCode, null);

  const freed = told();
  const end = once(child, 'exit');
  await freePorts([port], { free: true, ask, output: freed.output });
  await end;
  assert.match(freed.lines.join('\n'), new RegExp(`^stopped ${who}: port ${port} is free$`));
  assert.equal(asked.length, 1, '--free-ports does not ask');
});

test('who is stopped is who was asked about, and a port is free when nobody has it', linux, async () => {
  const first = await server();
  const { port } = first;
  const yesAfter = (act: () => Promise<void>) => async () => ({ confirm: () => act().then(() => true) });
  const ended = async (child: ChildProcess) => {
    const end = once(child, 'exit');
    child.kill('SIGKILL');
    await end;
  };

  const replaced = told();
  let second = first.child;
  const ask = yesAfter(async () => {
    await ended(first.child);
    second = (await server({ port })).child;
  });
  await freePorts([port], { free: false, ask, output: replaced.output });
  assert.match(replaced.lines[1] ?? '', new RegExp(`^! port ${port} is still taken by .* \\(pid ${second.pid}\\)$`));
  const [listener] = await listenersOf(port);
  assert.equal(listener?.pid, second.pid, 'it was not asked about, and goes on');

  // A process with a pid that was another's.
  await stopListeners([{ ...(listener as NonNullable<typeof listener>), startedAt: 'before' }], 50);
  assert.equal((await listenersOf(port))[0]?.pid, second.pid);

  const gone = told();
  await freePorts([port], { free: false, ask: yesAfter(() => ended(second)), output: gone.output });
  assert.equal(gone.lines[1], `port ${port} is free by now`);
});

test('a process’s name is no command for the terminal', linux, async () => {
  const program = `process.title = '\\x1b]0;x'; const s = require('net').createServer().listen(0, '127.0.0.1', () => console.log(s.address().port));`;
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  const [line] = await once(child.stdout as NodeJS.ReadableStream, 'data');
  const { lines, output } = told();
  await freePorts([Number(String(line))], { free: false, ask: undefined, output });
  assert.match(lines.join('\n'), /is taken by \\u\{1b\}\]0;x \(pid \d+\)/);
});

test('/proc/net/tcp', () => {
  const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 81273 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 81274 1 0000000000000000 20 4 30 10 -1
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 81275 1 0000000000000000 100 0 0 10 0
   3: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 33 0 9 1
`;
  assert.deepEqual(parseProcNetTcp(table, 8080), [
    { inode: '81273', uid: 1000 },
    { inode: '9', uid: 33 },
  ]);
  assert.deepEqual(parseProcNetTcp(table, 80), [{ inode: '81275', uid: 0 }]);
  assert.deepEqual(parseProcNetTcp('', 80), []);
});

test('lsof -F', () => {
  assert.deepEqual(parseLsof('p501\ncnode\nu501\nf23\np80\ncnginx: master\nu0\nf6\nf7\n', 501), [
    { pid: 501, name: 'node', isOwn: true },
    { pid: 80, name: 'nginx: master', isOwn: false },
  ]);
  assert.deepEqual(parseLsof('', 501), []);
});

test('netstat and tasklist, in any language', () => {
  const netstat = `
Aktive Verbindungen

  Proto  Lokale Adresse         Remoteadresse          Status           PID
  TCP    0.0.0.0:8080           0.0.0.0:0              ABHÖREN         4242
  TCP    127.0.0.1:8080         127.0.0.1:50123        HERGESTELLT     17
  TCP    [::]:8080              [::]:0                 ABHÖREN         4242
  TCP    0.0.0.0:18080          0.0.0.0:0              ABHÖREN         5
`.replaceAll('\n', '\r\n');
  assert.deepEqual(parseNetstat(netstat, 8080), [4242]);
  const line = '"node.exe","4242","Console","1","40,000 K","Running","LAPTOP\\Ada","0:00:01","N/A"\r\n';
  assert.deepEqual(parseTasklist(line, 'ada'), { name: 'node.exe', isOwn: true });
  assert.deepEqual(parseTasklist(line, 'bob'), { name: 'node.exe', isOwn: false });
  assert.deepEqual(parseTasklist('INFO: No tasks are running\r\n', 'ada'), { isOwn: false });
});
