import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { type TestContext, test } from 'node:test';
import v8 from 'node:v8';
import vm from 'node:vm';
import { type ServerOptions, startServer, type TunnelServer } from '../../../agent/pod/server.ts';
import { type Carrier, openWebSocket } from '../../../agent/wire/carrier.ts';
import { proveAsLaptop, type Welcome } from '../../../agent/wire/handshake.ts';
import { SUBPROTOCOL, TIMES, type Times } from '../../../agent/wire/protocol.ts';
import { Session } from '../../../agent/wire/session.ts';
import type { Stream } from '../../../agent/wire/stream.ts';
import { seeded, until } from '../wire/harness.ts';

const KEY = Buffer.alloc(32, 7);

/** An agent whose streams echo. */
async function agentServer(
  t: TestContext,
  options: Partial<ServerOptions> = {},
): Promise<TunnelServer & { sessions: Session[] }> {
  const sessions: Session[] = [];
  const server = await startServer({
    host: '127.0.0.1',
    port: 0,
    key: KEY,
    holdMs: 60_000,
    onSession: (session) => {
      sessions.push(session);
      session.on('stream', (stream) => {
        stream.accept();
        stream.pipe(stream);
      });
    },
    ...options,
  });
  t.after(() => server.close());
  return Object.assign(server, { sessions });
}

const challenges = new WeakMap<Carrier, Buffer>();

/** Connects as a laptop would, up to the agent's challenge. */
async function challenged(t: TestContext, port: number): Promise<Carrier> {
  const carrier = openWebSocket(`ws://127.0.0.1:${port}/`);
  t.after(() => carrier.terminate());
  carrier.on('error', () => {});
  const [challenge] = (await once(carrier, 'message')) as [Buffer];
  challenges.set(carrier, challenge);
  return carrier;
}

/** A laptop of one session; `prove` continues (or begins) it on a carrier. */
class Laptop {
  session = new Session('laptop');
  id = randomBytes(16);
  closes: number[] = [];
  carrier: Carrier | undefined;

  /** `position`: what the laptop claims, when it isn't what it has. */
  prove(carrier: Carrier, position: { received?: number; resuming?: boolean } = {}, key = KEY): Promise<Welcome> {
    carrier.on('close', (code) => this.closes.push(code));
    return new Promise((resolve, reject) => {
      const sample = () => ({ sessionId: this.id, received: this.session.link.received, resuming: false, ...position });
      const welcomed = (welcome: Welcome) => {
        if (!welcome.resumed) this.session = new Session('laptop');
        this.session.attach(carrier, welcome.peerReceived);
        this.carrier = carrier;
        resolve(welcome);
      };
      proveAsLaptop(carrier, key, sample, welcomed).catch(reject);
      carrier.emit('message', challenges.get(carrier) as Buffer, []);
    });
  }

  async echo(text: string): Promise<string> {
    const stream = this.session.openTcp('echo', 7, Buffer.from(text));
    const [answer] = (await once(stream, 'data')) as [Buffer];
    stream.destroy();
    return String(answer);
  }
}

async function connected(t: TestContext, port: number): Promise<Laptop> {
  const laptop = new Laptop();
  await laptop.prove(await challenged(t, port));
  t.after(() => laptop.session.close());
  return laptop;
}

test('a key that is not 256 bits is refused at the start', async () => {
  for (const key of [Buffer.alloc(0), Buffer.alloc(16), Buffer.alloc(33)]) {
    await assert.rejects(startServer({ host: '127.0.0.1', port: 0, key, holdMs: 1, onSession: () => {} }), {
      code: 'internal',
    });
  }
});

test('a laptop comes back to its session, and its streams go on', async (t) => {
  const server = await agentServer(t);
  const laptop = await connected(t, server.port);
  const stream = laptop.session.openTcp('echo', 7, Buffer.from('one'));
  assert.equal(String((await once(stream, 'data'))[0]), 'one');
  const welcome = await laptop.prove(await challenged(t, server.port), { resuming: true });
  assert.equal(welcome.resumed, true);
  stream.write('two');
  assert.equal(String((await once(stream, 'data'))[0]), 'two');
  await until(() => laptop.closes.length === 1, 'the earlier websocket is closed');
  assert.deepEqual(laptop.closes, [4003]);
  assert.equal(server.sessions.length, 1);
});

test('an agent that does not know the session begins a new one, on the same websocket', async (t) => {
  const server = await agentServer(t);
  const laptop = new Laptop();
  t.after(() => laptop.session.close());
  const carrier = await challenged(t, server.port);
  const welcome = await laptop.prove(carrier, { received: 1_000, resuming: true });
  assert.deepEqual([welcome.resumed, welcome.peerReceived], [false, 0]);
  assert.equal(await laptop.echo('hello'), 'hello');
  assert.deepEqual(laptop.closes, []);
  assert.equal(server.sessions.length, 1);
});

test('a laptop whose position is impossible gets a new session', async (t) => {
  const server = await agentServer(t);
  const laptop = await connected(t, server.port);
  assert.equal(await laptop.echo('hello'), 'hello');
  const welcome = await laptop.prove(await challenged(t, server.port), { resuming: true, received: 1_000 });
  assert.equal(welcome.resumed, false);
  assert.equal(await laptop.echo('again'), 'again');
  assert.equal(server.sessions.length, 2);
  assert.equal(server.sessions[0]?.ended?.code, 'session-ended');
});

test('an attempt that was overtaken by a later one can take nothing away', async (t) => {
  const server = await agentServer(t);
  const laptop = new Laptop();
  t.after(() => laptop.session.close());
  const slow = await challenged(t, server.port);
  const slower = await challenged(t, server.port);
  await laptop.prove(await challenged(t, server.port));
  assert.equal(await laptop.echo('one'), 'one');
  const late = new Laptop();
  await assert.rejects(late.prove(slow), { code: 'link-lost' });
  late.id = laptop.id;
  await assert.rejects(late.prove(slower, { resuming: true }), { code: 'link-lost' });
  assert.deepEqual(late.closes, [4003, 4003]);
  assert.equal(await laptop.echo('two'), 'two');
  assert.equal(server.sessions.length, 1);
});

test('a second laptop takes over; the first is told', async (t) => {
  const server = await agentServer(t);
  const first = await connected(t, server.port);
  const ended = once(first.session, 'end');
  const second = await connected(t, server.port);
  assert.equal((await ended)[0].code, 'session-ended');
  assert.equal(await second.echo('hello'), 'hello');
});

test('a session is kept for its time without a websocket, then its streams are reset', async (t) => {
  const server = await agentServer(t, { holdMs: 80 });
  const laptop = await connected(t, server.port);
  const [session] = server.sessions as [Session];
  const incoming = once(session, 'stream');
  laptop.session.openTcp('echo', 7);
  const [stream] = (await incoming) as [Stream];
  const down = once(session, 'down');
  const reset = once(stream, 'error');
  laptop.carrier?.terminate();
  await down;
  const downAt = performance.now();
  assert.equal((await reset)[0].code, 'link-lost');
  assert.ok(performance.now() - downAt >= 75, `kept for ${performance.now() - downAt} ms`);
  assert.equal(server.session(), undefined);
  const welcome = await laptop.prove(await challenged(t, server.port), { resuming: true });
  assert.equal(welcome.resumed, false);
});

test('a client without the key, with a wrong one, or with garbage gets nothing, and disturbs nobody', async (t) => {
  const server = await agentServer(t);
  const laptop = await connected(t, server.port);
  const random = seeded(5);
  for (let i = 0; i < 20; i++) {
    const stranger = new Laptop();
    await assert.rejects(stranger.prove(await challenged(t, server.port), {}, Buffer.alloc(32, 8)), {
      code: 'key-mismatch',
    });
    const garbage = await challenged(t, server.port);
    const closed = once(garbage, 'close');
    garbage.send(Buffer.from(Array.from({ length: Math.floor(random() * 128) }, () => Math.floor(random() * 256))));
    assert.equal((await closed)[0], 4001);
    const huge = await challenged(t, server.port);
    const cut = once(huge, 'close');
    huge.send(Buffer.alloc(70_000));
    assert.equal((await cut)[0], 1009);
    const raw = net.connect({ port: server.port, host: '127.0.0.1' });
    raw.on('error', () => {});
    raw.end(Buffer.from(Array.from({ length: 300 }, () => Math.floor(random() * 256))));
    raw.resume();
    await once(raw, 'close');
    assert.equal(await laptop.echo(`round ${i}`), `round ${i}`);
  }
  await until(() => server.unproven() === 0, 'nothing is left of them');
  assert.equal(server.sessions.length, 1);
});

test('another version is refused with words', async (t) => {
  const server = await agentServer(t);
  const socket = net.connect({ port: server.port, host: '127.0.0.1' });
  socket.write(
    'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n' +
      'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: lpk.v0, lpk.v99\r\n\r\n',
  );
  let answer = '';
  for await (const chunk of socket) answer += chunk;
  assert.match(answer, /^HTTP\/1\.1 426 Upgrade Required\r\n/);
  assert.match(answer, /\r\n\r\nthis lpk agent speaks lpk\.v1; it was asked for lpk\.v0, lpk\.v99\n$/);
});

test('whoever proves nothing is cut off in time: silent, half a request, no proof', async (t) => {
  const times: Times = { ...TIMES };
  const server = await agentServer(t, { times });
  const laptop = await connected(t, server.port);
  times.handshakeMs = 50; // for those to come
  const sockets = ['', 'GET / HTTP/1.1\r\nHo', upgradeRequest()].map((text) => {
    const socket = net.connect({ port: server.port, host: '127.0.0.1' });
    socket.on('error', () => {});
    socket.write(text);
    return once(socket.resume(), 'close');
  });
  await Promise.all(sockets);
  await until(() => server.unproven() === 0, 'nothing is left of them');
  assert.equal(await laptop.echo('still here'), 'still here');
});

test('close() ends everything within a second or so, whoever is connected', async (t) => {
  const server = await agentServer(t);
  const laptop = await connected(t, server.port);
  await challenged(t, server.port);
  const silent = net.connect({ port: server.port, host: '127.0.0.1' });
  await once(silent, 'connect');
  silent.on('error', () => {});
  const ended = once(laptop.session, 'end');
  const startedAt = performance.now();
  await server.close();
  assert.ok(performance.now() - startedAt < 4_500);
  assert.equal((await ended)[0].code, 'session-ended');
});

const upgradeRequest = () =>
  'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n' +
  `Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: ${SUBPROTOCOL}\r\n\r\n`;

/** Opens a websocket from `address` and leaves it at that; fulfilled with the challenge, or when the agent has closed it. */
function halfOpen(port: number, address: string, sockets: Set<net.Socket>): Promise<void> {
  return new Promise((resolve) => {
    const socket = net.connect({ port, host: '127.0.0.1', localAddress: address });
    sockets.add(socket);
    let bytes = 0;
    socket.on('error', () => {});
    socket.on('close', () => {
      sockets.delete(socket);
      resolve();
    });
    socket.on('data', (chunk) => {
      bytes += chunk.length;
      if (bytes > 160) resolve();
    });
    socket.write(upgradeRequest());
  });
}

test('10,000 half-open handshakes: the session goes on, a laptop gets in, nothing grows', {
  timeout: 600_000,
}, async (t) => {
  v8.setFlagsFromString('--expose-gc');
  const collect = vm.runInNewContext('gc') as () => void;
  const server = await agentServer(t, { times: { ...TIMES, handshakeMs: 600_000 } }); // time clears nothing away
  const laptop = await connected(t, server.port);
  const sockets = new Set<net.Socket>();
  t.after(() => {
    for (const socket of sockets) socket.destroy();
  });
  const flood = async (count: number) => {
    for (let i = 0; i < count; i += 250) {
      await Promise.all(Array.from({ length: 250 }, () => halfOpen(server.port, '127.0.0.2', sockets)));
      assert.ok(server.unproven() <= 256, `${server.unproven()} connections are kept`);
      assert.equal(await laptop.echo(`after ${i}`), `after ${i}`);
    }
  };
  await flood(1_000); // warm: code, pools
  collect();
  const before = process.memoryUsage();
  const early = await challenged(t, server.port);
  await flood(9_000);
  await until(() => sockets.size <= 300, 'the others are closed');
  // Some of what is over is let go of only in the next turns.
  let grownMiB = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 20 && grownMiB >= 8; i++) {
    collect();
    const after = process.memoryUsage();
    grownMiB = (after.heapUsed + after.external - before.heapUsed - before.external) / 2 ** 20;
    await new Promise(setImmediate);
  }
  assert.ok(grownMiB < 8, `memory grew by ${grownMiB.toFixed(1)} MiB`);

  // One that began before the flood still can prove itself, and so can one that begins in the middle of it.
  assert.equal(server.sessions.length, 1);
  const patient = new Laptop();
  t.after(() => patient.session.close());
  const flooding = flood(500).catch(() => {});
  await patient.prove(early);
  const late = await connected(t, server.port);
  assert.equal(await late.echo('in'), 'in');
  await flooding;
  assert.equal(server.sessions.length, 3);
});
