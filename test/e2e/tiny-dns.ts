import dgram from 'node:dgram';
import { once } from 'node:events';

/**
 * A DNS server over UDP for tests: an A record for the names it has, no error and no record for their other types, and
 * NXDOMAIN for all else. As a program: ADDRESS NAME=IPv4…, at port 53.
 */
export async function tinyDns(address: string, records: Record<string, string>): Promise<dgram.Socket> {
  const socket = dgram.createSocket('udp4');
  socket.on('message', (question, { address, port }) => socket.send(answer(question, records), port, address));
  socket.bind(53, address);
  await once(socket, 'listening');
  return socket;
}

/** RFC 1035 section 4.1, with one question. */
function answer(question: Buffer, records: Record<string, string>): Buffer {
  const labels: string[] = [];
  let at = 12;
  for (let length = question.readUInt8(at); length > 0; length = question.readUInt8(at)) {
    labels.push(question.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  const isA = question.readUInt16BE(at + 1) === 1;
  const record = records[labels.join('.').toLowerCase()];
  const header = Buffer.from(question.subarray(0, 12));
  header.writeUInt16BE(record ? 0x8180 : 0x8183, 2);
  header.writeUInt16BE(record && isA ? 1 : 0, 6);
  header.writeUInt32BE(0, 8); // neither authority nor EDNS
  const parts = [header, question.subarray(12, at + 5)];
  // Its name is that of the question; class IN, a TTL of 0 s.
  if (record && isA)
    parts.push(Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, ...record.split('.').map(Number)]));
  return Buffer.concat(parts);
}

if (import.meta.main) {
  const [address, ...records] = process.argv.slice(2) as [string, ...string[]];
  await tinyDns(address, Object.fromEntries(records.map((record) => record.split('='))));
  console.log('ready');
}
