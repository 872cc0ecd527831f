import { once } from 'node:events';
import net from 'node:net';
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { noteTraffic } from '../../../agent/wire/young.ts';

/**
 * A process of its own for young.test.ts: moves bulk through loopback. With the argument "noted" it says so to `noteTraffic`.
 * Prints how often V8 collected its whole heap meanwhile.
 */
const BYTES = 6_000_000_000;
const KEPT_BYTES = 2 * 1024 * 1024;

let whole = 0;
const observer = new PerformanceObserver((list) => {
  for (const entry of list.getEntries() as (PerformanceEntry & { detail: { kind: number } })[]) {
    if (entry.detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR) whole++;
  }
});
observer.observe({ entryTypes: ['gc'] });

const note = process.argv[2] === 'noted' ? noteTraffic : () => {};
const server = net.createServer((socket) => {
  const piece = Buffer.alloc(256 * 1024);
  const send = () => {
    while (socket.write(piece));
  };
  socket.on('drain', send).on('error', () => {});
  send();
});
await once(server.listen(0, '127.0.0.1'), 'listening');
const reader = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1');
let bytes = 0;
let keptBytes = 0;
const kept: Buffer[] = []; // a window's worth is on its way
for await (const chunk of reader) {
  bytes += chunk.length;
  keptBytes += chunk.length;
  kept.push(chunk);
  while (keptBytes > KEPT_BYTES) keptBytes -= kept.shift()?.length ?? 0;
  note(chunk.length);
  if (bytes >= BYTES) break;
}
await new Promise((resolve) => setImmediate(resolve)); // the observer's turn
console.log(whole);
process.exit(0);
