import { LpkError } from './errors.ts';
import {
  FRAME,
  type FrameType,
  HEADER_BYTES,
  KIND,
  kindName,
  MAX_PAYLOAD_BYTES,
  MAX_REASON_BYTES,
  type StreamKind,
} from './protocol.ts';

/** A frame as it came off the websocket: `body`, and for a long payload what follows it, in pieces. */
export type Frame = { type: FrameType; arg: number; stream: number; seq: number; body: Buffer; rest: Buffer[] };

/** The fields of an OPEN: who is wanted (`tcp`, `udp`), what is asked (`control`), or who called (`accept`). */
export type OpenFields = {
  kind: StreamKind;
  /** Name or address to dial; the operation for `control`; the caller's address for `accept`. */
  host: string;
  /** Port to dial; for `accept` the pod's port that was called. */
  port: number;
  /** For `accept`: the caller's port. */
  peerPort?: number;
};

const TYPES = new Set<number>(Object.values(FRAME));
const NO_BODY = Buffer.alloc(0);

/** A websocket message up to its payload: the 12-byte header, then `fields`. SPEC.md, "Frames". */
export function encodeFrame(
  type: FrameType,
  arg: number,
  stream: number,
  seq: number,
  fields: Buffer = NO_BODY,
): Buffer {
  const message = Buffer.allocUnsafe(HEADER_BYTES + fields.length);
  message[0] = type;
  message[1] = arg;
  message.writeUInt16BE(0, 2);
  message.writeUInt32BE(stream, 4);
  message.writeUInt32BE(seq % 0x1_0000_0000, 8);
  fields.copy(message, HEADER_BYTES);
  return message;
}

/** Throws LpkError `protocol` for anything that isn't a whole, known frame. */
export function decodeFrame(message: Buffer, rest: Buffer[] = []): Frame {
  if (message.length < HEADER_BYTES) throw new LpkError('protocol', `frame of ${message.length} bytes is too short`);
  const type = message[0] as FrameType;
  if (!TYPES.has(type)) throw new LpkError('protocol', `unknown frame type ${type}`);
  return {
    type,
    arg: message[1] as number,
    stream: message.readUInt32BE(4),
    seq: message.readUInt32BE(8),
    body: message.subarray(HEADER_BYTES),
    rest,
  };
}

export function encodeOpen(fields: OpenFields): Buffer {
  const host = Buffer.from(fields.host, 'utf8');
  if (host.length > 255)
    throw new LpkError('name-not-found', `a name of ${host.length} bytes is longer than DNS allows`);
  const buffer = Buffer.allocUnsafe(5 + host.length);
  buffer.writeUInt16BE(fields.port, 0);
  buffer.writeUInt16BE(fields.peerPort ?? 0, 2);
  buffer[4] = host.length;
  host.copy(buffer, 5);
  return buffer;
}

/** The fields of an OPEN and its first payload bytes, in pieces. Throws LpkError `protocol`. */
export function decodeOpen(frame: Frame): { fields: Required<OpenFields>; first: Buffer[] } {
  const kind = kindName(frame.arg);
  const { body } = frame;
  const hostBytes = body.length >= 5 ? (body[4] as number) : 0;
  if (!kind || body.length < 5 + hostBytes) throw new LpkError('protocol', 'OPEN is malformed');
  const rest = body.subarray(5 + hostBytes);
  const first = rest.length > 0 ? [rest, ...frame.rest] : frame.rest;
  return {
    fields: {
      kind,
      host: body.toString('utf8', 5, 5 + hostBytes),
      port: body.readUInt16BE(0),
      peerPort: body.readUInt16BE(2),
    },
    first,
  };
}

/** Bytes of a payload in pieces. Throws LpkError `limit-exceeded` beyond `MAX_PAYLOAD_BYTES`. */
export function payloadBytes(pieces: Buffer[]): number {
  let bytes = 0;
  for (const piece of pieces) bytes += piece.length;
  if (bytes > MAX_PAYLOAD_BYTES) throw new LpkError('limit-exceeded', `a frame carries ${bytes} bytes`);
  return bytes;
}

export function openArg(kind: StreamKind): number {
  return KIND[kind];
}

/** Text of a RESET or BYE, cut to its limit. */
export function encodeReason(text: string): Buffer {
  return Buffer.from(text, 'utf8').subarray(0, MAX_REASON_BYTES);
}

/** A count of frames, 48 bits: 1,000 frames a second for 8,900 years. */
export function encodeCount(count: number): Buffer {
  const buffer = Buffer.allocUnsafe(6);
  buffer.writeUIntBE(count, 0, 6);
  return buffer;
}

export function decodeCount(body: Buffer): number {
  if (body.length !== 6) throw new LpkError('protocol', 'ACK is malformed');
  return body.readUIntBE(0, 6);
}

export function encodeUint32(value: number): Buffer {
  const buffer = Buffer.allocUnsafe(4);
  buffer.writeUInt32BE(value, 0);
  return buffer;
}

export function decodeUint32(body: Buffer): number {
  if (body.length !== 4) throw new LpkError('protocol', 'a 32-bit field is malformed');
  return body.readUInt32BE(0);
}
