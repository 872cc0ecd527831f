import { MAX_UNPROVEN_BYTES } from './protocol.ts';

/** Websocket frames, RFC 6455 5.2, as far as lpk needs them: binary messages, ping, close. No extensions, no text. */

export const OPCODE = { continuation: 0, binary: 2, close: 8, ping: 9, pong: 10 } as const;

export const MESSAGE = {
  /** A message's first bytes come in one piece up to here: every header and field of a frame lies within. */
  headBytes: 512,
  /** A message up to this size comes in one piece, and not as part of a larger read that it would keep in memory. */
  wholeBytes: 4_096,
} as const;

const FIN = 0x80;
const RESERVED = 0x70;
const MASKED = 0x80;
const MAX_CONTROL_BYTES = 125;

/**
 * The header of a frame. A client's frame carries a mask of zero, which leaves the payload as it is: masking guards old
 * proxies against what a browser's scripts make it send (RFC 6455 10.3); here no script chooses the bytes.
 */
export function websocketHeader(opcode: number, payloadBytes: number, client: boolean): Buffer {
  const lengthBytes = payloadBytes < 126 ? 0 : payloadBytes < 65_536 ? 2 : 8;
  const header = Buffer.alloc(2 + lengthBytes + (client ? 4 : 0));
  header[0] = FIN | opcode;
  const mask = client ? MASKED : 0;
  if (lengthBytes === 0) header[1] = mask | payloadBytes;
  else if (lengthBytes === 2) {
    header[1] = mask | 126;
    header.writeUInt16BE(payloadBytes, 2);
  } else {
    header[1] = mask | 127;
    header.writeUInt32BE(payloadBytes, 6);
  }
  return header;
}

export type FrameHandlers = {
  message: (head: Buffer, rest: Buffer[]) => void;
  ping: (payload: Buffer) => void;
  close: (code: number, reason: string) => void;
  /** The peer breaks RFC 6455 or our limits; nothing is read after this. `code`: for the close frame. */
  broken: (code: number, reason: string) => void;
};

/** Reads frames from a byte stream without joining what it reads. */
export class FrameReader {
  /** A longer message is refused; small until the peer has proven itself, so that strangers can't fill memory. */
  maxMessageBytes: number = MAX_UNPROVEN_BYTES;
  #handlers: FrameHandlers;
  #expectMask: boolean;
  #header = Buffer.alloc(14);
  #headerBytes = 0;
  #headerNeeds = 2;
  #left = -1; // payload bytes still to come; -1: in the header
  #opcode = 0;
  #fin = true;
  #mask: Buffer | undefined;
  #maskAt = 0;
  #pieces: Buffer[] = [];
  #messageBytes = 0;
  #inMessage = false;
  #control: Buffer[] = [];
  #stopped = false;

  /** `expectMask`: true for a server; a client's frames must be masked, a server's must not (RFC 6455 5.1). */
  constructor(expectMask: boolean, handlers: FrameHandlers) {
    this.#expectMask = expectMask;
    this.#handlers = handlers;
  }

  read(chunk: Buffer): void {
    let at = 0;
    while (!this.#stopped && (at < chunk.length || this.#left === 0)) {
      if (this.#left < 0) {
        at = this.#readHeader(chunk, at);
        continue;
      }
      const bytes = Math.min(this.#left, chunk.length - at);
      if (bytes > 0) this.#take(chunk, at, at + bytes);
      at += bytes;
      this.#left -= bytes;
      if (this.#left === 0) this.#finishFrame();
    }
  }

  #readHeader(chunk: Buffer, from: number): number {
    let at = from;
    while (this.#headerBytes < this.#headerNeeds && at < chunk.length) {
      this.#header[this.#headerBytes++] = chunk[at++] as number;
      if (this.#headerBytes === 2) {
        const second = this.#header[1] as number;
        const length = second & 0x7f;
        this.#headerNeeds = 2 + (length === 126 ? 2 : length === 127 ? 8 : 0) + (second & MASKED ? 4 : 0);
      }
    }
    if (this.#headerBytes === this.#headerNeeds) this.#beginFrame();
    return at;
  }

  #beginFrame(): void {
    const first = this.#header[0] as number;
    const second = this.#header[1] as number;
    this.#fin = (first & FIN) !== 0;
    this.#opcode = first & 0x0f;
    const masked = (second & MASKED) !== 0;
    let length = second & 0x7f;
    if (length === 126) length = this.#header.readUInt16BE(2);
    else if (length === 127) length = this.#header.readUInt32BE(2) * 0x1_0000_0000 + this.#header.readUInt32BE(6);
    const maskBytes = this.#header.subarray(this.#headerNeeds - 4, this.#headerNeeds);
    this.#mask = masked && maskBytes.readUInt32BE(0) !== 0 ? Buffer.from(maskBytes) : undefined;
    this.#maskAt = 0;
    this.#headerBytes = 0;
    this.#headerNeeds = 2;
    this.#left = length;
    if (first & RESERVED) return this.#break(1002, 'reserved bits are set');
    if (masked !== this.#expectMask) return this.#break(1002, masked ? 'a server must not mask' : 'a client must mask');
    if (this.#opcode >= 8) {
      if (!this.#fin || length > MAX_CONTROL_BYTES) return this.#break(1002, 'a control frame is too long');
      if (this.#opcode > OPCODE.pong) return this.#break(1002, `opcode ${this.#opcode} is unknown`);
    } else {
      if (this.#inMessage !== (this.#opcode === OPCODE.continuation))
        return this.#break(1002, 'fragments are out of order');
      if (!this.#inMessage && this.#opcode !== OPCODE.binary)
        return this.#break(1003, 'only binary messages are understood');
      this.#inMessage = true;
      this.#messageBytes += length;
      if (this.#messageBytes > this.maxMessageBytes) return this.#break(1009, 'the message is too long');
    }
  }

  #take(chunk: Buffer, from: number, to: number): void {
    const piece = chunk.subarray(from, to);
    if (this.#mask) {
      for (let i = 0; i < piece.length; i++)
        piece[i] = (piece[i] as number) ^ (this.#mask[this.#maskAt++ & 3] as number);
    }
    (this.#opcode >= 8 ? this.#control : this.#pieces).push(piece);
  }

  #finishFrame(): void {
    this.#left = -1;
    if (this.#opcode >= 8) return this.#finishControl();
    if (!this.#fin) return;
    const pieces = this.#pieces;
    const bytes = this.#messageBytes;
    this.#pieces = [];
    this.#messageBytes = 0;
    this.#inMessage = false;
    if (bytes <= MESSAGE.wholeBytes) return this.#handlers.message(whole(pieces), []);
    let joined = 1;
    let head = pieces[0] as Buffer;
    while (head.length < MESSAGE.headBytes) head = Buffer.concat([head, pieces[joined++] as Buffer]);
    this.#handlers.message(head, pieces.slice(joined));
  }

  #finishControl(): void {
    const payload = Buffer.concat(this.#control);
    this.#control = [];
    if (this.#opcode === OPCODE.ping) this.#handlers.ping(payload);
    if (this.#opcode !== OPCODE.close) return;
    this.#stopped = true;
    this.#handlers.close(payload.length >= 2 ? payload.readUInt16BE(0) : 1005, payload.toString('utf8', 2));
  }

  #break(code: number, reason: string): void {
    this.#stopped = true;
    this.#handlers.broken(code, reason);
  }
}

/** A small message as a buffer of its own, so that it doesn't keep a whole read in memory. */
function whole(pieces: Buffer[]): Buffer {
  const only = pieces[0];
  if (pieces.length === 1 && only && only.buffer.byteLength <= 2 * MESSAGE.wholeBytes) return only;
  return Buffer.concat(pieces);
}
