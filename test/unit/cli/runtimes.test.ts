/** Real programs, each with the environment lpk gives them: the proxy must be asked for the NAME, which only it can resolve. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants } from 'node:fs';
import net from 'node:net';
import { delimiter, join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { childEnvironment } from '../../../cli/environment.ts';
import { ANSWER, openNameProxy } from './name-proxy.ts';

const run = promisify(execFile);
const fixture = (name: string) => join(import.meta.dirname, 'fixtures/runtimes', name);
const node = process.execPath;
const NAME = 'api.shop';

const WAYS: { what: string; command: string[]; asked: string }[] = [
  { what: 'curl', command: ['curl', '-sS', `http://${NAME}/`], asked: `http ${NAME}:80` },
  { what: 'curl with ALL_PROXY', command: ['curl', '-sS', `gopher://${NAME}:80/`], asked: `connect ${NAME}:80` },
  { what: 'Python urllib', command: ['python3', fixture('ask.py'), NAME], asked: `http ${NAME}:80` },
  { what: 'Node fetch', command: [node, fixture('ask.mjs'), 'fetch', NAME], asked: `connect ${NAME}:80` },
  { what: 'Node http', command: [node, fixture('ask.mjs'), 'http', NAME], asked: `http ${NAME}:80` },
  { what: 'Go net/http', command: ['go', 'run', fixture('ask.go'), NAME], asked: `http ${NAME}:80` },
  { what: 'Java URL', command: ['java', fixture('Ask.java'), 'url', NAME], asked: `http ${NAME}:80` },
  { what: 'Java HttpClient', command: ['java', fixture('Ask.java'), 'client', NAME], asked: `http ${NAME}:80` },
  { what: 'Java Socket', command: ['java', fixture('Ask.java'), 'socket', NAME], asked: `socks ${NAME}:80` },
];

for (const { what, command, asked } of WAYS) {
  test(`${what} asks the proxy for the name`, { timeout: 600_000 }, async (t) => {
    const [program, ...args] = command as [string, ...string[]];
    if (!isInstalled(program)) {
      assert.ok(!process.env.CI, `${program} is not installed; in CI it must be`);
      return t.skip(`${program} is not installed`);
    }
    const proxy = await openNameProxy();
    t.after(() => proxy.close());
    const { env } = childEnvironment({ laptop: process.env, pod: {}, proxy });
    const { stdout } = await run(program, args, { env });
    assert.ok(stdout.includes(ANSWER), `expected the proxy's answer, got ${JSON.stringify(stdout)}`);
    assert.deepEqual(proxy.asked, [asked]);
  });
}

test('loopback does not go through the proxy', async (t) => {
  const proxy = await openNameProxy();
  const server = net.createServer((socket) => {
    socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhere'));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => Promise.all([proxy.close(), new Promise((resolve) => server.close(resolve))]));
  const { port } = server.address() as net.AddressInfo;
  const { env } = childEnvironment({ laptop: process.env, pod: {}, proxy });
  for (const host of ['127.0.0.1', 'localhost']) {
    for (const command of [
      ['curl', '-sS', `http://${host}:${port}/`],
      [node, fixture('ask.mjs'), 'fetch', `${host}:${port}`],
      [node, fixture('ask.mjs'), 'http', `${host}:${port}`],
    ]) {
      const { stdout } = await run(command[0]!, command.slice(1), { env });
      assert.equal(stdout.trim(), 'here', command.join(' '));
    }
  }
  assert.deepEqual(proxy.asked, []);
});

function isInstalled(program: string): boolean {
  if (program.includes('/')) return true;
  return (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
