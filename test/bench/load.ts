import { once } from 'node:events';
import net from 'node:net';
import { LENGTH_BYTES, MESSAGE_BYTES } from './servers.ts';

/** The load: a process of its own for every measurement, so that nothing but the measured programs shares its event loop. */

export type Order = {
  job: 'down' | 'up' | 'echo' | 'connect' | 'banner';
  /** Where the measured program is, or what it leads to without a door; absent: loopback. */
  host?: string;
  port: number;
  /** Where to ask its SOCKS5 door to go; absent: host and port themselves lead there. */
  socks?: { host: string; port: number };
  /** Of a transfer, after a warm-up of a quarter of it. */
  bytes: number;
  /** Exchanges, or connections, after a tenth of them as warm-up. */
  times: number;
};

export type Result = {
  /** Of a transfer: without its warm-up. */
  megabytesPerSecond?: number;
  /** Of a transfer: with its warm-up. */
  bytesMoved?: number;
  p50Us?: number;
  p99Us?: number;
};

const WARM_UP_SHARE = { bytes: 4, times: 10 };
const PIECE = Buffer.alloc(256 * 1024, 2);
const MESSAGE = Buffer.alloc(MESSAGE_BYTES, 3);

/** A socket that is read into one buffer, over and over: a reader that costs little. */
class Reader {
  readonly socket: net.Socket;
  #received = 0;
  #wanted = 0;
  #wake: (() => void) | undefined;

  constructor(host: string, port: number) {
    const buffer = Buffer.allocUnsafe(256 * 1024);
    const onread = {
      buffer,
      callback: (bytes: number) => {
        this.#received += bytes;
        if (this.#received >= this.#wanted) this.#wake?.();
        return true;
      },
    };
    this.socket = net.connect({ host, port, noDelay: true, onread });
    this.socket.on('close', () => {
      console.error('load: the connection broke off');
      process.exit(1);
    });
  }

  /** Waits until so many bytes more have come, and drops them. */
  async drop(bytes: number): Promise<void> {
    this.#wanted += bytes;
    if (this.#received < this.#wanted) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  done(): void {
    this.socket.removeAllListeners('close').destroy();
  }
}

/** Opens a connection as a usual client does: it waits for each of the door's answers. */
async function open({ host: program = '127.0.0.1', port, socks }: Order): Promise<Reader> {
  const reader = new Reader(program, port);
  if (!socks) return reader;
  reader.socket.write(Buffer.of(5, 1, 0));
  await reader.drop(2);
  const host = Buffer.from(socks.host);
  const address = net.isIPv4(socks.host)
    ? Buffer.of(1, ...socks.host.split('.').map(Number))
    : Buffer.concat([Buffer.of(3, host.length), host]);
  reader.socket.write(Buffer.concat([Buffer.of(5, 1, 0), address, Buffer.of(socks.port >> 8, socks.port & 0xff)]));
  await reader.drop(10);
  return reader;
}

function length(bytes: number): Buffer {
  const message = Buffer.alloc(LENGTH_BYTES);
  message.writeBigUInt64BE(BigInt(bytes));
  return message;
}

async function down(reader: Reader, bytes: number): Promise<void> {
  reader.socket.write(length(bytes));
  await reader.drop(bytes);
}

async function up(reader: Reader, bytes: number): Promise<void> {
  reader.socket.write(length(bytes));
  for (let left = bytes; left > 0; left -= PIECE.length) {
    const piece = left < PIECE.length ? PIECE.subarray(0, left) : PIECE;
    if (!reader.socket.write(piece)) await once(reader.socket, 'drain');
  }
  await reader.drop(1);
}

async function transfer(order: Order, move: (reader: Reader, bytes: number) => Promise<void>): Promise<Result> {
  const reader = await open(order);
  const warmUp = Math.round(order.bytes / WARM_UP_SHARE.bytes);
  await move(reader, warmUp);
  const started = performance.now();
  await move(reader, order.bytes);
  const seconds = (performance.now() - started) / 1_000;
  reader.done();
  return { megabytesPerSecond: order.bytes / 1e6 / seconds, bytesMoved: order.bytes + warmUp };
}

async function repeat({ times }: Order, once: () => Promise<void>): Promise<Result> {
  const us: number[] = [];
  const warmUp = Math.ceil(times / WARM_UP_SHARE.times);
  for (let i = -warmUp; i < times; i++) {
    const started = process.hrtime.bigint();
    await once();
    if (i >= 0) us.push(Number(process.hrtime.bigint() - started) / 1_000);
  }
  us.sort((a, b) => a - b);
  const at = (share: number) => us[Math.ceil(us.length * share) - 1] as number;
  return { p50Us: at(0.5), p99Us: at(0.99) };
}

async function run(order: Order): Promise<Result> {
  switch (order.job) {
    case 'down':
      return transfer(order, down);
    case 'up':
      return transfer(order, up);
    case 'echo': {
      const reader = await open(order);
      const result = await repeat(order, async () => {
        reader.socket.write(MESSAGE);
        await reader.drop(MESSAGE_BYTES);
      });
      reader.done();
      return result;
    }
    case 'connect':
      return repeat(order, async () => {
        const reader = await open(order);
        reader.socket.write(MESSAGE);
        await reader.drop(MESSAGE_BYTES);
        reader.done();
      });
    case 'banner':
      return repeat(order, async () => {
        const reader = await open(order);
        await reader.drop(MESSAGE_BYTES);
        reader.done();
      });
  }
}

if (process.argv[1] === import.meta.filename) {
  console.log(JSON.stringify(await run(JSON.parse(process.argv[2] as string))));
}
