import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { apiServer, forkRelay, relayKubeconfig, startRelay } from '../relay.ts';

async function setUp(t: TestContext, oneWayMs: number, handle: (socket: net.Socket) => void) {
  const sockets = new Set<net.Socket>();
  const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    handle(socket);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const target = { host: '127.0.0.1', port: (server.address() as net.AddressInfo).port };
  const relay = await startRelay({ target, oneWayMs });
  t.after(async () => {
    await relay.close();
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return { relay, target };
}

const echo = (socket: net.Socket) => socket.pipe(socket);

function connect({ port }: { port: number }): net.Socket {
  const socket = net.connect({ host: '127.0.0.1', port, allowHalfOpen: true, noDelay: true });
  socket.on('error', () => {});
  return socket;
}

/** `events.once` would reject with the reset that comes first. */
function closed(socket: net.Socket): Promise<void> {
  return new Promise((resolve) => socket.once('close', () => resolve()));
}

/** Lets what was sent before have its time: many round trips of something else. */
async function aWhile(): Promise<void> {
  const server = net.createServer(echo);
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const socket = connect(server.address() as net.AddressInfo);
  for (let i = 0; i < 100; i++) await roundTripMs(socket);
  socket.destroy();
  server.close();
}

async function roundTripMs(socket: net.Socket): Promise<number> {
  const started = performance.now();
  socket.write('x');
  await once(socket, 'data');
  return performance.now() - started;
}

async function median(times: number, measure: () => Promise<number>): Promise<number> {
  const values: number[] = [];
  for (let i = 0; i < times; i++) values.push(await measure());
  return values.sort((a, b) => a - b)[times >> 1] as number;
}

test('every byte is held back one way and the other, and not much longer', async (t) => {
  const { relay } = await setUp(t, 25, echo);
  const socket = connect(relay);
  await once(socket, 'connect');
  const first = await roundTripMs(socket);
  const usual = await median(9, () => roundTripMs(socket));
  for (const ms of [first, usual]) assert.ok(ms >= 50, `a round trip took ${ms} ms`);
  const timers = await median(9, async () => {
    const started = performance.now();
    for (let i = 0; i < 2; i++) await delay(25);
    return performance.now() - started;
  });
  assert.ok(usual < timers * 1.5, `a round trip takes ${usual} ms, and twice a timer of 25 ms ${timers} ms`);
});

test('setDelay holds from then on, and what came earlier still comes earlier', async (t) => {
  const { relay } = await setUp(t, 100, echo);
  const socket = connect(relay);
  await once(socket, 'connect');
  const started = performance.now();
  let got = '';
  socket.on('data', (piece) => {
    got += piece;
  });
  socket.write('slow ');
  await aWhile();
  relay.setDelay(0);
  socket.write('fast');
  while (got.length < 9) await once(socket, 'data');
  assert.equal(got, 'slow fast');
  assert.ok(performance.now() - started >= 100);
  socket.removeAllListeners('data');
  assert.ok((await median(9, () => roundTripMs(socket))) < 100);
});

test('bytes keep their order and number, both ways at once, delayed or not', async (t) => {
  for (const oneWayMs of [0, 5]) {
    const { relay } = await setUp(t, oneWayMs, echo);
    const socket = connect(relay);
    const [sent, received] = [createHash('sha256'), createHash('sha256')];
    const over = once(
      socket.on('data', (piece) => received.update(piece)),
      'end',
    );
    for (let i = 0; i < 512; i++) {
      const piece = Buffer.alloc(65_521, i);
      sent.update(piece);
      if (!socket.write(piece)) await once(socket, 'drain');
    }
    socket.end();
    await over;
    assert.equal(received.digest('hex'), sent.digest('hex'));
  }
});

test('an end is passed on alone, after what was sent before it, and the other direction goes on', async (t) => {
  const { relay } = await setUp(t, 10, (socket) => {
    let got = '';
    socket.on('data', (piece) => {
      got += piece;
    });
    socket.on('end', () => socket.end(`got ${got}`));
  });
  const socket = connect(relay);
  socket.end('question');
  const [answer] = await once(socket, 'data');
  assert.equal(String(answer), 'got question');
  await closed(socket);
  while (relay.connections > 0) await new Promise(setImmediate);
});

test('a server that ends first still hears the client', async (t) => {
  const heard = Promise.withResolvers<string>();
  const { relay } = await setUp(t, 10, (socket) => {
    socket.end('bye');
    socket.on('data', (piece) => heard.resolve(String(piece)));
  });
  const socket = connect(relay);
  await once(socket.resume(), 'end');
  socket.end('still here');
  assert.equal(await heard.promise, 'still here');
});

test('a reset is passed on, and so is a target that refuses', async (t) => {
  const { relay } = await setUp(t, 0, (socket) => socket.once('data', () => socket.resetAndDestroy()));
  const socket = connect(relay);
  socket.write('x');
  await closed(socket);
  const refused = await startRelay({ target: { host: '127.0.0.1', port: 1 }, oneWayMs: 0 });
  t.after(() => refused.close());
  await closed(connect(refused));
});

test('a cut resets both sides of every connection and says how many there were', async (t) => {
  const far: net.Socket[] = [];
  const { relay } = await setUp(t, 0, (socket) => far.push(echo(socket) as net.Socket));
  const sockets = [connect(relay), connect(relay), connect(relay)];
  for (const socket of sockets) await roundTripMs(socket);
  assert.equal(relay.connections, 3);
  const ends = [...sockets, ...far].map((socket) => closed(socket));
  assert.equal(relay.cut(), 3);
  assert.equal(relay.connections, 0);
  await Promise.all(ends);
  assert.ok((await roundTripMs(connect(relay))) > 0, 'new connections work');
});

async function darkness(t: TestContext) {
  const reached: string[] = [];
  const { relay } = await setUp(t, 0, (socket) => {
    socket.on('data', (piece) => {
      reached.push(String(piece));
      socket.write(piece);
    });
    socket.on('close', () => reached.push('close'));
  });
  const [silent, busy] = [connect(relay), connect(relay)];
  for (const socket of [silent, busy]) await roundTripMs(socket);
  relay.blackhole(true);
  reached.length = 0;
  busy.write('lost');
  const late = connect(relay);
  late.write('lost too');
  while (relay.connections < 3) await new Promise(setImmediate);
  await aWhile();
  return { relay, silent, busy, late, reached };
}

test('a black hole accepts and delivers nothing; what lost something is reset when it ends, the silent go on', async (t) => {
  const { relay, silent, busy, late, reached } = await darkness(t);
  assert.deepEqual(reached, []);
  const ends = [busy, late].map((socket) => closed(socket));
  relay.blackhole(false);
  await Promise.all(ends);
  assert.ok((await roundTripMs(silent)) > 0);
  assert.ok((await roundTripMs(connect(relay))) > 0);
});

test('in a black hole the other side hears nothing of an end or a reset', async (t) => {
  const { relay, silent, busy, reached } = await darkness(t);
  silent.end();
  busy.resetAndDestroy();
  await aWhile();
  assert.deepEqual(reached, []);
  relay.blackhole(false);
  while (!reached.some((what) => what === 'close')) await new Promise(setImmediate);
});

test('a receiver that does not read stops the sender', async (t) => {
  const { relay } = await setUp(t, 1, (socket) => socket.pause());
  const socket = connect(relay);
  const piece = Buffer.alloc(1024 * 1024);
  let last = -1;
  for (let still = 0; still < 500; still++) {
    if (socket.writableLength === 0) socket.write(piece);
    await new Promise(setImmediate);
    const flushed = socket.bytesWritten - socket.writableLength;
    if (flushed !== last) still = 0;
    last = flushed;
    assert.ok(flushed < 256 * 1024 * 1024, 'the relay took 256 MiB');
  }
});

test('does not slow a transfer down much', async (t) => {
  const bytes = 128 * 1024 * 1024;
  const { relay, target } = await setUp(t, 0, (socket) => {
    const piece = Buffer.alloc(256 * 1024);
    const send = () => {
      while (socket.bytesWritten < bytes) if (!socket.write(piece)) return;
      socket.end();
    };
    socket.on('drain', send);
    send();
  });
  const forked = await forkRelay({ target, oneWayMs: 0 });
  t.after(() => forked.close());
  const rate = async (through: { port: number }) => {
    const socket = connect(through);
    const started = performance.now();
    let got = 0;
    socket.on('data', (piece) => {
      got += piece.length;
    });
    await once(socket, 'end');
    socket.end();
    assert.ok(got >= bytes);
    return got / 1_000 / (performance.now() - started);
  };
  const rates = { direct: 0, relayed: 0, inProcess: 0 };
  // The best of three each, by turns: a machine that stalls for a moment spoils one of them.
  for (let round = 0; round < 3; round++) {
    rates.direct = Math.max(rates.direct, await rate(target));
    rates.relayed = Math.max(rates.relayed, await rate(forked));
    rates.inProcess = Math.max(rates.inProcess, await rate(relay));
  }
  t.diagnostic(
    Object.entries(rates)
      .map(([name, value]) => `${name} ${value.toFixed(0)} MB/s`)
      .join(', '),
  );
  assert.ok(rates.relayed > rates.direct / 8, JSON.stringify(rates));
});

test('as a process: cuts and black holes by signal, and says so', async (t) => {
  const { target } = await setUp(t, 0, echo);
  const relay = await forkRelay({ target, oneWayMs: 10 });
  t.after(() => relay.close());
  const socket = connect(relay);
  assert.ok((await roundTripMs(socket)) >= 20);
  const end = closed(socket);
  assert.equal(await relay.cut(), 1);
  await end;
  assert.equal(await relay.toggleBlackhole(), true);
  const lost = connect(relay);
  await once(lost, 'connect');
  const reset = closed(lost);
  assert.equal(await relay.toggleBlackhole(), false);
  await reset;
});

test('the kubeconfig through a relay names the relay and verifies the server it stands for', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lpk-relay-'));
  t.after(() => rm(folder, { recursive: true }));
  const [from, out] = [join(folder, 'from'), join(folder, 'out')];
  const read = async (server: string, more = '') => {
    const clusters = `clusters: [{name: other, cluster: {server: https://other}}, {name: c, cluster: {server: "${server}"${more}}}]`;
    await writeFile(
      from,
      `current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n${clusters}\nusers: [{name: u, user: {token: t}}]\n`,
    );
    await relayKubeconfig(from, 4711, out);
    const { clusters: written, users } = JSON.parse(await readFile(out, 'utf8'));
    assert.deepEqual(users, [{ name: 'u', user: { token: 't' } }]);
    assert.deepEqual(written[0], { name: 'other', cluster: { server: 'https://other' } });
    return { ...written[1].cluster, target: await apiServer(from) };
  };
  assert.deepEqual(await read('https://api.example:6443'), {
    server: 'https://127.0.0.1:4711',
    'tls-server-name': 'api.example',
    target: { host: 'api.example', port: 6443 },
  });
  assert.deepEqual(await read('https://api.example/k8s/c-1', ', tls-server-name: real'), {
    server: 'https://127.0.0.1:4711/k8s/c-1',
    'tls-server-name': 'real',
    target: { host: 'api.example', port: 443 },
  });
  assert.deepEqual(await read('https://[fd00::1]:6443'), {
    server: 'https://127.0.0.1:4711',
    target: { host: 'fd00::1', port: 6443 },
  });
});
