import assert from 'node:assert/strict';
import { createHash, type Hash } from 'node:crypto';
import { once } from 'node:events';
import { type TestContext, test } from 'node:test';
import type { Session } from '../../../agent/wire/session.ts';
import type { Stream } from '../../../agent/wire/stream.ts';
import { Relay, SessionPair, seeded, until } from './harness.ts';

/** One direction of a stream: what was written, and what arrived. */
type Way = { name: string; written: Hash; arrived: Hash; writtenBytes: number; arrivedBytes: number; ended: boolean };

function between(random: () => number, low: number, high: number): number {
  return low + Math.floor(random() * (high - low + 1));
}

/** Random bytes, cheaply: slices of one block, so that a byte lost, repeated or out of place changes the hash. */
function blockOf(random: () => number): Buffer {
  const block = Buffer.alloc(512 * 1024);
  for (let i = 0; i < block.length; i += 4) block.writeUInt32LE(Math.floor(random() * 2 ** 32), i);
  return block;
}

/** Writes `bytes` in chunks of random sizes, with a pause now and then, and ends. */
async function write(stream: Stream, way: Way, bytes: number, block: Buffer, random: () => number): Promise<void> {
  while (way.writtenBytes < bytes) {
    const largest = random() < 0.3 ? 200_000 : 3_000;
    const size = Math.min(between(random, 1, largest), bytes - way.writtenBytes);
    const from = between(random, 0, block.length - size);
    const chunk = block.subarray(from, from + size);
    way.written.update(chunk);
    way.writtenBytes += size;
    if (!stream.write(chunk)) await once(stream, 'drain');
    if (random() < 0.2) await new Promise((resolve) => setImmediate(resolve));
  }
  stream.end();
}

/** Reads in one of the ways there are, some of them slow. */
function read(stream: Stream, way: Way, random: () => number): void {
  const note = (chunk: Buffer) => {
    way.arrived.update(chunk);
    way.arrivedBytes += chunk.length;
  };
  stream.on('end', () => {
    way.ended = true;
  });
  const manner = random();
  if (manner < 0.4) {
    stream.takeWith((pieces) => {
      for (const piece of pieces) note(piece);
      if (random() < 0.7) return true;
      setImmediate(() => stream.takeMore());
      return false;
    });
  } else {
    stream.on('data', (chunk: Buffer) => {
      note(chunk);
      if (manner < 0.7) return;
      stream.pause();
      setImmediate(() => stream.resume());
    });
  }
}

async function ordeal(t: TestContext, seed: number): Promise<{ cuts: number; bytes: number }> {
  const random = seeded(seed);
  let relay: Relay | undefined;
  const pair = await SessionPair.open(t, {
    port: async (serverPort) => {
      relay = await Relay.open(t, serverPort);
      return relay.port;
    },
  });
  const wreck = relay as unknown as Relay;
  const block = blockOf(random);
  const ways: Way[] = [];
  const writers: Promise<void>[] = [];
  const streams: Stream[] = [];

  const opener = (session: Session, i: number) =>
    session === pair.laptop ? session.openTcp(String(i), i) : session.openAccept(i, String(i), i);
  for (const [near, far] of [
    [pair.laptop, pair.agent],
    [pair.agent, pair.laptop],
  ] as const) {
    far.on('stream', (stream) => {
      streams.push(stream);
      stream.accept();
      const [there, back] = ways.slice(2 * stream.port, 2 * stream.port + 2) as [Way, Way];
      read(stream, there, random);
      writers.push(write(stream, back, between(random, 0, 500_000), block, random));
    });
    for (let i = 0; i < 5; i++) {
      const number = ways.length / 2;
      const way = (name: string): Way => ({
        name: `stream ${number} ${name}`,
        written: createHash('sha256'),
        arrived: createHash('sha256'),
        writtenBytes: 0,
        arrivedBytes: 0,
        ended: false,
      });
      const [there, back] = [way('there'), way('back')];
      ways.push(there, back);
      const stream = opener(near, number);
      streams.push(stream);
      read(stream, back, random);
      writers.push(write(stream, there, between(random, 0, 500_000), block, random));
    }
  }

  const arrived = () => ways.reduce((sum, { arrivedBytes }) => sum + arrivedBytes, 0);
  const over = () => ways.length === 20 && ways.every(({ ended }) => ended);
  let cuts = 0;
  while (!over()) {
    const mark = arrived() + between(random, 1, 400_000);
    const manner = random();
    if (manner < 0.5) wreck.cutAfterBytes = between(random, 1, 300_000);
    await until(() => over() || !pair.laptop.isUp || arrived() >= mark, `more than ${arrived()} bytes`);
    if (over()) break;
    if (manner >= 0.8 && pair.laptop.isUp && pair.agent.isUp) {
      await pair.connect(wreck.port); // what is under way on the old one must not count
      cuts += 1;
      continue;
    }
    if (manner >= 0.5) wreck.lossy = manner < 0.65 ? 'toTarget' : 'toClient';
    const enough = arrived() + between(random, 0, 100_000);
    for (let turns = 0; wreck.lossy !== 'none' && turns < 200 && arrived() < enough; turns++) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    pair.cut();
    wreck.cut();
    await until(() => !pair.laptop.isUp && !pair.agent.isUp, 'both ends noticed');
    wreck.lossy = 'none';
    wreck.cutAfterBytes = Number.POSITIVE_INFINITY;
    cuts += 1;
    await pair.connect(wreck.port);
  }
  await Promise.all(writers);
  for (const { name, written, arrived: hash, writtenBytes, arrivedBytes } of ways) {
    assert.equal(arrivedBytes, writtenBytes, `seed ${seed}, ${name}`);
    assert.equal(hash.digest('hex'), written.digest('hex'), `seed ${seed}, ${name}`);
  }
  // What is left to say (credit, acknowledgements) may be cut as well.
  wreck.cutAfterBytes = Number.POSITIVE_INFINITY;
  const isDown = () => !pair.laptop.isUp && !pair.agent.isUp;
  const settled = () =>
    pair.laptop.streamCount + pair.agent.streamCount + pair.laptop.link.keptBytes + pair.agent.link.keptBytes === 0;
  while (!settled()) {
    await until(() => settled() || isDown(), `seed ${seed}: all streams are forgotten, all is acknowledged`);
    if (isDown()) await pair.connect(wreck.port);
  }
  assert.deepEqual(
    [pair.laptop.ended, pair.agent.ended, streams.filter(({ errored }) => errored)],
    [undefined, undefined, []],
  );
  return { cuts, bytes: arrived() };
}

// LPK_SEED=N repeats one; LPK_SEEDS=N tries as many new ones.
const { LPK_SEED, LPK_SEEDS } = process.env;
const seeds = LPK_SEED
  ? [Number(LPK_SEED)]
  : Array.from({ length: Number(LPK_SEEDS ?? 12) }, (_, i) => (LPK_SEEDS ? (Math.random() * 2 ** 32) >>> 0 : i + 1));

test('whatever is cut, wherever: every stream arrives whole, once, in order, and ends on both sides', {
  timeout: 600_000,
}, async (t) => {
  let cuts = 0;
  for (const seed of seeds) {
    await t.test(`seed ${seed}`, async (each) => {
      const done = await ordeal(each, seed);
      cuts += done.cuts;
      each.diagnostic(`${done.cuts} cuts, ${done.bytes} bytes`);
    });
  }
  assert.ok(cuts >= 3 * seeds.length, `only ${cuts} cuts`);
});

test('a reset that happens while the link is down is heard when it is back', async (t) => {
  const pair = await SessionPair.open(t);
  const [laptop, agent] = await pair.stream();
  const [other, far] = await pair.stream();
  pair.cut();
  await until(() => !pair.laptop.isUp && !pair.agent.isUp, 'down');
  laptop.reset('cancelled', 'the client left');
  far.reset('connection-reset', 'the server died');
  const errors = Promise.all([once(agent, 'error'), once(other, 'error')]);
  await pair.connect();
  const [[atAgent], [atLaptop]] = await errors;
  assert.deepEqual([atAgent.code, atLaptop.code], ['cancelled', 'connection-reset']);
});

test('streams can be opened while the link is down, and arrive when it is back', async (t) => {
  const pair = await SessionPair.open(t);
  pair.agent.on('stream', (stream) => {
    stream.accept();
    stream.pipe(stream);
  });
  pair.cut();
  await until(() => !pair.laptop.isUp && !pair.agent.isUp, 'down');
  const streams = Array.from({ length: 20 }, (_, i) => pair.laptop.openTcp('echo', 7, Buffer.from(`hello ${i}`)));
  const answers = Promise.all(streams.map(async (stream) => String((await once(stream, 'data'))[0])));
  await pair.connect();
  assert.deepEqual(
    await answers,
    streams.map((_, i) => `hello ${i}`),
  );
});
