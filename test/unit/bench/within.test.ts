import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';

const WITHIN = path.join(import.meta.dirname, '../../bench/within.ts');

async function served(t: TestContext, env: NodeJS.ProcessEnv = {}): Promise<string> {
  const server = spawn(process.execPath, [WITHIN, 'serve'], { env: { ...process.env, ...env }, stdio: 'pipe' });
  t.after(() => server.kill());
  const [line] = (await once(createInterface({ input: server.stdout }), 'line')) as [string];
  return /^within: (\d+)$/.exec(line)?.[1] as string;
}

function asking(port: string, ...command: string[]) {
  const child = spawn(process.execPath, [WITHIN, 'run', port, ...command], { stdio: 'pipe' });
  const ended = Promise.all([text(child.stdout), text(child.stderr), once(child, 'close').then(([code]) => code)]);
  return { child, ended };
}

test('a program runs as a child of the server, and what it says and its exit code come back', async (t) => {
  const port = await served(t, { WHERE: 'within' });
  const script = 'echo "in $WHERE: $0"; echo badly >&2; exit 3';
  assert.deepEqual(await asking(port, 'sh', '-c', script, 'a b').ended, ['in within: a b\n', 'badly\n', 3]);
});

test('a program that is not there fails, and tells why', async (t) => {
  const [stdout, stderr, code] = await asking(await served(t), '/nonexistent').ended;
  assert.deepEqual([stdout, code], ['', 1]);
  assert.match(stderr, /ENOENT/);
});

test('when who asked is interrupted, the program is ended', async (t) => {
  const port = await served(t);
  const listener = net.createServer().listen(0, '127.0.0.1');
  t.after(() => listener.close());
  await once(listener, 'listening');
  const { port: ours } = listener.address() as net.AddressInfo;
  const { child } = asking(port, process.execPath, '-e', `require('node:net').connect(${ours}, '127.0.0.1')`);
  const [program] = (await once(listener, 'connection')) as [net.Socket];
  program.on('error', () => {});
  program.resume();
  const ended = once(program, 'close');
  child.kill();
  await ended;
});
