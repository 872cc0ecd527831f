import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import { run } from '../../cluster/run.ts';

const SOURCE = path.join(import.meta.dirname, '../../bench/connects.c');
/** Documentation's (RFC 5737): only the door below can lead there. */
const ELSEWHERE = '192.0.2.7';

let folder: string;
let connects: string;
before(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'lpk-connects-'));
  connects = path.join(folder, 'connects');
  execFileSync('gcc', ['-O2', '-Wall', '-Werror', '-pthread', '-o', connects, SOURCE]);
});
after(() => rmSync(folder, { recursive: true }));

const ask = async (...words: (string | number)[]) => JSON.parse(await run(connects, words.map(String)));

async function serve(t: TestContext, handle: (socket: net.Socket) => void): Promise<number> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    handle(socket);
  });
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as net.AddressInfo).port;
}

/** Answers everything with success, and echoes afterwards. */
function door(asked: Buffer[], code = 0) {
  return (socket: net.Socket) => {
    let greeted = false;
    let connected = false;
    socket.on('data', (data: Buffer) => {
      if (connected) socket.write(data);
      else if (greeted) {
        connected = true;
        asked.push(data);
        socket.write(Buffer.of(5, code, 0, 1, 0, 0, 0, 0, 0, 0));
      } else {
        greeted = true;
        asked.push(data);
        socket.write(Buffer.of(5, 0));
      }
    });
  };
}

test('connects to a listener of its own are timed', async () => {
  const { p50Us, p99Us } = await ask('own', 20);
  assert.ok(p50Us > 0 && p99Us >= p50Us);
});

test('the SOCKS5 handshake is part of the time, and says where to', async (t) => {
  const asked: Buffer[] = [];
  const { p50Us } = await ask('time', ELSEWHERE, 258, await serve(t, door(asked)), 1);
  assert.ok(p50Us > 0);
  assert.deepEqual(asked.slice(0, 2), [Buffer.of(5, 1, 0), Buffer.of(5, 1, 0, 1, 192, 0, 2, 7, 1, 2)]);
});

test('a door that refuses makes it fail', async (t) => {
  const port = await serve(t, door([], 5));
  await assert.rejects(ask('time', ELSEWHERE, 258, port, 1), /Connection refused/);
});

test('a crowd is open at the same time, and who is not answered is not counted', async (t) => {
  let seen = 0;
  let open = 0;
  let most = 0;
  const port = await serve(t, (socket) => {
    most = Math.max(most, ++open);
    socket.on('close', () => open--);
    if (++seen % 10 === 0) socket.resetAndDestroy();
    else socket.pipe(socket);
  });
  const { answered } = await ask('crowd', '127.0.0.1', port, 0, 50, 16);
  assert.equal(answered, 45);
  assert.ok(most >= 45, `${most} at once`);
});
