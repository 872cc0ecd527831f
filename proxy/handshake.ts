import type net from 'node:net';
import { LpkError } from '../agent/wire/errors.ts';

/**
 * Takes exactly `bytes` bytes from a socket that nothing else reads yet, however they are cut up on the way. What follows
 * stays in the socket's buffer, whose high-water mark bounds it: beyond that the kernel holds the client back.
 * Rejects with `connection-reset` when the client ends first.
 */
export function take(socket: net.Socket, bytes: number): Promise<Buffer> {
  if (bytes === 0) return Promise.resolve(Buffer.alloc(0)); // read(0) means something else
  return new Promise((resolve, reject) => {
    const events = ['readable', 'end', 'close'];
    const attempt = () => {
      const piece: Buffer | null = socket.read(bytes);
      if (!piece && !socket.readableEnded && !socket.destroyed) return;
      for (const event of events) socket.off(event, attempt);
      // At the end of a stream, read(n) gives what is left, even when that is less.
      if (piece?.length === bytes) resolve(piece);
      else reject(new LpkError('connection-reset', 'the client ended in the middle of its handshake'));
    };
    for (const event of events) socket.on(event, attempt);
    attempt();
  });
}

/** The first byte, left in place. */
export async function peek(socket: net.Socket): Promise<number> {
  const byte = await take(socket, 1);
  socket.unshift(byte);
  return byte[0] as number;
}

const deadlines = new WeakMap<net.Socket, NodeJS.Timeout>();

/** Ends a client that hasn't finished what it is at in `ms`, however busily it sends; replaces an earlier deadline. */
export function setDeadline(socket: net.Socket, ms: number): void {
  clearDeadline(socket);
  if (socket.destroyed) return;
  deadlines.set(
    socket,
    setTimeout(() => socket.destroy(), ms),
  );
  socket.once('close', () => clearDeadline(socket));
}

export function clearDeadline(socket: net.Socket): void {
  clearTimeout(deadlines.get(socket));
  deadlines.delete(socket);
}

const LINGER_MS = 2_000;

/**
 * Says a last word and ends. What the client still sends is read and dropped meanwhile: closing a socket with unread bytes
 * resets it, and a reset can overtake the word.
 */
export function dismiss(socket: net.Socket, lastWord: Buffer): void {
  setDeadline(socket, LINGER_MS);
  socket.resume();
  socket.end(lastWord);
}
