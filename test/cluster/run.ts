import { spawn } from 'node:child_process';
import { ClusterError } from './place.ts';

const controller = new AbortController();

/** Aborted when the user wants to leave: what runs is ended, and what was half done is undone. */
export const interruption = controller.signal;

export function interrupt(): void {
  controller.abort(new ClusterError('interrupted'));
}

type Options = {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** Text for its stdin. */
  input?: string;
  /** A file descriptor for its stdin. */
  stdin?: number;
  /** Hears each line of stderr as it comes. */
  onLine?: (line: string) => void;
  /** Added to the error's line: what to do next. */
  hint?: string;
};

/** Runs a program to its end and gives its stdout. Throws a ClusterError with the end of its stderr when it fails. */
export async function run(program: string, args: string[], options: Options = {}): Promise<string> {
  const { cwd, env, input, stdin, onLine, hint } = options;
  interruption.throwIfAborted();
  const stdio = [stdin ?? ('pipe' as const), 'pipe' as const, 'pipe' as const];
  const child = spawn(program, args, { cwd, env, stdio, signal: interruption, killSignal: 'SIGINT' });
  const out: Buffer[] = [];
  const lines: string[] = [];
  let rest = '';
  child.stdout?.on('data', (bytes) => out.push(bytes));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n');
    rest = parts.pop() ?? '';
    for (const line of parts) {
      onLine?.(line);
      if (line.trim()) lines.push(line.trim());
    }
    lines.splice(0, lines.length - 20);
  });
  child.stdin?.on('error', () => {}); // it may end without having read all
  child.stdin?.end(input);
  const failed = await new Promise<string | undefined>((resolve) => {
    child.once('error', (error) => {
      if (child.pid === undefined) resolve(error.message); // otherwise it still ends
    });
    child.once('close', (code, signal) =>
      resolve(code === 0 ? undefined : signal ? `ended by ${signal}` : `exit ${code}`),
    );
  });
  interruption.throwIfAborted();
  if (failed === undefined) return Buffer.concat(out).toString();
  const why = [...lines, rest.trim()].filter(Boolean).slice(-3).join(' | ');
  throw new ClusterError(`${program} ${args[0] ?? ''}: ${failed}${why && `: ${why}`}${hint ? `; ${hint}` : ''}`);
}
