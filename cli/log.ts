import { LpkError } from '../agent/wire/errors.ts';
import { LogFile } from './log-file.ts';
import { Mask } from './mask.ts';
import { printable } from './printable.ts';

/** What is said of an event besides its text, and nothing else: not what a caller happens to have there. */
const FIELDS = [
  ...['state', 'seconds', 'status', 'ms', 'code', 'workload', 'namespace', 'container', 'session', 'pod', 'transport'],
  ...['rttMs', 'holdMs', 'capture', 'outcome', 'pid', 'exitCode', 'proxyPort'],
];
const MAX_TEXT_CHARS = 4_096;
const MAX_STACK_CHARS = 16_384;
/** How long events of one kind are counted before they are told together. */
const COUNT_MS = 10_000;
const MAX_COUNTED = 32;
const MAX_CAUSES = 8;

export type LogFields = Record<string, unknown>;

/**
 * What a command of lpk did, for whoever looks into it later: a line for each event, with its time. No values of variables, no
 * bodies, nothing of the traffic: texts that lpk says, and fields by name; the mask is the last filter, not the first.
 */
export class Log {
  /** Undefined: it is written nowhere. */
  readonly path: string | undefined;
  readonly mask: Mask;
  #file: LogFile | undefined;
  #counts = new Map<string, Map<string, number>>();
  #timer: NodeJS.Timeout | undefined;
  #atExit = () => this.#tellCounts();

  constructor({ file, mask = new Mask() }: { file?: LogFile | undefined; mask?: Mask } = {}) {
    this.#file = file;
    this.path = file?.path;
    this.mask = mask;
    process.prependListener('exit', this.#atExit);
  }

  /** A temporary folder that can't be written to is no reason not to work. */
  static open(verb: string, options?: { folders?: string[] }): Log {
    try {
      return new Log({ file: new LogFile(verb, options) });
    } catch {
      return new Log();
    }
  }

  /** @returns the line, masked, as it is written. */
  note(event: string, text: string, fields: LogFields = {}): string {
    const words = FIELDS.flatMap((name) => {
      const value = fields[name];
      return ['string', 'number', 'boolean'].includes(typeof value) ? [`${name}=${shownValue(value)}`] : [];
    });
    return this.#line(event, [text, ...words].join(' '), MAX_TEXT_CHARS);
  }

  /** With its causes, and where in lpk it came from. A cause that is no Error is an answer's body, and is left out. */
  error(error: unknown): string {
    const told: string[] = [];
    let next = error;
    for (let i = 0; i < MAX_CAUSES && next instanceof Error; i++, next = next.cause) {
      const code = next instanceof LpkError ? `[${next.code}] ` : '';
      told.push(`${i === 0 ? '' : 'caused by: '}${code}${next.stack ?? `${next.name}: ${next.message}`}`);
    }
    return this.#line('error', told.length > 0 ? told.join('\n') : typeof error, MAX_STACK_CHARS);
  }

  /** One of many of its kind, told with the others later: a program may fail to connect a thousand times a second. */
  count(event: string, what: string): void {
    const counts = this.#counts.get(event) ?? new Map<string, number>();
    this.#counts.set(event, counts);
    const key = counts.has(what) || counts.size < MAX_COUNTED ? what : 'others';
    counts.set(key, (counts.get(key) ?? 0) + 1);
    this.#timer ??= setTimeout(() => this.#tellCounts(), COUNT_MS).unref();
  }

  close(): void {
    this.#tellCounts();
    process.off('exit', this.#atExit);
    this.#file?.close();
  }

  #tellCounts(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const [event, counts] of this.#counts) {
      this.note(event, [...counts].map(([what, times]) => `${what}${times > 1 ? ` ×${times}` : ''}`).join(', '));
    }
    this.#counts.clear();
  }

  #line(event: string, text: string, maxChars: number): string {
    const line = `${new Date().toISOString()} ${event}: ${plain(short(this.mask.apply(text), maxChars))}`;
    this.#file?.write(line);
    return line;
  }
}

function shownValue(value: unknown): string {
  return typeof value === 'string' && !/^[\w./@%+:,-]+$/.test(value) ? JSON.stringify(value) : String(value);
}

function short(text: string, chars: number): string {
  return text.length > chars ? `${text.slice(0, chars)}…` : text;
}

/** Fit for a terminal, and each event to be found by its first line. */
function plain(text: string): string {
  return text.split(/\r?\n/).map(printable).join('\n    ');
}
