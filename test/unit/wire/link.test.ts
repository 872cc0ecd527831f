import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { LpkError } from '../../../agent/wire/errors.ts';
import {
  encodeCount,
  encodeFrame,
  encodeOpen,
  encodeReason,
  encodeUint32,
  openArg,
} from '../../../agent/wire/frames.ts';
import { FRAME, LIMITS, resetValue, TIMES } from '../../../agent/wire/protocol.ts';
import { Relay, ScriptedPeer, SessionPair, seeded, until } from './harness.ts';

const QUICK = { ...TIMES, tickMs: 10, pingMs: 20, deadMs: 150 };

test('numbered frames count from 1; what is received is acknowledged, as a 48-bit count, after 20 ms', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  const stream = session.openTcp('web', 80, Buffer.from('hello'));
  stream.end();
  const fin = await peer.next(({ type }) => type === FRAME.fin);
  assert.deepEqual([peer.of(FRAME.open)[0]?.seq, fin.seq], [1, 2]);
  t.mock.timers.enable({ apis: ['setTimeout'] });
  peer.send(FRAME.opened, 0, 1);
  peer.send(FRAME.data, 0, 1, Buffer.from('x'));
  await until(() => session.link.received === 2, 'received');
  t.mock.timers.tick(19);
  peer.send(FRAME.ping, 0, 0, encodeUint32(1));
  await peer.next(({ type }) => type === FRAME.pong);
  assert.equal(peer.of(FRAME.ack).length, 0, 'what comes in 20 ms is acknowledged together');
  t.mock.timers.tick(1);
  const ack = await peer.next(({ type }) => type === FRAME.ack);
  assert.equal(ack.body.toString('hex'), '000000000002');
  assert.equal(peer.of(FRAME.ack).length, 1);
});

test('256 KiB are acknowledged without waiting', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t, { ...TIMES, ackMs: 100_000 });
  for (let i = 0; i < 5; i++) {
    const stream = session.openTcp('web', 80);
    peer.send(FRAME.data, 0, stream.id, undefined, Buffer.alloc(65_536));
  }
  const ack = await peer.next(({ type }) => type === FRAME.ack);
  assert.equal(ack.body.readUIntBE(0, 6), 4);
});

test('frames are kept until they are acknowledged', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  session.openTcp('web', 80, Buffer.alloc(10_000));
  assert.ok(session.link.keptBytes > 10_000);
  peer.send(FRAME.ack, 0, 0, encodeCount(1));
  await until(() => session.link.keptBytes === 0, 'nothing is kept');
});

const BREACHES: [name: string, send: (peer: ScriptedPeer) => void][] = [
  ['a number left out', (peer) => peer.carrier.send(encodeFrame(FRAME.opened, 0, 1, 2))],
  [
    'a number twice',
    (peer) => {
      peer.send(FRAME.opened, 0, 1);
      peer.carrier.send(encodeFrame(FRAME.opened, 0, 1, 1));
    },
  ],
  ['an ACK of frames never sent', (peer) => peer.send(FRAME.ack, 0, 0, encodeCount(2))],
  [
    'an ACK that takes back',
    (peer) => {
      peer.send(FRAME.ack, 0, 0, encodeCount(1));
      peer.send(FRAME.ack, 0, 0, encodeCount(0));
    },
  ],
  ['an ACK of 4 bytes', (peer) => peer.send(FRAME.ack, 0, 0, encodeUint32(1))],
  ['a PONG without a token', (peer) => peer.send(FRAME.pong, 0, 0)],
  ['an unknown frame', (peer) => peer.carrier.send(Buffer.alloc(12, 9))],
  ['half a header', (peer) => peer.carrier.send(Buffer.alloc(11))],
  ['an empty message', (peer) => peer.carrier.send(Buffer.alloc(0))],
];

for (const [name, send] of BREACHES) {
  test(`${name} ends the session, and the peer hears why`, async (t) => {
    const [session, peer] = await ScriptedPeer.forLaptop(t);
    const stream = session.openTcp('web', 80);
    const reset = once(stream, 'error');
    send(peer);
    const [error] = (await once(session, 'end')) as [LpkError];
    assert.equal(error.code, 'protocol');
    assert.equal((await reset)[0].code, 'protocol');
    const bye = await peer.next(({ type }) => type === FRAME.bye);
    assert.equal(bye.arg, resetValue('protocol'));
    await until(() => peer.closed !== undefined, 'closed');
    assert.equal(peer.closed?.code, 4005);
    assert.throws(() => session.openTcp('web', 80), { code: 'protocol' });
  });
}

test('a BYE ends the session with its code and words', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  session.openTcp('web', 80, Buffer.alloc(1_000));
  peer.send(FRAME.bye, resetValue('session-ended'), 0, encodeReason('the agent is stopping'));
  const [error] = (await once(session, 'end')) as [LpkError];
  assert.deepEqual([error.code, error.message], ['session-ended', 'the agent is stopping']);
  assert.equal(session.isUp, false);
  assert.equal(session.link.keptBytes, 0);
});

test('a PING is answered with its own token', async (t) => {
  const [, peer] = await ScriptedPeer.forAgent(t);
  peer.send(FRAME.ping, 0, 0, encodeUint32(0xdead_beef));
  const pong = await peer.next(({ type }) => type === FRAME.pong);
  assert.equal(pong.body.toString('hex'), 'deadbeef');
});

test('both ends know the round trip as soon as there was one', async (t) => {
  const pair = await SessionPair.open(t, { times: { ...TIMES, tickMs: 600_000 } }); // without waiting for a tick
  await until(() => Number.isFinite(pair.agent.link.minRttMs) && Number.isFinite(pair.laptop.link.minRttMs), 'known');
});

test('a late answer counts as what it took', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  peer.pongAfterMs = 60;
  await until(() => session.link.rttMs > 0, 'known');
  assert.ok(session.link.minRttMs >= 59 && session.link.minRttMs < 5_000, String(session.link.minRttMs));
});

test('a peer that falls silent is given up; one that only answers pings is not', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t, QUICK);
  peer.pongAfterMs = 0;
  const downs: string[] = [];
  session.on('down', (reason) => downs.push(reason));
  await until(() => peer.of(FRAME.ping).length > 12, 'a dozen pings'); // more than deadMs
  assert.deepEqual(downs, []);
  peer.pongAfterMs = undefined;
  const silentAt = performance.now();
  await until(() => downs.length > 0, 'given up');
  assert.ok(performance.now() - silentAt >= QUICK.deadMs - QUICK.pingMs - 25);
  assert.match(String(downs[0]), /nothing heard/);
});

test('a black hole is noticed at both ends, and the session goes on over a new websocket', async (t) => {
  let relay: Relay | undefined;
  const pair = await SessionPair.open(t, {
    times: QUICK,
    port: async (serverPort) => {
      relay = await Relay.open(t, serverPort);
      return relay.port;
    },
  });
  const [laptop, agent] = await pair.stream();
  const downs = Promise.all([once(pair.laptop, 'down'), once(pair.agent, 'down')]);
  (relay as Relay).lossy = 'both';
  laptop.write('into the dark');
  agent.write('and back');
  await downs;
  await pair.connect();
  assert.equal(String((await once(agent, 'data'))[0]), 'into the dark');
  assert.equal(String((await once(laptop, 'data'))[0]), 'and back');
});

test('a process that was asleep does not blame the link', async (t) => {
  const pair = await SessionPair.open(t, { times: QUICK });
  const downs: string[] = [];
  pair.laptop.on('down', (reason) => downs.push(reason));
  pair.agent.on('down', (reason) => downs.push(reason));
  for (let i = 0; i < 3; i++) {
    const wakesAt = performance.now() + 3 * QUICK.deadMs;
    while (performance.now() < wakesAt); // as a suspended laptop: nothing runs, from the first moment on
    let ticks = 0;
    const ticking = setInterval(() => {
      ticks += 1;
    }, QUICK.tickMs);
    while (ticks < 8) await new Promise((resolve) => setImmediate(resolve));
    clearInterval(ticking);
  }
  assert.deepEqual(downs, []);
});

test('a newer websocket replaces the one in use, which is told', async (t) => {
  const pair = await SessionPair.open(t);
  const first = pair.carriers;
  const downs: string[] = [];
  pair.laptop.on('down', (reason) => downs.push(reason));
  const closed = once((first as NonNullable<typeof first>)[0], 'close');
  await pair.connect();
  assert.equal((await closed)[0], 4003);
  const [laptop, agent] = await pair.stream();
  laptop.write('on the new one');
  assert.equal(String((await once(agent, 'data'))[0]), 'on the new one');
  assert.deepEqual(downs, []);
});

test('attach refuses a position that cannot be', async (t) => {
  const pair = await SessionPair.open(t);
  const { link } = pair.laptop;
  const [laptop] = await pair.stream();
  await until(() => link.keptBytes === 0, 'acknowledged');
  for (const received of [0, 2, 2 ** 48]) {
    assert.equal(link.canResume(received), false, String(received));
    const carriers = pair.carriers as NonNullable<typeof pair.carriers>;
    assert.throws(() => link.attach(carriers[0], received), { code: 'protocol' });
  }
  assert.equal(link.canResume(1), true);
  assert.equal(laptop.destroyed, false);
});

test('frames lost in one direction only are sent again, the others are not', async (t) => {
  for (const lossy of ['toTarget', 'toClient'] as const) {
    let relay: Relay | undefined;
    const pair = await SessionPair.open(t, {
      port: async (serverPort) => {
        relay = await Relay.open(t, serverPort);
        return relay.port;
      },
    });
    const [laptop, agent] = await pair.stream();
    const heard = { laptop: '', agent: '' };
    laptop.on('data', (chunk) => {
      heard.laptop += chunk;
    });
    agent.on('data', (chunk) => {
      heard.agent += chunk;
    });
    laptop.write('a');
    agent.write('1');
    await until(() => heard.laptop === '1' && heard.agent === 'a', 'the first of both');
    (relay as Relay).lossy = lossy;
    laptop.write('b');
    agent.write('2');
    await until(() => (lossy === 'toTarget' ? heard.laptop === '12' : heard.agent === 'ab'), 'one way');
    pair.cut();
    await until(() => !pair.laptop.isUp && !pair.agent.isUp, 'down');
    laptop.end('c');
    agent.end('3');
    await pair.connect();
    await until(() => heard.laptop.length === 3 && heard.agent.length === 3, 'all');
    assert.deepEqual(heard, { laptop: '123', agent: 'abc' });
  }
});

test('a session waits when too much is unacknowledged, and goes on with the next ACK', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  const stream = session.openTcp('web', 80);
  peer.send(FRAME.credit, 0, stream.id, encodeUint32(0x7fff_ffff));
  const chunk = Buffer.alloc(65_536);
  const fill = () => {
    while (stream.write(chunk)) {}
  };
  stream.on('drain', fill);
  fill();
  const full = () => session.link.keptBytes >= LIMITS.retainBytes;
  await until(() => full() && peer.of(FRAME.data).length * chunk.length === session.bytes.out, 'full');
  assert.ok(session.link.keptBytes < LIMITS.retainBytes + 70_000, `${session.link.keptBytes} bytes are kept`);
  const before = peer.of(FRAME.data).length;
  await delay(50); // nothing happens: that it waits can't be waited for
  assert.equal(peer.of(FRAME.data).length, before);
  peer.send(FRAME.ack, 0, 0, encodeCount(100));
  await until(() => peer.of(FRAME.data).length >= before + 99, 'as many more');
  stream.destroy();
});

test('while the link is down: streams wait at the limit, and asking for twice as much ends the session', async (t) => {
  const pair = await SessionPair.open(t);
  pair.cut();
  await until(() => !pair.laptop.isUp, 'down');
  const first = Buffer.alloc(65_536);
  const ended = once(pair.laptop, 'end');
  let opened = 0;
  while (!pair.laptop.ended && opened < LIMITS.maxStreams) {
    pair.laptop.openTcp('web', 80, first);
    opened += 1;
    assert.ok(pair.laptop.link.keptBytes <= 2 * LIMITS.retainBytes);
  }
  assert.equal((await ended)[0].code, 'limit-exceeded');
  assert.ok(opened * 70_000 > 2 * LIMITS.retainBytes, `${opened} were opened`);
  assert.equal(pair.laptop.link.keptBytes, 0);
  assert.equal(pair.laptop.streamCount, 0);
});

test('opening and giving up streams while the link is down is bounded too', async (t) => {
  const pair = await SessionPair.open(t);
  pair.cut();
  await until(() => !pair.laptop.isUp, 'down');
  let most = 0;
  for (let i = 0; i < 2_000 && !pair.laptop.ended; i++) {
    pair.laptop.openTcp('web', 80, Buffer.alloc(60_000)).destroy();
    most = Math.max(most, pair.laptop.link.keptBytes);
  }
  assert.equal(pair.laptop.ended?.code, 'limit-exceeded');
  assert.ok(most <= 2 * LIMITS.retainBytes);
});

test('a websocket that takes nothing is given no more than its share', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  const stream = session.openTcp('web', 80);
  peer.send(FRAME.credit, 0, stream.id, encodeUint32(0x7fff_ffff));
  await until(() => stream.writable, 'open');
  peer.socket?.pause();
  const chunk = Buffer.alloc(65_536);
  let room = true;
  stream.on('drain', () => {
    room = true;
  });
  let idle = 0;
  let most = 0;
  while (idle < 50) {
    idle += 1;
    while (room) {
      idle = 0;
      room = stream.write(chunk);
    }
    most = Math.max(most, peer.far.bufferedAmount);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(most < LIMITS.carrierBufferBytes + 70_000, `${most} bytes wait`);
  peer.socket?.resume();
  stream.destroy();
});

test('a buffer filled to within a websocket header of its limit does not stall', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  const streams = Array.from({ length: 5 }, () => session.openTcp('web', 80));
  await until(() => peer.of(FRAME.open).length === 5, 'opened');
  const [a, b, c, d, last] = streams;
  for (const stream of [a, b, c]) stream?.write(Buffer.alloc(65_536));
  // Header, mask and frame header of a long message are 26 bytes, of a shorter one 20: all four together end just at the limit.
  d?.write(Buffer.alloc(LIMITS.carrierBufferBytes - 3 * (65_536 + 26) - 20 + 1));
  last?.write('x');
  await peer.next(({ type, stream }) => type === FRAME.data && stream === last?.id);
});

test('the numbers go on past 2^32', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  session.openTcp('web', 80);
  const open = await peer.next(({ type }) => type === FRAME.open);
  assert.equal(open.seq, 1);
  const random = seeded(9);
  for (const count of [0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, Math.floor(random() * 2 ** 48)]) {
    const frame = encodeFrame(FRAME.open, openArg('tcp'), 1, count, encodeOpen({ kind: 'tcp', host: '', port: 0 }));
    assert.equal(frame.readUInt32BE(8), count % 2 ** 32);
  }
});
