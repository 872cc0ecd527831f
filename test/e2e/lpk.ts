import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';

/** The real CLI as a process: started with `-o json`, watched by its events, never by the clock. */

const MAIN = path.join(import.meta.dirname, '../../cli/main.ts');
/**
 * Nothing here takes longer on a machine that is busy with other tests, and lpk itself gives a rollout up after 180 s; a longer wait is a
 * failure, told with what lpk said.
 */
const PATIENCE_MS = 240_000;

// biome-ignore lint/suspicious/noExplicitAny: one JSON object per line, as lpk wrote it.
export type LpkEvent = { event: string } & Record<string, any>;
export type Ended = { code: number | null; signal: NodeJS.Signals | null };

const running = new Set<Lpk>();

/** For `after`: what a failed test left running, COMMANDs too. Its namespace goes, so nothing needs to be put back. */
export function endAll(): void {
  for (const { pid } of running) {
    try {
      process.kill(-pid, 'SIGKILL');
    } catch (error) {
      // It has ended, and its `close` is not heard yet.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }
}

export class Lpk {
  readonly args: string[];
  readonly events: LpkEvent[] = [];
  /** Lines of stdout that are not lpk's: the COMMAND's. */
  readonly lines: string[] = [];
  stderr = '';
  #said = '';
  #patienceMs = PATIENCE_MS;
  #child: ChildProcess;
  #ended: Ended | undefined;
  #changed = Promise.withResolvers<void>();

  /**
   * `around`: makes of the command line that of a program which runs it; of a terminal, for one. In a process session of its own,
   * so that the terminal that tests are started from plays no part.
   */
  constructor(
    args: string[],
    options: { json?: boolean; env?: NodeJS.ProcessEnv; around?: (command: string[]) => string[] } = {},
  ) {
    this.args = args;
    const { json = true, env, around = (command) => command } = options;
    const [program, ...words] = around([process.execPath, MAIN, ...(json ? withJson(args) : args)]) as [
      string,
      ...string[],
    ];
    this.#child = spawn(program, words, { detached: true, stdio: 'pipe', env: { ...process.env, ...env } });
    running.add(this);
    let rest = '';
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split(/\r?\n/);
      rest = lines.pop() as string;
      for (const line of lines) this.#read(line);
      this.#said += text;
      this.#change();
    });
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
      this.#said += text;
      this.#change();
    });
    this.#child.once('close', (code, signal) => {
      running.delete(this);
      if (rest) this.#read(rest);
      this.#ended = { code, signal };
      this.#change();
    });
  }

  /** One of many at once may take longer. */
  patient(ms: number): this {
    this.#patienceMs = ms;
    return this;
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  /** Everything it said, in order, for a failure's message. */
  toString(): string {
    const ended = this.#ended ? `ended with ${this.#ended.code ?? this.#ended.signal}` : 'still running';
    return `lpk ${this.args.join(' ')} (${ended}) said:\n${this.#said.replace(/^/gm, '    ')}`;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Typed at the terminal around it. */
  type(keys: string): void {
    this.#child.stdin?.write(keys);
  }

  /** The first event of this name (and state, and whatever else `match` wants), past or to come. */
  async event(name: string, match: (event: LpkEvent) => boolean = () => true): Promise<LpkEvent> {
    return await this.until(`the event "${name}"`, () =>
      this.events.find((each) => each.event === name && match(each)),
    );
  }

  /** When all pods lead here: after `ready`, once something listens. */
  async serving(): Promise<LpkEvent> {
    return await this.event('serving', ({ state }) => state === 'done');
  }

  /** The first line of the COMMAND that matches. */
  async line(pattern: RegExp): Promise<string> {
    return await this.until(`the COMMAND's line ${pattern}`, () => this.lines.find((line) => pattern.test(line)));
  }

  async exit(): Promise<Ended> {
    return await this.until('the end', () => this.#ended);
  }

  /** Waits until `look` finds something; it looks again after every word of lpk's. */
  async until<T>(what: string, look: () => T | undefined): Promise<T> {
    const patience = AbortSignal.timeout(this.#patienceMs);
    const late = Promise.withResolvers<void>();
    patience.addEventListener('abort', () => late.resolve());
    for (;;) {
      const found = look();
      if (found !== undefined) return found;
      if (this.#ended) throw new Error(`expected ${what}, but it never came; ${this}`);
      if (patience.aborted) throw new Error(`expected ${what} within ${this.#patienceMs / 1_000} s; ${this}`);
      await Promise.race([this.#changed.promise, late.promise]);
    }
  }

  #read(line: string): void {
    if (line.startsWith('{"event":')) this.events.push(JSON.parse(line) as LpkEvent);
    else if (line) this.lines.push(line);
  }

  #change(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}

/** `-- COMMAND`: local-process.ts. */
export function localProcess(port: number, environmentFile = ''): string[] {
  return ['--', process.execPath, path.join(import.meta.dirname, 'local-process.ts'), `${port}`, environmentFile];
}

/** Before the `--` of the COMMAND. */
function withJson(args: string[]): string[] {
  const dashes = args.indexOf('--');
  return dashes < 0 ? [...args, '-o', 'json'] : [...args.slice(0, dashes), '-o', 'json', ...args.slice(dashes)];
}
