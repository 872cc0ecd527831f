import net from 'node:net';
import { type LpkError, systemCode } from '../agent/wire/errors.ts';
import type { Request } from './carry.ts';
import { dismiss, take } from './handshake.ts';

/** SOCKS5, RFC 1928. */

const NO_AUTHENTICATION = 0x00;
const NO_ACCEPTABLE_METHOD = 0xff;
const CONNECT = 1;
const ADDRESS = { ipv4: 1, name: 3, ipv6: 4 } as const;

/** RFC 1928 section 6. */
const REPLY = {
  succeeded: 0,
  generalFailure: 1,
  notAllowed: 2,
  networkUnreachable: 3,
  hostUnreachable: 4,
  refused: 5,
  ttlExpired: 6,
  commandNotSupported: 7,
  addressTypeNotSupported: 8,
} as const;

/**
 * Reads method selection (section 3) and request (section 4) and answers the former. Undefined when the request was refused;
 * the client then has its answer. The handshake can't be longer than 2 + 255 + 5 + 255 + 2 bytes.
 */
export async function readSocks5(socket: net.Socket): Promise<Request | undefined> {
  const greeting = await take(socket, 2);
  const methods = await take(socket, greeting.readUInt8(1));
  if (!methods.includes(NO_AUTHENTICATION)) {
    dismiss(socket, Buffer.of(5, NO_ACCEPTABLE_METHOD));
    return undefined;
  }
  socket.write(Buffer.of(5, NO_AUTHENTICATION));
  const [version, command, , addressType] = await take(socket, 4);
  if (version !== 5) {
    dismiss(socket, reply(REPLY.generalFailure));
    return undefined;
  }
  const host = await takeHost(socket, addressType as number);
  const port = host === undefined ? 0 : (await take(socket, 2)).readUInt16BE();
  if (!host) {
    dismiss(socket, reply(host === undefined ? REPLY.addressTypeNotSupported : REPLY.generalFailure));
    return undefined;
  }
  if (command !== CONNECT) {
    dismiss(socket, reply(REPLY.commandNotSupported));
    return undefined;
  }
  return {
    flow: { protocol: 'tcp', host, port },
    replies: { success: reply(REPLY.succeeded), failure: (error) => reply(replyCode(error)) },
  };
}

/** The address as text; undefined: of an unknown type; empty: of a known one, but not a host. */
async function takeHost(socket: net.Socket, type: number): Promise<string | undefined> {
  switch (type) {
    case ADDRESS.ipv4:
      return (await take(socket, 4)).join('.');
    case ADDRESS.ipv6:
      return ipv6Text(await take(socket, 16));
    case ADDRESS.name: {
      const length = (await take(socket, 1)).readUInt8();
      return hostText(await take(socket, length));
    }
    default:
      return undefined;
  }
}

/** RFC 5952 text. */
function ipv6Text(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16));
  return new net.SocketAddress({ family: 'ipv6', address: groups.join(':') }).address;
}

/** A host name of a binary protocol as text: '' when it has what no name has. Brackets around an IPv6 literal go. */
export function hostText(bytes: Buffer): string {
  const text = bytes.toString('utf8').replace(/^\[(.*)\]$/, '$1');
  return /[\p{Cc}\s\uFFFD]/u.test(text) ? '' : text;
}

/** BND.ADDR and BND.PORT are of use to nobody here: the socket that was bound is in the pod. */
function reply(code: number): Buffer {
  return Buffer.of(5, code, 0, ADDRESS.ipv4, 0, 0, 0, 0, 0, 0);
}

function replyCode(error: LpkError): number {
  switch (error.code) {
    case 'refused':
      return REPLY.refused;
    case 'unreachable':
      return systemCode(error.cause) === 'ENETUNREACH' ? REPLY.networkUnreachable : REPLY.hostUnreachable;
    case 'name-not-found':
      return REPLY.hostUnreachable;
    case 'timed-out':
      return REPLY.ttlExpired;
    case 'not-allowed':
      return REPLY.notAllowed;
    default:
      return REPLY.generalFailure;
  }
}
