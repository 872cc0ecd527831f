import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { type TestContext, test } from 'node:test';
import { resetSocket } from '../../../agent/wire/reset-socket.ts';
import { socketPair } from './harness.ts';

/** What is said of a socket until it is closed. */
async function closed(socket: net.Socket): Promise<string[]> {
  const said: string[] = [];
  socket.on('end', () => said.push('end'));
  socket.on('error', (error: NodeJS.ErrnoException) => said.push(error.code ?? error.message));
  await new Promise((resolve) => socket.once('close', resolve));
  return said;
}

/** Both may be half-open, as all of lpk's are. */
async function pairOf(t: TestContext): Promise<{ near: net.Socket; far: net.Socket; nearClosed: Promise<string[]> }> {
  const [near, far] = await socketPair(t);
  return { near, far, nearClosed: closed(near) };
}

test('the peer hears of a reset', async (t) => {
  const { near, far, nearClosed } = await pairOf(t);
  const farClosed = closed(far.resume());
  near.write('half');
  await once(far, 'data');
  resetSocket(near);
  assert.deepEqual(await farClosed, ['ECONNRESET']);
  assert.deepEqual(await nearClosed, []);
});

const LATER: Record<string, (reset: () => void) => unknown> = {
  'at once': (reset) => reset(),
  'behind a tick': (reset) => process.nextTick(reset),
  'behind a promise': (reset) => Promise.resolve().then(reset),
  'in the next turn': (reset) => setImmediate(reset),
};
for (const [when, later] of Object.entries(LATER)) {
  test(`a socket that is reset ${when} after it was ended is closed, without an error`, async (t) => {
    for (const last of ['', 'the last words']) {
      const { near, far, nearClosed } = await pairOf(t);
      far.on('error', () => {}).resume();
      near.end(last);
      later(() => resetSocket(near));
      assert.deepEqual(await nearClosed, []);
    }
  });
}

test('twice is as good as once, and after the end nothing', async (t) => {
  const { near, far, nearClosed } = await pairOf(t);
  far.on('error', () => {}).resume();
  near.end();
  resetSocket(near);
  resetSocket(near);
  assert.deepEqual(await nearClosed, []);
  resetSocket(near);
});

test('a reset does not wait for what a peer does not read, and the peer does not take it for the end', async (t) => {
  const { near, far, nearClosed } = await pairOf(t);
  far.pause();
  near.end(Buffer.alloc(64 * 1024 * 1024));
  assert.ok(near.writableLength > 0);
  resetSocket(near);
  assert.deepEqual(await nearClosed, []);
  assert.deepEqual(await closed(far.resume()), ['ECONNRESET']);
});

test('a socket that is ended and not connected yet is closed', async (t) => {
  const server = net.createServer((socket) => socket.on('error', () => {}).resume());
  t.after(() => server.close());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as net.AddressInfo;
  const socket = net.connect({ host: '127.0.0.1', port, allowHalfOpen: true });
  const said = closed(socket);
  socket.end();
  resetSocket(socket);
  assert.deepEqual(await said, []);
});
