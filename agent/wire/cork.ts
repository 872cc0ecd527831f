import type { Duplex } from 'node:stream';

const corked = new WeakSet<Duplex>();

/**
 * What is written to `socket` in this turn of the event loop leaves in one write. Not in the next tick: TLS hands over every
 * record of one read (16 KiB) in a tick of its own.
 */
export function corkThisTurn(socket: Duplex): void {
  if (corked.has(socket)) return;
  corked.add(socket);
  socket.cork();
  setImmediate(() => {
    corked.delete(socket);
    socket.uncork();
  });
}
