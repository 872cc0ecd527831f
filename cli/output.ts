import { LpkError } from '../agent/wire/errors.ts';
import { HINTS } from './hints.ts';
import type { Log } from './log.ts';
import { Mask } from './mask.ts';
import { printableLines } from './printable.ts';

export type Format = 'text' | 'json';

/** What {@link Output} writes to: a process's standard stream, or a test's stand-in. */
export type Sink = NodeJS.WritableStream & { isTTY?: boolean; columns?: number };

type Fields = Record<string, unknown>;

/**
 * Something that takes a while. It ends once, with `done` (shown as it was called at first), `fail` (as far as it got) or
 * `drop`, and what comes after that is ignored.
 */
export type Step = {
  /** Shows how far it is. */
  update(text: string, fields?: Fields): void;
  done(text?: string, fields?: Fields): void;
  fail(text?: string, fields?: Fields): void;
  /** Nobody needs to know how it ended. */
  drop(): void;
};

type StepShown = { readonly text: string; startedMs: number; fail: () => void };

const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const FRAME_MS = 80;
const CLEAR_LINE = '\r\x1b[2K';
const COLORS = { red: 31, green: 32, yellow: 33, cyan: 36, dim: 2 };

/**
 * All that lpk says. Progress and messages are for people and go to stderr, so that a command's own stdout stays clean; what
 * was asked for goes to stdout: lines of text, or with `-o json` one JSON object per line, `{"event": …}`.
 *
 * On a terminal the step under way is one live line with a spinner and its time. A closed terminal or pipe is no error.
 */
export class Output {
  readonly format: Format;
  #stdout: Sink;
  #stderr: Sink;
  #live: boolean;
  #color: boolean;
  #debug: boolean;
  #nowMs: () => number;
  /** Steps under way; the last one has the live line. */
  #steps: StepShown[] = [];
  #shown = false;
  #frame = 0;
  #timer: NodeJS.Timeout | undefined;
  #yielded = false;
  #log: Log | undefined;
  #verbose = false;

  constructor(options: {
    format: Format;
    stdout?: Sink;
    stderr?: Sink;
    /** NO_COLOR (https://no-color.org), TERM=dumb, and LPK_DEBUG=1 for stacks. */
    env?: NodeJS.ProcessEnv;
    nowMs?: () => number;
  }) {
    const env = options.env ?? process.env;
    this.format = options.format;
    this.#stdout = options.stdout ?? process.stdout;
    this.#stderr = options.stderr ?? process.stderr;
    this.#nowMs = options.nowMs ?? (() => performance.now());
    this.#live = this.#stderr.isTTY === true && env.TERM !== 'dumb';
    this.#color = this.#live && !env.NO_COLOR;
    this.#debug = env.LPK_DEBUG === '1';
    for (const sink of [this.#stdout, this.#stderr]) sink.on('error', () => {});
  }

  /** @param event the step's name for programs; its objects carry `state`: started, progress, done (with seconds), failed. */
  step(text: string, event: string, fields: Fields = {}): Step {
    const entry = { text, startedMs: this.#nowMs(), fail: () => shown.fail() };
    let open = true;
    this.#steps.push(entry);
    this.#emit(event, { state: 'started', text, ...fields });
    this.#log?.note(event, text, { state: 'started', ...fields });
    if (this.#hasLiveLine) this.#draw();
    else this.#line(`${text} …`);

    const drop = () => {
      open = false;
      this.#steps = this.#steps.filter((other) => other !== entry);
      this.#clear();
      this.#draw();
    };
    const end = (mark: string, state: 'done' | 'failed', last: string, more: Fields) => {
      if (!open) return;
      drop();
      const seconds = (this.#nowMs() - entry.startedMs) / 1000;
      const all = { state, seconds: Number(seconds.toFixed(3)), ...more };
      this.#emit(event, { ...all, text: last });
      this.#log?.note(event, last, all);
      this.#line(`${mark} ${last} ${this.#paint('dim', `(${seconds.toFixed(1)} s)`)}`);
    };
    const shown: Step = {
      update: (now, more = {}) => {
        if (!open || now === entry.text) return;
        entry.text = now;
        this.#emit(event, { state: 'progress', text: now, ...more });
        if (!this.#hasLiveLine) this.#log?.note(event, now, { state: 'progress', ...more }); // else it may be a clock
        if (this.#hasLiveLine) this.#draw();
        else this.#line(`${now} …`);
      },
      done: (last = text, more = {}) => end(this.#paint('green', '✔'), 'done', last, more),
      fail: (last = entry.text, more = {}) => end(this.#paint('red', '✖'), 'failed', last, more),
      drop,
    };
    return shown;
  }

  /**
   * A line on a terminal for as long as it is wanted, its text asked for each time it is drawn; it leaves nothing behind, and is not seen
   * where there are no live lines. What is returned ends it.
   */
  live(text: () => string): () => void {
    const end = () => {
      this.#steps = this.#steps.filter((other) => other !== entry);
      this.#clear();
      this.#draw();
    };
    const entry = {
      get text() {
        return text();
      },
      startedMs: this.#nowMs(),
      fail: end,
    };
    this.#steps.push(entry);
    this.#draw();
    return end;
  }

  /** Says one thing to a person, and with `event` to a program. */
  say(text: string, event?: string, fields: Fields = {}): void {
    if (event) this.#emit(event, { text, ...fields });
    this.#log?.note(event ?? 'say', text, fields);
    this.#line(text);
  }

  /** Like {@link say}, for what may be wrong. */
  warn(text: string, event = 'warning', fields: Fields = {}): void {
    this.#emit(event, { text, ...fields });
    this.#log?.note(event, text, fields);
    this.#line(`${this.#paint('yellow', '!')} ${text}`);
  }

  /** From now on what is said is written down too, and `note` has a place; `verbose`: what is only written down is said as well. */
  keepLog(log: Log, verbose: boolean): void {
    this.#log = log;
    this.#verbose = verbose;
  }

  /** Where the log is, for a person who may need it later. */
  sayLog(): void {
    if (this.#log?.path) this.say(`log: ${this.#log.path}`, 'log', { path: this.#log.path });
  }

  /** For the log alone: nothing secret, whatever filters it has. */
  note(event: string, text: string, fields: Fields = {}): void {
    const line = this.#log?.note(event, text, fields);
    if (line && this.#verbose) this.#line(this.#paint('dim', line));
  }

  /** For the log: one of many of a kind, which are told together. */
  count(event: string, what: string): void {
    this.#log?.count(event, what);
  }

  /** The log's own filter, for what else leaves this computer. */
  get mask(): Mask {
    return this.#log?.mask ?? new Mask();
  }

  /** Never to be in the log, wherever it turns up. @param but names that lpk itself says. */
  hide(values: Iterable<string>, but?: Iterable<string>): void {
    this.#log?.mask.hide(values, but);
  }

  /** What was asked for: a line on stdout, or its event. A terminal gets no control characters, whoever the text is from. */
  result(text: string, event: string, fields: Fields = {}): void {
    if (this.format === 'json') return this.#emit(event, fields);
    this.#clear();
    this.#write(this.#stdout, `${this.#stdout.isTTY ? printableLines(text) : text}\n`);
    this.#draw();
  }

  /** An error, any error: what failed, and what to do next. */
  fail(error: unknown): void {
    const { code, message } = describe(error);
    const hint = HINTS[code];
    const logged = this.#log?.error(error);
    if (logged && this.#verbose) this.#line(this.#paint('dim', logged));
    this.#emit('error', { code, message, hint });
    this.#lines([`${this.#paint('red', 'lpk:')} ${message}`, `  ${this.#paint('cyan', '→')} ${hint}`]);
    if (this.#debug) this.#lines(stacks(error));
  }

  /** Nothing goes on any more: steps that nobody ended have failed. */
  close(): void {
    for (const step of this.#steps.toReversed()) step.fail();
    this.takeTerminal();
  }

  /** The terminal is the command's now: no live line; what must be said is a whole line that names lpk. */
  yieldTerminal(): void {
    this.#clear();
    this.#yielded = true;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** The command has ended: the terminal is lpk's again. */
  takeTerminal(): void {
    this.#yielded = false;
    this.#draw();
  }

  /** Whether a step's text is seen as it changes; where it isn't, each change would be a line of its own. */
  get isLive(): boolean {
    return this.#hasLiveLine;
  }

  get #hasLiveLine(): boolean {
    return this.#live && !this.#yielded;
  }

  #emit(event: string, fields: Fields): void {
    if (this.format !== 'json') return;
    this.#clear(); // both streams may be the same terminal
    this.#write(this.#stdout, `${JSON.stringify({ event, ...fields })}\n`);
    this.#draw();
  }

  #line(text: string): void {
    this.#lines([this.#yielded ? `lpk: ${text}` : text]);
  }

  #lines(lines: string[]): void {
    this.#clear();
    this.#write(this.#stderr, lines.map((line) => `${line}\n`).join(''));
    this.#draw();
  }

  #draw(): void {
    const step = this.#steps.at(-1);
    if (!step || !this.#hasLiveLine) {
      clearInterval(this.#timer);
      this.#timer = undefined;
      return;
    }
    this.#timer ??= setInterval(() => {
      this.#frame++;
      this.#draw();
    }, FRAME_MS).unref();
    const spinner = FRAMES[this.#frame % FRAMES.length] as string;
    const time = `(${((this.#nowMs() - step.startedMs) / 1000).toFixed(1)} s)`;
    // One row at most: a line that wraps can not be cleared.
    const room = (this.#stderr.columns || 80) - [...time].length - 4;
    const text = [...step.text];
    const fitting = text.length > room ? `${text.slice(0, Math.max(0, room - 1)).join('')}…` : step.text;
    this.#write(this.#stderr, `${CLEAR_LINE}${this.#paint('cyan', spinner)} ${fitting} ${this.#paint('dim', time)}`);
    this.#shown = true;
  }

  #clear(): void {
    if (!this.#shown) return;
    this.#shown = false;
    this.#write(this.#stderr, CLEAR_LINE);
  }

  #paint(color: keyof typeof COLORS, text: string): string {
    return this.#color ? `\x1b[${COLORS[color]}m${text}\x1b[0m` : text;
  }

  #write(sink: Sink, text: string): void {
    try {
      sink.write(text);
    } catch {
      // EIO or EPIPE: nobody is there to read it any more, and nobody to tell.
    }
  }
}

/** Marks a step as failed and passes the error on. */
export function failing(step: { fail(): void }): (error: unknown) => never {
  return (error) => {
    step.fail();
    throw error;
  };
}

/** The code and the one line of any error; one that is not an LpkError is a bug of lpk, and says so. */
function describe(error: unknown): { code: keyof typeof HINTS; message: string } {
  if (error instanceof LpkError) return { code: error.code, message: oneLine(error.message) };
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return { code: 'internal', message: `internal error: ${oneLine(text)}` };
}

function oneLine(text: string): string {
  return text.trim().split(/\s*\n\s*/, 1)[0] as string;
}

function stacks(error: unknown): string[] {
  const lines: string[] = [];
  for (let next: unknown = error; next !== undefined; next = next instanceof Error ? next.cause : undefined) {
    if (lines.length > 0) lines.push('caused by:');
    lines.push(...(next instanceof Error ? (next.stack ?? String(next)) : String(next)).split('\n'));
  }
  return lines;
}
