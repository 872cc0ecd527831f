import v8 from 'node:v8';
import vm from 'node:vm';

/**
 * The bytes of a Buffer lie outside V8's heap, and its young collections are timed by the small handles inside: in bulk traffic
 * the bytes reach the limit first, and V8 collects the whole heap for them, ten times a second (half of the laptop's CPU
 * time at 200 MB/s). A young collection every few MB takes under a millisecond and lets them go; and the whole heap is
 * collected when it has grown to three times what lived, in place of a little over what lived.
 */
const EVERY_BYTES = 8 * 1024 * 1024;
const FLAGS = ['--expose-gc', '--heap-growing-percent=200'];

type Collect = (options: { type: 'minor' }) => void;

let collect: Collect | undefined;
let bytes = 0;

/** Called with every read and write of bulk. */
export function noteTraffic(count: number): void {
  bytes += count;
  if (bytes < EVERY_BYTES) return;
  bytes = 0;
  collect ??= prepare();
  collect({ type: 'minor' });
}

function prepare(): Collect {
  for (const flag of FLAGS) v8.setFlagsFromString(flag);
  return vm.runInNewContext('gc') as Collect;
}
