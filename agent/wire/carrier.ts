import { createHash, randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import type http from 'node:http';
import type { Duplex } from 'node:stream';
import { corkThisTurn } from './cork.ts';
import { LpkError } from './errors.ts';
import { MAX_MESSAGE_BYTES, SUBPROTOCOL, TIMES } from './protocol.ts';
import { requestUpgrade, type UpgradeOptions } from './upgrade.ts';
import { FrameReader, OPCODE, websocketHeader } from './websocket.ts';
import { noteTraffic } from './young.ts';

/**
 * One websocket between laptop and agent: whole binary messages, zero copies. `ws` joins every message it reads into new
 * memory, which is a third of what a bulk transfer costs here; see README, "Dependencies".
 */

export type CarrierEvents = {
  open: [];
  /** `head` holds at least the first `MESSAGE.headBytes` of the message, `rest` what follows, in the pieces it came in. */
  message: [head: Buffer, rest: Buffer[]];
  error: [Error];
  /** Last event, once. */
  close: [code: number, reason: string];
};

/** RFC 6455 7.4.1. The last two are never sent: a close frame without a code, and none at all. */
const NORMAL = 1000;
const NO_CODE = 1005;
const ABNORMAL = 1006;
const MAX_PONG_BYTES = 4_096;
/** A message this small is written as one buffer. */
const MERGE_BYTES = 2_048;
const CLOSE_WAIT_MS = 1_000;

export class Carrier extends EventEmitter<CarrierEvents> {
  #socket: Duplex | undefined;
  #reader: FrameReader | undefined;
  #side: 'laptop' | 'agent';
  #abort: (() => void) | undefined;
  #closeSent = false;
  #closeSeen: { code: number; reason: string } | undefined;
  #ended = false;

  /** `abort` stops an opening that is under way. */
  constructor(side: 'laptop' | 'agent', abort?: () => void) {
    super();
    this.#side = side;
    this.#abort = abort;
  }

  get isOpen(): boolean {
    return this.#socket !== undefined && !this.#closeSent && !this.#ended;
  }

  /** Bytes given to `send` and not yet taken by the kernel. */
  get bufferedAmount(): number {
    return this.#socket?.writableLength ?? 0;
  }

  /** Starts on an upgraded connection; `head`: bytes that came with the upgrade. */
  start(socket: Duplex, head: Buffer): void {
    if (this.#ended) return void socket.destroy();
    this.#socket = socket;
    this.#abort = undefined;
    const reader = new FrameReader(this.#side === 'agent', {
      message: (first, rest) => void this.emit('message', first, rest),
      ping: (payload) => {
        // RFC 6455 5.5.3: who reads no pongs gets fewer.
        if (this.bufferedAmount < MAX_PONG_BYTES) this.#control(OPCODE.pong, payload);
      },
      close: (code, reason) => {
        this.#closeSeen ??= { code, reason };
        this.close(code === NO_CODE ? NORMAL : code);
        socket.end();
      },
      broken: (code, reason) => {
        this.#closeSeen ??= { code, reason };
        this.close(code, reason);
        socket.end(); // nothing more is read, so no answer is waited for
      },
    });
    this.#reader = reader;
    socket.on('data', (chunk: Buffer) => {
      noteTraffic(chunk.length);
      if (!this.#ended) reader.read(chunk);
    });
    socket.on('end', () => socket.end());
    socket.on('error', (error) => this.emit('error', error));
    socket.on('close', () => this.#end());
    this.emit('open');
    if (head.length > 0) reader.read(head);
  }

  /** The peer has proven itself: it may send messages of full size. */
  admit(): void {
    if (this.#reader) this.#reader.maxMessageBytes = MAX_MESSAGE_BYTES;
  }

  /** One binary message of two parts. Neither may change afterwards. `flushed`: when the kernel has it. */
  send(first: Buffer, payload?: Buffer, flushed?: () => void): void {
    const socket = this.#socket;
    if (!socket || this.#closeSent || this.#ended) return;
    corkThisTurn(socket);
    noteTraffic(first.length + (payload?.length ?? 0));
    const payloadBytes = payload?.length ?? 0;
    const header = websocketHeader(OPCODE.binary, first.length + payloadBytes, this.#side === 'laptop');
    if (payload && payloadBytes > MERGE_BYTES) {
      socket.write(Buffer.concat([header, first]));
      socket.write(payload, flushed);
    } else {
      socket.write(Buffer.concat(payload ? [header, first, payload] : [header, first]), flushed);
    }
  }

  /** Says goodbye; the connection ends when the peer has answered, or after 1 s. `reason`: at most 120 characters are sent. */
  close(code = NORMAL, reason = ''): void {
    if (!this.#socket) return this.terminate();
    if (this.#closeSent || this.#ended) return;
    const payload = Buffer.alloc(2);
    payload.writeUInt16BE(code);
    const text = Buffer.from(reason.replace(/[^\x20-\x7e]/g, '?').slice(0, 120)); // RFC 6455 5.5: at most 123 bytes
    this.#control(OPCODE.close, Buffer.concat([payload, text]));
    this.#closeSent = true;
    setTimeout(() => this.terminate(), CLOSE_WAIT_MS).unref();
  }

  /** Ends the connection, or its opening, at once. */
  terminate(): void {
    this.#abort?.();
    this.#socket?.destroy();
    if (!this.#socket) this.#end();
  }

  /** The opening failed. */
  fail(error: Error): void {
    if (this.#ended) return;
    this.emit('error', error);
    this.#end();
  }

  #control(opcode: number, payload: Buffer): void {
    if (!this.#socket || this.#closeSent || this.#ended) return;
    this.#socket.write(Buffer.concat([websocketHeader(opcode, payload.length, this.#side === 'laptop'), payload]));
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#abort = undefined;
    this.emit('close', this.#closeSeen?.code ?? ABNORMAL, this.#closeSeen?.reason ?? '');
  }
}

export type WebSocketOptions = UpgradeOptions & {
  /** What an HTTP answer in place of a websocket means; `body` is cut at 4,096 characters. */
  refused?: (status: number, body: string) => LpkError;
};

/**
 * Opens a websocket (RFC 6455 4.1); an 'error' event says why it could not: when an HTTP answer came instead, what `refused`
 * makes of it, or `version-mismatch` from an agent of another version.
 */
export function openWebSocket(url: string, options: WebSocketOptions = {}): Carrier {
  const key = randomBytes(16).toString('base64');
  const { refused, ...rest } = options;
  const { host } = new URL(url);
  const request = requestUpgrade(url, rest, {
    subprotocol: SUBPROTOCOL,
    key,
    timeoutMs: TIMES.handshakeMs * 2,
    refused: (status, body) => carrier.fail(answerError(status, body, refused)),
  });
  const carrier = new Carrier('laptop', () => request.destroy());
  request.on('timeout', () => request.destroy(new LpkError('timed-out', `${host} did not answer in time`)));
  request.on('error', (error) => carrier.fail(error));
  let answered = false;
  request.on('response', () => {
    answered = true;
  });
  request.on('close', () => {
    if (!carrier.isOpen && !answered) carrier.fail(new LpkError('agent-unreachable', `${host} closed the connection`));
  });
  request.on('upgrade', (response, socket, head) => {
    socket.setTimeout(0);
    const { 'sec-websocket-accept': accept, 'sec-websocket-protocol': protocol } = response.headers;
    if (accept !== acceptKey(key) || protocol !== SUBPROTOCOL) {
      socket.destroy();
      return carrier.fail(new LpkError('version-mismatch', `what answered at ${host} speaks ${protocol ?? 'no lpk'}`));
    }
    socket.setNoDelay(true);
    carrier.start(socket, head);
  });
  return carrier;
}

/** Answers an upgrade request (RFC 6455 4.2) on the agent. What is no websocket of our version gets an HTTP error, and undefined. */
export function acceptWebSocket(request: http.IncomingMessage, socket: Duplex, head: Buffer): Carrier | undefined {
  const { upgrade, 'sec-websocket-key': key, 'sec-websocket-protocol': protocols } = request.headers;
  const offered = (protocols ?? '').split(',').map((name) => name.trim());
  if (upgrade?.toLowerCase() !== 'websocket' || !key || !offered.includes(SUBPROTOCOL)) {
    const asked =
      offered
        .join(', ')
        .replace(/[^\x20-\x7e]/g, '?')
        .slice(0, 100) || 'nothing';
    const text = `this lpk agent speaks ${SUBPROTOCOL}; it was asked for ${asked}\n`;
    const lines = [
      'HTTP/1.1 426 Upgrade Required',
      'Content-Type: text/plain',
      `Content-Length: ${text.length}`,
      'Connection: close',
    ];
    socket.end(`${lines.join('\r\n')}\r\n\r\n${text}`);
    return undefined;
  }
  const lines = [
    'HTTP/1.1 101 Switching Protocols',
    'Upgrade: websocket',
    'Connection: Upgrade',
    `Sec-WebSocket-Accept: ${acceptKey(key)}`,
    `Sec-WebSocket-Protocol: ${SUBPROTOCOL}`,
  ];
  socket.write(`${lines.join('\r\n')}\r\n\r\n`);
  const carrier = new Carrier('agent');
  // The caller adds its listeners before the first byte is read.
  process.nextTick(() => carrier.start(socket, head));
  return carrier;
}

function acceptKey(key: string): string {
  return createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
}

const UPGRADE_REQUIRED = 426;

function answerError(status: number, body: string, refused: WebSocketOptions['refused']): LpkError {
  if (status === UPGRADE_REQUIRED)
    return new LpkError('version-mismatch', body.trim() || 'the agent speaks another version');
  return (
    refused?.(status, body) ??
    new LpkError('agent-unreachable', `HTTP ${status} in place of a websocket: ${body.trim()}`)
  );
}
