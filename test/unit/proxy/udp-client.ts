import dgram from 'node:dgram';
import { once } from 'node:events';
import type { TestContext } from 'node:test';
import { RawClient } from './raw-client.ts';

/** A client of UDP ASSOCIATE that can do what no library would. */

export const ANY = Buffer.from('01' + '00000000' + '0000', 'hex');

/** RFC 1928 section 7. `address` is type, address and port. */
export function wrap(address: Buffer, payload: string, fragment = 0): Buffer {
  return Buffer.concat([Buffer.of(0, 0, fragment), address, Buffer.from(payload)]);
}

export const ipv4 = (address: string, port: number) =>
  Buffer.of(1, ...address.split('.').map(Number), port >> 8, port & 0xff);
export const ipv6 = (hex: string, port: number) =>
  Buffer.concat([Buffer.of(4), Buffer.from(hex, 'hex'), Buffer.of(port >> 8, port & 0xff)]);
export const named = (name: string, port: number) =>
  Buffer.concat([Buffer.of(3, name.length), Buffer.from(name), Buffer.of(port >> 8, port & 0xff)]);

/** Asks for an association; gives its TCP connection and the door's whole answer. */
export async function associate(port: number, { host = '127.0.0.1', from = ANY } = {}) {
  const control = new RawClient(port, host);
  control.socket.write(Buffer.concat([Buffer.from('050100' + '050300', 'hex'), from]));
  const answer = await control.take(2 + 4);
  const rest = await control.take(answer[5] === 4 ? 18 : 6);
  return {
    control,
    reply: answer[3],
    type: answer[5],
    address: rest.subarray(0, -2),
    port: rest.readUInt16BE(rest.length - 2),
  };
}

/** A datagram socket whose datagrams are taken one by one. */
export class UdpClient {
  readonly socket: dgram.Socket;
  #held: Buffer[] = [];
  #wake: (() => void) | undefined;

  private constructor(socket: dgram.Socket) {
    this.socket = socket;
    socket.on('message', (datagram) => {
      this.#held.push(datagram);
      this.#wake?.();
    });
    socket.on('error', () => {}); // the relay is gone
  }

  static async open(t: TestContext, address = '127.0.0.1'): Promise<UdpClient> {
    const socket = dgram.createSocket(address.includes(':') ? 'udp6' : 'udp4');
    socket.bind(0, address);
    await once(socket, 'listening');
    t.after(() => socket.close());
    return new UdpClient(socket);
  }

  /** Resolves when the kernel has it. */
  send(datagram: Buffer, port: number, address = '127.0.0.1'): Promise<void> {
    return new Promise((resolve) => this.socket.send(datagram, port, address, () => resolve()));
  }

  async take(): Promise<Buffer> {
    while (this.#held.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#held.shift() as Buffer;
  }
}

/** A server for one test that answers every datagram with `answer` of it; gives its port. */
export async function serveUdp(t: TestContext, answer: (datagram: string) => string): Promise<number> {
  const socket = dgram.createSocket('udp4');
  socket.on('message', (datagram, { port, address }) => socket.send(answer(datagram.toString()), port, address));
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  t.after(() => socket.close());
  return socket.address().port;
}
