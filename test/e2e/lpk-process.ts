import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';

export type LpkEvent = { event: string; state?: string } & Record<string, unknown>;

type Waiting = {
  from: number;
  matches: (event: LpkEvent) => boolean;
  resolve: (event: LpkEvent) => void;
  reject: (error: Error) => void;
};

/** `lpk` as a person would start it from the checkout, with `-o json`: what it says are events to wait for. */
export class LpkProcess {
  readonly events: LpkEvent[] = [];
  /** The exit code, or undefined when a signal ended it. */
  readonly ended: Promise<number | undefined>;
  #child: ChildProcess;
  #waiting = new Set<Waiting>();
  #stderr: string[] = [];
  #over = false;

  constructor(args: string[]) {
    const lpk = path.join(import.meta.dirname, '../../scripts/lpk');
    this.#child = spawn(lpk, [...args, '-o', 'json'], { stdio: ['ignore', 'pipe', 'pipe'] });
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (line) =>
      this.#said(JSON.parse(line)),
    );
    createInterface({ input: this.#child.stderr as NodeJS.ReadableStream }).on('line', (line) =>
      this.#stderr.push(line),
    );
    this.ended = new Promise((resolve) => {
      this.#child.once('close', (code) => {
        this.#over = true;
        for (const { reject } of this.#waiting) reject(this.#endedEarly());
        resolve(code ?? undefined);
      });
    });
  }

  /** The shell script `exec`s, so this is lpk itself. */
  get pid(): number {
    return this.#child.pid as number;
  }

  /** The first such event after the first `from` events, past or to come. Rejects when lpk ends without it. */
  event(name: string, options: { from?: number; matches?: (event: LpkEvent) => boolean } = {}): Promise<LpkEvent> {
    const { from = 0, matches = () => true } = options;
    const wanted = (event: LpkEvent) => event.event === name && matches(event);
    const past = this.events.slice(from).find(wanted);
    if (past) return Promise.resolve(past);
    if (this.#over) return Promise.reject(this.#endedEarly());
    return new Promise((resolve, reject) => this.#waiting.add({ from, matches: wanted, resolve, reject }));
  }

  /** Asks it to leave, as Ctrl-C does. */
  async leave(): Promise<number | undefined> {
    this.#child.kill('SIGINT');
    return await this.ended;
  }

  #said(event: LpkEvent): void {
    if (process.env.DBG) console.log(new Date().toISOString(), JSON.stringify(event));
    this.events.push(event);
    for (const waiting of this.#waiting) {
      if (!waiting.matches(event)) continue;
      this.#waiting.delete(waiting);
      waiting.resolve(event);
    }
  }

  #endedEarly(): Error {
    return new Error(`lpk ended (${this.#child.exitCode}); it said:\n${this.#stderr.slice(-20).join('\n')}`);
  }
}

/** The most memory a process ever had resident, MiB: proc(5), VmHWM. */
export function peakMemoryMiB(pid: number): number {
  const kib = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  if (!kib) throw new Error(`process ${pid} has no VmHWM`);
  return Math.round(Number(kib) / 1024);
}
