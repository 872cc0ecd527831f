import v8 from 'node:v8';
import vm from 'node:vm';

/**
 * The bytes of a Buffer lie outside V8's heap, and its young collections are timed by the small handles inside: in bulk traffic
 * the bytes reach the limit first, and V8 collects the whole heap for them, several times a second (a quarter of the
 * laptop's CPU time at 200 MB/s). A young collection every few MB takes under a millisecond and lets them go.
 */
const EVERY_BYTES = 16 * 1024 * 1024;

type Collect = (options: { type: 'minor' }) => void;

let collect: Collect | undefined;
let bytes = 0;

/** Called with every read and write of bulk. */
export function noteTraffic(count: number): void {
  bytes += count;
  if (bytes < EVERY_BYTES) return;
  bytes = 0;
  collect ??= exposeCollect();
  collect({ type: 'minor' });
}

function exposeCollect(): Collect {
  v8.setFlagsFromString('--expose-gc');
  return vm.runInNewContext('gc') as Collect;
}
