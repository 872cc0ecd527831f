import type http from 'node:http';
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { LpkError } from '../wire/errors.ts';
import { requestUpgrade, type UpgradeOptions } from '../wire/upgrade.ts';
import { FrameReader, OPCODE, websocketHeader } from '../wire/websocket.ts';
import { networkError, oneLine, upgradeError } from './status.ts';

/**
 * Kubernetes' multiplexing over one websocket (apimachinery/pkg/util/httpstream/wsstream): the first byte of each message is
 * its channel, here 0 for data and 1 for errors, and the first two bytes on each channel are the port's number
 * (kubelet/pkg/cri/streaming/portforward/websocket.go).
 */
const SUBPROTOCOL = 'v4.channel.k8s.io';
const DATA = 0;
const ERROR = 1;
const PORT_BYTES = 2;

/** Most bytes held back in each direction, beside what the kernel does. */
const BUFFER_BYTES = 128 * 1024;
/** The kubelet sends what it reads, 32 KiB at a time. */
const MAX_MESSAGE_BYTES = 256 * 1024;
const HANDSHAKE_MS = 10_000;
const MAX_ERROR_BYTES = 4_096;

/**
 * One connection to a pod's port through `pods/portforward`, as a stream that `http.request` takes for a socket. Both ways wait
 * for the slower end. It can't be half-closed, as the protocol can't: `end` ends both ways.
 *
 * Errors are LpkError: `forbidden`, `not-found`, `unauthorized` as the API server said; `agent-unreachable` with what the
 * kubelet said; `cluster-unreachable`; `link-lost` when it breaks off without a word.
 */
export class PortForward extends Duplex {
  #request: http.ClientRequest;
  #socket: Socket | undefined;
  /** The write that came before the connection was there; the stream gives the next only after this one. */
  #waiting: (() => void) | undefined;
  #portBytesSeen = [0, 0];
  #said = '';
  #closed = false;
  #timer: NodeJS.Timeout | undefined;

  /** `url`: ws(s), `…/portforward?ports=N`. `server` and `user` are for messages. */
  constructor(url: string, options: UpgradeOptions, named: { server: string; user: string }) {
    super({ readableHighWaterMark: BUFFER_BYTES, writableHighWaterMark: BUFFER_BYTES, allowHalfOpen: false });
    this.#request = requestUpgrade(url, options, {
      subprotocol: SUBPROTOCOL,
      timeoutMs: HANDSHAKE_MS,
      refused: (status, body) => this.destroy(upgradeError(status, body, named)),
    });
    this.#request.on('timeout', () => {
      this.destroy(
        new LpkError('cluster-unreachable', `can't reach the cluster at ${named.server}: it does not answer`),
      );
    });
    this.#request.on('error', (error) => this.destroy(networkError(error, named.server)));
    this.#request.on('upgrade', (response, socket, head) => {
      if (this.destroyed) return void socket.destroy();
      if (response.headers['sec-websocket-protocol'] !== SUBPROTOCOL) {
        socket.destroy();
        this.destroy(new LpkError('agent-unreachable', `${named.server} has no port-forward over websockets`));
        return;
      }
      this.#start(socket as Socket, head);
    });
  }

  #start(socket: Socket, head: Buffer): void {
    this.#socket = socket;
    socket.setTimeout(0);
    socket.setNoDelay(true);
    const reader = new FrameReader(false, {
      message: (first, rest) => this.#receive(first, rest),
      ping: (payload) =>
        void socket.write(Buffer.concat([websocketHeader(OPCODE.pong, payload.length, true), payload])),
      close: () => {
        this.#closed = true;
        this.#sayClose();
      },
      broken: (_code, reason) =>
        this.destroy(new LpkError('agent-unreachable', `the port-forward is not understood: ${reason}`)),
    });
    reader.maxMessageBytes = MAX_MESSAGE_BYTES;
    socket.on('data', (chunk: Buffer) => reader.read(chunk));
    socket.on('error', (error) => this.destroy(new LpkError('link-lost', oneLine(error), { cause: error })));
    socket.on('close', () => {
      if (this.#said)
        this.destroy(new LpkError('agent-unreachable', `the agent can't be reached: ${oneLine(this.#said)}`));
      else if (this.#closed) this.push(null);
      else this.destroy(new LpkError('link-lost', 'the port-forward broke off'));
    });
    if (head.length > 0) reader.read(head);
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.();
  }

  #receive(first: Buffer, rest: Buffer[]): void {
    const channel = first[0];
    if (channel !== DATA && channel !== ERROR) return;
    // A message comes in pieces, and the first piece has its first 512 bytes (or all of it).
    const skipped = Math.min(PORT_BYTES - (this.#portBytesSeen[channel] as number), first.length - 1);
    this.#portBytesSeen[channel] = (this.#portBytesSeen[channel] as number) + skipped;
    for (const piece of [first.subarray(1 + skipped), ...rest]) {
      if (piece.length === 0) continue;
      if (channel === ERROR) this.#said = (this.#said + piece).slice(0, MAX_ERROR_BYTES);
      else if (!this.push(piece)) this.#socket?.pause();
    }
    // The kubelet may leave the data channel open after it has failed.
    if (this.#said) this.#socket?.destroy();
  }

  override _read(): void {
    this.#socket?.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this._writev([{ chunk }], done);
  }

  override _writev(chunks: { chunk: Buffer }[], done: () => void): void {
    const socket = this.#socket;
    if (!socket) {
      this.#waiting = () => this._writev(chunks, done);
      return;
    }
    const bytes = chunks.reduce((sum, { chunk }) => sum + chunk.length, 1);
    socket.cork();
    socket.write(Buffer.concat([websocketHeader(OPCODE.binary, bytes, true), Buffer.of(DATA)]));
    for (const { chunk } of chunks) socket.write(chunk);
    socket.uncork();
    if (socket.writableNeedDrain) socket.once('drain', done);
    else done();
  }

  override _final(done: () => void): void {
    this.#sayClose();
    done();
  }

  #sayClose(): void {
    const socket = this.#socket;
    if (socket && !socket.writableEnded) socket.end(websocketHeader(OPCODE.close, 0, true));
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearTimeout(this.#timer);
    this.#request.destroy();
    this.#socket?.destroy();
    done(error);
  }

  /** For `http.request`: one limit from now on, for its handshake; 0 ends it. */
  setTimeout(ms: number): this {
    clearTimeout(this.#timer);
    if (ms > 0) this.#timer = setTimeout(() => this.emit('timeout'), ms);
    return this;
  }

  /** The rest of what is asked of a socket; the one below is set already. */
  setNoDelay(): this {
    return this;
  }

  setKeepAlive(): this {
    return this;
  }
}
