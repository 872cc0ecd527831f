import net from 'node:net';

/** What the bench talks to, in a pod: runs there as this one file, from a ConfigMap. */

export const PORTS = { source: 9000, sink: 9001, echo: 9002, banner: 9003 } as const;
/** Every exchange that is timed and isn't bulk. */
export const MESSAGE_BYTES = 64;
/** A transfer begins with its length: a 64-bit number, big-endian. */
export const LENGTH_BYTES = 8;

const PIECE = Buffer.alloc(64 * 1024, 1);

/** Sends as many bytes as it is asked for, as often as it is asked. */
function source(socket: net.Socket): void {
  let left = 0;
  const send = () => {
    while (left > 0) {
      const piece = left < PIECE.length ? PIECE.subarray(0, left) : PIECE;
      left -= piece.length;
      if (!socket.write(piece)) return;
    }
  };
  socket.on('drain', send);
  socket.on('data', (request: Buffer) => {
    left += Number(request.readBigUInt64BE());
    send();
  });
}

/** Takes as many bytes as were announced, then answers with one. */
function sink(socket: net.Socket): void {
  let left = 0;
  socket.on('data', (data: Buffer) => {
    let bytes = data.length;
    if (left === 0) {
      left = Number(data.readBigUInt64BE());
      bytes -= LENGTH_BYTES;
    }
    left -= bytes;
    if (left === 0) socket.write('.');
  });
}

function serve(port: number, handle: (socket: net.Socket) => void): void {
  const server = net.createServer({ noDelay: true }, (socket) => {
    socket.on('error', () => socket.destroy());
    handle(socket);
  });
  server.listen(port);
}

if (process.argv[1] === import.meta.filename) {
  serve(PORTS.source, source);
  serve(PORTS.sink, sink);
  serve(PORTS.echo, (socket) => socket.pipe(socket));
  serve(PORTS.banner, (socket) => socket.write(PIECE.subarray(0, MESSAGE_BYTES)));
  process.on('SIGTERM', () => process.exit(0));
}
