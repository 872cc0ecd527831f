/**
 * Hostile clients at the door: `scripts/node test/fuzz/doors.ts [RUNS] [socks|http|udp|all] [SEED]`, 5,000 of each kind unless told otherwise.
 * Exits with 1 and the shortest input that fast-check found when a client's bytes make the door throw, hang or keep something.
 */
import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import { Duplex } from 'node:stream';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { LpkError } from '../../agent/wire/errors.ts';
import type { Resettable } from '../../agent/wire/pump.ts';
import { createEntry, openDoor } from '../../proxy/door.ts';
import type { Dial } from '../../proxy/flow.ts';

const HANG_MS = 5_000;
/** A client that stays and is silent is closed after this. One in so many stays. */
const HANDSHAKE_MS = 20;
const STAYS_ONE_IN = 256;
/** What the heap may grow by between a tenth of the runs and all of them. */
const GROWTH_BYTES = 8 * 1024 * 1024;

/** How a client comes: its bytes in pieces, and whether it ends when it has said them. */
type Visit = { pieces: Buffer[]; stays: boolean };

/** A cluster where every other flow is refused, and the others echo. */
class Cluster {
  open = 0;
  dials = 0;

  readonly dial: Dial = (flow) => {
    this.dials++;
    if (this.dials % 7 === 0) throw new LpkError('link-lost', 'no tunnel');
    const refused = this.dials % 2 === 0;
    const stream = new Echo(flow.protocol === 'udp');
    this.open++;
    stream.once('close', () => this.open--);
    stream.on('error', () => {});
    const error = new LpkError('refused', 'refused');
    if (refused) stream.destroy(error);
    const opened = refused ? Promise.reject(error) : Promise.resolve();
    opened.catch(() => {});
    return { stream, opened, replyEarly: this.dials % 3 === 0 };
  };
}

class Echo extends Duplex implements Resettable {
  constructor(datagrams: boolean) {
    super({ objectMode: datagrams, allowHalfOpen: !datagrams });
  }

  override _read() {}

  override _write(chunk: Buffer, _encoding: string, done: () => void) {
    this.push(chunk);
    done();
  }

  override _final(done: () => void) {
    this.push(null);
    done();
  }

  reset() {
    this.destroy();
  }
}

/** The door's end of a client's connection, without a kernel in between. */
class Visitor extends Duplex {
  readonly remoteAddress = '127.0.0.1';
  readonly localAddress = '127.0.0.1';
  readonly localPort = 1080;
  #pieces: Buffer[];
  #stays: boolean;

  constructor({ pieces, stays }: Visit) {
    super({ allowHalfOpen: true });
    this.#pieces = pieces.filter((piece) => piece.length > 0);
    this.#stays = stays;
  }

  override _read() {
    // A piece each turn of the loop, as segments come.
    setImmediate(() => {
      const piece = this.#pieces.shift();
      if (piece) this.push(piece);
      else if (!this.#stays) this.push(null);
    });
  }

  override _write(_chunk: Buffer, _encoding: string, done: () => void) {
    done();
  }

  override _final(done: () => void) {
    if (this.#stays) this.push(null); // it waits for the door's end, and then goes
    this.#pieces = [];
    this.#stays = false;
    done();
  }

  resetAndDestroy() {
    return this.destroy();
  }

  setTimeout() {
    return this;
  }
}

const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));
const name = fc.oneof(
  fc.constantFrom('web', 'web.shop', '[::1]', '127.0.0.1', ''),
  fc.string({ maxLength: 255, unit: 'binary' }).map((text) => Buffer.from(text).subarray(0, 255).toString('latin1')),
);
const port = fc.integer({ min: 0, max: 65_535 }).map((number) => Buffer.of(number >> 8, number & 0xff));

const pascal = (text: string) => Buffer.concat([Buffer.of(text.length), Buffer.from(text, 'latin1')]);
const address = fc.oneof(
  bytes(4).map((rest) => Buffer.concat([Buffer.of(1), Buffer.concat([rest, Buffer.alloc(4)], 4)])),
  name.map((text) => Buffer.concat([Buffer.of(3), pascal(text)])),
  bytes(16).map((rest) => Buffer.concat([Buffer.of(4), Buffer.concat([rest, Buffer.alloc(16)], 16)])),
  bytes(20),
);
const join = (...parts: fc.Arbitrary<Buffer>[]) => fc.tuple(...parts).map((buffers) => Buffer.concat(buffers));

const socks = fc.oneof(
  join(
    fc.constantFrom(
      Buffer.of(5, 1, 0),
      Buffer.of(5, 1, 0),
      Buffer.of(5, 3, 0, 1, 2),
      Buffer.of(5, 2, 0, 2),
      Buffer.of(5, 1, 2),
      Buffer.of(5, 0),
    ),
    fc.constantFrom(
      Buffer.of(5, 1, 0),
      Buffer.of(5, 1, 0),
      Buffer.of(5, 1, 0),
      Buffer.of(5, 2, 0),
      Buffer.of(5, 9, 7),
      Buffer.of(1, 1, 0),
    ),
    address,
    port,
    bytes(64),
  ),
  join(
    fc.constantFrom(Buffer.of(5, 1, 2)),
    fc
      .tuple(name, fc.constantFrom('secret', 'x', ''))
      .map(([user, word]) => Buffer.concat([Buffer.of(1), pascal(user), pascal(word)])),
    fc.constant(Buffer.of(5, 1, 0)),
    address,
    port,
  ),
  join(
    fc.constantFrom(Buffer.of(4, 1), Buffer.of(4, 2)),
    port,
    fc.constantFrom(Buffer.of(0, 0, 0, 1), Buffer.of(10, 0, 0, 1), Buffer.of(0, 0, 0, 0)),
    name.map((text) => Buffer.from(`${text}\0`, 'latin1')),
    name.map((text) => Buffer.from(`${text}\0`, 'latin1')),
    bytes(64),
  ),
  join(fc.constantFrom(Buffer.of(4), Buffer.of(5)), bytes(600)),
  bytes(64),
);

const text = (maxLength: number) =>
  fc.string({ maxLength, unit: 'binary' }).map((found) => Buffer.from(found).toString('latin1'));
const target = fc.oneof(
  fc.constantFrom(
    'http://web/',
    'http://127.0.0.1/',
    'http://web:81/a?b',
    'ws://web/',
    'https://web/',
    '/',
    '/proxy.pac',
    '*',
    'web:80',
    '[::1]:80',
    '',
  ),
  fc.webUrl(),
  text(60),
);
const HEADERS = [
  ...['Host: 127.0.0.1:1080', 'Proxy-Authorization: Basic bWU6c2VjcmV0', 'Connection: close', 'Content-Length: 5'],
  ...['Connection: Upgrade', 'Upgrade: websocket', 'Expect: 100-continue', 'TE: trailers'],
];
const header = fc.oneof(
  fc.constantFrom(
    ...[...HEADERS, 'Host: evil.example', 'Upgrade: h2c', 'Content-Length: 99999999999999999999'],
    ...['Transfer-Encoding: chunked', 'Transfer-Encoding: gzip, chunked'],
  ),
  fc
    .tuple(fc.constantFrom('X-A', 'Connection', 'Host', 'Proxy-Authorization', 'Trailer', ''), text(40))
    .map((pair) => pair.join(': ')),
  text(40),
);
const body = fc.oneof(
  fc.constantFrom('', 'abcde', '5\r\nabcde\r\n0\r\n\r\n', '5\r\nab', 'ffffffffffffffff\r\n', '0\r\nX: 1\r\n\r\n'),
  text(80),
);
const message = fc
  .tuple(
    fc.constantFrom('GET', 'POST', 'CONNECT', 'OPTIONS', 'HEAD', 'PUT', 'PRI', 'get', 'SOURCE'),
    target,
    fc.constantFrom('HTTP/1.1', 'HTTP/1.1', 'HTTP/1.1', 'HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', 'HTTP/9', ''),
    fc.oneof({ weight: 3, arbitrary: fc.subarray(HEADERS) }, fc.array(header, { maxLength: 6 })),
    body,
  )
  .map(
    ([method, url, version, headers, rest]) =>
      `${[`${method} ${url} ${version}`, ...headers].join('\r\n')}\r\n\r\n${rest}`,
  );
const http = fc.oneof(
  fc.array(message, { minLength: 1, maxLength: 3 }).map((messages) => Buffer.from(messages.join(''), 'latin1')),
  text(200).map((rest) => Buffer.from(`G${rest}`, 'latin1')),
);

/** Flips, drops and repeats bytes, and cuts the rest anywhere. */
function visit(valid: fc.Arbitrary<Buffer>): fc.Arbitrary<Visit> {
  const spot = fc.nat({ max: 1_000 });
  const change = fc.tuple(fc.constantFrom('flip', 'drop', 'repeat', 'end'), spot, fc.integer({ min: 0, max: 255 }));
  return fc
    .record({
      valid,
      changes: fc.oneof({ weight: 2, arbitrary: fc.constant([]) }, fc.array(change, { maxLength: 3 })),
      cuts: fc.array(spot, { maxLength: 4 }),
      stays: fc.nat({ max: STAYS_ONE_IN - 1 }).map((number) => number === STAYS_ONE_IN - 1),
    })
    .map(({ valid, changes, cuts, stays }) => {
      let all = Buffer.from(valid);
      for (const [kind, where, value] of changes) {
        const at = all.length === 0 ? 0 : where % all.length;
        if (kind === 'flip' && all.length > 0) all[at] = value;
        if (kind === 'drop') all = Buffer.concat([all.subarray(0, at), all.subarray(at + 1)]);
        if (kind === 'repeat')
          all = Buffer.concat([all.subarray(0, at), all.subarray(at, at + value), all.subarray(at)]);
        if (kind === 'end') all = all.subarray(0, at);
      }
      const places = [0, ...cuts.map((cut) => cut % (all.length + 1)).toSorted((a, b) => a - b), all.length];
      return { pieces: places.slice(1).map((end, i) => all.subarray(places[i], end)), stays };
    });
}

type Kind<Input> = {
  arbitrary: fc.Arbitrary<Input>;
  run: (input: Input) => Promise<void>;
  end: () => Promise<void> | void;
};

const CREDENTIALS = { user: 'me', password: 'secret' };
const PAGES = { '/proxy.pac': () => ({ type: 'text/plain', body: 'x' }) };

/** Clients of TCP. Two doors: without and with a password; each takes every second client. */
function visits(valid: fc.Arbitrary<Buffer>, cluster: Cluster): Kind<Visit> {
  const common = { dial: cluster.dial, pages: PAGES, idleMs: HANDSHAKE_MS };
  const entries = [{}, { credentials: CREDENTIALS }].map((more) => ({
    patient: createEntry({ ...common, ...more }),
    hasty: createEntry({ ...common, ...more, handshakeMs: HANDSHAKE_MS }),
  }));
  let turn = 0;
  return {
    arbitrary: visit(valid),
    run: async (input: Visit) => {
      const visitor = new Visitor(input);
      const { patient, hasty } = entries[turn++ % 2] as (typeof entries)[number];
      const closed = new Promise<void>((resolve) => visitor.once('close', resolve));
      (input.stays ? hasty : patient).accept(visitor as unknown as net.Socket);
      // A flow that is open has no deadline; it is over when its client leaves.
      if (input.stays) setTimeout(() => visitor.push(null), 3 * HANDSHAKE_MS);
      await within(closed, 'the connection stays');
    },
    end: () => {
      for (const { patient, hasty } of entries) [patient, hasty].map(({ end }) => end());
    },
  };
}

/** The same clients over loopback, ending as the kernel's do. */
async function connections(valid: fc.Arbitrary<Buffer>, cluster: Cluster): Promise<Kind<Visit>> {
  const door = await openDoor({
    port: 0,
    dial: cluster.dial,
    pages: PAGES,
    handshakeMs: HANDSHAKE_MS,
    idleMs: HANDSHAKE_MS,
  });
  return {
    arbitrary: visit(valid),
    run: async ({ pieces }: Visit) => {
      const socket = net.connect({ host: '127.0.0.1', port: door.port, noDelay: true });
      socket.on('error', () => {}).resume();
      const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
      for (const piece of pieces) await new Promise<void>((resolve) => socket.write(piece, () => resolve()));
      socket.end();
      await within(closed, 'the connection stays');
    },
    end: () => door.close(),
  };
}

/** Datagrams of one client at a relay that must still be there, and answer, every few. */
async function datagrams(cluster: Cluster): Promise<Kind<Buffer>> {
  const PROBE_EVERY = 32;
  const steady: Dial = (flow) => {
    if (flow.host !== 'probe') return cluster.dial(flow);
    const stream = new Echo(true);
    return { stream, opened: Promise.resolve(), replyEarly: false };
  };
  const door = await openDoor({ port: 0, dial: steady });
  const control = net.connect({ host: '127.0.0.1', port: door.port });
  control.write(Buffer.from('050100' + '05030001000000000000', 'hex'));
  const answer: Buffer[] = [];
  while (Buffer.concat(answer).length < 12) answer.push((await once(control, 'data'))[0]);
  const relay = Buffer.concat(answer).readUInt16BE(10);
  const client = dgram.createSocket('udp4');
  client.bind(0, '127.0.0.1');
  await once(client, 'listening');
  const send = (datagram: Buffer) =>
    new Promise<void>((resolve) => client.send(datagram, relay, '127.0.0.1', () => resolve()));
  let probe = 0;
  let heard = 0;
  client.on('message', (datagram) => {
    if (datagram.includes('\x05probe')) heard = datagram.readUInt32BE(datagram.length - 4);
  });
  const check = async () => {
    probe++;
    const question = Buffer.concat([Buffer.from('\0\0\0\x03\x05probe\0\x09', 'latin1'), Buffer.alloc(4)]);
    question.writeUInt32BE(probe, question.length - 4);
    for (const until = performance.now() + HANG_MS; heard !== probe; ) {
      if (performance.now() > until || control.destroyed) throw new Error('the relay answers no more');
      await send(question);
      await new Promise(setImmediate);
    }
  };
  const valid = join(
    fc.constantFrom(Buffer.of(0, 0, 0), Buffer.of(0, 0, 0), Buffer.of(0, 0, 1), Buffer.of(9, 9, 0)),
    address,
    port,
    bytes(64),
  );
  let sent = 0;
  return {
    arbitrary: visit(fc.oneof(valid, bytes(64))).map(({ pieces }) => Buffer.concat(pieces)),
    run: async (datagram: Buffer) => {
      await send(datagram);
      if (++sent % PROBE_EVERY === 0) await check();
    },
    end: async () => {
      await check();
      control.destroy();
      client.close();
      await door.close();
    },
  };
}

async function within(done: Promise<void>, otherwise: string): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(otherwise)), HANG_MS);
  });
  await Promise.race([done, late]).finally(() => clearTimeout(timer));
}

setFlagsFromString('--expose-gc');
const collect: () => void = runInNewContext('gc');

function heapBytes(): number {
  collect();
  return process.memoryUsage().heapUsed;
}

async function fuzz<Input>(what: string, runs: number, cluster: Cluster, kind: Kind<Input>): Promise<void> {
  const started = performance.now();
  const { arbitrary, run, end } = kind;
  let done = 0;
  let early = 0;
  const property = fc.asyncProperty(arbitrary, async (input) => {
    await run(input);
    if (++done === Math.ceil(runs / 10)) early = heapBytes();
  });
  await fc.assert(property, { numRuns: runs, ...(seed ? { seed: Number(seed) } : {}) });
  await end();
  const leftBy = performance.now() + HANG_MS;
  while (cluster.open > 0 && performance.now() < leftBy) await new Promise(setImmediate);
  if (cluster.open > 0) throw new Error(`${what}: ${cluster.open} flows were never ended`);
  const grown = heapBytes() - early;
  if (grown > GROWTH_BYTES) throw new Error(`${what}: the heap grew by ${grown} bytes`);
  const seconds = ((performance.now() - started) / 1_000).toFixed(1);
  const mib = (grown / 1024 / 1024).toFixed(1);
  console.log(`${what}: ${runs} hostile inputs in ${seconds} s, ${cluster.dials} flows, heap ${mib} MiB since a tenth`);
}

const [runs = '5000', kinds = 'all', seed] = process.argv.slice(2);
const only = kinds === 'all' ? undefined : kinds;
const count = Number(runs);
const escaped = (error: unknown) => {
  console.error('escaped:', error);
  process.exit(1);
};
process.on('uncaughtException', escaped);
process.on('unhandledRejection', escaped);
for (const [name, valid] of Object.entries({ socks, http })) {
  if (only && only !== name) continue;
  const cluster = new Cluster();
  await fuzz(name, count, cluster, visits(valid, cluster));
  const real = new Cluster();
  await fuzz(`${name} over loopback`, Math.ceil(count / 100), real, await connections(valid, real));
}
if (!only || only === 'udp') {
  const cluster = new Cluster();
  await fuzz('udp', count, cluster, await datagrams(cluster));
}
