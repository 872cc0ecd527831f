import type net from 'node:net';
import { type LpkError, systemCode } from '../agent/wire/errors.ts';
import type { Request } from './carry.ts';
import { type Credentials, matches } from './credentials.ts';
import { dismiss, take } from './handshake.ts';
import { ADDRESS, addressBytes, addressOf, addressText } from './socks5-address.ts';

/** SOCKS5, RFC 1928; user and password, RFC 1929. */

const NO_AUTHENTICATION = 0x00;
const USER_AND_PASSWORD = 0x02;
const NO_ACCEPTABLE_METHOD = 0xff;
/**
 * Of the private methods (RFC 1928 section 3). A client that offers it beside another wants to be answered only when the agent has
 * dialled, however far that is; it is never chosen.
 */
export const AWAIT_DIAL = 0x80;
const CONNECT = 1;
const UDP_ASSOCIATE = 3;

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

/** A client's wish to send datagrams, and where it means to send them from (RFC 1928 section 4); often all zeros. */
export type Associate = { from: { host: string; port: number } };

/**
 * Reads method selection (section 3), the password if there must be one, and request (section 4), and answers all but the last.
 * Undefined when the client was refused; it then has its answer. The handshake can't be longer than
 * 2 + 255 + 3 + 255 + 255 + 5 + 255 + 2 bytes.
 */
export async function readSocks5(
  socket: net.Socket,
  credentials?: Credentials,
): Promise<Request | Associate | undefined> {
  const greeting = await take(socket, 2);
  const methods = await take(socket, greeting.readUInt8(1));
  const wanted = credentials ? USER_AND_PASSWORD : NO_AUTHENTICATION;
  if (!methods.includes(wanted)) {
    dismiss(socket, Buffer.of(5, NO_ACCEPTABLE_METHOD));
    return undefined;
  }
  socket.write(Buffer.of(5, wanted));
  if (credentials && !(await authenticate(socket, credentials))) {
    dismiss(socket, Buffer.of(1, 1));
    return undefined;
  }
  if (credentials) socket.write(Buffer.of(1, 0));

  const [version, command, , type = 0] = await take(socket, 4);
  if (version !== 5) {
    dismiss(socket, reply(REPLY.generalFailure));
    return undefined;
  }
  const place = await takePlace(socket, type);
  if (!place) {
    dismiss(socket, reply(REPLY.addressTypeNotSupported));
    return undefined;
  }
  if (command === UDP_ASSOCIATE) return { from: place };
  if (!place.host || command !== CONNECT) {
    dismiss(socket, reply(place.host ? REPLY.commandNotSupported : REPLY.generalFailure));
    return undefined;
  }
  return {
    flow: { protocol: 'tcp', ...place },
    awaitDial: methods.includes(AWAIT_DIAL),
    replies: { success: reply(REPLY.succeeded), failure: (error) => reply(replyCode(error)) },
  };
}

async function authenticate(socket: net.Socket, credentials: Credentials): Promise<boolean> {
  const [version, userBytes = 0] = await take(socket, 2);
  if (version !== 1) return false;
  const user = await take(socket, userBytes);
  const password = await take(socket, (await take(socket, 1)).readUInt8());
  return matches(credentials, { user, password });
}

/** Undefined: the address is of an unknown type. An empty host: it is of a known one, but not a host. */
async function takePlace(socket: net.Socket, type: number): Promise<Associate['from'] | undefined> {
  const first = type === ADDRESS.name ? await take(socket, 1) : Buffer.alloc(0);
  const bytes = addressBytes(type, first[0] ?? 0);
  if (bytes === undefined) return undefined;
  const rest = await take(socket, bytes - first.length);
  const host = addressText(type, Buffer.concat([first, rest]));
  return { host, port: (await take(socket, 2)).readUInt16BE() };
}

/** BND.ADDR and BND.PORT are of use only for UDP: what CONNECT has bound is in the pod. */
function reply(code: number, bound: Buffer = addressOf('0.0.0.0', 0)): Buffer {
  return Buffer.concat([Buffer.of(5, code, 0), bound]);
}

/** UDP ASSOCIATE's answers: the address to send datagrams to, or none. */
export const associated = (address: string, port: number): Buffer => reply(REPLY.succeeded, addressOf(address, port));
export const notAssociated = (): Buffer => reply(REPLY.generalFailure);

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
