import dgram from 'node:dgram';
import net from 'node:net';
import { Duplex } from 'node:stream';
import { type ErrorCode, LpkError } from '../agent/wire/errors.ts';
import { flowError, type Resettable } from '../agent/wire/pump.ts';
import { resetSocket } from '../agent/wire/reset-socket.ts';
import type { Credentials } from './credentials.ts';
import type { Dial, Flow } from './flow.ts';
import { take } from './handshake.ts';
import { AWAIT_DIAL } from './socks5.ts';
import { ADDRESS, addressBytes, addressEnd, addressOf } from './socks5-address.ts';

/** Flows by way of another lpk's door, in place of a tunnel of one's own (RFC 1928, RFC 1929). */

export type SocksServer = { host: string; port: number; credentials?: Credentials };

const HANDSHAKE_MS = 30_000;
/** Datagrams that wait for the association. */
const MAX_WAITING = 64;
const MAX_NAME_BYTES = 255;

/** RFC 1928 section 6: the door's reply codes, as what the agent said. */
const CODES: Record<number, ErrorCode> = {
  2: 'not-allowed',
  3: 'unreachable',
  4: 'unreachable',
  5: 'refused',
  6: 'timed-out',
};

/** Every flow of this `Dial` goes through the door; `opened` settles with the agent's own dial result. */
export function dialThroughSocks(server: SocksServer): Dial {
  return (flow, first) => {
    const stream = flow.protocol === 'udp' ? new UdpFlow(server, flow) : new TcpFlow(server, flow, first);
    return { stream, opened: stream.opened, replyEarly: false };
  };
}

/** The socket to the door, from its request on the flow itself. */
class TcpFlow extends Duplex implements Resettable {
  readonly opened: Promise<void>;
  readonly #socket: net.Socket;

  constructor(server: SocksServer, flow: Flow, first?: Buffer) {
    super({ allowHalfOpen: true });
    this.on('error', () => {}); // `opened`, or the reader, tells
    const { host, port } = server;
    this.#socket = net.connect({ host, port, allowHalfOpen: true, noDelay: true });
    this.#socket.on('error', (error) => this.destroy(flowError(error)));
    this.#socket.on('close', () => {
      if (!this.readableEnded || !this.writableFinished)
        this.destroy(new LpkError('connection-reset', 'the proxy left'));
    });
    this.opened = request(this.#socket, server, CONNECT, flow).then(() => {
      if (first && first.length > 0) this.#socket.write(first);
      this.#socket.on('data', (chunk) => {
        if (!this.push(chunk)) this.#socket.pause();
      });
      this.#socket.on('end', () => this.push(null));
    });
    this.opened.catch((error: LpkError) => this.destroy(error));
  }

  reset(code: ErrorCode, message = ''): void {
    this.destroy(code === 'cancelled' ? undefined : new LpkError(code, message));
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.opened.then(() => this.#socket.write(chunk, done), done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.opened.then(() => this.#socket.end(() => done()), done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (this.readableEnded && this.writableFinished) this.#socket.destroy();
    else resetSocket(this.#socket);
    done(error);
  }
}

/** One destination's datagrams, by an association of their own. */
class UdpFlow extends Duplex implements Resettable {
  readonly opened: Promise<void>;
  readonly #control: net.Socket;
  readonly #socket = dgram.createSocket('udp4');
  readonly #header: Buffer;
  #relay: { host: string; port: number } | undefined;
  #waiting: Buffer[] = [];

  constructor(server: SocksServer, flow: Flow) {
    super({ objectMode: true, allowHalfOpen: false });
    this.on('error', () => {});
    this.#header = Buffer.concat([Buffer.of(0, 0, 0), address(flow)]);
    const { host, port } = server;
    this.#control = net.connect({ host, port, noDelay: true });
    this.#control.on('error', (error) => this.destroy(flowError(error)));
    this.#control.on('close', () => this.destroy());
    this.#socket.on('error', (error) => this.destroy(flowError(error)));
    this.#socket.on('message', (datagram) => {
      const end = addressEnd(datagram, 3);
      if (end !== undefined && datagram[2] === 0) this.push(datagram.subarray(end));
    });
    const any: Flow = { protocol: 'udp', host: '0.0.0.0', port: 0 };
    this.opened = request(this.#control, server, UDP_ASSOCIATE, any).then((bound) => {
      this.#relay = { host: bound.host === '0.0.0.0' ? host : bound.host, port: bound.port };
      for (const datagram of this.#waiting.splice(0)) this.#send(datagram);
      this.#control.resume();
    });
    this.opened.catch((error: LpkError) => this.destroy(error));
  }

  reset(code: ErrorCode, message = ''): void {
    this.destroy(code === 'cancelled' ? undefined : new LpkError(code, message));
  }

  override _read(): void {}

  override _write(datagram: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#relay) this.#send(datagram);
    else if (this.#waiting.length < MAX_WAITING) this.#waiting.push(datagram);
    done(); // a datagram that finds no room is dropped, as on any network
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#control.destroy();
    this.#socket.close();
    done(error);
  }

  #send(datagram: Buffer): void {
    const { host, port } = this.#relay as { host: string; port: number };
    this.#socket.send(Buffer.concat([this.#header, datagram]), port, host, () => {});
  }
}

const CONNECT = 1;
const UDP_ASSOCIATE = 3;

/** The whole handshake; gives BND.ADDR and BND.PORT. Rejects with the reply code as LpkError. */
async function request(
  socket: net.Socket,
  { credentials }: SocksServer,
  command: number,
  flow: Flow,
): Promise<{ host: string; port: number }> {
  const late = setTimeout(() => socket.destroy(new LpkError('timed-out', 'the proxy did not answer')), HANDSHAKE_MS);
  try {
    const method = credentials ? 2 : 0;
    socket.write(Buffer.of(5, 2, method, AWAIT_DIAL));
    if ((await take(socket, 2))[1] !== method) throw new LpkError('not-allowed', 'the proxy wants another password');
    if (credentials) {
      const [user, password] = [Buffer.from(credentials.user), Buffer.from(credentials.password)];
      socket.write(Buffer.concat([Buffer.of(1, user.length), user, Buffer.of(password.length), password]));
      if ((await take(socket, 2))[1] !== 0) throw new LpkError('not-allowed', 'the proxy wants another password');
    }
    socket.write(Buffer.concat([Buffer.of(5, command, 0), address(flow)]));
    const [, code = 1, , type = 0] = await take(socket, 4);
    const bound = await take(socket, (addressBytes(type, 0) ?? 4) + 2);
    if (code !== 0) {
      const known = CODES[code] ?? 'link-lost';
      throw new LpkError(known, `${flow.host}:${flow.port}: the proxy's reply is ${code} (RFC 1928)`);
    }
    const host = type === ADDRESS.ipv4 ? bound.subarray(0, 4).join('.') : '0.0.0.0';
    return { host, port: bound.readUInt16BE(bound.length - 2) };
  } catch (error) {
    throw socket.errored ? flowError(socket.errored) : flowError(error);
  } finally {
    clearTimeout(late);
  }
}

/** Type, address and port. */
function address({ host, port }: Flow): Buffer {
  if (net.isIP(host)) return addressOf(host, port);
  const name = Buffer.from(host);
  if (name.length === 0 || name.length > MAX_NAME_BYTES) throw new LpkError('name-not-found', `${host} is no name`);
  return Buffer.concat([Buffer.of(ADDRESS.name, name.length), name, Buffer.of(port >> 8, port & 0xff)]);
}
