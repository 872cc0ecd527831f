import assert from 'node:assert/strict';
import test from 'node:test';
import { Packet } from 'dns2';
import { FakeAddresses } from '../../../dns/fake.ts';
import { Responder, type ResponderOptions } from '../../../dns/responder.ts';
import { A, AAAA, answer, ask, message, opt, PTR, pointer, question, record, SRV, TXT } from './wire.ts';
import { CLUSTER, HOST, SEARCH, zone } from './zone.ts';

type Reply = { text: string; packet: Packet; bytes: Buffer };

/** A responder between the two zones, with a clock of its own. */
function setUp({
  clusterFails = () => false,
  hostTtlS = 300,
  hostMinimumS = 900,
  ...options
}: Partial<ResponderOptions> & { clusterFails?: () => boolean; hostTtlS?: number; hostMinimumS?: number } = {}) {
  const cluster = zone(CLUSTER, { fails: clusterFails });
  const host = zone(HOST, { ttlS: hostTtlS, minimumS: hostMinimumS });
  const clock = { ms: 1_000_000 };
  const state = { up: true };
  const responder = new Responder({
    mode: 'split',
    search: () => SEARCH,
    clusterUp: () => state.up,
    askCluster: cluster.ask,
    askHost: host.ask,
    nowMs: () => clock.ms,
    ...options,
  });
  const send = (bytes: Buffer) =>
    new Promise<Buffer | undefined>((resolve) => responder.respond(bytes, 'udp', resolve));
  const resolve = async (qname: string, type = A): Promise<Reply> => {
    const bytes = (await send(ask(qname, type))) as Buffer;
    const packet = Packet.parse(bytes);
    const data = packet.answers.map(({ address, domain, target }) => String(address ?? domain ?? target));
    return {
      bytes,
      packet,
      text:
        ['ok', 1, 'servfail', 'nxdomain', 4, 'refused'][packet.header.rcode] +
        data.map((value) => ` ${value}`).join(''),
    };
  };
  return { cluster, host, clock, state, responder, send, resolve };
}

test('every form of a name finds what a pod would', async () => {
  const { resolve, host } = setUp();
  for (const [qname, type, expected] of [
    ['web', A, 'ok 10.96.0.7'],
    ['WEB.Shop', A, 'ok 10.96.0.7'],
    ['web.shop.svc', A, 'ok 10.96.0.7'],
    ['web.shop.svc.cluster.local', A, 'ok 10.96.0.7'],
    ['cart.other', A, 'ok 10.96.0.9'],
    ['web-0.db', A, 'ok 10.244.0.3'],
    ['web-0.db.shop', A, 'ok 10.244.0.3'],
    ['web-0.db.shop.svc', A, 'ok 10.244.0.3'],
    ['outside', A, 'ok www.example.com'],
    ['_http._tcp.web', SRV, 'ok web.shop.svc.cluster.local'],
    ['_http._tcp.web.shop', SRV, 'ok web.shop.svc.cluster.local'],
    ['web', AAAA, 'ok'],
    ['web', TXT, 'ok'],
    ['gone.shop.svc.cluster.local', A, 'nxdomain'],
    ['cluster.local', A, 'ok'],
    ['secret.cluster.local', A, 'nxdomain'],
  ] as const) {
    const reply = await resolve(qname, type);
    assert.equal(reply.text, expected, `${qname} ${type}`);
    assert.deepEqual(
      reply.bytes.subarray(12, 12 + question(qname, type).length),
      question(qname, type),
      'the question as it was sent',
    );
    for (const { name } of reply.packet.answers) assert.equal(name, qname);
  }
  assert.deepEqual(host.asked, []);
});

test("names that the cluster does not know are the host's", async () => {
  const { resolve, cluster, host, clock } = setUp();
  assert.equal((await resolve('github.com')).text, 'ok 140.82.121.3');
  assert.deepEqual(
    cluster.asked,
    SEARCH.slice(0, 3).map((suffix) => `com.${suffix} A`),
  );
  assert.equal((await resolve('www.example.com')).text, 'nxdomain');
  assert.equal(cluster.asked.length, 3, 'com is remembered');
  clock.ms += 30_000;
  await resolve('x.com');
  assert.equal(cluster.asked.length, 6, 'for half a minute');

  assert.equal((await resolve('nas')).text, 'ok 192.168.1.9');
  assert.deepEqual(host.asked.at(-1), 'nas A');
  // A namespace that is called as a top-level domain is.
  assert.equal((await resolve('cart.dev')).text, 'ok 10.96.0.10');
  assert.equal((await resolve('go.dev')).text, 'ok 216.239.32.21');
  await resolve('');
  assert.equal(host.asked.at(-1), ' A');
});

test('that the cluster knows a last label is remembered for a minute', async () => {
  const { resolve, cluster, clock } = setUp();
  await resolve('web.shop');
  clock.ms += 59_000;
  cluster.asked.length = 0;
  await resolve('cart.shop');
  assert.ok(!cluster.asked.includes('shop.svc.cluster.local A'));
  clock.ms += 1_000;
  await resolve('x.shop');
  assert.ok(cluster.asked.includes('shop.svc.cluster.local A'));
});

test('a label is asked about once, however many ask', async () => {
  const { resolve, cluster } = setUp();
  await Promise.all(Array.from({ length: 50 }, (_, i) => resolve(`h${i}.com`)));
  assert.equal(cluster.asked.length, 3);
});

test("the host's no is no answer for long to a name that the cluster may get", async () => {
  const { resolve, host, clock } = setUp();
  const soaTtl = async () => (await resolve('web.later')).packet.authorities[0]?.ttl;
  assert.equal(await soaTtl(), 30);
  clock.ms += 29_000;
  assert.equal(await soaTtl(), 1);
  assert.equal(host.asked.length, 1);
  clock.ms += 1_000;
  await resolve('web.later');
  assert.equal(host.asked.length, 2);
});

test("suffixes that are included are the cluster's, those excluded the host's", async () => {
  const { resolve, cluster } = setUp({
    include: ['.Inside.example.', 'web.io'],
    exclude: ['*.secret.cluster.local', 'shop'],
  });
  assert.equal((await resolve('www.inside.example')).text, 'ok 10.5.5.5');
  assert.equal((await resolve('xinside.example')).text, 'nxdomain');
  assert.equal((await resolve('gone.inside.example')).text, 'nxdomain');
  const before = cluster.asked.length;
  assert.equal((await resolve('secret.cluster.local')).text, 'ok 1.2.3.4');
  assert.equal((await resolve('web.shop')).text, 'nxdomain');
  assert.equal(cluster.asked.length, before);
});

test("addresses: the cluster's there, private ones there first, public ones at the host", async () => {
  const { resolve, cluster } = setUp({ isClusterAddress: (address) => address.startsWith('10.96.') });
  for (const [qname, expected] of [
    ['7.0.96.10.in-addr.arpa', 'ok web.shop.svc.cluster.local'],
    ['8.0.96.10.in-addr.arpa', 'nxdomain'],
    ['1.1.168.192.in-addr.arpa', 'ok node.shop.svc.cluster.local'],
    ['9.1.168.192.in-addr.arpa', 'ok nas'],
    ['8.8.8.8.in-addr.arpa', 'ok dns.google'],
  ] as const) {
    assert.equal((await resolve(qname, PTR)).text, expected, qname);
  }
  assert.ok(!cluster.asked.includes('8.8.8.8.in-addr.arpa PTR'));
  const unique = `1.${'0.'.repeat(29)}d.f.ip6.arpa`;
  await resolve(unique, PTR);
  assert.equal(cluster.asked.at(-1), `${unique} PTR`);
});

test("while the tunnel is down the cluster's names fail at once, and others work", async () => {
  const { resolve, state, cluster, clock } = setUp({
    include: ['inside.example'],
    isClusterAddress: (address) => address === '10.96.0.7',
  });
  await resolve('cart.other');
  await resolve('web');
  clock.ms += 3_600_000;
  await resolve('cart.other');
  state.up = false;
  cluster.asked.length = 0;
  for (const [qname, type, expected] of [
    ['web.shop.svc.cluster.local', A, 'servfail'],
    ['www.inside.example', A, 'servfail'],
    ['nas', A, 'servfail'],
    ['web', A, 'servfail'],
    ['cart.other', A, 'servfail'],
    ['x.other', A, 'servfail'],
    ['7.0.96.10.in-addr.arpa', PTR, 'servfail'],
    ['github.com', A, 'ok 140.82.121.3'],
    ['9.1.168.192.in-addr.arpa', PTR, 'ok nas'],
  ] as const) {
    assert.equal((await resolve(qname, type)).text, expected, qname);
  }
  assert.deepEqual(cluster.asked, []);
  // What the host said meanwhile is not held against the cluster.
  assert.equal((await resolve('github.com')).packet.answers[0]?.ttl, 5);
  state.up = true;
  assert.equal((await resolve('cart.other')).text, 'ok 10.96.0.9');
});

test("a cluster that does not answer: its own names fail, others are the host's", async () => {
  let fails = false;
  const { resolve, clock } = setUp({ clusterFails: () => fails });
  await resolve('cart.other');
  clock.ms += 6_000;
  fails = true;
  assert.equal((await resolve('web.shop.svc.cluster.local')).text, 'servfail');
  assert.equal((await resolve('web')).text, 'servfail');
  assert.equal((await resolve('cart.other')).text, 'servfail');
  assert.equal((await resolve('github.com')).text, 'ok 140.82.121.3');
  assert.equal((await resolve('9.1.168.192.in-addr.arpa', PTR)).text, 'ok nas');
});

test('all: everything is asked in the cluster, short names first with the search list', async () => {
  const { resolve, host, state } = setUp({ mode: 'all', exclude: ['nas'] });
  assert.equal((await resolve('github.com')).text, 'ok 10.9.9.9');
  assert.equal((await resolve('web.shop')).text, 'ok 10.96.0.7');
  assert.equal((await resolve('go.dev')).text, 'nxdomain');
  assert.equal((await resolve('8.8.8.8.in-addr.arpa', PTR)).text, 'nxdomain');
  assert.deepEqual(host.asked, []);
  assert.equal((await resolve('nas')).text, 'ok 192.168.1.9');
  state.up = false;
  assert.equal((await resolve('github.com', AAAA)).text, 'ok', "or the tunnel's own server could not be found again");
});

test('localhost needs nobody', async () => {
  const { resolve, cluster, host, state } = setUp();
  state.up = false;
  assert.equal((await resolve('LOCALHOST')).text, 'ok 127.0.0.1');
  assert.equal((await resolve('app.localhost', AAAA)).text, 'ok ::1');
  assert.equal((await resolve('localhost', TXT)).text, 'ok');
  assert.deepEqual([...cluster.asked, ...host.asked], []);
});

test("the domain is the search list's, and the last list is good while there is none", async () => {
  let search = ['shop.svc.k8s.corp', 'svc.k8s.corp', 'k8s.corp'];
  const { resolve, cluster, state } = setUp({ search: () => search });
  await resolve('web.shop');
  assert.ok(cluster.asked.includes('shop.svc.k8s.corp A'));
  await resolve('web.shop.svc.cluster.local');
  assert.ok(!cluster.asked.includes('web.shop.svc.cluster.local A'));
  search = [];
  state.up = false;
  assert.equal((await resolve('x.k8s.corp')).text, 'servfail');
});

test("fake addresses in place of the cluster's", async () => {
  const fake = new FakeAddresses();
  const { resolve, cluster } = setUp({ fake });
  assert.equal((await resolve('web')).text, 'ok 198.18.0.1');
  assert.equal((await resolve('web.shop')).text, 'ok 198.18.0.1');
  assert.ok(((await resolve('web')).packet.answers[0]?.ttl ?? 99) <= 5);
  assert.equal(fake.nameOf('198.18.0.1'), 'web.shop.svc.cluster.local');
  assert.equal((await resolve('outside')).text, 'ok www.example.com', 'no address, nothing to replace');
  assert.equal((await resolve('web', AAAA)).text, 'ok');
  assert.equal((await resolve('gone.shop')).text, 'nxdomain');
  assert.equal((await resolve('github.com')).text, 'ok 140.82.121.3');
  assert.equal((await resolve('_http._tcp.web', SRV)).text, 'ok web.shop.svc.cluster.local');
  cluster.asked.length = 0;
  assert.equal((await resolve('1.0.18.198.in-addr.arpa', PTR)).text, 'ok web.shop.svc.cluster.local');
  assert.equal((await resolve('9.0.18.198.in-addr.arpa', PTR)).text, 'nxdomain');
  assert.deepEqual(cluster.asked, []);
});

test('kept answers are counted, grow old, and are asked for again', async () => {
  const { resolve, cluster, clock, responder } = setUp();
  const ttl = async () => (await resolve('web.shop.svc.cluster.local')).packet.answers[0]?.ttl;
  assert.equal(await ttl(), 5);
  clock.ms += 2_500;
  assert.equal(await ttl(), 3);
  clock.ms += 2_500;
  assert.equal(await ttl(), 5);
  assert.equal(cluster.asked.length, 2);
  clock.ms -= 3_600_000;
  assert.equal(await ttl(), 5, 'a clock set back makes nothing younger');
  await resolve('github.com');
  assert.deepEqual(responder.stats, { queries: 5, cached: 1, cluster: 3, host: 1, failed: 0 });
});

test('failures are not kept', async () => {
  let fails = true;
  const { resolve } = setUp({ clusterFails: () => fails });
  assert.equal((await resolve('web')).text, 'servfail');
  fails = false;
  assert.equal((await resolve('web')).text, 'ok 10.96.0.7');
});

test('equal questions wait for one answer, each under its own id and case', async () => {
  const { send, cluster } = setUp();
  const names = ['web.shop.svc.cluster.local', 'WEB.shop.svc.cluster.local', 'web.SHOP.svc.cluster.local'];
  const replies = await Promise.all(names.map((qname, id) => send(ask(qname, A, { id }))));
  for (const [id, reply] of replies.entries()) {
    assert.equal(reply?.readUInt16BE(0), id);
    assert.equal(Packet.parse(reply as Buffer).answers[0]?.name, names[id]);
  }
  assert.equal(cluster.asked.length, 1);
});

test('too many questions under way fail at once, and the rest go on', async () => {
  const held: (() => void)[] = [];
  const cluster = zone(CLUSTER);
  const { resolve, responder } = setUp({
    cache: { maxUnderWay: 3 },
    askCluster: async (bytes) => {
      await new Promise<void>((release) => held.push(release));
      return cluster.ask(bytes);
    },
  });
  const waiting = [0, 1, 2].map((i) => resolve(`web-${i}.db.shop.svc.cluster.local`));
  assert.equal((await resolve('web.shop.svc.cluster.local')).text, 'servfail');
  assert.equal(responder.waiting, 3);
  for (const release of held) release();
  assert.deepEqual(
    (await Promise.all(waiting)).map(({ text }) => text),
    ['ok 10.244.0.3', 'nxdomain', 'nxdomain'],
  );
  assert.equal(responder.waiting, 0);
});

test('an answer that never comes is SERVFAIL in time', async () => {
  const { resolve } = setUp({ askCluster: () => new Promise(() => {}), answerMs: 20 });
  assert.equal((await resolve('web')).text, 'servfail');
});

test('answers to other questions, and malformed ones, are SERVFAIL', async () => {
  const own = (bytes: Buffer) => bytes.readUInt16BE(0);
  for (const [what, reply] of [
    ['another name', (bytes: Buffer) => answer('x.shop.svc.cluster.local', A, { id: own(bytes) })],
    ['another id', (bytes: Buffer) => answer('web.shop.svc.cluster.local', A, { id: own(bytes) ^ 1 })],
    ['nothing', () => Buffer.alloc(0)],
    [
      'a loop',
      (bytes: Buffer) =>
        answer('web.shop.svc.cluster.local', A, {
          id: own(bytes),
          answers: [record(pointer(44), A, 5, Buffer.alloc(4))],
        }),
    ],
    ['no message', () => undefined as unknown as Buffer],
  ] as const) {
    const { resolve } = setUp({ askCluster: async (bytes) => reply(bytes) });
    assert.equal((await resolve('web.shop.svc.cluster.local')).text, 'servfail', what);
  }
});

test('a server from before EDNS is asked again without', async () => {
  const asked: number[] = [];
  const { send } = setUp({
    askHost: async (bytes) => {
      asked.push(bytes.readUInt16BE(10));
      const flags = bytes.readUInt16BE(10) > 0 ? 0x8181 : 0x8180;
      return answer('a.example', A, {
        id: bytes.readUInt16BE(0),
        flags,
        answers: [record(pointer(12), A, 5, Buffer.alloc(4))],
      });
    },
  });
  const reply = (await send(ask('a.example', A, { additionals: [opt()] }))) as Buffer;
  assert.equal(reply.readUInt16BE(2), 0x8180);
  assert.deepEqual(asked, [1, 0]);
});

test('what is wrong is refused without asking anybody', async () => {
  const { send, cluster, host, responder } = setUp();
  assert.equal(await send(answer('web', A)), undefined);
  assert.equal(((await send(message({}))) as Buffer).readUInt16BE(2), 0x8181);
  assert.equal(((await send(ask('web', 252))) as Buffer).readUInt16BE(2), 0x8185);
  assert.deepEqual([...cluster.asked, ...host.asked], []);
  assert.equal(responder.stats.queries, 2);
});
