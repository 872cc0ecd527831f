import type net from 'node:net';
import type { Duplex } from 'node:stream';
import { corkThisTurn } from './cork.ts';
import { type ErrorCode, LpkError, systemCode } from './errors.ts';
import { resetSocket } from './reset-socket.ts';

/** A stream that can be ended at once with a reason the other side understands. */
export type Resettable = Duplex & {
  reset(code: ErrorCode, message?: string): void;
  /** See `Stream`; a Duplex without it is read by 'data' events. */
  takeWith?(take: (pieces: Buffer[]) => boolean): void;
  takeMore?(): void;
};

/** What a socket may hold back before its stream waits. */
const SOCKET_BUFFER_BYTES = 256 * 1024;

const SYSTEM_CODES: Record<string, ErrorCode> = {
  ECONNREFUSED: 'refused',
  ENOENT: 'refused',
  EHOSTUNREACH: 'unreachable',
  ENETUNREACH: 'unreachable',
  EADDRNOTAVAIL: 'unreachable',
  ETIMEDOUT: 'timed-out',
  EACCES: 'not-allowed',
  EPERM: 'not-allowed',
  ENOTFOUND: 'name-not-found',
  EAI_AGAIN: 'name-not-found',
  ENODATA: 'name-not-found',
  ECONNRESET: 'connection-reset',
  EPIPE: 'connection-reset',
  EADDRINUSE: 'address-in-use',
};

/** A socket's error as one of lpk's codes. With several addresses tried (RFC 8305) the last one's counts. */
export function flowError(error: unknown): LpkError {
  if (error instanceof LpkError) return error;
  if (error instanceof AggregateError && error.errors.length > 0) return flowError(error.errors.at(-1));
  const code = SYSTEM_CODES[systemCode(error) ?? ''] ?? 'internal';
  return new LpkError(code, error instanceof Error ? error.message : String(error), { cause: error });
}

/**
 * Joins a socket and a stream both ways: backpressure, half-close (each side's end is passed on alone) and resets (an
 * error on one side ends the other at once). Both must allow half-open.
 */
export function pump(socket: net.Socket, stream: Resettable): void {
  socket.on('data', (chunk) => {
    if (!stream.write(chunk)) socket.pause();
  });
  stream.on('drain', () => socket.resume());
  if (stream.takeWith) {
    stream.takeWith((pieces) => {
      if (pieces.length > 1) corkThisTurn(socket);
      for (const piece of pieces) socket.write(piece);
      return socket.writableLength <= SOCKET_BUFFER_BYTES;
    });
    socket.on('drain', () => stream.takeMore?.());
  } else {
    stream.on('data', (chunk) => {
      if (!socket.write(chunk)) stream.pause();
    });
    socket.on('drain', () => stream.resume());
  }
  socket.on('end', () => stream.end());
  stream.on('end', () => socket.end());
  socket.on('error', (error) => {
    const { code, message } = flowError(error);
    stream.reset(code, message);
  });
  stream.on('error', () => {
    resetSocket(socket);
  });
  socket.on('close', () => {
    if (!stream.destroyed && !(socket.readableEnded && socket.writableFinished)) stream.reset('connection-reset');
  });
  stream.on('close', () => {
    if (!(stream.readableEnded && stream.writableFinished)) resetSocket(socket);
  });
}
