import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { type TestContext, test } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { type Carrier, openWebSocket } from '../../../agent/wire/carrier.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import { MAX_MESSAGE_BYTES, SUBPROTOCOL } from '../../../agent/wire/protocol.ts';
import { carrierServer, seeded, until } from './harness.ts';

/** Everything a carrier says, in order. */
function listen(carrier: Carrier) {
  const heard: { messages: Buffer[]; errors: Error[]; closed: number[] } = { messages: [], errors: [], closed: [] };
  carrier.on('message', (head, rest) => heard.messages.push(Buffer.concat([head, ...rest])));
  carrier.on('error', (error) => heard.errors.push(error));
  carrier.on('close', (code) => heard.closed.push(code));
  return heard;
}

function randomMessages(random: () => number, count: number): Buffer[] {
  const sizes = [0, 1, 125, 126, 127, 511, 512, 2_048, 2_049, 4_096, 4_097, 65_535, 65_536, MAX_MESSAGE_BYTES - 12];
  return Array.from({ length: count }, (_, i) => {
    const size = sizes[i] ?? Math.floor(random() * 70_000) % (MAX_MESSAGE_BYTES - 12);
    return Buffer.alloc(size, Math.floor(random() * 256));
  });
}

test('messages of every size arrive whole and in order, both ways', async (t) => {
  const [laptop, agent] = await (await carrierServer(t)).connect();
  laptop.admit();
  agent.admit();
  const messages = randomMessages(seeded(1), 60);
  const heardByAgent = listen(agent);
  const heardByLaptop = listen(laptop);
  for (const message of messages) {
    const cut = Math.min(12, message.length);
    laptop.send(message.subarray(0, cut), message.subarray(cut));
    agent.send(message.subarray(0, cut), message.subarray(cut));
  }
  for (const heard of [heardByAgent, heardByLaptop]) {
    await until(() => heard.messages.length === messages.length, 'all messages');
    for (const [i, message] of messages.entries())
      assert.ok(message.equals(heard.messages[i] as Buffer), `message ${i}`);
  }
});

test('the agent understands the masks and fragments of another websocket client (ws)', async (t) => {
  const server = await carrierServer(t);
  const [laptop, agent] = await server.connect();
  laptop.terminate();
  agent.terminate();
  const accepted = server.accepted();
  const client = new WebSocket(`ws://127.0.0.1:${server.port}/`, SUBPROTOCOL, { perMessageDeflate: false });
  t.after(() => client.terminate());
  await once(client, 'open');
  const carrier = await accepted;
  carrier.admit();
  const heard = listen(carrier);
  const random = seeded(2);
  const messages = randomMessages(random, 40);
  for (const message of messages) {
    const cut = Math.floor(random() * message.length);
    client.send(Buffer.from(message.subarray(0, cut)), { fin: false });
    client.send(Buffer.from(message.subarray(cut)), { fin: true });
  }
  await until(() => heard.messages.length === messages.length, 'all messages');
  for (const [i, message] of messages.entries()) assert.ok(message.equals(heard.messages[i] as Buffer), `message ${i}`);
  const back: Buffer[] = [];
  client.on('message', (data) => back.push(data as Buffer));
  for (const message of messages) carrier.send(message.subarray(0, 12), message.subarray(12));
  await until(() => back.length === messages.length, 'all messages back');
  for (const [i, message] of messages.entries()) assert.ok(message.equals(back[i] as Buffer), `message ${i} back`);
  const pong = once(client, 'pong');
  client.ping('are you there');
  assert.equal(String((await pong)[0]), 'are you there');
  const closed = once(client, 'close');
  carrier.close(4005, 'over');
  assert.deepEqual(String((await closed)[1]), 'over');
  await until(() => heard.closed.length > 0, 'closed');
});

test('the laptop speaks with another websocket server (ws)', async (t) => {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => SUBPROTOCOL });
  t.after(() => server.close());
  server.on('connection', (socket) => socket.on('message', (data) => socket.send(data as Buffer)));
  await once(server, 'listening');
  const carrier = openWebSocket(`ws://127.0.0.1:${(server.address() as net.AddressInfo).port}/`);
  const heard = listen(carrier);
  await once(carrier, 'open');
  carrier.admit();
  const messages = randomMessages(seeded(3), 40);
  for (const message of messages) carrier.send(message);
  await until(() => heard.messages.length === messages.length, 'the echo of all messages');
  for (const [i, message] of messages.entries()) assert.ok(message.equals(heard.messages[i] as Buffer), `message ${i}`);
  for (const socket of server.clients) socket.close();
  await until(() => heard.closed.length > 0, 'closed');
  assert.deepEqual(heard.closed, [1005]);
  assert.deepEqual(heard.errors, []);
});

/** What a laptop makes of `answer` to its upgrade: the error it hears, once. */
async function refusal(t: TestContext, answer: (socket: net.Socket) => void): Promise<LpkError> {
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => answer(socket));
    t.after(() => socket.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const carrier = openWebSocket(`ws://127.0.0.1:${(server.address() as net.AddressInfo).port}/`, {
    refused: (status, body) => new LpkError('forbidden', `${status}: ${body}`),
  });
  const heard = listen(carrier);
  await until(() => heard.closed.length > 0, 'closed');
  assert.equal(heard.errors.length, 1, `one error, got ${heard.errors.join('; ')}`);
  assert.deepEqual(heard.closed, [1006]);
  assert.ok(heard.errors[0] instanceof LpkError, String(heard.errors[0]));
  return heard.errors[0];
}

const REFUSALS: [name: string, answer: (socket: net.Socket) => void, code: string, message: string][] = [
  [
    'text, then closed',
    (socket) => socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnone'),
    'forbidden',
    '403: none',
  ],
  [
    'text, kept alive',
    (socket) => socket.write('HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnone'),
    'forbidden',
    '403: none',
  ],
  [
    'text that ends with the connection',
    (socket) => socket.end('HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\nnone'),
    'forbidden',
    '401: none',
  ],
  [
    'text cut off',
    (socket) => {
      socket.write('HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\nno such pod');
      setImmediate(() => socket.destroy());
    },
    'forbidden',
    '404: no such pod',
  ],
  [
    'nothing but a status',
    (socket) => socket.end('HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n'),
    'forbidden',
    '503: ',
  ],
  [
    'a megabyte',
    (socket) => socket.end(`HTTP/1.1 502 Bad\r\nConnection: close\r\n\r\n${'x'.repeat(1_000_000)}`),
    'forbidden',
    `502: ${'x'.repeat(4_096)}`,
  ],
  [
    'an agent of another version',
    (socket) => socket.end('HTTP/1.1 426 Upgrade Required\r\nConnection: close\r\n\r\nthis lpk agent speaks lpk.v0\n'),
    'version-mismatch',
    'this lpk agent speaks lpk.v0',
  ],
];

for (const [name, answer, code, message] of REFUSALS) {
  test(`an HTTP answer instead of a websocket: ${name}`, async (t) => {
    const error = await refusal(t, answer);
    assert.deepEqual({ code: error.code, message: error.message }, { code, message });
  });
}

test('an answer that is no websocket of ours is refused: wrong accept key, wrong subprotocol', async (t) => {
  for (const lines of ['Sec-WebSocket-Accept: x', `Sec-WebSocket-Protocol: lpk.v0`]) {
    const error = await refusal(t, (socket) =>
      socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n${lines}\r\n\r\n`),
    );
    assert.equal(error.code, 'version-mismatch');
  }
});

test('nobody there: the error of the connection, and a close', async () => {
  const carrier = openWebSocket('ws://127.0.0.1:1/');
  const heard = listen(carrier);
  await until(() => heard.closed.length > 0, 'closed');
  assert.equal((heard.errors[0] as NodeJS.ErrnoException).code, 'ECONNREFUSED');
  assert.equal(heard.errors.length, 1);
});

/** A bare TCP client after the upgrade: what a program that means harm can send before it has proven anything. */
async function rawClient(
  t: TestContext,
  port: number,
  extra = '',
): Promise<{ socket: net.Socket; received: () => number }> {
  const socket = net.connect({ port, host: '127.0.0.1' });
  socket.on('error', () => {});
  t.after(() => socket.destroy());
  socket.write(
    `GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n` +
      `Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: ${SUBPROTOCOL}\r\n${extra}\r\n`,
  );
  const [answer] = (await once(socket, 'data')) as [Buffer];
  assert.match(answer.toString('latin1'), /^HTTP\/1.1 101 /);
  let received = answer.length;
  socket.on('data', (chunk) => {
    received += chunk.length;
  });
  return { socket, received: () => received };
}

const masked = (first: number, second: number, payload = Buffer.alloc(0)) =>
  Buffer.concat([Buffer.of(first, 0x80 | second, 0, 0, 0, 0), payload]);

const BREACHES: [name: string, bytes: Buffer, code: number][] = [
  ['no mask', Buffer.of(0x82, 1, 0), 1002],
  ['reserved bits', masked(0xc2, 1, Buffer.alloc(1)), 1002],
  ['text', masked(0x81, 1, Buffer.alloc(1)), 1003],
  ['a continuation of nothing', masked(0x80, 1, Buffer.alloc(1)), 1002],
  [
    'a new message inside another',
    Buffer.concat([masked(0x02, 1, Buffer.alloc(1)), masked(0x82, 1, Buffer.alloc(1))]),
    1002,
  ],
  ['an unknown opcode', masked(0x8b, 0), 1002],
  ['a fragmented ping', masked(0x09, 0), 1002],
  ['a ping of 126 bytes', Buffer.of(0x89, 0xfe, 0, 126, 0, 0, 0, 0), 1002],
  [
    'a message too long',
    Buffer.concat([Buffer.of(0x82, 0xff, 0, 0, 0, 0), Buffer.from('00010111', 'hex'), Buffer.alloc(4)]),
    1009,
  ],
  ['a message of 2^63 bytes', Buffer.of(0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 1009],
];

for (const [name, bytes, code] of BREACHES) {
  test(`a client that breaks RFC 6455 is closed: ${name}`, async (t) => {
    const server = await carrierServer(t);
    const accepted = server.accepted();
    const { socket } = await rawClient(t, server.port);
    const carrier = await accepted;
    carrier.admit();
    const heard = listen(carrier);
    socket.write(bytes);
    await until(() => heard.closed.length > 0, 'closed');
    assert.deepEqual(heard.closed, [code]);
    assert.deepEqual(heard.messages, []);
  });
}

test('before admit(), a message of more than a handshake needs is refused, also in fragments', async (t) => {
  const server = await carrierServer(t);
  for (const bytes of [
    Buffer.concat([Buffer.of(0x82, 0xfe, 1, 0, 0, 0, 0, 0), Buffer.alloc(256)]),
    Buffer.concat([
      masked(0x02, 1, Buffer.alloc(1)),
      ...Array.from({ length: 200 }, () => masked(0x00, 1, Buffer.alloc(1))),
    ]),
  ]) {
    const accepted = server.accepted();
    const { socket } = await rawClient(t, server.port);
    const heard = listen(await accepted);
    socket.write(bytes);
    await until(() => heard.closed.length > 0, 'closed');
    assert.deepEqual(heard.closed, [1009]);
  }
});

test('a client that sends pings and reads no pong costs no memory', async (t) => {
  const server = await carrierServer(t);
  const accepted = server.accepted();
  const { socket } = await rawClient(t, server.port);
  const carrier = await accepted;
  socket.pause();
  const pings = Buffer.concat(Array.from({ length: 8_000 }, () => masked(0x89, 125, Buffer.alloc(125))));
  let most = 0;
  for (let i = 0; i < 30; i++) {
    await new Promise((resolve) => socket.write(pings, resolve));
    most = Math.max(most, carrier.bufferedAmount);
  }
  assert.ok(most < 64 * 1024, `${most} bytes wait for a client that doesn't read`);
});

test('close() says its code; a peer that never answers is cut off', async (t) => {
  const server = await carrierServer(t);
  const accepted = server.accepted();
  const { socket } = await rawClient(t, server.port);
  const carrier = await accepted;
  const heard = listen(carrier);
  const said = once(socket, 'data');
  carrier.close(4001, 'no');
  assert.equal(((await said)[0] as Buffer).toString('hex'), '88040fa16e6f');
  carrier.send(Buffer.from('not any more'));
  await until(() => heard.closed.length > 0, 'cut off');
});

test('terminate() while opening ends it, once, without an error', async (t) => {
  const server = net.createServer(() => {}).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  const carrier = openWebSocket(`ws://127.0.0.1:${(server.address() as net.AddressInfo).port}/`);
  const heard = listen(carrier);
  await once(server, 'connection');
  carrier.terminate();
  carrier.terminate();
  await until(() => heard.closed.length > 0, 'closed');
  assert.deepEqual(heard, { messages: [], errors: [], closed: [1006] });
});

test('a plain HTTP request is no websocket', async (t) => {
  const server = await carrierServer(t);
  const request = http.get({
    port: server.port,
    host: '127.0.0.1',
    headers: { connection: 'Upgrade', upgrade: 'websocket' },
  });
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  assert.equal(response.statusCode, 426);
  response.resume();
});
