import type { Duplex } from 'node:stream';

const corked = new WeakSet<Duplex>();

/** What is written to `socket` in this turn of the event loop leaves in one write. */
export function corkThisTurn(socket: Duplex): void {
  if (corked.has(socket)) return;
  corked.add(socket);
  socket.cork();
  process.nextTick(() => {
    corked.delete(socket);
    socket.uncork();
  });
}
