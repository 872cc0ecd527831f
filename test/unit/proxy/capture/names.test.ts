import assert from 'node:assert/strict';
import dgram from 'node:dgram';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { LpkError } from '../../../../agent/wire/errors.ts';
import { Destinations } from '../../../../proxy/capture/destinations.ts';
import { answeredAddresses, udpBytes } from '../../../../proxy/capture/dns-message.ts';
import { connectErrno, Failures, isFailure } from '../../../../proxy/capture/failures.ts';
import { LearnedAddresses } from '../../../../proxy/capture/learned.ts';
import { Names } from '../../../../proxy/capture/names.ts';
import { Nameservers } from '../../../../proxy/capture/nameservers.ts';

const QUESTION = '1234010000010000000000000377656204746573740000010001';
const ANSWER = `123481800001000200000000${QUESTION.slice(24)}c00c00050001000000050002c00cc00c000100010000000500040a000001`;

test('the addresses of an answer, with their TTL; none of what is broken', () => {
  const answer = Buffer.from(ANSWER, 'hex');
  assert.deepEqual(answeredAddresses(answer), [{ host: '10.0.0.1', ttlS: 5 }]);
  for (let length = 0; length < answer.length; length++) {
    assert.deepEqual(answeredAddresses(answer.subarray(0, length)), [], String(length));
  }
  const loop = Buffer.concat([answer.subarray(0, 12), Buffer.alloc(40, 63)]);
  assert.deepEqual(answeredAddresses(loop), []);
});

test('how long an answer may be: 512 bytes, or what EDNS says', () => {
  assert.equal(udpBytes(Buffer.from(QUESTION, 'hex')), 512);
  const opt = (bytes: string) => {
    const question = Buffer.from(`${QUESTION}000029${bytes}000000000000`, 'hex');
    question.writeUInt16BE(1, 10);
    return udpBytes(question);
  };
  assert.deepEqual([opt('04d0'), opt('0010')], [1232, 512]);
});

test('a learned address leads to the cluster until long after its TTL; the oldest make room', () => {
  let nowMs = 0;
  const learned = new LearnedAddresses(() => nowMs);
  learned.learn('203.0.113.1', 5);
  const destinations = new Destinations(['10.0.0.0/8', 'fd00::/8'], ['10.99.0.0/16', '203.0.113.9/32'], learned);
  learned.learn('203.0.113.9', 5);
  learned.learn('127.0.0.1', 5);
  const verdict = (...hosts: string[]) => hosts.map((host) => destinations.has(host));
  assert.deepEqual(verdict('10.1.1.1', 'fd00::2', '203.0.113.1'), [true, true, true]);
  assert.deepEqual(verdict('10.99.1.1', '203.0.113.9', '203.0.113.2', '127.0.0.1'), [false, false, false, false]);
  nowMs = 604_000;
  assert.deepEqual(verdict('203.0.113.1'), [true]);
  nowMs = 605_000;
  assert.deepEqual(verdict('203.0.113.1'), [false]);
  learned.learn('first', 5);
  for (let i = 0; i < 4_096; i++) learned.learn(`address ${i}`, 5);
  assert.deepEqual([learned.has('first'), learned.has('address 0'), learned.has('address 4095')], [false, true, true]);
});

test('errors of dials as connect(2) says them', () => {
  const cases = {
    refused: 111,
    unreachable: 113,
    'timed-out': 110,
    'not-allowed': 13,
    'link-lost': 101,
    internal: 101,
  } as const;
  for (const [code, errno] of Object.entries(cases)) {
    assert.equal(connectErrno(new LpkError(code as keyof typeof cases, '')), -errno, code);
  }
  assert.equal(connectErrno(Object.assign(new Error(''), { code: 'ENETUNREACH' })), -101);
  assert.deepEqual([isFailure(new LpkError('refused', '')), isFailure(new LpkError('cancelled', ''))], [true, false]);
});

test('a destination that failed is remembered for 30 s, and 1,024 of them', () => {
  let nowMs = 0;
  const failures = new Failures(() => nowMs);
  failures.add('a');
  nowMs = 29_999;
  assert.equal(failures.has('a'), true);
  nowMs = 30_000;
  assert.equal(failures.has('a'), false);
  failures.add('b');
  for (let i = 0; i < 1_024; i++) failures.add(String(i));
  assert.deepEqual([failures.has('b'), failures.has('0')], [false, true]);
});

test('nameservers are read again when the file has changed', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'lpk-resolv-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'resolv.conf');
  const nameservers = new Nameservers(path);
  assert.equal(nameservers.has('127.0.0.53'), false);
  writeFileSync(path, '# nameserver 1.1.1.1\nnameserver 127.0.0.53\nnameserver FD00:0::1\nnameserver nonsense\n');
  assert.deepEqual(
    ['127.0.0.53', 'fd00::1', '1.1.1.1', 'nonsense'].map((host) => nameservers.has(host)),
    [true, true, false, false],
  );
  rmSync(path);
  assert.equal(nameservers.has('127.0.0.53'), false);
});

test('DNS over TCP: several questions in pieces, each with its answer', async (t) => {
  const names = new Names({ askDns: async () => Buffer.from(ANSWER, 'hex') }, new LearnedAddresses());
  const server = net.createServer({ allowHalfOpen: true }, (socket) => names.serveTcp(socket)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1');
  const framed = (hex: string) => `${(hex.length / 2).toString(16).padStart(4, '0')}${hex}`;
  const bytes = Buffer.from(framed(QUESTION).repeat(2), 'hex');
  client.setNoDelay(true);
  client.write(bytes.subarray(0, 1));
  client.write(bytes.subarray(1, 40));
  client.write(bytes.subarray(40));
  let received = '';
  client.on('data', (piece) => {
    received += piece.toString('hex');
    if (received.length >= 2 * framed(ANSWER).length) client.end();
  });
  await once(client, 'close');
  assert.equal(received, framed(ANSWER).repeat(2));
});

test('1,024 questions wait at once; one more is dropped', async (t) => {
  const asked = Promise.withResolvers<void>();
  let count = 0;
  const names = new Names(
    {
      askDns: () => {
        count += 1;
        if (count === 1_024) asked.resolve();
        return new Promise(() => {});
      },
    },
    new LearnedAddresses(),
  );
  const server = dgram.createSocket('udp4');
  names.serveUdp(server);
  t.after(() => server.close());
  const question = Buffer.from(QUESTION, 'hex');
  // As datagrams come, without the kernel's own bound on them.
  for (let i = 0; i < 1_100; i++) server.emit('message', question, { address: '127.0.0.1', port: 9 });
  await asked.promise;
  assert.equal(count, 1_024);
});
