import assert from 'node:assert/strict';
import dgram from 'node:dgram';
import { Resolver } from 'node:dns/promises';
import { once } from 'node:events';
import net from 'node:net';
import test, { type TestContext } from 'node:test';
import { TCPClient, UDPClient } from 'dns2';
import { type DnsServerOptions, openDnsServer } from '../../../dns/server.ts';
import { askServers, parseServer } from '../../../dns/upstream.ts';
import { A, answer, ask, message, pointer, record } from './wire.ts';
import { CLUSTER, HOST, SEARCH, zone } from './zone.ts';

/** The server and the asking of servers, over real sockets, with Node's own resolver and dns2 at the other end. */

const many = Array.from({ length: 60 }, (_, i) => `db.shop.svc.cluster.local A 10.244.1.${i + 1}`);

async function open(t: TestContext, options: Partial<DnsServerOptions> = {}) {
  const server = await openDnsServer({
    mode: 'split',
    port: 0,
    search: () => SEARCH,
    clusterUp: () => true,
    askCluster: zone([...CLUSTER.filter((text) => !text.startsWith('db.')), ...many]).ask,
    askHost: zone(HOST).ask,
    ...options,
  });
  t.after(() => server.close());
  return server;
}

function framed(bytes: Buffer): Buffer {
  return Buffer.concat([Buffer.of(bytes.length >> 8, bytes.length & 0xff), bytes]);
}

/** The next `count` messages of a TCP connection. */
async function take(socket: net.Socket, count: number): Promise<Buffer[]> {
  const messages: Buffer[] = [];
  let received: Buffer = Buffer.alloc(0);
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    received = Buffer.concat([received, chunk]);
    while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
      const end = 2 + received.readUInt16BE(0);
      messages.push(received.subarray(2, end));
      received = received.subarray(end);
    }
    if (messages.length >= count) break;
  }
  return messages;
}

test('other resolvers find names in it, over UDP and over TCP when that is too short', async (t) => {
  const { port, stats } = await open(t);
  const resolver = new Resolver({ timeout: 5_000, tries: 1 });
  resolver.setServers([`127.0.0.1:${port}`]);
  assert.deepEqual(await resolver.resolve4('web.shop'), ['10.96.0.7']);
  const [service] = await resolver.resolveSrv('_http._tcp.web.shop');
  assert.deepEqual([service?.name, service?.port, service?.weight], ['web.shop.svc.cluster.local', 80, 100]);
  assert.deepEqual(await resolver.resolveCname('outside'), ['www.example.com']);
  assert.deepEqual(await resolver.resolve4('github.com'), ['140.82.121.3']);
  assert.equal((await resolver.resolve4('db.shop')).length, 60);
  await assert.rejects(resolver.resolve4('gone.shop'), { code: 'ENOTFOUND' });
  await assert.rejects(resolver.resolve6('web.shop'), { code: 'ENODATA' });
  const options = { dns: '127.0.0.1', port };
  for (const client of [UDPClient(options), TCPClient(options)]) {
    assert.deepEqual(
      (await client('Web.shop')).answers.map(({ name, address }) => [name, address]),
      [['Web.shop', '10.96.0.7']],
    );
  }
  const { queries, cached } = stats();
  assert.ok(queries >= 9 && cached >= 2, JSON.stringify(stats()));
});

test('a port that is taken is said to be, whichever of the two it is', async (t) => {
  const { port } = await open(t);
  await assert.rejects(open(t, { port }), { code: 'EADDRINUSE' });
  const socket = dgram.createSocket('udp4').bind(0, '127.0.0.1');
  t.after(() => socket.close());
  await once(socket, 'listening');
  await assert.rejects(open(t, { port: socket.address().port }), { code: 'EADDRINUSE' });
});

test('what is no question gets no answer, and the next does', async (t) => {
  const { port } = await open(t);
  const socket = dgram.createSocket('udp4');
  t.after(() => socket.close());
  const got = once(socket, 'message');
  for (const bytes of [Buffer.of(1), answer('web', A), message({ flags: 0xffff }), ask('web', A, { id: 77 })])
    socket.send(bytes, port, '127.0.0.1');
  assert.equal((await got)[0].readUInt16BE(0), 77);
});

test('questions on one connection are answered as the answers come', async (t) => {
  const slow = Promise.withResolvers<void>();
  const host = zone(HOST);
  const { port } = await open(t, { askHost: (bytes) => slow.promise.then(() => host.ask(bytes)) });
  const socket = net.connect(port, '127.0.0.1');
  t.after(() => socket.destroy());
  const both = Buffer.concat([framed(ask('github.com', A, { id: 1 })), framed(ask('web.shop', A, { id: 2 }))]);
  // Cut where no boundary is.
  socket.write(both.subarray(0, 1));
  socket.write(both.subarray(1, 40));
  socket.end(both.subarray(40));
  const [first] = await take(socket, 1);
  assert.equal(first?.readUInt16BE(0), 2);
  slow.resolve();
  const [second] = await take(socket, 1);
  assert.equal(second?.readUInt16BE(0), 1, 'after the client said that it has no more to ask');
});

test('a connection has no more than so many questions under way', async (t) => {
  let asking = 0;
  const released = Promise.withResolvers<void>();
  const full = Promise.withResolvers<void>();
  const host = zone(HOST);
  const { port } = await open(t, {
    search: () => [],
    askHost: async (bytes) => {
      asking += 1;
      if (asking === 64) full.resolve();
      await released.promise;
      return host.ask(bytes);
    },
  });
  const socket = net.connect(port, '127.0.0.1');
  t.after(() => socket.destroy());
  socket.write(Buffer.concat(Array.from({ length: 200 }, (_, i) => framed(ask(`h${i}.example`, A, { id: i })))));
  await full.promise;
  // Another connection is served meanwhile, by which time this one would have been read on.
  await TCPClient({ dns: '127.0.0.1', port })('localhost');
  assert.equal(asking, 64);
  released.resolve();
  assert.equal((await take(socket, 200)).length, 200);
});

test('connections that are idle, that send nonsense, or that are too many are closed', async (t) => {
  const closed = async (port: number, bytes?: Buffer) => {
    const socket = net.connect(port, '127.0.0.1').resume();
    t.after(() => socket.destroy());
    socket.on('error', () => {});
    if (bytes) socket.write(bytes);
    await once(socket, 'close', { signal: AbortSignal.timeout(20_000) });
  };
  // A server for each reason, so that it can be no other one.
  const hasty = await open(t, { idleMs: 50 });
  await closed(hasty.port);
  await closed(hasty.port, Buffer.of(0, 50, 1));
  const patient = await open(t, { idleMs: 3_600_000 });
  await closed(patient.port, framed(answer('web', A)));
  await closed(patient.port, Buffer.of(0xff, 0xff, 1, 2));
  const small = await open(t, { idleMs: 3_600_000, maxConnections: 1 });
  const first = net.connect(small.port, '127.0.0.1');
  t.after(() => first.destroy());
  first.write(framed(ask('web', A)));
  await take(first, 1);
  await closed(small.port);
});

type Reply = (question: Buffer, transport: 'udp' | 'tcp') => Buffer[];

/** A nameserver on one port of both kinds; `reply` gives the datagrams or messages for a question. */
async function nameserver(t: TestContext, reply: Reply): ReturnType<typeof openNameserver> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await openNameserver(t, reply);
    } catch (error) {
      // A port that is free for the one may be taken for the other.
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || attempt === 20) throw error;
    }
  }
}

async function openNameserver(t: TestContext, reply: Reply) {
  const seen: { id: number; port: number }[] = [];
  const tcp = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => {
      for (const bytes of reply(chunk.subarray(2), 'tcp')) socket.write(framed(bytes));
    });
  });
  tcp.listen(0, '127.0.0.1');
  await once(tcp, 'listening');
  t.after(() => tcp.close());
  const { port } = tcp.address() as net.AddressInfo;
  const udp = dgram.createSocket('udp4').bind(port, '127.0.0.1');
  t.after(() => udp.close());
  await once(udp, 'listening');
  udp.on('message', (question, from) => {
    seen.push({ id: question.readUInt16BE(0), port: from.port });
    for (const bytes of reply(question, 'udp')) udp.send(bytes, from.port, from.address);
  });
  return { server: `127.0.0.1:${port}`, seen };
}

function reply(
  question: Buffer,
  last: number,
  { flags = 0x8180, id = question.readUInt16BE(0), qname = 'a.example' } = {},
): Buffer {
  return answer(qname, A, { id, flags, answers: [record(pointer(12), A, 5, Buffer.of(10, 0, 0, last))] });
}

const asked = ask('a.example', A, { id: 0x0707 });

test("a nameserver is asked from another port with another id each time, and the answer has the client's", async (t) => {
  const { server, seen } = await nameserver(t, (question) => [reply(question, 1)]);
  for (let i = 0; i < 8; i++) assert.deepEqual(await askServers(asked, [server]), reply(asked, 1));
  assert.ok(new Set(seen.map(({ id }) => id)).size > 4);
  assert.ok(new Set(seen.map(({ port }) => port)).size > 1);
});

test('datagrams that are not the answer are passed over', async (t) => {
  const { server } = await nameserver(t, (question) => [
    Buffer.of(1, 2, 3),
    question,
    reply(question, 66, { id: question.readUInt16BE(0) ^ 1 }),
    reply(question, 66, { qname: 'b.example' }),
    reply(question, 1, { qname: 'A.example' }),
  ]);
  assert.equal((await askServers(asked, [server])).at(-1), 1);
});

test('what is truncated is asked for again over TCP', async (t) => {
  const whole = await nameserver(t, (question, transport) => [
    transport === 'udp' ? reply(question, 1, { flags: 0x8380 }) : reply(question, 2),
  ]);
  assert.deepEqual(await askServers(asked, [whole.server]), reply(asked, 2));
  const wrong = await nameserver(t, (question, transport) => [
    reply(question, 3, { flags: 0x8380, qname: transport === 'udp' ? 'a.example' : 'b.example' }),
  ]);
  assert.deepEqual(
    await askServers(asked, [wrong.server]),
    reply(asked, 3, { flags: 0x8380 }),
    'TC stays when TCP does not help',
  );
});

test('the next nameserver is asked when one fails, and one that is silent comes last for a while', async (t) => {
  const silent = await nameserver(t, () => []);
  const broken = await nameserver(t, (question) => [reply(question, 1, { flags: 0x8182 })]);
  const good = await nameserver(t, (question) => [reply(question, 2)]);
  const dead = new Map<string, number>();
  let nowMs = 0;
  const options = { perServerMs: 500, dead, nowMs: () => nowMs };
  const servers = [silent.server, broken.server, good.server];
  const patience = { ...options, perServerMs: 5_000 };
  assert.equal((await askServers(asked, [silent.server, good.server], options)).at(-1), 2);
  assert.deepEqual([silent.seen.length, [...dead.keys()]], [1, [silent.server]]);
  assert.equal((await askServers(asked, servers, patience)).at(-1), 2);
  assert.equal(silent.seen.length, 1);
  nowMs += 10_001;
  await askServers(asked, servers, options);
  assert.equal(silent.seen.length, 2);
  assert.equal(
    (await askServers(asked, [broken.server], patience)).readUInt16BE(2),
    0x8182,
    'a failure is better than nothing',
  );
  await assert.rejects(askServers(asked, [silent.server], options), { code: 'ETIMEOUT' });
  await assert.rejects(askServers(asked, []), { code: 'ETIMEOUT' });
  await assert.rejects(askServers(Buffer.alloc(12), [good.server]), { code: 'EINVAL' });
});

test("nameservers' addresses", () => {
  for (const [text, host, port] of [
    ['127.0.0.53', '127.0.0.53', 53],
    ['192.0.2.1:5353', '192.0.2.1', 5353],
    ['::1', '::1', 53],
    ['[::1]', '::1', 53],
    ['[::1]:5353', '::1', 5353],
    ['fe80::1%eth0', 'fe80::1%eth0', 53],
  ] as const) {
    assert.deepEqual(parseServer(text), { host, port });
  }
  for (const text of ['', 'dns.example', '127.0.0.1:', '127.0.0.1:0', '[::1]:65536', '[web]:53'])
    assert.throws(() => parseServer(text), { code: 'EINVAL' }, text);
});
