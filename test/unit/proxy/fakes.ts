import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import { Duplex } from 'node:stream';
import type { TestContext } from 'node:test';
import { type ErrorCode, LpkError } from '../../../agent/wire/errors.ts';
import type { Resettable } from '../../../agent/wire/pump.ts';
import { type Door, type DoorOptions, openDoor } from '../../../proxy/door.ts';
import type { Dial, Flow } from '../../../proxy/flow.ts';

/** What a test sees of the cluster's side. */
export type FakeCluster = {
  dial: Dial;
  flows: Flow[];
  /** The flows' streams that are not over. */
  open: Set<Duplex>;
  /** Codes of the resets the door asked for. */
  resets: ErrorCode[];
  /** Lets the dials that wait for it go on. */
  release(): void;
};

/**
 * A cluster on loopback: whatever host is asked for, the flow goes to 127.0.0.1 at its port. Three names are special:
 * `<code>.fail` fails with that code (with `replyEarly` after `release()`), `pending.test` waits for `release()`, and
 * `no-tunnel.fail` throws.
 */
export function fakeCluster({ replyEarly }: { replyEarly: boolean }): FakeCluster {
  const flows: Flow[] = [];
  const resets: ErrorCode[] = [];
  const open = new Set<Duplex>();
  const gate = Promise.withResolvers<void>();
  const dial: Dial = (flow, first) => {
    flows.push(flow);
    const code = /^(.+)\.fail$/.exec(flow.host)?.[1];
    if (code === 'no-tunnel') throw new LpkError('link-lost', 'there is no tunnel');
    const stream = code ? new DeadEnd({ objectMode: flow.protocol === 'udp' }) : connect(flow);
    open.add(stream);
    stream.once('close', () => open.delete(stream));
    const outbound = Object.assign(stream, {
      destroySoon: undefined, // a stream of the tunnel has none, and Node's HTTP client would use it
      reset(reason: ErrorCode) {
        resets.push(reason);
        stream instanceof net.Socket ? stream.resetAndDestroy() : stream.destroy();
      },
    }) as Resettable;
    if (first) stream.write(first);
    const opened = code
      ? failing(outbound, code, replyEarly ? gate.promise : Promise.resolve())
      : new Promise<void>((resolve, reject) => {
          stream.once('connect', () => (flow.host === 'pending.test' ? gate.promise : Promise.resolve()).then(resolve));
          stream.once('error', reject);
        });
    opened.catch(() => {});
    return { stream: outbound, opened, replyEarly };
  };
  return { dial, flows, open, resets, release: gate.resolve };
}

function connect({ protocol, port }: Flow): Duplex {
  return protocol === 'udp' ? new Datagrams(port) : net.connect({ host: '127.0.0.1', port, allowHalfOpen: true });
}

async function failing(stream: Duplex, code: string, gate: Promise<void>): Promise<never> {
  await gate;
  const cause = code === 'enetunreach' ? Object.assign(new Error('no route'), { code: 'ENETUNREACH' }) : undefined;
  const error = new LpkError(cause ? 'unreachable' : (code as ErrorCode), 'the dial failed', { cause });
  stream.destroy(error);
  throw error;
}

/** As the tunnel's: a datagram each read and write, and no half-open. */
class Datagrams extends Duplex {
  #socket = dgram.createSocket('udp4');

  #port: number;

  constructor(port: number) {
    super({ objectMode: true, allowHalfOpen: false });
    this.#port = port;
    this.#socket.on('message', (datagram) => this.push(datagram));
    this.#socket.on('error', (error) => this.destroy(error));
  }

  override _construct(done: () => void) {
    this.#socket.connect(this.#port, '127.0.0.1', () => {
      done();
      this.emit('connect');
    });
  }

  override _read() {}

  override _write(datagram: Buffer, _encoding: string, done: () => void) {
    this.#socket.send(datagram);
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void) {
    this.#socket.close();
    done(error);
  }
}

class DeadEnd extends Duplex {
  override _read() {}
  override _write(_chunk: Buffer, _encoding: string, done: () => void) {
    done();
  }
}

/** A door for one test. */
export async function door(t: TestContext, options: Omit<DoorOptions, 'port'>): Promise<Door> {
  const opened = await openDoor({ port: 0, ...options });
  t.after(() => opened.close());
  return opened;
}

/** A TCP server for one test, half-open allowed; gives its port. */
export async function serve(t: TestContext, handle: (socket: net.Socket) => void): Promise<number> {
  const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    socket.on('error', () => {});
    handle(socket);
  });
  return listen(t, server);
}

/** Listens on a free loopback port until the test ends, then cuts what is left. */
export async function listen(t: TestContext, server: net.Server): Promise<number> {
  const sockets = new Set<net.Socket>();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return (server.address() as net.AddressInfo).port;
}

/** All a socket receives up to its end. (`for await` and `stream/consumers` destroy a socket at the end of its readable half.) */
export async function receive(socket: net.Socket, take: (chunk: Buffer) => void): Promise<void> {
  socket.on('data', take).resume();
  await once(socket, 'end');
}

export async function received(socket: net.Socket): Promise<string> {
  const chunks: Buffer[] = [];
  await receive(socket, (chunk) => chunks.push(chunk));
  return Buffer.concat(chunks).toString('latin1');
}
