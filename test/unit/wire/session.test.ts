import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { LpkError } from '../../../agent/wire/errors.ts';
import { decodeOpen, encodeOpen, encodeReason, encodeUint32, type Frame, openArg } from '../../../agent/wire/frames.ts';
import { FRAME, LIMITS, resetValue, type StreamKind } from '../../../agent/wire/protocol.ts';
import type { Stream } from '../../../agent/wire/stream.ts';
import { readAll, ScriptedPeer, SessionPair, until } from './harness.ts';

const WINDOW = LIMITS.initialWindowBytes;

function open(peer: ScriptedPeer, stream: number, kind: StreamKind = 'tcp', first?: Buffer): void {
  peer.send(FRAME.open, openArg(kind), stream, encodeOpen({ kind, host: 'web', port: 80 }), first);
}

const dataOf = (stream: Stream) => (frame: Frame) => frame.type === FRAME.data && frame.stream === stream.id;

// Opening

test('streams are numbered odd from the laptop and even from the agent, and OPEN says who is wanted', async (t) => {
  const pair = await SessionPair.open(t);
  const incoming: Stream[] = [];
  pair.agent.on('stream', (stream) => incoming.push(stream));
  pair.laptop.on('stream', (stream) => incoming.push(stream));
  pair.laptop.openTcp('web.shop', 80, Buffer.from('GET'));
  pair.laptop.openUdp('10.0.0.10', 53);
  pair.agent.openAccept(8080, '10.0.0.7', 40_000);
  pair.agent.openAccept(8080, '10.0.0.8', 40_001);
  await until(() => incoming.length === 4, 'all streams');
  const seen = incoming.map(({ id, kind, host, port, peerPort }) => [id, kind, host, port, peerPort]);
  assert.deepEqual(
    seen.sort((a, b) => Number(a[0]) - Number(b[0])),
    [
      [1, 'tcp', 'web.shop', 80, 0],
      [2, 'accept', '10.0.0.7', 8080, 40_000],
      [3, 'udp', '10.0.0.10', 53, 0],
      [4, 'accept', '10.0.0.8', 8080, 40_001],
    ],
  );
});

test('the first bytes travel in the OPEN; what does not fit follows', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  const first = Buffer.alloc(70_000, 'x');
  const stream = session.openTcp('web', 80, first);
  const opened = decodeOpen(await peer.next(({ type }) => type === FRAME.open));
  assert.equal(Buffer.concat(opened.first).length, 65_536);
  peer.send(FRAME.credit, 0, stream.id, encodeUint32(10_000));
  const rest = await peer.next(dataOf(stream));
  assert.equal(rest.body.length, 70_000 - 65_536);
});

test('opened settles with what the far end says', async (t) => {
  const pair = await SessionPair.open(t);
  const [good, far] = await pair.stream();
  await good.opened;
  await far.opened;
  const incoming = pair.incoming('agent');
  const bad = pair.laptop.openTcp('web', 81);
  (await incoming).reset('refused', 'nothing listens at web:81');
  await assert.rejects(bad.opened, { code: 'refused', message: 'nothing listens at web:81' });
  assert.equal((bad.errored as LpkError).code, 'refused');
});

test('a failure nobody asked for is no unhandled rejection and no uncaught error', async (t) => {
  const pair = await SessionPair.open(t);
  pair.agent.on('stream', (stream) => stream.reset('unreachable'));
  const stream = pair.laptop.openTcp('web', 80);
  await until(() => stream.destroyed, 'refused');
  pair.laptop.openTcp('web', 80);
  pair.laptop.close();
  await delay(1); // an unhandled rejection would have failed this test by now
});

for (const [name, send, code] of [
  ['OPEN with the laptop’s own number', (peer) => open(peer, 3), 'protocol'],
  ['OPEN of stream 0', (peer) => open(peer, 0), 'protocol'],
  ['OPEN of a number used before', (peer) => [open(peer, 4), open(peer, 4)], 'protocol'],
  ['OPEN of a number skipped before', (peer) => [open(peer, 6), open(peer, 4)], 'protocol'],
  ['OPEN with too many first bytes', (peer) => open(peer, 2, 'tcp', Buffer.alloc(65_537)), 'limit-exceeded'],
  ['OPEN cut short', (peer) => peer.send(FRAME.open, 1, 2, Buffer.from('00500000ff61', 'hex')), 'protocol'],
  [
    'OPEN of an unknown kind',
    (peer) => peer.send(FRAME.open, 77, 2, encodeOpen({ kind: 'tcp', host: 'x', port: 1 })),
    'protocol',
  ],
  [
    'DATA with too many bytes',
    (peer) => [open(peer, 2), peer.send(FRAME.data, 0, 2, undefined, Buffer.alloc(65_537))],
    'limit-exceeded',
  ],
  [
    'DATA after FIN',
    (peer) => [open(peer, 2), peer.send(FRAME.fin, 0, 2), peer.send(FRAME.data, 0, 2, Buffer.from('x'))],
    'protocol',
  ],
  ['DATA of no bytes', (peer) => [open(peer, 2), peer.send(FRAME.data, 0, 2)], 'protocol'],
  ['CREDIT of 3 bytes', (peer) => [open(peer, 2), peer.send(FRAME.credit, 0, 2, Buffer.alloc(3))], 'protocol'],
] as [string, (peer: ScriptedPeer) => unknown, string][]) {
  test(`${name} ends the session`, async (t) => {
    const [session, peer] = await ScriptedPeer.forLaptop(t);
    const ended = once(session, 'end');
    send(peer);
    assert.equal(((await ended)[0] as LpkError).code, code);
    await peer.next(({ type }) => type === FRAME.bye);
  });
}

test('frames of a stream that has ended on this side are let pass', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  const stream = session.openTcp('web', 80);
  stream.destroy();
  await peer.next(({ type }) => type === FRAME.reset);
  peer.send(FRAME.opened, 0, stream.id);
  peer.send(FRAME.data, 0, stream.id, Buffer.from('late'));
  peer.send(FRAME.credit, 0, stream.id, encodeUint32(1));
  peer.send(FRAME.reset, resetValue('refused'), stream.id);
  peer.send(FRAME.fin, 0, stream.id);
  const other = session.openTcp('web', 80);
  peer.send(FRAME.data, 0, other.id, Buffer.from('x'));
  await once(other, 'data');
});

// Limits

test('the 1,025th stream of ours is refused here, of theirs there; one that ends makes room', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  const streams: Stream[] = [];
  session.on('stream', (stream) => streams.push(stream));
  for (let id = 2; id <= 2 * LIMITS.maxStreams + 2; id += 2) open(peer, id);
  const refused = await peer.next(({ type }) => type === FRAME.reset);
  assert.deepEqual([refused.stream, refused.arg], [2 * LIMITS.maxStreams + 2, resetValue('too-many-streams')]);
  assert.equal(streams.length, LIMITS.maxStreams);
  assert.throws(() => session.openTcp('web', 80), { code: 'too-many-streams' });
  streams[7]?.destroy();
  session.openTcp('web', 80);
  assert.equal(session.streamCount, LIMITS.maxStreams);
});

test('nothing is sent beyond the window, the first bytes counted', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  const stream = session.openTcp('web', 80, Buffer.alloc(1_000));
  stream.write(Buffer.alloc(1_000_000));
  const other = session.openTcp('web', 80, Buffer.from('marker'));
  await peer.next(({ type, stream: id }) => type === FRAME.open && id === other.id);
  const bytes = () => peer.frames.filter(dataOf(stream)).reduce((sum, { body }) => sum + body.length, 1_000);
  assert.equal(bytes(), WINDOW);
  peer.send(FRAME.credit, 0, stream.id, encodeUint32(5));
  await until(() => bytes() > WINDOW, 'more');
  await once(other.end(), 'finish');
  await peer.next(({ type }) => type === FRAME.fin);
  assert.equal(bytes(), WINDOW + 5);
});

test('a peer that sends more than its window ends the session, however it splits it', async (t) => {
  for (const [first, size] of [
    [0, 1_024],
    [65_536, 1],
    [10, 65_536],
  ] as const) {
    const [session, peer] = await ScriptedPeer.forLaptop(t);
    const incoming = once(session, 'stream');
    open(peer, 2, 'tcp', Buffer.alloc(first));
    const [stream] = (await incoming) as [Stream];
    const ended = once(session, 'end');
    for (let bytes = first; bytes <= WINDOW && !session.ended; bytes += size) {
      assert.ok(stream.unreadBytes <= WINDOW);
      peer.send(FRAME.data, 0, 2, undefined, Buffer.alloc(size));
    }
    assert.equal(((await ended)[0] as LpkError).code, 'limit-exceeded');
  }
});

test('a flood of empty datagrams has a limit too', async (t) => {
  const [session, peer] = await ScriptedPeer.forAgent(t);
  const ended = once(session, 'end');
  open(peer, 1, 'udp');
  for (let i = 0; i <= (WINDOW + 65_536) / 64; i++) peer.send(FRAME.data, 0, 1);
  assert.equal(((await ended)[0] as LpkError).code, 'limit-exceeded');
});

test('an answer longer than 4 MiB is given up, and its stream reset', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  session.link.noteRtt(1_000);
  const answer = session.request('environment');
  answer.catch(() => {});
  const { stream } = await peer.next(({ type }) => type === FRAME.open);
  const credit = WINDOW;
  let sent = 0;
  let reset = false;
  void peer
    .next(({ type }) => type === FRAME.reset)
    .then(() => {
      reset = true;
    });
  while (!reset) {
    const credits = peer.of(FRAME.credit).reduce((sum, { body }) => sum + body.readUInt32BE(0), credit);
    while (sent + 32_768 <= credits && sent <= LIMITS.answerBytes) {
      peer.send(FRAME.data, 0, stream, undefined, Buffer.alloc(32_768));
      sent += 32_768;
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  await assert.rejects(answer, { code: 'limit-exceeded' });
  assert.equal(peer.of(FRAME.reset)[0]?.arg, resetValue('limit-exceeded'));
  assert.ok(sent <= LIMITS.answerBytes + 32_768);
});

// Control and DNS

test('a request is JSON both ways; a refusal comes with its code; anything else is a protocol error', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  const asked = session.request<{ port: number }>('listen', { port: 8080 });
  const opened = await peer.next(({ type }) => type === FRAME.open);
  const { fields, first } = decodeOpen(opened);
  assert.deepEqual([fields.kind, fields.host, String(Buffer.concat(first))], ['control', 'listen', '{"port":8080}']);
  await peer.next(({ type }) => type === FRAME.fin);
  peer.send(FRAME.opened, 0, 1);
  peer.send(FRAME.data, 0, 1, Buffer.from('{"port":1}'));
  peer.send(FRAME.fin, 0, 1);
  assert.deepEqual(await asked, { port: 1 });

  const refused = session.request('listen', { port: 80 });
  peer.send(FRAME.reset, resetValue('not-allowed'), 3, encodeReason("the agent can't listen on the pod's port 80"));
  await assert.rejects(refused, { code: 'not-allowed', message: "the agent can't listen on the pod's port 80" });

  const nothing = session.request('environment');
  peer.send(FRAME.fin, 0, 5);
  await assert.rejects(nothing, { name: 'LpkError', code: 'protocol' });
  await until(() => session.streamCount === 0, 'nothing is left of them');
});

test('a DNS message goes as it is, and so does its answer', async (t) => {
  const pair = await SessionPair.open(t);
  pair.agent.on('stream', (stream) => {
    stream.accept();
    stream.pipe(stream);
  });
  const message = Buffer.from('123401000001000000000000', 'hex');
  assert.deepEqual(await pair.laptop.queryDns(message), message);
});

test('a session that ends answers what is under way', async (t) => {
  const pair = await SessionPair.open(t);
  const incoming = pair.incoming('agent');
  const asked = pair.laptop.request('environment');
  await incoming;
  pair.agent.close('session-ended', 'the agent is stopping');
  await assert.rejects(asked, { code: 'session-ended', message: 'the agent is stopping' });
});

// Ends

test('each direction ends by itself, in either order, and the stream is forgotten when both have', async (t) => {
  for (const order of ['laptop', 'agent']) {
    const pair = await SessionPair.open(t);
    const [laptop, agent] = await pair.stream();
    const [early, late] = order === 'laptop' ? [laptop, agent] : [agent, laptop];
    early.end('request');
    assert.equal(String(await readAll(late)), 'request');
    assert.equal(late.writable, true);
    for (let i = 0; i < 20; i++) late.write(`line ${i}\n`);
    late.end();
    assert.equal(String(await readAll(early)).split('\n').length, 21);
    await until(() => pair.laptop.streamCount + pair.agent.streamCount === 0, 'forgotten');
    assert.equal(laptop.errored ?? agent.errored, null);
  }
});

test('an end that overtakes an unread window waits behind it', async (t) => {
  const pair = await SessionPair.open(t);
  const [laptop, agent] = await pair.stream();
  laptop.end(Buffer.alloc(WINDOW, 'w'));
  await until(() => agent.unreadBytes > 0, 'arrived');
  agent.end();
  await once(agent, 'finish');
  assert.equal(pair.agent.streamCount, 1, 'what is unread counts');
  assert.equal((await readAll(agent)).length, WINDOW);
  laptop.resume();
  await until(() => pair.laptop.streamCount + pair.agent.streamCount === 0, 'forgotten');
});

test('a reset ends both directions at once, with its code and words, whoever gives it', async (t) => {
  const pair = await SessionPair.open(t);
  for (const [code, end] of [
    ['timed-out', (stream: Stream) => stream.reset('timed-out', 'why')],
    ['connection-reset', (stream: Stream) => stream.destroy(Object.assign(new Error('why'), { code: 'ECONNRESET' }))],
    ['internal', (stream: Stream) => stream.destroy(new Error('why'))],
    ['refused', (stream: Stream) => stream.destroy(new LpkError('refused', 'why'))],
  ] as const) {
    for (const side of [0, 1]) {
      const ends = await pair.stream();
      const [near, far] = side === 0 ? ends : [...ends].reverse();
      far?.resume();
      const error = once(far as Stream, 'error');
      end(near as Stream);
      assert.deepEqual([(await error)[0].code, (await error)[0].message], [code, 'why']);
      assert.equal(near?.destroyed && far?.destroyed, true);
    }
  }
  const [laptop, agent] = await pair.stream();
  const error = once(agent, 'error');
  laptop.destroy();
  assert.equal((await error)[0].code, 'cancelled');
  assert.equal(pair.laptop.streamCount + pair.agent.streamCount, 0);
});

test('writing to a stream that was reset calls back, and does not hang', async (t) => {
  const pair = await SessionPair.open(t);
  const [laptop, agent] = await pair.stream();
  laptop.write(Buffer.alloc(WINDOW));
  const held = new Promise<unknown>((resolve) => laptop.write(Buffer.alloc(WINDOW), resolve)); // no credit for it
  agent.reset('cancelled');
  await held;
  await new Promise<unknown>((resolve) => laptop.write('more', resolve));
});

// Datagrams

test('datagrams keep their bounds, empty ones and 64 KiB ones too', async (t) => {
  const pair = await SessionPair.open(t);
  const incoming = pair.incoming('agent');
  const laptop = pair.laptop.openUdp('dns', 53);
  const agent = await incoming;
  const sizes = [0, 1, 512, 0, 1_400, 5_000, 65_507];
  const heard: number[] = [];
  agent.on('data', (datagram: Buffer) => heard.push(datagram.length));
  for (const size of sizes) {
    laptop.write(Buffer.alloc(size, 'd'));
    await until(() => heard.length > 0 && heard.length === sizes.indexOf(size, heard.length - 1) + 1, `${size} bytes`);
  }
  assert.deepEqual(heard, sizes);
});

test('datagrams that find no room are dropped, whole; the flow goes on when there is room', async (t) => {
  const pair = await SessionPair.open(t);
  const incoming = pair.incoming('agent');
  const laptop = pair.laptop.openUdp('dns', 53);
  const agent = await incoming;
  for (let i = 0; i < 200; i++) {
    await new Promise((resolve) => laptop.write(Buffer.alloc(1_000, i), resolve)); // never waits
  }
  const heard: Buffer[] = [];
  agent.on('data', (datagram: Buffer) => heard.push(datagram));
  await until(() => heard.length === Math.ceil(WINDOW / 1_000), 'as many as the window holds');
  assert.ok(heard.every((datagram, i) => datagram.length === 1_000 && datagram[0] === i));
  await until(() => {
    laptop.write(Buffer.from('again'));
    return String(heard.at(-1)) === 'again';
  }, 'room again');
  const oversized = new Promise((resolve) => laptop.write(Buffer.alloc(65_537), resolve));
  await oversized;
  assert.equal(laptop.destroyed, false);
});

test('a UDP flow has no half: one end ends both', async (t) => {
  const pair = await SessionPair.open(t);
  const incoming = pair.incoming('agent');
  const laptop = pair.laptop.openUdp('dns', 53);
  const agent = await incoming;
  agent.resume();
  laptop.resume();
  agent.end();
  await once(laptop, 'close');
  await until(() => pair.laptop.streamCount + pair.agent.streamCount === 0, 'forgotten');
  assert.equal(laptop.errored, null);
});

// Windows

test('credit comes back for what was read, not for what arrived', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  const incoming = once(session, 'stream');
  open(peer, 2, 'tcp', Buffer.alloc(WINDOW));
  const [stream] = (await incoming) as [Stream];
  const marker = session.openTcp('web', 80);
  marker.end();
  await peer.next(({ type }) => type === FRAME.fin);
  assert.equal(peer.of(FRAME.credit).length, 0);
  stream.resume();
  const credit = await peer.next(({ type }) => type === FRAME.credit);
  assert.ok(credit.body.readUInt32BE(0) >= WINDOW / 2);
});

/** Sends as fast as credit comes, until at least `bytes` were sent on each; how many they were. */
async function pour(peer: ScriptedPeer, streams: number[], bytes: number): Promise<Map<number, number>> {
  const credits = new Map(streams.map((id) => [id, WINDOW]));
  const sent = new Map(streams.map((id) => [id, 0]));
  const chunk = Buffer.alloc(65_536);
  let seen = 0;
  const end = performance.now() + 30_000;
  while ([...sent.values()].some((count) => count < bytes)) {
    assert.ok(performance.now() < end, 'the credits stopped');
    for (; seen < peer.frames.length; seen++) {
      const { type, stream, body } = peer.frames[seen] as Frame;
      if (type === FRAME.credit) credits.set(stream, (credits.get(stream) as number) + body.readUInt32BE(0));
    }
    for (const id of streams) {
      const room = (credits.get(id) as number) - (sent.get(id) as number);
      if (room > 0 && (sent.get(id) as number) < bytes) {
        const piece = chunk.subarray(0, room);
        peer.send(FRAME.data, 0, id, undefined, piece);
        sent.set(id, (sent.get(id) as number) + piece.length);
      }
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  return sent;
}

test('a window grows for a reader that keeps up with the round trip, and no further than its limit', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  session.link.noteRtt(10_000);
  session.on('stream', (stream) => stream.resume());
  open(peer, 2);
  const sent = (await pour(peer, [2], 48 * 1024 * 1024)).get(2) as number;
  const ahead = () => peer.of(FRAME.credit).reduce((sum, { body }) => sum + body.readUInt32BE(0), WINDOW) - sent;
  await until(() => ahead() > LIMITS.maxWindowBytes / 2, 'half the largest window is granted at least');
  assert.ok(ahead() <= LIMITS.maxWindowBytes, `${ahead()} bytes are granted ahead`);
});

test('a window stays as it is for a reader that is slow by itself', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  session.link.noteRtt(0.001); // a round trip of nothing: no reader keeps up with it
  const incoming = once(session, 'stream');
  open(peer, 2, 'tcp', Buffer.alloc(WINDOW));
  const [stream] = (await incoming) as [Stream];
  stream.takeWith(() => false);
  for (let i = 0; i < 5; i++) {
    await until(() => peer.of(FRAME.credit).length > i, 'credit');
    const granted = peer.of(FRAME.credit)[i]?.body.readUInt32BE(0) as number;
    assert.ok(granted <= WINDOW, `${granted} bytes were granted`);
    peer.send(FRAME.data, 0, 2, undefined, Buffer.alloc(granted));
    await until(() => stream.unreadBytes > 0, 'arrived');
    await delay(6); // as a slow reader: above twice the least round trip that counts
    stream.takeMore();
  }
});

test('all windows together grow no further than the pool, which gets back what streams had', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  session.link.noteRtt(10_000);
  const streams = new Map<number, Stream>();
  session.on('stream', (stream) => {
    streams.set(stream.id, stream);
    stream.resume();
  });
  const ids = [2, 4, 6, 8, 10, 12];
  for (const id of ids) open(peer, id);
  await pour(peer, ids, 24 * 1024 * 1024);
  const windows = () => ids.reduce((sum, id) => sum + (streams.get(id)?.windowBytes as number), 0);
  assert.ok(windows() <= LIMITS.windowPoolBytes + ids.length * WINDOW, `${windows()} bytes`);
  assert.ok(windows() > LIMITS.windowPoolBytes - 1024 * 1024, `${windows()} bytes`);
  for (const stream of streams.values()) stream.destroy(); // all: any that is left may take it first
  open(peer, 14);
  await pour(peer, [14], 8 * 1024 * 1024);
  assert.ok((streams.get(14)?.windowBytes as number) > 2 * 1024 * 1024, `${streams.get(14)?.windowBytes} bytes`);
});

// Fairness

test('a small stream goes ahead of all bulk that has not been handed over yet', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  peer.ackEvery = 16;
  const bulk = Array.from({ length: 4 }, () => session.openTcp('bulk', 80));
  for (const { id } of bulk) peer.send(FRAME.credit, 0, id, encodeUint32(0x7fff_ffff));
  const chunk = Buffer.alloc(65_536);
  for (const stream of bulk) {
    const fill = () => {
      while (stream.write(chunk)) {}
    };
    stream.on('drain', fill);
    fill();
  }
  const small = session.openTcp('ping', 80);
  for (let i = 0; i < 20; i++) {
    await until(() => session.bytes.out > (i + 1) * 1_000_000, 'the bulk is under way');
    const handedOver = session.bytes.out;
    const arrived = peer.frames.length;
    small.write(Buffer.alloc(10));
    const isSmall = dataOf(small);
    await until(() => peer.frames.slice(arrived).some(isSmall), 'the message');
    const at = peer.frames.findIndex((frame, index) => index >= arrived && isSmall(frame));
    const ahead = peer.frames
      .slice(0, at)
      .reduce((sum, { type, body }) => sum + (type === FRAME.data ? body.length : 0), 0);
    // A bulk stream whose writer could not run for 20 ms counts as fresh once more, for a frame (SPEC.md, "Fairness").
    const most = bulk.length * 65_536;
    assert.ok(ahead <= handedOver + most, `${ahead - handedOver} bytes of bulk went first, at most ${most} may`);
  }
  for (const stream of bulk) stream.destroy();
});

test('bulk streams share: none is more than a few frames ahead of another', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  peer.ackEvery = 16;
  const bulk = Array.from({ length: 5 }, () => session.openTcp('bulk', 80));
  for (const { id } of bulk) peer.send(FRAME.credit, 0, id, encodeUint32(0x7fff_ffff));
  const chunk = Buffer.alloc(200_000);
  for (const stream of bulk) {
    const fill = () => {
      while (stream.write(chunk)) {}
    };
    stream.on('drain', fill);
    fill();
  }
  await until(() => session.bytes.out > 15_000_000, 'the bulk is under way');
  const bytes = bulk.map((stream) =>
    peer.frames.filter(dataOf(stream)).reduce((sum, { body }) => sum + body.length, 0),
  );
  assert.ok(Math.max(...bytes) - Math.min(...bytes) < 1_000_000, bytes.join(' '));
  for (const stream of bulk) stream.destroy();
});

test('bulk is not starved by many small streams', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  peer.ackEvery = 16;
  const bulk = session.openTcp('bulk', 80);
  const small = Array.from({ length: 100 }, () => session.openTcp('small', 80));
  for (const { id } of [bulk, ...small]) peer.send(FRAME.credit, 0, id, encodeUint32(0x7fff_ffff));
  const fill = (stream: Stream, bytes: number) => {
    const more = () => {
      while (stream.write(Buffer.alloc(bytes))) {}
    };
    stream.on('drain', more);
    more();
  };
  fill(bulk, 65_536);
  for (const stream of small) fill(stream, 15_000);
  await until(() => session.bytes.out > 20_000_000, 'all are under way');
  const bytes = peer.frames.filter(dataOf(bulk)).reduce((sum, { body }) => sum + body.length, 0);
  assert.ok(bytes > 10_000_000 / 101, `bulk got ${bytes} bytes`);
  for (const stream of [bulk, ...small]) stream.destroy();
});

test('a reader that stops holds up its own stream only', async (t) => {
  const pair = await SessionPair.open(t);
  const [stuck, unread] = await pair.stream();
  const [lively, read] = await pair.stream();
  let written = 0;
  const chunk = Buffer.alloc(65_536);
  const fill = () => {
    do written += chunk.length;
    while (stuck.write(chunk));
  };
  stuck.on('drain', fill);
  fill();
  let bytes = 0;
  read.on('data', (piece) => {
    bytes += piece.length;
  });
  const pouring = () => {
    while (lively.write(chunk)) {}
  };
  lively.on('drain', pouring);
  pouring();
  await until(() => bytes > 50_000_000, 'the other stream is under way');
  assert.ok(written <= 8 * WINDOW, `${written} bytes were taken for a reader that does not read`);
  assert.ok(unread.unreadBytes <= WINDOW);
  stuck.destroy();
  lively.destroy();
});

// Taking

test('takeWith gets everything, what was there before too, in slices it can stop, and the end', async (t) => {
  const pair = await SessionPair.open(t);
  const [laptop, agent] = await pair.stream();
  agent.unshift(Buffer.from('unread '));
  laptop.write('before ');
  agent.read(0); // a reader that looked, and left it in the Readable's own buffer
  await until(() => agent.readableLength === 14, 'arrived');
  await until(() => pair.agent.link.keptBytes === 0, 'quiet');
  pair.agent.link.noteRtt(10_000);
  const pieces: Buffer[] = [];
  let most = 0;
  let stop = false;
  let stopped = false;
  agent.takeWith((taken) => {
    assert.equal(stopped, false, 'nothing comes after false');
    most = Math.max(
      most,
      taken.reduce((sum, { length }) => sum + length, 0),
    );
    pieces.push(...taken);
    stopped = stop;
    return !stop;
  });
  const body = Buffer.alloc(8 * 1024 * 1024, 'abcdefg');
  laptop.end(body);
  for (let i = 0; i < 5; i++) {
    stop = true;
    await until(() => stopped, 'stopped');
    await until(() => agent.unreadBytes > 0, 'more arrives');
    stop = false;
    stopped = false;
    agent.takeMore();
  }
  await once(agent, 'end');
  assert.ok(Buffer.concat(pieces).equals(Buffer.concat([Buffer.from('unread before '), body])));
  assert.ok(most <= 512 * 1024, `${most} bytes at once`);
});

test('what is stopped for long is taken in slices, not as a whole window', async (t) => {
  const [session, peer] = await ScriptedPeer.forLaptop(t);
  session.link.noteRtt(10_000);
  const incoming = once(session, 'stream');
  open(peer, 2);
  const [stream] = (await incoming) as [Stream];
  const slices: number[] = [];
  let wants = true;
  stream.takeWith((pieces) => {
    slices.push(pieces.reduce((sum, { length }) => sum + length, 0));
    return wants;
  });
  let sent = (await pour(peer, [2], 8 * 1024 * 1024)).get(2) as number;
  assert.ok(stream.windowBytes >= 2 * 1024 * 1024);
  wants = false;
  const credits = () => peer.of(FRAME.credit).reduce((sum, { body }) => sum + body.readUInt32BE(0), WINDOW);
  while (sent < credits()) {
    const piece = Buffer.alloc(Math.min(65_536, credits() - sent));
    peer.send(FRAME.data, 0, 2, undefined, piece);
    sent += piece.length;
  }
  await until(() => stream.unreadBytes > 1024 * 1024, 'a window of it waits');
  slices.length = 0;
  const before = stream.unreadBytes;
  stream.takeMore();
  assert.equal(slices.length, 1);
  assert.ok(
    (slices[0] as number) <= 320 * 1024 && stream.unreadBytes === before - (slices[0] as number),
    String(slices),
  );
});
