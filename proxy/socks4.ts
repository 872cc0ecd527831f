import type net from 'node:net';
import type { Request } from './carry.ts';
import { dismiss, take } from './handshake.ts';
import { hostText } from './socks5-address.ts';

/** SOCKS4 and 4a: https://www.openssh.com/txt/socks4.protocol and https://www.openssh.com/txt/socks4a.protocol */

const CONNECT = 1;
const GRANTED = 0x5a;
const REJECTED = 0x5b;
const MAX_STRING_BYTES = 255;

/**
 * Reads the request. Undefined when it was refused; the client then has its answer. The user id is read over: it is no secret, so
 * where a password is wanted, `refuse`.
 */
export async function readSocks4(socket: net.Socket, { refuse }: { refuse: boolean }): Promise<Request | undefined> {
  const header = await take(socket, 8);
  const user = await takeString(socket);
  const address = header.subarray(4, 8);
  const isName = address.readUInt32BE() !== 0 && address.readUInt32BE() < 256; // 0.0.0.x: 4a, the name follows
  const name = user && isName ? await takeString(socket) : undefined;
  const host = isName ? name && hostText(name) : address.join('.');
  if (refuse || !user || !host || header[1] !== CONNECT) {
    dismiss(socket, reply(REJECTED));
    return undefined;
  }
  return {
    flow: { protocol: 'tcp', host, port: header.readUInt16BE(2) },
    replies: { success: reply(GRANTED), failure: () => reply(REJECTED) },
  };
}

/** Up to the NUL, without it; undefined when that doesn't come in time. */
async function takeString(socket: net.Socket): Promise<Buffer | undefined> {
  const bytes: number[] = [];
  for (;;) {
    const byte = (await take(socket, 1)).readUInt8();
    if (byte === 0) return Buffer.from(bytes);
    if (bytes.length === MAX_STRING_BYTES) return undefined;
    bytes.push(byte);
  }
}

function reply(code: number): Buffer {
  return Buffer.of(0, code, 0, 0, 0, 0, 0, 0);
}
