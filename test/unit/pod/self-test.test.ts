import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { type TestContext, test } from 'node:test';
import { serveSession } from '../../../agent/pod/serve.ts';
import type { Stream } from '../../../agent/wire/stream.ts';
import { freePort } from '../../free-port.ts';
import { readAll, SessionPair, until } from '../wire/harness.ts';

const TOKEN = 'f00d';
const CALL = `GET /.lpk/self-test/${TOKEN} HTTP/1.1\r\nHost: web\r\n\r\n`;

/** A pod that listens, and where. */
async function served(t: TestContext): Promise<{ pair: SessionPair; port: number; streams: Stream[] }> {
  const pair = await SessionPair.open(t);
  serveSession(pair.agent, {});
  const port = await freePort();
  await pair.laptop.request('listen', { port });
  const streams: Stream[] = [];
  pair.laptop.on('stream', (stream) => streams.push(stream));
  return { pair, port, streams };
}

async function connect(t: TestContext, port: number): Promise<net.Socket> {
  const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  t.after(() => socket.destroy());
  await once(socket, 'connect');
  return socket;
}

function call(pair: SessionPair, port: number, forMs = 0): Promise<unknown> {
  return pair.laptop.request('call', { host: '127.0.0.1', port, token: TOKEN, forMs });
}

test('an expected call is answered by the agent, and the laptop hears nothing of it', async (t) => {
  const { pair, port, streams } = await served(t);
  await pair.laptop.request('expect', { port, token: TOKEN, answer: 'web-0' });
  assert.deepEqual(await call(pair, port), { answer: 'web-0' });
  assert.deepEqual(streams, []);
});

test('while a call is expected, everything else goes to the laptop, every byte of it', async (t) => {
  const { pair, port, streams } = await served(t);
  await pair.laptop.request('expect', { port, token: TOKEN, answer: 'web-0' });
  const other = await connect(t, port);
  other.end(CALL.replace(TOKEN, 'cafe'));
  await until(() => streams.length === 1, 'the stream of another call');
  const stream = streams[0] as Stream;
  stream.accept();
  assert.equal(String(await readAll(stream)), CALL.replace(TOKEN, 'cafe'));
  stream.end('answer');
  assert.equal(String(await readAll(other)), 'answer');
  const ending = await connect(t, port);
  ending.end();
  await until(() => streams.length === 2, 'the stream of who says nothing at all');
});

test('who says nothing is held back until the test is over, and one that leaves meanwhile is forgotten', async (t) => {
  const { pair, port, streams } = await served(t);
  t.mock.timers.enable({ apis: ['setTimeout'] }); // the longest time that one is held does not pass
  await pair.laptop.request('expect', { port, token: TOKEN, answer: 'web-0' });
  const left = await connect(t, port);
  left.resetAndDestroy();
  const silent = await connect(t, port);
  assert.deepEqual(await call(pair, port), { answer: 'web-0' });
  assert.equal(streams.length, 0);
  await pair.laptop.request('unexpect', { port });
  await until(() => streams.length === 1, 'the stream of the silent one');
  const stream = streams[0] as Stream;
  stream.accept();
  stream.end('hello, speak');
  assert.equal(String(await readAll(silent)), 'hello, speak');
});

test('a silent one is held for a second and not longer, whatever becomes of the test', async (t) => {
  const { pair, port, streams } = await served(t);
  await pair.laptop.request('expect', { port, token: TOKEN, answer: 'web-0' });
  t.mock.timers.enable({ apis: ['setTimeout'] });
  await connect(t, port);
  (await connect(t, port)).write('hello');
  await until(() => streams.length === 1, 'one that came later and speaks');
  t.mock.timers.tick(999);
  await pair.laptop.request('environment'); // a stream that was opened would be here before the answer
  assert.equal(streams.length, 1);
  t.mock.timers.tick(1);
  await until(() => streams.length === 2, 'the silent one');
});

test('after unexpect the same call is the laptop’s', async (t) => {
  const { pair, port, streams } = await served(t);
  await pair.laptop.request('expect', { port, token: TOKEN, answer: 'web-0' });
  await pair.laptop.request('unexpect', { port });
  (await connect(t, port)).write(CALL);
  await until(() => streams.length === 1, 'the stream');
});

test('a call is made again until it is answered', async (t) => {
  const { pair } = await served(t);
  const port = await freePort();
  const calling = call(pair, port, 10_000);
  await pair.laptop.request('expect', { port, token: TOKEN, answer: 'web-0' });
  await pair.laptop.request('listen', { port });
  assert.deepEqual(await calling, { answer: 'web-0' });
});

test('why a call fails is told by its code', async (t) => {
  const { pair } = await served(t);
  await assert.rejects(call(pair, await freePort()), { code: 'refused' });
  const web = http.createServer((_, response) => response.end('<html>')).listen(0);
  const raw = net.createServer((socket) => socket.end('220 smtp\r\n')).listen(0);
  const vast = http.createServer((_, response) => response.end('x'.repeat(1 << 20))).listen(0);
  t.after(() => [web, raw, vast].map((server) => server.close()));
  await Promise.all([web, raw, vast].map((server) => server.listening || once(server, 'listening')));
  for (const server of [web, raw, vast]) {
    await assert.rejects(call(pair, (server.address() as net.AddressInfo).port), { code: 'protocol' });
  }
});
