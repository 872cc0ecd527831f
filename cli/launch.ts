import { spawn as spawnChild } from 'node:child_process';
import type { EventEmitter } from 'node:events';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { constants } from 'node:os';
import { delimiter, resolve } from 'node:path';
import { LpkError, systemCode } from '../agent/wire/errors.ts';

/** How the command ended; `exitCode` is what a shell would report: its own, or 128 + the signal's number. */
export type Ended = { code: number | null; signal: NodeJS.Signals | null; exitCode: number };

export type Running = {
  pid: number;
  /** Never rejects. */
  exited: Promise<Ended>;
  /**
   * Passes on a signal that lpk got. SIGINT and SIGQUIT typed at a terminal went to the whole foreground process group, so
   * the command has them already; those are passed on only when lpk alone got them. Nothing is sent to an ended command.
   */
  signal(signal: NodeJS.Signals): void;
};

/** As much of a ChildProcess as is needed here. */
export type Child = EventEmitter<{
  spawn: [];
  error: [NodeJS.ErrnoException];
  exit: [number | null, NodeJS.Signals | null];
}> & { readonly pid?: number | undefined; kill(signal: NodeJS.Signals): unknown };

/** Starts a program on lpk's own terminal, as child_process.spawn does with `stdio: 'inherit'`. */
export type Spawn = (
  command: string,
  args: string[],
  options: { env: NodeJS.ProcessEnv; cwd?: string | undefined },
) => Child;

const onTerminal: Spawn = (command, args, options) =>
  spawnChild(command, args, { ...options, stdio: 'inherit' }) as unknown as Child;

/**
 * Starts the command on lpk's own terminal: standard streams inherited, same process group, so that interactive programs,
 * Ctrl-C and Ctrl-Z work as without lpk.
 *
 * @throws LpkError `command-not-found`, `command-not-executable`, `usage` (no such folder).
 */
export async function launch(options: {
  command: string;
  args: string[];
  env: NodeJS.ProcessEnv;
  cwd?: string;
  spawn?: Spawn;
}): Promise<Running> {
  const { command, args, env, cwd, spawn = onTerminal } = options;
  if (cwd !== undefined && !statSync(cwd, { throwIfNoEntry: false })?.isDirectory()) {
    throw new LpkError('usage', `no such folder: ${cwd}`);
  }
  const child = spawn(command, args, { env, cwd });
  const exited = new Promise<Ended>((settle) => {
    child.once('exit', (code, signal) => {
      settle({ code, signal, exitCode: signal ? 128 + constants.signals[signal] : (code as number) });
    });
  });
  await new Promise<void>((started, reject) => {
    child.once('spawn', started);
    child.on('error', (error) => reject(launchError(command, cwd, error))); // once spawned: a kill that failed; no matter
  });
  return {
    pid: child.pid as number,
    exited,
    signal(signal) {
      if ((signal === 'SIGINT' || signal === 'SIGQUIT') && isInForeground()) return;
      child.kill(signal);
    },
  };
}

/**
 * Says so before anything is changed in the cluster when there is no such command; `launch` has the last word.
 *
 * @throws LpkError `command-not-found`.
 */
export function assertCommand(program: string, path = process.env.PATH ?? ''): void {
  if (process.platform === 'win32') return; // PATHEXT and more: `launch` tells
  const folders = program.includes('/') ? [''] : path.split(delimiter);
  if (folders.some((folder) => existsSync(resolve(folder, program)))) return;
  throw new LpkError('command-not-found', `${program}: command not found`);
}

function launchError(command: string, cwd: string | undefined, error: Error): LpkError {
  switch (systemCode(error)) {
    case 'ENOENT':
      if (command.includes('/') && existsSync(resolve(cwd ?? '.', command))) {
        const message = `${command}: the interpreter its first line names does not exist`;
        return new LpkError('command-not-executable', message, { cause: error });
      }
      return new LpkError('command-not-found', `${command}: command not found`, { cause: error });
    case 'EACCES':
    case 'ENOEXEC':
      return new LpkError('command-not-executable', `${command}: not executable`, { cause: error });
    default:
      return new LpkError('command-not-executable', `${command}: ${error.message}`, { cause: error });
  }
}

/**
 * Whether this process is in its terminal's foreground process group: then Ctrl-C reached the command as well.
 *
 * Linux tells in /proc/self/stat (proc(5): `pgrp` and `tpgid`); tpgid is -1 without a controlling terminal. Elsewhere the
 * best answer is whether there is a terminal at all.
 */
export function isInForeground(stat: () => string = () => readFileSync('/proc/self/stat', 'latin1')): boolean {
  if (process.platform !== 'linux') return process.stdin.isTTY === true || process.stderr.isTTY === true;
  const text = stat();
  // The second field, the program's name in parentheses, may itself hold spaces and parentheses.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const [pgrp, tpgid] = [fields[2], fields[5]];
  return pgrp === tpgid;
}
