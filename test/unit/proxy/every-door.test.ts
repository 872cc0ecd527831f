import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type net from 'node:net';
import test from 'node:test';
import { door, fakeCluster, receive, received, serve } from './fakes.ts';
import { RawClient } from './raw-client.ts';
import { WAYS_IN, type WayIn } from './ways-in.ts';

/** The suite that runs over every door that carries bytes, with the answer before the dial's result and after it. */

const echo = (socket: net.Socket) => socket.pipe(socket);

for (const way of WAYS_IN) {
  for (const replyEarly of [false, true]) {
    test(`${way.name}, answering ${replyEarly ? 'early' : 'after the dial'}`, { timeout: 600_000 }, async (t) => {
      await suite(t, way, replyEarly);
    });
  }
}

async function suite(t: test.TestContext, way: WayIn, replyEarly: boolean) {
  const connect = async (t: test.TestContext, port: number, payload = '') => {
    const cluster = fakeCluster({ replyEarly });
    const { port: doorPort } = await door(t, { dial: cluster.dial });
    const client = new RawClient(doorPort);
    client.socket.write(Buffer.concat([way.request(port), Buffer.from(payload)]));
    assert.equal(await way.answer(client), 'ok');
    return { client, cluster };
  };

  await t.test('gives the flow as the client asked for it, and carries bytes', async (t) => {
    const port = await serve(t, echo);
    const { client, cluster } = await connect(t, port);
    assert.deepEqual(cluster.flows, [{ protocol: 'tcp', host: way.host, port }]);
    client.socket.write('hello');
    assert.equal((await client.take(5)).toString(), 'hello');
  });

  await t.test('understands a request that comes byte by byte', async (t) => {
    const port = await serve(t, echo);
    const { port: doorPort } = await door(t, { dial: fakeCluster({ replyEarly }).dial });
    const client = new RawClient(doorPort);
    await client.drip(Buffer.concat([way.request(port), Buffer.from('first')]));
    assert.equal(await way.answer(client), 'ok');
    assert.equal((await client.take(5)).toString(), 'first');
  });

  await t.test('keeps a payload that came in the same segment as the request', async (t) => {
    const port = await serve(t, echo);
    const { client } = await connect(t, port, 'optimist');
    client.socket.write('-later');
    assert.equal((await client.take(14)).toString(), 'optimist-later');
  });

  await t.test('lets the server speak first', async (t) => {
    const port = await serve(t, (socket) => socket.write('220 ready'));
    const { client } = await connect(t, port);
    assert.equal((await client.take(9)).toString(), '220 ready');
  });

  await t.test("passes the client's end on and still carries the answer", async (t) => {
    const port = await serve(t, async (socket) => {
      const got = await received(socket);
      socket.end(`got ${got.length}`);
    });
    const { client } = await connect(t, port);
    client.socket.end('12345');
    assert.equal((await client.rest()).toString(), 'got 5');
    assert.equal(await client.closed, undefined);
  });

  await t.test("passes a request's end on that came with the request", async (t) => {
    const port = await serve(t, async (socket) => {
      const got = await received(socket);
      socket.end(`got ${got.length}`);
    });
    const cluster = fakeCluster({ replyEarly });
    const { port: doorPort } = await door(t, { dial: cluster.dial });
    const client = new RawClient(doorPort);
    client.socket.end(Buffer.concat([way.request(port), Buffer.from('123')]));
    assert.equal(await way.answer(client), 'ok');
    assert.equal((await client.rest()).toString(), 'got 3');
  });

  await t.test("passes the server's end on and still carries the client's bytes", async (t) => {
    const atServer = Promise.withResolvers<string>();
    const port = await serve(t, async (socket) => {
      socket.end('bye');
      atServer.resolve(await received(socket));
    });
    const { client } = await connect(t, port);
    assert.equal((await client.rest()).toString(), 'bye');
    client.socket.end('still here');
    assert.equal(await atServer.promise, 'still here');
  });

  await t.test("passes the server's reset on", async (t) => {
    const port = await serve(t, (socket) => socket.once('data', () => socket.resetAndDestroy()));
    const { client } = await connect(t, port, 'x');
    assert.equal(await client.closed, 'ECONNRESET');
  });

  await t.test("passes the client's reset on", async (t) => {
    const gone = Promise.withResolvers<string | undefined>();
    const port = await serve(t, (socket) => {
      socket.on('error', (error: NodeJS.ErrnoException) => gone.resolve(error.code));
      socket.on('end', () => gone.resolve('end'));
      socket.resume();
      socket.write('x');
    });
    const { client } = await connect(t, port);
    await client.take(1);
    client.socket.resetAndDestroy();
    assert.equal(await gone.promise, 'ECONNRESET');
  });

  await t.test('carries 64 MiB each way at once, whole', async (t) => {
    const size = 64 * 1024 * 1024;
    const atServer = Promise.withResolvers<string>();
    const port = await serve(t, async (socket) => {
      const sent = send(socket, size, 7);
      atServer.resolve(await digest(socket));
      await sent;
    });
    const { client } = await connect(t, port);
    const socket = client.detach();
    const [down] = await Promise.all([digest(socket), send(socket, size, 13)]);
    assert.equal(down, expectedDigest(size, 7), 'down');
    assert.equal(await atServer.promise, expectedDigest(size, 13), 'up');
  });

  await t.test('carries 200 connections at once', async (t) => {
    const port = await serve(t, echo);
    const cluster = fakeCluster({ replyEarly });
    const { port: doorPort } = await door(t, { dial: cluster.dial });
    const answers = await Promise.all(
      Array.from({ length: 200 }, async (_, i) => {
        const client = new RawClient(doorPort);
        client.socket.write(way.request(port));
        const answer = await way.answer(client);
        client.socket.end(`client ${i}`);
        return `${answer}: ${await client.rest()}`;
      }),
    );
    assert.deepEqual(
      answers,
      Array.from({ length: 200 }, (_, i) => `ok: client ${i}`),
    );
  });

  for (const [code, refusal] of Object.entries(way.refusals ?? {})) {
    await t.test(`a dial that fails: ${code}`, async (t) => {
      const { dial, release } = fakeCluster({ replyEarly });
      const { port: doorPort } = await door(t, { dial });
      const client = new RawClient(doorPort);
      client.socket.write(way.request(80, `${code}.fail`));
      if (replyEarly && code !== 'no-tunnel') {
        assert.equal(await way.answer(client), 'ok');
        release(); // only now: libuv reads a reset that comes together with data as an end
        assert.equal(await client.closed, 'ECONNRESET');
        return;
      }
      assert.equal(await way.answer(client), refusal);
      assert.equal((await client.rest()).length, 0, 'nothing after the refusal');
      client.socket.end();
      assert.equal(await client.closed, undefined, 'ends cleanly');
    });
  }

  if (!way.refusals || replyEarly) return;

  await t.test("a refusal reaches a client that doesn't stop sending", async (t) => {
    const { dial } = fakeCluster({ replyEarly });
    const { port: doorPort } = await door(t, { dial });
    const client = new RawClient(doorPort);
    client.socket.write(way.request(80, 'refused.fail'));
    client.socket.end(Buffer.alloc(32 * 1024 * 1024)); // more than the kernel holds
    assert.equal(await way.answer(client), refusalOf(way, 'refused'));
    assert.equal((await client.rest()).length, 0);
    assert.equal(await client.closed, undefined, 'ends cleanly');
  });

  await t.test('a client that leaves before the answer takes its dial with it', async (t) => {
    const port = await serve(t, echo);
    const cluster = fakeCluster({ replyEarly });
    const closed = Promise.withResolvers<void>();
    const dial: typeof cluster.dial = (flow, first) => {
      const outbound = cluster.dial(flow, first);
      outbound.stream.on('close', closed.resolve);
      client.socket.resetAndDestroy();
      return outbound;
    };
    const { port: doorPort } = await door(t, { dial });
    const client = new RawClient(doorPort);
    client.socket.write(way.request(port, 'pending.test'));
    await closed.promise;
    assert.deepEqual(cluster.resets, ['cancelled']);
  });

  await t.test('holds early bytes back while it waits, and then loses none', async (t) => {
    const size = 64 * 1024 * 1024;
    const atServer = Promise.withResolvers<string>();
    const port = await serve(t, async (socket) => atServer.resolve(await digest(socket)));
    const cluster = fakeCluster({ replyEarly });
    const { port: doorPort } = await door(t, { dial: cluster.dial });
    const client = new RawClient(doorPort);
    client.socket.write(way.request(port, 'pending.test'));
    const sending = send(client.socket, size, 3);
    const heldAt = await standstill(() => client.socket.bytesWritten - client.socket.writableLength);
    assert.ok(heldAt < size / 2, `the door took ${heldAt} bytes for a flow that isn't open`);
    cluster.release();
    assert.equal(await way.answer(client), 'ok');
    await sending;
    assert.equal(await atServer.promise, expectedDigest(size, 3));
  });
}

function refusalOf(way: WayIn, code: string): string {
  return way.refusals?.[code] ?? '';
}

/** Bytes that repeat with a period no buffer size divides. */
function pattern(seed: number): Buffer {
  return Buffer.from(Array.from({ length: 65_521 }, (_, i) => (i * seed) & 0xff));
}

async function send(socket: net.Socket, size: number, seed: number): Promise<void> {
  const piece = pattern(seed);
  for (let left = size; left > 0; left -= piece.length) {
    const chunk = left < piece.length ? piece.subarray(0, left) : piece;
    if (!socket.write(chunk)) await once(socket, 'drain');
  }
  socket.end();
}

async function digest(socket: net.Socket): Promise<string> {
  const hash = createHash('sha256');
  await receive(socket, (chunk) => hash.update(chunk));
  return hash.digest('hex');
}

const digests = new Map<string, string>();

function expectedDigest(size: number, seed: number): string {
  const key = `${size}/${seed}`;
  const known = digests.get(key);
  if (known) return known;
  const piece = pattern(seed);
  const hash = createHash('sha256');
  for (let left = size; left > 0; left -= piece.length) hash.update(piece.subarray(0, Math.min(left, piece.length)));
  const value = hash.digest('hex');
  digests.set(key, value);
  return value;
}

/** The value a counter stops at: it hasn't moved for many turns of the event loop. */
async function standstill(counter: () => number): Promise<number> {
  let last = -1;
  for (let still = 0; still < 2_000; still++) {
    await new Promise(setImmediate);
    if (counter() !== last) still = 0;
    last = counter();
  }
  return last;
}
