import assert from 'node:assert/strict';
import { once } from 'node:events';
import type net from 'node:net';
import { PassThrough } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { LpkError } from '../../../agent/wire/errors.ts';
import { flowError, pump, type Resettable } from '../../../agent/wire/pump.ts';
import { readAll, SessionPair, socketPair, until } from './harness.ts';

/** client ═ socket ─pump─ stream … stream ─pump─ socket ═ server, as a connection through lpk. */
async function pipeline(t: TestContext, pair: SessionPair): Promise<{ client: net.Socket; server: net.Socket }> {
  const [client, atLaptop] = await socketPair(t);
  const [atAgent, server] = await socketPair(t);
  const [laptop, agent] = await pair.stream();
  pump(atLaptop, laptop);
  pump(atAgent, agent);
  return { client, server };
}

function patterned(bytes: number, seed: number): Buffer {
  const body = Buffer.allocUnsafe(bytes);
  for (let i = 0; i < bytes; i++) body[i] = (i * 31 + seed + (i >> 8)) & 255;
  return body;
}

test('each way ends alone, and the other goes on', async (t) => {
  const pair = await SessionPair.open(t);
  for (const way of ['client first', 'server first']) {
    const { client, server } = await pipeline(t, pair);
    const [early, late] = way === 'client first' ? [client, server] : [server, client];
    early.end('question');
    assert.equal(String(await readAll(late)), 'question');
    late.write('answer');
    assert.equal(String((await once(early, 'data'))[0]), 'answer');
    for (let i = 0; i < 10; i++) late.write(`${i},`);
    late.end();
    assert.equal(String(await readAll(early)), '0,1,2,3,4,5,6,7,8,9,');
  }
  await until(() => pair.laptop.streamCount + pair.agent.streamCount === 0, 'nothing is left');
});

// Around every buffer there is: a read, a frame, a window, a socket's and a carrier's.
const SIZES = [0, 1, 2_047, 2_049, 4_096, 16_384, 65_535, 65_536, 65_537, 131_072, 262_144, 262_145, 1_000_000];

test('the tail of what was written before the end is never lost', async (t) => {
  const pair = await SessionPair.open(t);
  for (const [round, size] of [...SIZES, ...SIZES, ...SIZES].entries()) {
    const { client, server } = await pipeline(t, pair);
    const body = patterned(size, round);
    const [from, to] = round % 2 ? [client, server] : [server, client];
    from.end(body);
    to.end();
    from.resume();
    const got = await readAll(to);
    assert.ok(got.equals(body), `${got.length} of ${size} bytes`);
    await Promise.all([from, to].map((socket) => socket.destroyed || once(socket, 'close')));
  }
});

test('a slow reader gets the tail too, and its writer waits meanwhile', async (t) => {
  const pair = await SessionPair.open(t);
  const { client, server } = await pipeline(t, pair);
  const body = patterned(8_000_000, 1);
  server.end(body);
  client.end();
  const pieces: Buffer[] = [];
  client.on('data', (piece: Buffer) => {
    pieces.push(piece);
    client.pause();
    setImmediate(() => client.resume());
  });
  await once(client, 'end');
  assert.ok(Buffer.concat(pieces).equals(body));
});

test('both ways at once, and each ends when it has everything', async (t) => {
  const pair = await SessionPair.open(t);
  const { client, server } = await pipeline(t, pair);
  const [up, down] = [patterned(5_000_000, 1), patterned(3_000_000, 2)];
  client.end(up);
  server.end(down);
  const [gotUp, gotDown] = await Promise.all([readAll(server), readAll(client)]);
  assert.ok(gotUp.equals(up) && gotDown.equals(down));
});

test('a connection that is reset resets the other end, whichever it is', async (t) => {
  const pair = await SessionPair.open(t);
  for (const side of ['client', 'server'] as const) {
    const { client, server } = await pipeline(t, pair);
    const [near, far] = side === 'client' ? [client, server] : [server, client];
    far.write('unread'); // a socket with nothing to read might not be looked at
    far.resume();
    near.resume();
    const error = once(far, 'error');
    near.resetAndDestroy();
    assert.equal((await error)[0].code, 'ECONNRESET', side);
  }
  await until(() => pair.laptop.streamCount + pair.agent.streamCount === 0, 'nothing is left');
});

test('a stream that is reset resets the socket; a socket that fails resets the stream with its code', async (t) => {
  const pair = await SessionPair.open(t);
  const [client, atLaptop] = await socketPair(t);
  const [laptop, agent] = await pair.stream();
  pump(atLaptop, laptop);
  const error = once(client.resume(), 'error');
  agent.reset('timed-out', 'why');
  assert.equal((await error)[0].code, 'ECONNRESET');

  const [, atAgent] = await socketPair(t);
  const [other, far] = await pair.stream();
  pump(atAgent, far);
  const reset = once(other, 'error');
  atAgent.destroy(Object.assign(new Error('no route'), { code: 'EHOSTUNREACH' }));
  assert.equal((await reset)[0].code, 'unreachable');
});

test('a socket that is destroyed without a word resets its stream', async (t) => {
  const pair = await SessionPair.open(t);
  const [, socket] = await socketPair(t);
  const [laptop, agent] = await pair.stream();
  pump(socket, laptop);
  const error = once(agent, 'error');
  socket.destroy();
  assert.equal((await error)[0].code, 'connection-reset');
});

test('a session that ends resets the sockets', async (t) => {
  const pair = await SessionPair.open(t);
  const { client, server } = await pipeline(t, pair);
  const errors = Promise.all([client, server].map((socket) => once(socket.resume(), 'error')));
  pair.agent.close();
  for (const [error] of await errors) assert.equal(error.code, 'ECONNRESET');
});

test('neither side is read further than the other takes', async (t) => {
  const pair = await SessionPair.open(t);
  const { client, server } = await pipeline(t, pair);
  client.pause();
  let written = 0;
  const chunk = Buffer.alloc(65_536);
  let idle = 0;
  server.on('drain', () => {
    idle = 0;
  });
  while (idle < 400 && written < 64 * 1024 * 1024) {
    while (!server.writableNeedDrain && written < 64 * 1024 * 1024) {
      written += chunk.length;
      server.write(chunk);
    }
    idle += 1;
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(written < 32 * 1024 * 1024, `${written} bytes were taken for a client that reads nothing`);
  client.resume();
  server.end();
  client.end();
  let got = 0;
  client.on('data', (piece) => {
    got += piece.length;
  });
  await once(client, 'end');
  assert.equal(got, written);
});

test('any Duplex will do for a stream', async (t) => {
  const [client, socket] = await socketPair(t);
  const echo = Object.assign(new PassThrough(), { reset: () => {} }) as Resettable;
  pump(socket, echo);
  const body = patterned(2_000_000, 3);
  client.end(body);
  assert.ok((await readAll(client)).equals(body));
});

test('what was in the stream before it was joined is passed on', async (t) => {
  const pair = await SessionPair.open(t);
  const [client, socket] = await socketPair(t);
  const [laptop, agent] = await pair.stream();
  agent.write('second');
  await until(() => laptop.unreadBytes > 0, 'arrived');
  laptop.unshift(Buffer.from('first ')); // as an HTTP client does that read too far
  pump(socket, laptop);
  agent.end();
  client.end();
  assert.equal(String(await readAll(client)), 'first second');
});

test('system errors in lpk’s codes; of several addresses the last one counts', () => {
  const coded = (code: string) => Object.assign(new Error(code), { code });
  const table: [error: unknown, code: string][] = [
    [coded('ECONNREFUSED'), 'refused'],
    [coded('EHOSTUNREACH'), 'unreachable'],
    [coded('ENETUNREACH'), 'unreachable'],
    [coded('EADDRNOTAVAIL'), 'unreachable'],
    [coded('ETIMEDOUT'), 'timed-out'],
    [coded('EACCES'), 'not-allowed'],
    [coded('EPERM'), 'not-allowed'],
    [coded('ENOTFOUND'), 'name-not-found'],
    [coded('EAI_AGAIN'), 'name-not-found'],
    [coded('ECONNRESET'), 'connection-reset'],
    [coded('EPIPE'), 'connection-reset'],
    [coded('EADDRINUSE'), 'address-in-use'],
    [new AggregateError([coded('ETIMEDOUT'), coded('ECONNREFUSED')]), 'refused'],
    [new AggregateError([]), 'internal'],
    [new LpkError('no-workload', 'x'), 'no-workload'],
    [new Error('x'), 'internal'],
    ['x', 'internal'],
  ];
  for (const [error, code] of table) assert.equal(flowError(error).code, code, String(error));
});
