import assert from 'node:assert/strict';
import { networkInterfaces } from 'node:os';
import test, { type TestContext } from 'node:test';
import { LpkError } from '../../../agent/wire/errors.ts';
import { openDoor } from '../../../proxy/door.ts';
import { isLoopback } from '../../../proxy/loopback.ts';
import { door, fakeCluster, serve } from './fakes.ts';
import { RawClient } from './raw-client.ts';
import { socks5Name } from './ways-in.ts';

/** Who may come in: a password where there is one, and always one where others than this machine can knock. */

const CREDENTIALS = { user: 'me', password: 'pässword:x' };

const rfc1929 = (user: string, password: string) => {
  const [name, secret] = [Buffer.from(user), Buffer.from(password)];
  return Buffer.concat([Buffer.of(1, name.length), name, Buffer.of(secret.length), secret]);
};
const basic = (text: string) => `Basic ${Buffer.from(text).toString('base64')}`;

async function setUp(t: TestContext) {
  const cluster = fakeCluster({ replyEarly: false });
  const { port } = await door(t, { dial: cluster.dial, credentials: CREDENTIALS });
  const target = await serve(t, (socket) => socket.end('in'));
  return { cluster, target, client: new RawClient(port), port };
}

test('SOCKS5 with the right password', async (t) => {
  const { target, client } = await setUp(t);
  const request = Buffer.concat([Buffer.of(5, 1, 0), socks5Name('web'), Buffer.of(target >> 8, target & 0xff)]);
  client.socket.write(Buffer.concat([Buffer.of(5, 2, 0, 2), rfc1929('me', 'pässword:x'), request])); // pipelined
  assert.equal((await client.take(4 + 10)).toString('hex'), '0502' + '0100' + '05000001000000000000');
  assert.equal((await client.rest()).toString(), 'in');
});

for (const [name, { sent, answer }] of Object.entries({
  'no method for a password': { sent: Buffer.of(5, 1, 0), answer: '05ff' },
  'another password': { sent: Buffer.concat([Buffer.of(5, 1, 2), rfc1929('me', 'pässword:y')]), answer: '05020101' },
  'a prefix of the password': {
    sent: Buffer.concat([Buffer.of(5, 1, 2), rfc1929('me', 'pässword')]),
    answer: '05020101',
  },
  'another user': { sent: Buffer.concat([Buffer.of(5, 1, 2), rfc1929('you', 'pässword:x')]), answer: '05020101' },
  'the two cut elsewhere': {
    sent: Buffer.concat([Buffer.of(5, 1, 2), rfc1929('mepä', 'ssword:x')]),
    answer: '05020101',
  },
  'an empty password': { sent: Buffer.concat([Buffer.of(5, 1, 2), rfc1929('', '')]), answer: '05020101' },
  'another version of the password': { sent: Buffer.of(5, 1, 2, 5, 0, 0), answer: '05020101' },
  SOCKS4: { sent: Buffer.from('0401005001020304' + '6d6500', 'hex'), answer: '005b000000000000' },
  SOCKS4a: { sent: Buffer.from('0401005000000001' + '00' + '77656200', 'hex'), answer: '005b000000000000' },
})) {
  test(`with a password wanted, refuses ${name}`, async (t) => {
    const { cluster, client } = await setUp(t);
    client.socket.write(sent);
    assert.equal((await client.rest()).toString('hex'), answer);
    assert.deepEqual(cluster.flows, []);
  });
}

const REQUESTS: Record<string, (target: number, header: string) => string> = {
  CONNECT: (target, header) => `CONNECT web:${target} HTTP/1.1\r\nHost: x\r\n${header}\r\n`,
  GET: (target, header) => `GET http://web:${target}/ HTTP/1.1\r\nHost: x\r\n${header}\r\n`,
  'an upgrade': (target, header) =>
    `GET http://web:${target}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n${header}\r\n`,
  'an upgrade to h2c': (target, header) =>
    `GET http://web:${target}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n${header}\r\n`,
};

for (const [name, request] of Object.entries(REQUESTS)) {
  test(`HTTP: ${name} comes in with the right password`, async (t) => {
    const { cluster, target, client } = await setUp(t);
    client.socket.end(request(target, `Proxy-Authorization: ${basic('me:pässword:x')}\r\n`));
    assert.doesNotMatch((await client.rest()).toString(), /^HTTP\/1\.1 407/);
    assert.equal(cluster.flows.length, 1);
  });

  for (const [what, header] of Object.entries({
    'no password': '',
    'another password': `Proxy-Authorization: ${basic('me:other')}\r\n`,
    'no colon': `Proxy-Authorization: ${basic('me')}\r\n`,
    'another scheme': 'Proxy-Authorization: Bearer bWU6cMOkc3N3b3JkOng=\r\n',
    'a password for the origin': `Authorization: ${basic('me:pässword:x')}\r\n`,
  })) {
    test(`HTTP: ${name} with ${what} is 407`, async (t) => {
      const { cluster, target, client } = await setUp(t);
      client.socket.end(request(target, header));
      const answer = (await client.rest()).toString();
      assert.match(answer, /^HTTP\/1\.1 407 Proxy Authentication Required\r\n/);
      assert.match(answer, /\r\nProxy-Authenticate: Basic realm="lpk", charset="UTF-8"\r\n/);
      assert.deepEqual(cluster.flows, []);
    });
  }
}

test('HTTP: after a 407 the same connection may try again', async (t) => {
  const { target, client } = await setUp(t);
  client.socket.write(`POST http://web:${target}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc`);
  await client.takeUntil('\r\n0\r\n\r\n');
  client.socket.write(
    `CONNECT web:${target} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: ${basic('me:pässword:x')}\r\n\r\n`,
  );
  assert.match(await client.takeUntil('\r\n\r\n'), / 200 /);
});

const isUsage = (error: unknown) =>
  error instanceof LpkError && error.code === 'usage' && !error.message.includes('\n');

for (const host of [
  '0.0.0.0',
  '::',
  '',
  '10.0.0.1',
  '::ffff:10.0.0.1',
  'localhost',
  'example.com',
  '126.0.0.1',
  '128.0.0.1',
]) {
  test(`a door on ${JSON.stringify(host)} wants a password`, async () => {
    await assert.rejects(openDoor({ port: 0, host, dial: fakeCluster({ replyEarly: false }).dial }), isUsage);
  });
}

test('loopback is loopback', () => {
  for (const address of ['127.0.0.1', '127.9.9.9', '::1', '::ffff:127.0.0.1', '0:0:0:0:0:0:0:1']) {
    assert.equal(isLoopback(address), true, address);
  }
});

for (const [name, credentials] of Object.entries({
  'without a user': { user: '', password: 'x' },
  'without a password': { user: 'x', password: '' },
  'too long for SOCKS5': { user: 'x', password: 'ä'.repeat(128) },
  'with a colon in the user': { user: 'a:b', password: 'x' },
})) {
  test(`credentials ${name} are refused`, async () => {
    const { dial } = fakeCluster({ replyEarly: false });
    await assert.rejects(openDoor({ port: 0, host: '127.0.0.1', dial, credentials }), isUsage);
  });
}

test('with a password a door may be on any address, and who comes from elsewhere sees no page', async (t) => {
  const { dial } = fakeCluster({ replyEarly: false });
  const pages = { '/proxy.pac': () => ({ type: 'x/y', body: 'the file' }) };
  const { port } = await door(t, { dial, host: '0.0.0.0', credentials: CREDENTIALS, pages });
  const here = new RawClient(port);
  here.socket.end(`GET /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`);
  assert.match((await here.rest()).toString(), /the file/);
  const address = Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .find(({ internal, family }) => !internal && family === 'IPv4')?.address;
  if (!address) return;
  const there = new RawClient(port, address); // the machine's own address: nothing leaves it
  there.socket.end(`GET /proxy.pac HTTP/1.1\r\nHost: ${address}:${port}\r\n\r\n`);
  assert.match((await there.rest()).toString(), /^HTTP\/1\.1 403 /);
});
