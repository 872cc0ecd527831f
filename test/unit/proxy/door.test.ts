import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import test from 'node:test';
import { LpkError } from '../../../agent/wire/errors.ts';
import { openDoor } from '../../../proxy/door.ts';
import { door, fakeCluster, serve } from './fakes.ts';
import { RawClient } from './raw-client.ts';
import { socks5Answer, socks5Name, socks5Request } from './ways-in.ts';

/** What a door refuses, and the bounds it puts on clients. */

const cluster = () => fakeCluster({ replyEarly: false });

test('a taken port is named', async (t) => {
  const { port } = await door(t, cluster());
  await assert.rejects(openDoor({ port, dial: cluster().dial }), (error: unknown) => {
    assert.ok(error instanceof LpkError);
    assert.equal(error.code, 'port-taken');
    assert.match(error.message, new RegExp(`port ${port} on 127\\.0\\.0\\.1`));
    return true;
  });
});

test('listens on loopback only', async (t) => {
  const { port } = await door(t, cluster());
  const [address] = Object.values((await import('node:os')).networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .filter(({ internal, family }) => !internal && family === 'IPv4');
  const socket = net.connect({ host: address?.address ?? '127.0.0.2', port });
  const [error] = await once(socket, 'error');
  assert.equal(error.code, 'ECONNREFUSED');
});

test('close ends what is under way', async (t) => {
  const port = await serve(t, (socket) => socket.pipe(socket));
  const opened = await openDoor({ port: 0, dial: cluster().dial });
  const client = new RawClient(opened.port);
  client.socket.write(socks5Request(1, socks5Name('web'), port));
  assert.equal(await socks5Answer(client), 'ok');
  await opened.close();
  await client.rest();
  await assert.rejects(once(net.connect({ host: '127.0.0.1', port: opened.port }), 'connect'));
});

const REFUSED: Record<string, { sent: Buffer; answer: string }> = {
  'SOCKS5 BIND': { sent: socks5Request(2, socks5Name('web'), 80), answer: '0500' + '05070001000000000000' },
  'SOCKS5 command 9': { sent: socks5Request(9, socks5Name('web'), 80), answer: '0500' + '05070001000000000000' },
  'SOCKS5 address type 2': {
    sent: socks5Request(1, Buffer.of(2, 1, 2, 3, 4), 80),
    answer: '0500' + '05080001000000000000',
  },
  'SOCKS5 empty name': { sent: socks5Request(1, socks5Name(''), 80), answer: '0500' + '05010001000000000000' },
  'SOCKS5 name with a control byte': {
    sent: socks5Request(1, socks5Name('we\0b'), 80),
    answer: '0500' + '05010001000000000000',
  },
  'SOCKS5 request of another version': {
    sent: Buffer.from('050100' + '04010001', 'hex'),
    answer: '0500' + '05010001000000000000',
  },
  'SOCKS5 password only': { sent: Buffer.of(5, 1, 2), answer: '05ff' },
  'SOCKS5 no method': { sent: Buffer.of(5, 0), answer: '05ff' },
  'SOCKS4 BIND': { sent: Buffer.from('0402005001020304' + '00', 'hex'), answer: '005b000000000000' },
  'SOCKS4 endless user': {
    sent: Buffer.concat([Buffer.from('0401005001020304', 'hex'), Buffer.alloc(512, 97)]),
    answer: '005b000000000000',
  },
  'SOCKS4a endless name': {
    sent: Buffer.concat([Buffer.from('0401005000000001' + '00', 'hex'), Buffer.alloc(512, 97)]),
    answer: '005b000000000000',
  },
  'SOCKS4a empty name': { sent: Buffer.from('0401005000000001' + '0000', 'hex'), answer: '005b000000000000' },
  'a TLS hello': { sent: Buffer.from('160301020001', 'hex'), answer: '' },
  'a NUL': { sent: Buffer.of(0), answer: '' },
};

for (const [name, { sent, answer }] of Object.entries(REFUSED)) {
  test(`refuses ${name}`, async (t) => {
    const fake = cluster();
    const { port } = await door(t, fake);
    const client = new RawClient(port);
    client.socket.write(sent);
    assert.equal((await client.rest()).toString('hex'), answer);
    assert.deepEqual(fake.flows, []);
  });
}

test('SOCKS5: an IPv6 literal given as a name loses its brackets', async (t) => {
  const port = await serve(t, (socket) => socket.end());
  const fake = cluster();
  const { port: doorPort } = await door(t, fake);
  const client = new RawClient(doorPort);
  client.socket.write(socks5Request(1, socks5Name('[::1]'), port));
  assert.equal(await socks5Answer(client), 'ok');
  assert.deepEqual(fake.flows, [{ protocol: 'tcp', host: '::1', port }]);
});

const SLOW: Record<string, Buffer> = {
  'says nothing': Buffer.alloc(0),
  'stops in the SOCKS5 greeting': Buffer.of(5, 9, 0),
  'stops in the SOCKS5 request': Buffer.from('050100' + '050100030a77', 'hex'),
  'stops in the SOCKS4 user': Buffer.from('0401005001020304' + '6d65', 'hex'),
  'stops in an HTTP header': Buffer.from('GET http://web/ HTTP/1.1\r\nHost: w'),
};

for (const [name, sent] of Object.entries(SLOW)) {
  test(`a client that ${name} is closed when its time is up`, async (t) => {
    const { port } = await door(t, { ...cluster(), handshakeMs: 30 });
    const client = new RawClient(port);
    client.socket.write(sent);
    const started = performance.now();
    await client.rest();
    assert.ok(performance.now() - started >= 25, 'not before');
  });
}

test('sending busily does not buy a client time', async (t) => {
  const { port } = await door(t, { ...cluster(), handshakeMs: 100 });
  const client = new RawClient(port);
  client.socket.write('GET http://web/ HTTP/1.1\r\nX: ');
  const drip = setInterval(() => client.socket.write('x'), 5);
  t.after(() => clearInterval(drip));
  await client.closed;
});

test('a flow under way has no deadline', async (t) => {
  const port = await serve(t, (socket) => socket.pipe(socket));
  const { port: doorPort } = await door(t, { ...cluster(), handshakeMs: 500, idleMs: 500 });
  const flow = new RawClient(doorPort);
  flow.socket.write(socks5Request(1, socks5Name('web'), port));
  assert.equal(await socks5Answer(flow), 'ok');
  await new RawClient(doorPort).rest(); // by now the flow's would have passed as well
  flow.socket.write('alive');
  assert.equal((await flow.take(5)).toString(), 'alive');
});

test('clients beyond the bound are closed, and there is room again when one leaves', async (t) => {
  const port = await serve(t, (socket) => socket.pipe(socket));
  const { port: doorPort } = await door(t, { ...cluster(), maxConnections: 2 });
  const enter = () => {
    const client = new RawClient(doorPort);
    client.socket.write(socks5Request(1, socks5Name('web'), port));
    return client;
  };
  const [first, second] = [enter(), enter()];
  assert.equal(await socks5Answer(first), 'ok');
  assert.equal(await socks5Answer(second), 'ok');
  assert.equal((await enter().rest()).length, 0);
  first.socket.end();
  await first.closed;
  for (;;) {
    const answer = await socks5Answer(enter()).catch(() => 'closed'); // the door may see it leave a moment later
    if (answer === 'ok') break;
  }
});
