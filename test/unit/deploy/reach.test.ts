import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import type net from 'node:net';
import { Duplex } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { type WebSocket, WebSocketServer } from 'ws';
import type { Cluster } from '../../../agent/deploy/kube.ts';
import { PortForward } from '../../../agent/deploy/port-forward.ts';
import { reachError, throughPortForward, throughProxy } from '../../../agent/deploy/reach.ts';
import { acceptWebSocket, type Carrier } from '../../../agent/wire/carrier.ts';
import type { LpkError } from '../../../agent/wire/errors.ts';

/** The port-forward protocol against a peer that plays the kubelet with somebody else's websockets (`ws`). */

const NAMED = { server: 'https://api.test', user: 'dev' };
const PORT = Buffer.from([0x51, 0xba]);
const frame = (channel: number, ...body: (string | Buffer)[]) =>
  Buffer.concat([Buffer.of(channel), ...body.map((each) => Buffer.from(each as string))]);

/** One forward and its other end; unless told otherwise both channels have begun. */
async function forwarded(t: TestContext, options: { greet?: boolean } = {}) {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, handleProtocols: () => 'v4.channel.k8s.io' });
  await once(server, 'listening');
  const connected = once(server, 'connection');
  const forward = new PortForward(`ws://127.0.0.1:${(server.address() as net.AddressInfo).port}/`, {}, NAMED);
  t.after(() => {
    forward.destroy();
    server.close();
    for (const client of server.clients) client.terminate();
  });
  const [peer] = (await connected) as [WebSocket];
  if (options.greet !== false) {
    peer.send(frame(0, PORT));
    peer.send(frame(1, PORT));
  }
  return { forward, peer, tcp: (peer as unknown as { _socket: net.Socket })._socket };
}

async function failed(forward: PortForward): Promise<LpkError> {
  const [error] = await once(forward, 'error');
  return error;
}

test('bytes go both ways without channel or port, those written before it is open too', async (t) => {
  const { forward, peer } = await forwarded(t);
  let got = '';
  const all = new Promise<void>((resolve) => {
    peer.on('message', (data: Buffer) => {
      assert.equal(data[0], 0);
      got += data.subarray(1);
      if (got.length === 4) resolve();
    });
  });
  for (const part of ['u', 'p', 'u', 'p']) forward.write(part);
  await all;
  assert.equal(got, 'upup');
  peer.send(frame(0, 'do'));
  peer.send(frame(0, Buffer.alloc(40_000, 'w')));
  peer.send(frame(0, 'n'));
  peer.close();
  assert.equal(String(await buffer(forward)), `do${'w'.repeat(40_000)}n`);
});

test('the port may come in pieces, or with data behind it', async (t) => {
  const { forward, peer } = await forwarded(t, { greet: false });
  peer.send(frame(0, PORT.subarray(0, 1)));
  peer.send(frame(0));
  peer.send(frame(0, PORT.subarray(1), 'x'));
  peer.send(frame(0, 'y'));
  peer.close();
  assert.equal(String(await buffer(forward)), 'xy');
});

test('what the kubelet says on the error channel is the error', async (t) => {
  const { forward, peer } = await forwarded(t);
  peer.send(frame(1, 'error forwarding port 47601:\n connection refused'));
  const error = await failed(forward);
  assert.equal(error.code, 'agent-unreachable');
  assert.match(error.message, /error forwarding port 47601: connection refused$/);
});

test('a close is an end; a break, a reset and nonsense are errors', async (t) => {
  const clean = await forwarded(t);
  clean.peer.close();
  clean.forward.resume();
  await once(clean.forward, 'close');
  assert.equal(clean.forward.errored, null);
  const broken = await forwarded(t);
  broken.tcp.end();
  assert.equal((await failed(broken.forward)).code, 'link-lost');
  const reset = await forwarded(t);
  reset.tcp.resetAndDestroy();
  assert.equal((await failed(reset.forward)).code, 'link-lost');
  const nonsense = await forwarded(t);
  nonsense.tcp.write(Buffer.from([0xf2, 0x00]));
  assert.equal((await failed(nonsense.forward)).code, 'agent-unreachable');
});

test('ending or destroying the stream ends the websocket', async (t) => {
  const ended = await forwarded(t);
  ended.forward.end('last');
  const [last] = await once(ended.peer, 'message');
  assert.deepEqual(last, frame(0, 'last'));
  const [code] = await once(ended.peer, 'close');
  assert.equal(code, 1005, 'a close without a code, not a break');
  const destroyed = await forwarded(t);
  const closed = once(destroyed.peer, 'close');
  destroyed.forward.destroy();
  await closed;
});

test('messages on other channels, and empty ones, are nothing; a ping is answered', async (t) => {
  const { forward, peer } = await forwarded(t);
  peer.send(Buffer.alloc(0));
  peer.send(frame(2, 'x'));
  peer.send(frame(255, 'x'));
  peer.ping('p');
  const [pong] = await once(peer, 'pong');
  assert.equal(String(pong), 'p');
  peer.send(frame(0, 'y'));
  peer.close();
  assert.equal(String(await buffer(forward)), 'y');
});

const CHUNK = Buffer.alloc(32 * 1024, 7);
const TOTAL = 64 * 1024 * 1024;
/** More than both streams and both sockets' kernel buffers may hold here, and much less than TOTAL. */
const MOST = 32 * 1024 * 1024;

/** Resolves when `measure` hasn't changed over 50 turns of the event loop that waited for I/O. */
async function still(measure: () => number): Promise<void> {
  for (let same = 0, last = -1; same < 50; same++) {
    if (measure() !== last) same = 0;
    last = measure();
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

test('nobody reads: the sender has to wait, and it all arrives once somebody does', async (t) => {
  const { forward, peer } = await forwarded(t);
  let flushed = 0;
  const send = () =>
    peer.send(frame(0, CHUNK), () => {
      flushed += CHUNK.length;
      if (flushed < TOTAL) send();
    });
  send();
  await still(() => flushed);
  assert.ok(flushed < MOST, `${flushed} bytes were taken although nobody reads`);
  assert.ok(forward.readableLength <= 1024 * 1024, `${forward.readableLength} bytes held`);
  let received = 0;
  for await (const data of forward) {
    received += data.length;
    if (received >= TOTAL) break;
  }
  assert.equal(received, TOTAL);
});

test('the peer does not read: the writer has to wait, and it all arrives once it does', async (t) => {
  const { forward, peer } = await forwarded(t);
  peer.pause();
  let written = 0;
  const write = () => {
    while (written < TOTAL) {
      written += CHUNK.length;
      if (!forward.write(CHUNK)) return void forward.once('drain', write);
    }
  };
  write();
  await still(() => written);
  assert.ok(written < MOST, `${written} bytes were taken although nobody reads`);
  assert.ok(forward.writableLength <= 512 * 1024, `${forward.writableLength} bytes held`);
  let received = 0;
  const all = new Promise<void>((resolve) => {
    peer.on('message', (data: Buffer) => {
      received += data.length - 1;
      if (received === TOTAL) resolve();
    });
  });
  peer.resume();
  await all;
});

type Upgrade = (path: string, request: http.IncomingMessage, socket: net.Socket, head: Buffer) => void;

/** An API server's port, with what it does to an upgrade. */
async function apiServer(t: TestContext, upgrade: Upgrade) {
  const server = http.createServer();
  const sockets = new Set<net.Socket>();
  server.on('connection', (socket) => sockets.add(socket));
  server.on('upgrade', (request, socket, head) => upgrade(request.url as string, request, socket as net.Socket, head));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  const askedAnew: boolean[] = [];
  const cluster = {
    server: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}/gateway`,
    user: 'dev',
    tlsOptions: async (anew = false) => {
      askedAnew.push(anew);
      return { headers: { Authorization: 'Bearer t' } };
    },
  } as unknown as Cluster;
  return { cluster, askedAnew };
}

function refusal(code: number, message: string): string {
  const body = JSON.stringify({ kind: 'Status', code, message });
  return `HTTP/1.1 ${code} No\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}

const ways = (cluster: Cluster) => [
  throughProxy(cluster, 'shop', 'web-1', 47601),
  throughPortForward(cluster, 'shop', 'web-1', 47601),
];

async function errorOf(carrier: Carrier): Promise<LpkError> {
  const [error] = await once(carrier, 'error');
  return reachError(error, NAMED.server);
}

test('both ways ask for the right path, as us, and say why they were refused', async (t) => {
  const asked: string[] = [];
  const answers = [
    refusal(403, 'pods "web-1" is forbidden'),
    refusal(404, 'pods "web-1" not found'),
    refusal(401, 'Unauthorized'),
    refusal(503, 'dial tcp: connection refused'),
    refusal(500, 'x'.repeat(50_000)),
  ];
  const { cluster, askedAnew } = await apiServer(t, (path, request, socket) => {
    const { authorization, 'sec-websocket-protocol': protocol } = request.headers;
    asked.push(`${path} ${authorization} ${protocol}`);
    socket.end(answers[(asked.length - 1) % answers.length] as string);
  });
  for (const open of ways(cluster)) {
    const forbidden = await errorOf(await open());
    assert.equal(forbidden.code, 'forbidden');
    assert.match(forbidden.message, /pods "web-1" is forbidden/);
    assert.equal((await errorOf(await open())).code, 'not-found');
    assert.equal((await errorOf(await open())).code, 'unauthorized');
    const unreachable = await errorOf(await open());
    assert.equal(unreachable.code, 'agent-unreachable');
    assert.match(unreachable.message, /dial tcp: connection refused/);
    const long = await errorOf(await open());
    assert.ok(long.message.length < 600, `${long.message.length} characters`);
  }
  assert.deepEqual(
    [asked[0], asked[5]],
    [
      '/gateway/api/v1/namespaces/shop/pods/web-1:47601/proxy/ Bearer t lpk.v1',
      '/gateway/api/v1/namespaces/shop/pods/web-1/portforward?ports=47601 Bearer t v4.channel.k8s.io',
    ],
  );
  const perWay = [false, false, false, true, false];
  assert.deepEqual(askedAnew, [...perWay, ...perWay], 'new credentials after the 401, once');
});

test('a broken connection, and something that speaks otherwise', async (t) => {
  const { cluster } = await apiServer(t, (_path, _request, socket) => socket.resetAndDestroy());
  for (const open of ways(cluster)) assert.equal((await errorOf(await open())).code, 'cluster-unreachable');
  const other = new WebSocketServer({ noServer: true, handleProtocols: () => false });
  const { cluster: stranger } = await apiServer(t, (_path, request, socket, head) => {
    other.handleUpgrade(request, socket, head, () => {});
  });
  const codes = [];
  for (const open of ways(stranger)) codes.push((await errorOf(await open())).code);
  assert.deepEqual(codes, ['version-mismatch', 'agent-unreachable']);
});

test('the wire’s websocket runs inside a port-forward, and takes it with it when it closes', async (t) => {
  const kubelet = new WebSocketServer({ noServer: true, handleProtocols: () => 'v4.channel.k8s.io' });
  const agent = http.createServer();
  agent.on('upgrade', (request, socket, head) => {
    const carrier = acceptWebSocket(request, socket, head);
    carrier?.on('message', (first, rest) => carrier.send(first, Buffer.concat(rest)));
  });
  const closed = Promise.withResolvers<void>();
  const { cluster } = await apiServer(t, (_path, request, socket, head) => {
    kubelet.handleUpgrade(request, socket, head, (outer) => {
      outer.send(frame(0, PORT));
      outer.send(frame(1, PORT));
      outer.on('close', () => closed.resolve());
      const inPod = new Duplex({
        read() {},
        write: (chunk: Buffer, _encoding, done) => outer.send(frame(0, chunk), () => done()),
      });
      outer.on('message', (data: Buffer) => inPod.push(data.subarray(1)));
      agent.emit('connection', Object.assign(inPod, { setTimeout() {}, setNoDelay() {}, setKeepAlive() {} }));
    });
  });
  const carrier = await throughPortForward(cluster, 'shop', 'web-1', 47601)();
  await once(carrier, 'open');
  const sent = Array.from({ length: 500 }, (_, i) => Buffer.from(`message ${i}`));
  const echoed: Buffer[] = [];
  const all = new Promise<void>((resolve) => {
    carrier.on('message', (first) => {
      echoed.push(first);
      if (echoed.length === sent.length) resolve();
    });
  });
  for (const message of sent) carrier.send(message);
  await all;
  assert.deepEqual(echoed, sent);
  carrier.terminate();
  await closed.promise;
});
