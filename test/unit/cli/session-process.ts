import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

export const fixture = (name: string): string => join(import.meta.dirname, 'fixtures', name);

/** A program under test: what it prints, line by line, and how it ends. */
export class Program {
  readonly child: ChildProcessWithoutNullStreams;
  lines: string[] = [];
  #rest = '';
  #wake: (() => void)[] = [];
  #ended = false;

  constructor(command: string, args: string[], env: NodeJS.ProcessEnv = process.env) {
    this.child = spawn(command, args, { env, stdio: 'pipe' });
    for (const stream of [this.child.stdout, this.child.stderr]) stream.on('data', (data) => this.#take(String(data)));
    this.child.once('close', () => {
      this.#ended = true;
      this.#take('');
    });
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split(/\r?\n/);
    this.#rest = lines.pop() as string;
    this.lines.push(...lines);
    for (const wake of this.#wake.splice(0)) wake();
  }

  /** Waits for a line that fits; fails when the program ends without one. */
  async line(pattern: RegExp): Promise<string> {
    for (;;) {
      const found = this.lines.find((line) => pattern.test(line));
      if (found !== undefined) return found;
      if (this.#ended) throw new Error(`it ended without ${pattern}; it printed ${JSON.stringify(this.lines)}`);
      await new Promise<void>((resolve) => this.#wake.push(resolve));
    }
  }

  /** Exit code, or the signal that ended it. */
  async ended(): Promise<number | string> {
    if (!this.#ended) await once(this.child, 'close');
    return this.child.exitCode ?? (this.child.signalCode as string);
  }
}

/** Runs `fixtures/session.ts HOW [COMMAND…]`. */
export function session(...args: string[]): Program {
  return new Program(process.execPath, [fixture('session.ts'), ...args]);
}

/**
 * The same on a terminal of its own; `stdin` is the keyboard. Python's `pty` runs it as the terminal's foreground process
 * group, and the death of Python is the terminal's closing.
 */
export function sessionOnTerminal(args: string[], env: NodeJS.ProcessEnv = process.env): Program {
  const terminal = 'import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))';
  return new Program('python3', ['-c', terminal, process.execPath, fixture('session.ts'), ...args], env);
}
