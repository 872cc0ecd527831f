import dgram from 'node:dgram';

/** `udp-echo.ts HOST PORT`: sends 100 datagrams of many sizes, one after the other, and says how many came back as they were. */
const [host, port] = process.argv.slice(2) as [string, string];
const COUNT = 100;
const PATIENCE_MS = 2_000;

const socket = dgram.createSocket('udp4');
let back = 0;
for (let i = 0; i < COUNT; i++) {
  const sent = Buffer.alloc(1 + ((i * 13) % 1_200), i);
  back += await new Promise<number>((resolve) => {
    const late = setTimeout(() => resolve(0), PATIENCE_MS);
    socket.once('message', (received) => {
      clearTimeout(late);
      resolve(received.equals(sent) ? 1 : 0);
    });
    socket.send(sent, Number(port), host);
  });
}
socket.close();
console.log(`${back} of ${COUNT} came back`);
