import { ClusterError } from './place.ts';

const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const FRAME_MS = 100;
const PLAIN_MS = 30_000;
const LONG_MS = 10_000;

/**
 * Runs a step and tells on stderr what goes on and for how long: a moving line on a terminal, otherwise a line at the
 * start and one every 30 s. `detail` adds what changes meanwhile.
 */
export async function step<T>(what: string, run: () => Promise<T>, detail: () => string = () => ''): Promise<T> {
  const started = Date.now();
  const line = () => [`cluster: ${what}`, detail(), elapsed(started)].filter(Boolean).join(', ');
  const terminal = process.stderr.isTTY;
  let frame = 0;
  const timer = terminal
    ? setInterval(() => {
        // A line that wraps could not be drawn over.
        const text = `${FRAMES[frame++ % FRAMES.length]} ${line()}`.slice(0, process.stderr.columns - 1);
        process.stderr.write(`\r${text}\x1b[K`);
      }, FRAME_MS)
    : setInterval(() => console.error(line()), PLAIN_MS);
  if (!terminal) console.error(`cluster: ${what}`);
  try {
    const result = await run();
    if (terminal) process.stderr.write('\r\x1b[K');
    if (terminal || Date.now() - started > LONG_MS) console.error(line());
    return result;
  } catch (error) {
    if (terminal) process.stderr.write('\r\x1b[K');
    throw error;
  } finally {
    clearInterval(timer);
  }
}

/** Time since `started` (ms since the epoch), as "7.2 s" or "3 min 5 s". */
export function elapsed(started: number): string {
  const seconds = (Date.now() - started) / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
}

/** Asks `check` until it answers something other than `undefined`; a ClusterError with `hint` when it never does. */
export async function until<T>(
  what: string,
  { timeoutMs, hint }: { timeoutMs: number; hint: string },
  check: () => Promise<T | undefined> | T | undefined,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const answer = await check();
    if (answer !== undefined) return answer;
    if (Date.now() > deadline) throw new ClusterError(`${what}: not within ${timeoutMs / 1000} s; ${hint}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
