import net from 'node:net';

export type NameProxy = {
  port: number;
  /** What was asked for, in order: `http api.shop:80`, `connect api.shop:80`, `socks api.shop:80`. */
  asked: string[];
  close(): Promise<void>;
};

/** The body of every answer. */
export const ANSWER = 'from the cluster';

/** A proxy that reaches nothing: it notes what it is asked for, by SOCKS5 or HTTP, and answers every request itself. */
export async function openNameProxy(): Promise<NameProxy> {
  const asked: string[] = [];
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (first: Buffer) => {
      if (first[0] === 5) return greet(socket, asked);
      const [method, target] = first.toString('latin1').split(' ', 2) as [string, string];
      if (method !== 'CONNECT') {
        const url = new URL(target);
        asked.push(`http ${url.hostname}:${url.port || 80}`);
        return answer(socket);
      }
      asked.push(`connect ${target}`);
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      socket.once('data', () => answer(socket));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as net.AddressInfo).port,
    asked,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** RFC 1928, sections 3 and 4; the requests of these tests come in one piece. */
function greet(socket: net.Socket, asked: string[]): void {
  socket.write(Buffer.from([5, 0]));
  socket.once('data', (request: Buffer) => {
    const port = request.readUInt16BE(request.length - 2);
    const byName = request[3] === 3;
    asked.push(byName ? `socks ${request.toString('latin1', 5, request.length - 2)}:${port}` : 'socks by address');
    socket.write(Buffer.from([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]));
    socket.once('data', () => answer(socket));
  });
}

function answer(socket: net.Socket): void {
  socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${ANSWER.length}\r\nConnection: close\r\n\r\n${ANSWER}`);
}
