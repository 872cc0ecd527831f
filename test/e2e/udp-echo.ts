import dgram from 'node:dgram';

/** `udp-echo.ts HOST PORT`: sends 100 datagrams of many sizes, one after the other, and says how many came back as they were. */
const [host, port] = process.argv.slice(2) as [string, string];
const COUNT = 100;
const PATIENCE_MS = 10_000;

const socket = dgram.createSocket('udp4');
let back = 0;
for (let i = 0; i < COUNT; i++) {
  const sent = Buffer.alloc(1 + ((i * 13) % 1_200), i); // its number, again and again
  back += await new Promise<number>((resolve) => {
    const end = (found: number) => {
      clearTimeout(late);
      socket.off('message', heard);
      resolve(found);
    };
    // What comes late of an earlier one says nothing of this one.
    const heard = (received: Buffer) => {
      if (received[0] === i) end(received.equals(sent) ? 1 : 0);
    };
    const late = setTimeout(end, PATIENCE_MS, 0);
    socket.on('message', heard);
    socket.send(sent, Number(port), host);
  });
}
socket.close();
console.log(`${back} of ${COUNT} came back`);
