import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { buffer } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import type { LpkError } from '../../../agent/wire/errors.ts';
import type { DoorOptions } from '../../../proxy/door.ts';
import { dialThroughSocks } from '../../../proxy/socks5-client.ts';
import { door, fakeCluster, serve } from './fakes.ts';
import { serveUdp } from './udp-client.ts';

/** Flows through another lpk's door, as if they were a tunnel's. */

const LOGIN = { user: 'me', password: 'secret' };

async function setUp(t: TestContext, options: Partial<DoorOptions> & { replyEarly?: boolean } = {}) {
  const { replyEarly = false, ...rest } = options;
  const cluster = fakeCluster({ replyEarly });
  const { port } = await door(t, { dial: cluster.dial, ...rest });
  const server = { host: '127.0.0.1', port, ...(rest.credentials ? { credentials: rest.credentials } : {}) };
  return { cluster, dial: dialThroughSocks(server), server };
}

test('a flow goes to the name it was for, its first bytes with it, and each end ends alone', async (t) => {
  const { cluster, dial } = await setUp(t);
  const piece = randomBytes(3_000_000);
  const port = await serve(t, async (socket) => {
    const received = await buffer(socket);
    socket.end(received.reverse());
  });
  const { stream, opened } = dial({ protocol: 'tcp', host: 'api.shop', port }, piece.subarray(0, 100));
  stream.end(piece.subarray(100));
  await opened;
  assert.deepEqual(await buffer(stream), Buffer.from(piece).reverse());
  assert.deepEqual(cluster.flows, [{ protocol: 'tcp', host: 'api.shop', port }]);
  if (!stream.closed) await once(stream, 'close');
});

test('a dial’s failure is told as the agent told it, also by a door that answers early', async (t) => {
  for (const replyEarly of [false, true]) {
    const { cluster, dial } = await setUp(t, { replyEarly });
    cluster.release();
    for (const code of ['refused', 'unreachable', 'timed-out', 'not-allowed', 'no-tunnel'] as const) {
      const { stream, opened } = dial({ protocol: 'tcp', host: `${code}.fail`, port: 80 });
      const expected = code === 'no-tunnel' ? 'link-lost' : code;
      await assert.rejects(opened, (error: LpkError) => error.code === expected, `${code}, early: ${replyEarly}`);
      assert.ok(stream.destroyed);
    }
  }
});

test('a password is said when there is one; a wrong one is not allowed', async (t) => {
  const { dial, server } = await setUp(t, { credentials: LOGIN });
  const port = await serve(t, (socket) => socket.end('in'));
  const { stream, opened } = dial({ protocol: 'tcp', host: '10.96.0.1', port });
  await opened;
  stream.end();
  assert.equal(String(await buffer(stream)), 'in');
  for (const credentials of [undefined, { ...LOGIN, password: 'guess' }]) {
    const { credentials: _, ...bare } = server;
    const other = dialThroughSocks(credentials ? { ...bare, credentials } : bare);
    await assert.rejects(other({ protocol: 'tcp', host: 'api', port }).opened, { code: 'not-allowed' });
  }
});

test('a reset goes through, both ways', async (t) => {
  const { cluster, dial } = await setUp(t);
  const arrived = Promise.withResolvers<void>();
  const port = await serve(t, (socket) => {
    socket.once('data', (data) => {
      if (String(data) === 'reset me') socket.resetAndDestroy();
      else arrived.resolve();
    });
  });
  const ours = dial({ protocol: 'tcp', host: 'api', port });
  ours.stream.write('hello');
  await arrived.promise;
  ours.stream.reset('cancelled');
  const theirs = dial({ protocol: 'tcp', host: 'api', port });
  theirs.stream.resume().write('reset me');
  await new Promise((resolve) => theirs.stream.once('close', resolve)); // `once` would reject with the error
  assert.equal((theirs.stream.errored as LpkError).code, 'connection-reset');
  for (const deadline = performance.now() + 10_000; cluster.open.size > 0; ) {
    assert.ok(performance.now() < deadline, 'the door lets go of both');
    await new Promise(setImmediate);
  }
});

test('datagrams keep their edges, those sent before the door answers too', async (t) => {
  for (const host of ['10.96.0.10', 'fd00::a', 'dns.kube-system']) {
    const { cluster, dial } = await setUp(t);
    const port = await serveUdp(t, (datagram) => `echo ${datagram}`);
    const { stream, opened } = dial({ protocol: 'udp', host, port });
    const sent = ['one', '', 'x'.repeat(50_000)];
    const came: string[] = [];
    stream.on('data', (datagram: Buffer) => came.push(String(datagram)));
    for (const datagram of sent) stream.write(Buffer.from(datagram));
    await opened;
    for (const deadline = performance.now() + 10_000; came.length < sent.length; ) {
      assert.ok(performance.now() < deadline, `only ${came.length} came back`);
      await new Promise(setImmediate);
    }
    assert.deepEqual(came.sort(), sent.map((datagram) => `echo ${datagram}`).sort());
    assert.deepEqual(cluster.flows, [{ protocol: 'udp', host, port }]);
    stream.reset('cancelled');
    await once(stream, 'close');
  }
});

test('no proxy is no hang', async (t) => {
  const { port } = await door(t, { dial: fakeCluster({ replyEarly: false }).dial });
  const gone = dialThroughSocks({ host: '127.0.0.1', port: 1 });
  await assert.rejects(gone({ protocol: 'tcp', host: 'api', port }).opened, { code: 'refused' });
  await assert.rejects(gone({ protocol: 'udp', host: 'api', port }).opened, { code: 'refused' });
});
