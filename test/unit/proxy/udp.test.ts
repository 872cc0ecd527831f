import assert from 'node:assert/strict';
import dgram from 'node:dgram';
import { once } from 'node:events';
import { Duplex } from 'node:stream';
import test, { type TestContext } from 'node:test';
import type { Resettable } from '../../../agent/wire/pump.ts';
import type { DoorOptions } from '../../../proxy/door.ts';
import type { Dial, Flow } from '../../../proxy/flow.ts';
import { door, fakeCluster } from './fakes.ts';
import { ANY, associate, ipv4, ipv6, named, serveUdp, UdpClient, wrap } from './udp-client.ts';

/** SOCKS5's UDP ASSOCIATE. Real clients are in pysocks.test.ts. */

async function setUp(t: TestContext, options: Partial<DoorOptions> = {}) {
  const cluster = fakeCluster({ replyEarly: false });
  const { port: doorPort } = await door(t, { dial: cluster.dial, ...options });
  const port = await serveUdp(t, (datagram) => `echo ${datagram}`);
  const enter = async (from = ANY) => {
    const association = await associate(doorPort, { from });
    const client = await UdpClient.open(t);
    const ask = async (address: Buffer, payload: string) => {
      await client.send(wrap(address, payload), association.port);
      return client.take();
    };
    return { ...association, client, ask };
  };
  return { cluster, doorPort, port, enter };
}

/** Resolves when `seen()` holds. */
async function until(seen: () => boolean): Promise<void> {
  for (const deadline = performance.now() + 10_000; !seen(); ) {
    assert.ok(performance.now() < deadline, `never: ${seen}`);
    await new Promise(setImmediate);
  }
}

for (const [name, { address, host }] of Object.entries<{ address: (port: number) => Buffer; host: string }>({
  IPv4: { address: (port) => ipv4('10.96.0.10', port), host: '10.96.0.10' },
  IPv6: { address: (port) => ipv6('fd00001000960000000000000000000a', port), host: 'fd00:10:96::a' },
  'a name': { address: (port) => named('dns.kube-system', port), host: 'dns.kube-system' },
})) {
  test(`carries datagrams to ${name}; the answer has the header of the question`, async (t) => {
    const { cluster, port, enter } = await setUp(t);
    const { ask } = await enter();
    for (const payload of ['one', '', 'x'.repeat(60_000)]) {
      const answer = await ask(address(port), payload);
      assert.ok(answer.equals(wrap(address(port), `echo ${payload}`)), payload.slice(0, 9));
    }
    assert.deepEqual(cluster.flows, [{ protocol: 'udp', host, port }] satisfies Flow[], 'one flow for all');
  });
}

test('an association has a flow for every destination, and knows whose answer it is', async (t) => {
  const { cluster, port, enter } = await setUp(t);
  const other = await serveUdp(t, (datagram) => `other ${datagram}`);
  const { ask, client } = await enter();
  const [here, there] = [named('web', port), ipv4('10.0.0.1', other)];
  assert.ok((await ask(here, '1')).equals(wrap(here, 'echo 1')));
  assert.ok((await ask(there, '2')).equals(wrap(there, 'other 2')));
  assert.ok((await ask(here, '3')).equals(wrap(here, 'echo 3')));
  assert.equal(cluster.flows.length, 2);
  assert.equal(client.socket.address().address, '127.0.0.1');
});

test('drops fragments and what is no datagram of SOCKS5, and goes on', async (t) => {
  const { cluster, port, enter } = await setUp(t);
  const relay = await enter();
  const good = named('web', port);
  const nothings = [
    wrap(good, 'fragment', 1),
    wrap(good, 'last fragment', 0x80),
    Buffer.alloc(0),
    Buffer.of(0, 0),
    Buffer.of(0, 0, 0),
    Buffer.of(0, 0, 0, 1, 10, 0, 0, 1, 0), // half a port
    Buffer.of(0, 0, 0, 3),
    Buffer.of(0, 0, 0, 3, 200, 97, 98),
    Buffer.of(0, 0, 0, 2, 10, 0, 0, 1, 0, 53, 1), // a type there isn't
    wrap(named('', port), 'no name'),
    wrap(named('a\nb', port), 'none either'),
    wrap(ipv4('10.0.0.1', 0), 'port 0'),
  ];
  for (const nothing of nothings) await relay.client.send(nothing, relay.port);
  assert.ok((await relay.ask(good, 'good')).equals(wrap(good, 'echo good')));
  assert.deepEqual(cluster.flows, [{ protocol: 'udp', host: 'web', port }]);
});

test("takes datagrams from the client's address and its first port only", async (t) => {
  const { cluster, port, enter } = await setUp(t);
  const relay = await enter();
  const [stranger, neighbour] = [await UdpClient.open(t, '127.0.0.2'), await UdpClient.open(t)];
  await stranger.send(wrap(named('stranger', port), 'x'), relay.port);
  await relay.ask(named('client', port), 'x');
  await neighbour.send(wrap(named('neighbour', port), 'x'), relay.port);
  await relay.ask(named('again', port), 'x');
  assert.deepEqual(
    cluster.flows.map(({ host }) => host),
    ['client', 'again'],
  );
});

for (const [name, hint, isTaken] of [
  ["at the client's own address", (port: number) => ipv4('127.0.0.1', port), true],
  ['at no address', (port: number) => ipv4('0.0.0.0', port), true],
  ['behind an address translation', (port: number) => ipv4('192.168.1.2', port), false],
] as const) {
  test(`a port that the client names ${name} is ${isTaken ? 'the only one taken' : 'ignored'}`, async (t) => {
    const { cluster, port, doorPort } = await setUp(t);
    const [client, early] = [await UdpClient.open(t), await UdpClient.open(t)];
    const relay = await associate(doorPort, { from: hint(client.socket.address().port) });
    await early.send(wrap(named('early', port), 'x'), relay.port);
    await client.send(wrap(named('client', port), 'x'), relay.port);
    await (isTaken ? client : early).take();
    assert.deepEqual(
      cluster.flows.map(({ host }) => host),
      [isTaken ? 'client' : 'early'],
    );
  });
}

test('a name as the hint is no obstacle', async (t) => {
  const { port, enter } = await setUp(t);
  for (const from of [named('0', 0), named('', 0)]) {
    const { reply, ask } = await enter(from); // '0' is what PySocks says
    assert.equal(reply, 0);
    await ask(named('web', port), 'x');
  }
});

for (const [how, leave] of Object.entries<(socket: import('node:net').Socket) => unknown>({
  ends: (socket) => socket.end(),
  resets: (socket) => socket.resetAndDestroy(),
})) {
  test(`ends with its TCP connection, when that ${how}`, async (t) => {
    const { cluster, port, enter } = await setUp(t);
    const { ask, control, client, port: relay } = await enter();
    await ask(named('web', port), 'x');
    assert.equal(cluster.open.size, 1);
    leave(control.socket);
    await control.closed;
    await until(() => cluster.open.size === 0);
    assert.deepEqual(cluster.resets, ['cancelled']);
    // Nothing is there any more: the port can be had.
    const next = dgram.createSocket('udp4');
    t.after(() => next.close());
    next.bind(relay, '127.0.0.1');
    await once(next, 'listening');
    const late = once(next, 'message');
    await client.send(wrap(named('late', port), 'x'), relay);
    await late;
    assert.equal(cluster.flows.length, 1);
  });
}

test('what comes on the TCP connection meanwhile is dropped', async (t) => {
  const { port, enter } = await setUp(t);
  const { ask, control } = await enter();
  await new Promise((resolve) => control.socket.write(Buffer.alloc(4 * 1024 * 1024, 5), resolve));
  await ask(named('web', port), 'x');
});

test('a dial that fails or finds no tunnel loses its datagram and no more', async (t) => {
  const { cluster, port, enter } = await setUp(t);
  const { client, ask, port: relay } = await enter();
  await client.send(wrap(named('refused.fail', port), 'x'), relay);
  await client.send(wrap(named('no-tunnel.fail', port), 'x'), relay);
  await ask(named('web', port), 'x');
  await until(() => cluster.open.size === 1);
  await client.send(wrap(named('refused.fail', port), 'x'), relay);
  await ask(named('web', port), 'x');
  assert.deepEqual(
    cluster.flows.map(({ host }) => host),
    ['refused.fail', 'no-tunnel.fail', 'web', 'refused.fail'],
    'the next datagram dials again',
  );
});

test('a silent flow is ended, and the next datagram opens another', async (t) => {
  const { cluster, port, enter } = await setUp(t, { udpIdleMs: 500 });
  const { ask } = await enter();
  const started = performance.now();
  await ask(named('web', port), '1');
  await until(() => cluster.open.size === 0);
  assert.ok(performance.now() - started >= 490, 'not before');
  await ask(named('web', port), '2');
  assert.equal(cluster.flows.length, 2);
});

test('a flow that the agent ends makes room for another', async (t) => {
  const { cluster, port, enter } = await setUp(t);
  const { ask } = await enter();
  await ask(named('web', port), '1');
  for (const stream of cluster.open) stream.push(null);
  await until(() => cluster.open.size === 0);
  await ask(named('web', port), '2');
});

test('for one flow too many of an association, the one silent longest is ended', async (t) => {
  const { cluster, port, enter } = await setUp(t, { maxFlowsEach: 2 });
  const { ask } = await enter();
  const other = await enter();
  await other.ask(named('other', port), 'x');
  for (const name of ['a', 'b', 'a', 'c', 'a']) await ask(named(name, port), 'x');
  await until(() => cluster.open.size === 3);
  await ask(named('b', port), 'x');
  await other.ask(named('other', port), 'x');
  assert.deepEqual(
    cluster.flows.map(({ host }) => host),
    ['other', 'a', 'b', 'c', 'b'],
  );
});

test('for one flow too many of all, the one silent longest is ended', async (t) => {
  const { cluster, port, enter } = await setUp(t, { maxUdpFlows: 2 });
  const [one, two] = [await enter(), await enter()];
  await one.ask(named('a', port), 'x');
  await two.ask(named('b', port), 'x');
  await one.ask(named('a', port), 'x');
  await two.ask(named('c', port), 'x');
  await until(() => cluster.open.size === 2);
  await one.ask(named('a', port), 'x');
  await two.ask(named('b', port), 'x');
  assert.deepEqual(
    cluster.flows.map(({ host }) => host),
    ['a', 'b', 'c', 'b'],
  );
});

test('for one association too many, the one silent longest is closed', async (t) => {
  const { port, enter } = await setUp(t, { maxAssociations: 2 });
  const [one, two] = [await enter(), await enter()];
  await one.ask(named('web', port), 'x');
  const three = await enter();
  await two.control.rest();
  await one.ask(named('web', port), 'x');
  await three.ask(named('web', port), 'x');
});

/** A dial whose streams take nothing, ever. */
function stuck() {
  const offered: number[] = [];
  const dial: Dial = () => {
    let letGo: (() => void) | undefined;
    const stream = new Duplex({
      objectMode: true,
      allowHalfOpen: false,
      read() {},
      write(datagram: Buffer, _encoding, done) {
        offered.push(datagram.length);
        letGo = done;
      },
      destroy(error, done) {
        letGo?.();
        done(error);
      },
    });
    return {
      stream: Object.assign(stream, { reset: () => stream.destroy() }) as Resettable,
      opened: new Promise(() => {}),
      replyEarly: false,
    };
  };
  return { dial, offered };
}

for (const [bound, { sizes, limit, held }] of Object.entries({
  'of one flow': { sizes: new Array(100).fill(10), limit: 1024 * 1024, held: 16 },
  'in bytes': { sizes: new Array(10).fill(1_000), limit: 3_500, held: 3 },
})) {
  test(`a tunnel that is stuck holds datagrams up to the bound ${bound}; the others are dropped`, async (t) => {
    const { dial, offered } = stuck();
    let queued = 0;
    const counting: Dial = (flow, first) => {
      const outbound = dial(flow, first);
      const write = outbound.stream.write.bind(outbound.stream) as (datagram: Buffer, done: () => void) => boolean;
      outbound.stream.write = ((datagram: Buffer, done: () => void) => {
        queued++;
        return write(datagram, done);
      }) as never;
      return outbound;
    };
    const cluster = fakeCluster({ replyEarly: false });
    const both: Dial = (flow) => (flow.host === 'stuck' ? counting(flow) : cluster.dial(flow));
    const { port: doorPort } = await door(t, { dial: both, maxQueuedBytes: limit });
    const port = await serveUdp(t, (datagram) => datagram);
    const relay = await associate(doorPort);
    const client = await UdpClient.open(t);
    for (const size of sizes) await client.send(wrap(named('stuck', 9), 'x'.repeat(size)), relay.port);
    await client.send(wrap(named('web', port), 'last'), relay.port);
    await client.take();
    assert.equal(queued, held);
    assert.equal(offered.length, 1);
    // They let go of their bytes when they are over.
    relay.control.socket.destroy();
    const next = await associate(doorPort);
    const sender = await UdpClient.open(t);
    for (queued = 0; queued === 0; ) {
      await sender.send(wrap(named('stuck', 9), 'x'.repeat(limit > 10_000 ? 10 : limit)), next.port);
      await sender.send(wrap(named('web', port), ''), next.port);
      await Promise.race([sender.take(), until(() => queued > 0)]);
    }
  });
}

test('over IPv6, the relay is where the client came in', async (t) => {
  const cluster = fakeCluster({ replyEarly: false });
  const { port: doorPort } = await door(t, { dial: cluster.dial, host: '::1' });
  const port = await serveUdp(t, (datagram) => datagram);
  const relay = await associate(doorPort, { host: '::1' });
  assert.deepEqual([relay.reply, relay.type, relay.address.toString('hex')], [0, 4, `${'0'.repeat(31)}1`]);
  const client = await UdpClient.open(t, '::1');
  await client.send(wrap(named('web', port), 'x'), relay.port, '::1');
  assert.ok((await client.take()).equals(wrap(named('web', port), 'x')));
});
