import assert from 'node:assert/strict';
import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import { type TestContext, test } from 'node:test';
import { podEnvironment } from '../../../agent/pod/environment.ts';
import { forwardDns, parseResolvConf } from '../../../agent/pod/resolve.ts';

const QUESTION = Buffer.from('abcd01000001000000000000', 'hex');

/** A DNS answer: the question's id, flags and a tail to know it by. */
function answerOf(tail: string, flags = 0x8180, id = 0xabcd): Buffer {
  const head = Buffer.alloc(12);
  head.writeUInt16BE(id, 0);
  head.writeUInt16BE(flags, 2);
  return Buffer.concat([head, Buffer.from(tail)]);
}

const TRUNCATED = 0x8380;

type Stub = { udp?: (question: Buffer) => Buffer[]; tcp?: (socket: net.Socket, question: Buffer) => void };

type Nameservers = { port: number; servers: string[]; asked: string[] };

/** Nameservers at 127.0.0.1, 127.0.0.2 … on one port, UDP and TCP; one without `tcp` does not listen there. */
async function nameservers(t: TestContext, ...stubs: Stub[]): Promise<Nameservers> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await openNameservers(t, stubs);
    } catch (error) {
      // A port that is free for the one may be taken for the next.
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || attempt === 20) throw error;
    }
  }
}

async function openNameservers(t: TestContext, stubs: Stub[]): Promise<Nameservers> {
  const asked: string[] = [];
  let port = 0;
  const servers = stubs.map((_, i) => `127.0.0.${i + 1}`);
  for (const [i, { udp, tcp }] of stubs.entries()) {
    const server = dgram.createSocket('udp4');
    t.after(() => server.close());
    server.bind(port, servers[i]);
    await once(server, 'listening');
    port = server.address().port;
    server.on('message', (question, { port: from, address }) => {
      asked.push(`udp ${servers[i]}`);
      for (const answer of udp?.(question) ?? []) server.send(answer, from, address);
    });
    if (!tcp) continue;
    const listener = net.createServer((socket) => {
      asked.push(`tcp ${servers[i]}`);
      socket.on('error', () => {});
      socket.once('data', (data: Buffer) => tcp(socket, data));
    });
    t.after(() => listener.close());
    listener.listen(port, servers[i]);
    await once(listener, 'listening');
  }
  return { port, servers, asked };
}

const framed = (answer: Buffer) => Buffer.concat([Buffer.of(answer.length >> 8, answer.length & 255), answer]);

test('a question goes out as it is, and its answer comes back as it is', async (t) => {
  let heard: Buffer | undefined;
  const { port, servers } = await nameservers(t, {
    udp: (question) => {
      heard = question;
      return [answerOf('yes')];
    },
  });
  assert.deepEqual(await forwardDns(QUESTION, servers, { port }), answerOf('yes'));
  assert.deepEqual(heard, QUESTION);
});

test('an answer to another question, and a scrap, are let pass', async (t) => {
  const { port, servers } = await nameservers(t, {
    udp: () => [answerOf('spoof', 0x8180, 0x1234), Buffer.from('abcd', 'hex'), answerOf('true')],
  });
  assert.deepEqual(await forwardDns(QUESTION, servers, { port }), answerOf('true'));
});

test('a truncated answer is asked for again over TCP, whatever pieces it comes in', async (t) => {
  const long = answerOf('long'.repeat(5_000));
  const { port, servers, asked } = await nameservers(t, {
    udp: () => [answerOf('', TRUNCATED)],
    tcp: async (socket, question) => {
      assert.deepEqual(question, framed(QUESTION));
      const message = framed(long);
      for (const [from, to] of [
        [0, 1],
        [1, 100],
        [100, message.length],
      ]) {
        socket.write(message.subarray(from, to));
        await new Promise((resolve) => setImmediate(resolve));
      }
    },
  });
  assert.deepEqual(await forwardDns(QUESTION, servers, { port }), long);
  assert.deepEqual(asked, ['udp 127.0.0.1', 'tcp 127.0.0.1']);
});

test('when TCP fails, the truncated answer is better than none', async (t) => {
  const { port, servers } = await nameservers(t, { udp: () => [answerOf('part', TRUNCATED)] });
  assert.deepEqual(await forwardDns(QUESTION, servers, { port }), answerOf('part', TRUNCATED));
  const cutOff = await nameservers(t, { udp: () => [answerOf('part', TRUNCATED)], tcp: (socket) => socket.end('\0') });
  assert.deepEqual(await forwardDns(QUESTION, cutOff.servers, cutOff), answerOf('part', TRUNCATED));
});

test('the next nameserver is asked when one is silent, refuses or fails; the last word counts', async (t) => {
  const SERVFAIL = 0x8182;
  const REFUSED = 0x8185;
  const NXDOMAIN = 0x8183;
  const good = { udp: () => [answerOf('good')] };
  const silent = await nameservers(t, {}, good);
  assert.deepEqual(await forwardDns(QUESTION, silent.servers, { ...silent, perServerMs: 500 }), answerOf('good'));
  for (const flags of [SERVFAIL, REFUSED]) {
    const failing = await nameservers(t, { udp: () => [answerOf('bad', flags)] }, good);
    assert.deepEqual(await forwardDns(QUESTION, failing.servers, failing), answerOf('good'));
    const both = await nameservers(
      t,
      { udp: () => [answerOf('bad', flags)] },
      { udp: () => [answerOf('worse', flags)] },
    );
    assert.deepEqual(await forwardDns(QUESTION, both.servers, both), answerOf('worse', flags));
  }
  const no = await nameservers(t, { udp: () => [answerOf('no', NXDOMAIN)] }, good);
  assert.deepEqual(await forwardDns(QUESTION, no.servers, no), answerOf('no', NXDOMAIN));
});

test('nobody there, nothing configured, nowhere to go', async (t) => {
  const { port } = await nameservers(t, {});
  await assert.rejects(forwardDns(QUESTION, ['127.0.0.9'], { port, perServerMs: 50 }), {
    code: 'timed-out',
    message: /127\.0\.0\.9/,
  });
  await assert.rejects(forwardDns(QUESTION, [], { port }), { code: 'timed-out', message: /none configured/ });
  await assert.rejects(forwardDns(QUESTION, ['not-an-address.invalid', '2001:db8::1'], { port, perServerMs: 50 }), {
    code: 'timed-out',
  });
});

test('what is no DNS message is refused', async () => {
  await assert.rejects(forwardDns(Buffer.alloc(11), ['127.0.0.1'], { port: 1 }), { code: 'protocol' });
  await assert.rejects(forwardDns(Buffer.alloc(65_536), ['127.0.0.1'], { port: 1 }), { code: 'protocol' });
});

const RESOLV_CONF: [name: string, text: string, expected: ReturnType<typeof parseResolvConf>][] = [
  ['empty', '', { nameservers: [], search: [], ndots: 1 }],
  [
    'a pod',
    'search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n',
    { nameservers: ['10.96.0.10'], search: ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local'], ndots: 5 },
  ],
  [
    'comments, tabs, several servers',
    '# a\n; b\nnameserver\t10.0.0.1 # trailing\n  nameserver fd00::a\nnameserver fe80::1%eth0\n',
    { nameservers: ['10.0.0.1', 'fd00::a', 'fe80::1%eth0'], search: [], ndots: 1 },
  ],
  [
    'the last of search and domain counts',
    'domain a.example\nsearch b.example c.example\n',
    { nameservers: [], search: ['b.example', 'c.example'], ndots: 1 },
  ],
  ['domain', 'search b.example\ndomain a.example\n', { nameservers: [], search: ['a.example'], ndots: 1 }],
  [
    'other options',
    'options timeout:2 edns0 ndots:3 attempts:1\noptions rotate\n',
    { nameservers: [], search: [], ndots: 3 },
  ],
  ['nonsense', 'nameserver\nfoo bar\noptions ndots:x\nsortlist 1.2.3.4\n', { nameservers: [], search: [], ndots: 1 }],
  [
    'CRLF',
    'nameserver 10.0.0.1\r\nsearch a.example\r\n',
    { nameservers: ['10.0.0.1'], search: ['a.example'], ndots: 1 },
  ],
];

for (const [name, text, expected] of RESOLV_CONF) {
  test(`resolv.conf: ${name}`, () => assert.deepEqual(parseResolvConf(text), expected));
}

const ENVIRONMENTS: [name: string, of: Record<string, string>, expected: Record<string, string>][] = [
  [
    'what was set aside gets its name back',
    { LPK_SAVED_NODE_OPTIONS: '--x', LPK_SAVED_PATH: '/app/bin', PATH: '/usr/bin', A: '1' },
    { NODE_OPTIONS: '--x', PATH: '/app/bin', A: '1' },
  ],
  ['also when it comes later, and when it is empty', { PATH: '/usr/bin', LPK_SAVED_PATH: '' }, { PATH: '' }],
  ['a Service named lpk is the pod’s business', { LPK_SERVICE_HOST: '10.0.0.1' }, { LPK_SERVICE_HOST: '10.0.0.1' }],
  ['what was not set stays unset', { A: '1' }, { A: '1' }],
];

for (const [name, of, expected] of ENVIRONMENTS) {
  test(`environment: ${name}`, () => assert.deepEqual(podEnvironment(of), expected));
}
