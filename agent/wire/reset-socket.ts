import type net from 'node:net';

/**
 * Resets a connection (RST), so that the peer knows that it is not whole; what is not sent yet is dropped. In place of
 * `socket.resetAndDestroy()`: a socket whose FIN is just going out (`end()` in the same turn) can't be reset by that. libuv refuses
 * (uv_tcp_close_reset: EINVAL), and Node then neither closes its descriptor, ever, nor says `close`.
 */
export function resetSocket(socket: net.Socket): void {
  if (socket.destroyed) return;
  // Nothing was sent. To reset, Node would wait for the connection, and a FIN goes out just then.
  if (socket.connecting) socket.destroy();
  // With something to be written before it, the FIN is not going out yet, nor is it known when.
  else if (socket.writableEnded && !socket.writableFinished && socket.writableLength === 0)
    socket.once('finish', () => resetSocket(socket));
  else socket.resetAndDestroy();
}
