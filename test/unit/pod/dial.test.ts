import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import { type TestContext, test } from 'node:test';
import { dialTcp, dialUdp } from '../../../agent/pod/dial.ts';
import { serveSession } from '../../../agent/pod/serve.ts';
import type { LpkError } from '../../../agent/wire/errors.ts';
import type { Stream } from '../../../agent/wire/stream.ts';
import { readAll, SessionPair, until } from '../wire/harness.ts';

async function podPair(t: TestContext): Promise<SessionPair> {
  const pair = await SessionPair.open(t);
  serveSession(pair.agent, { GREETING: 'hello' });
  return pair;
}

async function tcpServer(t: TestContext, serve: (socket: net.Socket) => void): Promise<number> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    serve(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as net.AddressInfo).port;
}

async function udpServer(
  t: TestContext,
  answer: (message: Buffer, reply: (answer: Buffer) => void) => void,
): Promise<number> {
  const server = dgram.createSocket('udp4');
  server.on('message', (message, { port, address }) => answer(message, (reply) => server.send(reply, port, address)));
  server.bind(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return server.address().port;
}

/** A port of loopback where nothing listens. */
async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

async function failure(stream: Stream): Promise<string> {
  const error: LpkError = await stream.opened.then(
    () => assert.fail('it was opened'),
    (reason) => reason,
  );
  await until(() => stream.destroyed, 'over');
  return error.code;
}

// TCP

test('a connection: the first bytes, an answer, half-closes both ways', async (t) => {
  const pair = await podPair(t);
  const port = await tcpServer(t, async (socket) => {
    const question = await readAll(socket);
    socket.end(`you said ${question}`);
  });
  for (const host of ['127.0.0.1', 'localhost']) {
    const stream = pair.laptop.openTcp(host, port, Buffer.from('hello'));
    await stream.opened;
    stream.end(' there');
    assert.equal(String(await readAll(stream)), 'you said hello there');
  }
  await until(() => pair.laptop.streamCount + pair.agent.streamCount === 0, 'nothing is left');
});

test('a server that speaks first is heard', async (t) => {
  const pair = await podPair(t);
  const port = await tcpServer(t, (socket) => socket.end('220 welcome'));
  const stream = pair.laptop.openTcp('127.0.0.1', port);
  assert.equal(String(await readAll(stream)), '220 welcome');
  assert.equal(stream.writable, true);
  stream.end();
});

test('a dial that fails says why: nobody there, no such name, no such address', async (t) => {
  const pair = await podPair(t);
  const port = await freePort();
  assert.equal(await failure(pair.laptop.openTcp('127.0.0.1', port)), 'refused');
  assert.equal(await failure(pair.laptop.openTcp('localhost', port)), 'refused');
  assert.equal(await failure(pair.laptop.openTcp('no-such-name.invalid', 80)), 'name-not-found');
  assert.equal(await failure(pair.laptop.openTcp('not a name', 80)), 'name-not-found');
  assert.equal(await failure(pair.laptop.openTcp('x'.repeat(255), 80)), 'name-not-found');
  assert.throws(() => pair.laptop.openTcp('x'.repeat(256), 80), { code: 'name-not-found' });
  assert.notEqual(await failure(pair.laptop.openTcp('127.0.0.1', 0)), 'timed-out');
  assert.equal(pair.agent.ended, undefined);
});

test('an address that does not answer times out', async (t) => {
  // A listener that takes nothing from its full queue: what comes then gets no answer.
  const script = `const s = require('net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => console.log(s.address().port))`;
  const deaf = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => deaf.kill('SIGKILL'));
  const port = Number(String((await once(deaf.stdout, 'data'))[0]));
  deaf.kill('SIGSTOP');
  const filling = Array.from({ length: 4 }, () => net.connect(port, '127.0.0.1').on('error', () => {}));
  t.after(() => {
    for (const socket of filling) socket.destroy();
  });
  await once(filling[0] as net.Socket, 'connect');
  const pair = await SessionPair.open(t);
  pair.agent.on('stream', (stream) => dialTcp(stream, 50));
  await until(() => filling.filter(({ connecting }) => !connecting).length >= 2, 'its queue is full');
  const stream = pair.laptop.openTcp('127.0.0.1', port);
  await assert.rejects(stream.opened, { code: 'timed-out', message: `127.0.0.1:${port} did not answer within 0.05 s` });
});

test('a client that leaves while the agent dials leaves nothing behind', async (t) => {
  const pair = await SessionPair.open(t);
  const dialled = once(pair.agent, 'stream');
  pair.agent.on('stream', (stream) => dialTcp(stream, 10));
  const stream = pair.laptop.openTcp('no-such-name.invalid', 80);
  const [far] = (await dialled) as [Stream];
  stream.destroy();
  await until(() => far.destroyed, 'gone');
  assert.equal(pair.agent.streamCount, 0);
});

test('a server that resets is a connection reset', async (t) => {
  const pair = await podPair(t);
  const port = await tcpServer(t, (socket) => socket.once('data', () => socket.resetAndDestroy()));
  const stream = pair.laptop.openTcp('127.0.0.1', port, Buffer.from('x'));
  await stream.opened;
  assert.equal((await once(stream.resume(), 'error'))[0].code, 'connection-reset');
});

// UDP

test('datagrams go and come whole, each by itself', async (t) => {
  const pair = await podPair(t);
  const port = await udpServer(t, (message, reply) => {
    reply(message);
    reply(Buffer.concat([message, message]));
  });
  for (const host of ['127.0.0.1', 'localhost']) {
    const stream = pair.laptop.openUdp(host, port);
    const heard: string[] = [];
    stream.on('data', (datagram: Buffer) => heard.push(String(datagram)));
    for (const text of ['one', '', 'three']) {
      const before = heard.length;
      stream.write(Buffer.from(text));
      await until(() => heard.length === before + 2, `both answers to '${text}'`);
    }
    assert.deepEqual(heard, ['one', 'oneone', '', '', 'three', 'threethree']);
    stream.end();
  }
  await until(() => pair.laptop.streamCount + pair.agent.streamCount === 0, 'nothing is left');
});

test('a UDP flow that can’t be: nobody there, no such name, port 0', async (t) => {
  const pair = await podPair(t);
  const closed = pair.laptop.openUdp('127.0.0.1', await freePort());
  await closed.opened;
  const refused = once(closed.resume(), 'error');
  closed.write(Buffer.from('anyone?'));
  assert.equal((await refused)[0].code, 'refused');
  assert.equal(await failure(pair.laptop.openUdp('no-such-name.invalid', 53)), 'name-not-found');
  assert.equal(await failure(pair.laptop.openUdp('127.0.0.1', 0)), 'refused');
  assert.equal(pair.agent.ended, undefined);
});

test('a datagram larger than UDP can carry is dropped, and the flow goes on', async (t) => {
  const pair = await podPair(t);
  const port = await udpServer(t, (message, reply) => reply(message));
  const stream = pair.laptop.openUdp('127.0.0.1', port);
  const answer = once(stream, 'data');
  stream.write(Buffer.alloc(65_530));
  stream.write(Buffer.from('small'));
  assert.equal(String((await answer)[0]), 'small');
});

test('a flow that is silent for long ends on both sides', async (t) => {
  const pair = await SessionPair.open(t);
  pair.agent.on('stream', (stream) => dialUdp(stream, 500));
  const port = await udpServer(t, (message, reply) => reply(message));
  const stream = pair.laptop.openUdp('127.0.0.1', port);
  stream.resume();
  const closed = once(stream, 'close');
  const inUse = closed.then(() => assert.fail('it ended while it was used'));
  inUse.catch(() => {});
  const startedAt = performance.now();
  let wroteAt = startedAt; // the agent hears of it later than that, and counts from then
  while (performance.now() - startedAt < 750) {
    wroteAt = performance.now();
    stream.write(Buffer.from('x'));
    await Promise.race([once(stream, 'data'), inUse]);
  }
  await closed;
  assert.equal(stream.errored, null);
  assert.ok(performance.now() - wroteAt >= 490, 'not before its time');
  await until(() => pair.laptop.streamCount + pair.agent.streamCount === 0, 'nothing is left');
});

// Others

test('requests: the environment, the resolver, and nothing else', async (t) => {
  const pair = await podPair(t);
  assert.deepEqual(await pair.laptop.request('environment'), { GREETING: 'hello' });
  const resolver = await pair.laptop.request<{ nameservers: string[] }>('resolver');
  assert.ok(Array.isArray(resolver.nameservers));
  for (const operation of ['nothing', '', 'constructor', '__proto__', 'toString']) {
    await assert.rejects(pair.laptop.request(operation), { code: 'protocol' });
  }
  const stream = pair.laptop.openAccept(80, '127.0.0.1', 1);
  assert.equal(await failure(stream), 'not-allowed');
});

test('a request longer than 4 MiB is refused', async (t) => {
  const pair = await podPair(t);
  await assert.rejects(pair.laptop.request('environment', { text: 'x'.repeat(4 * 1024 * 1024) }), {
    code: 'limit-exceeded',
  });
  assert.deepEqual(await pair.laptop.request('environment'), { GREETING: 'hello' });
});
