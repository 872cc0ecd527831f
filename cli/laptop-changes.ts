import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { LpkError, systemCode } from '../agent/wire/errors.ts';
import { type Guard, startGuard } from './laptop-guard.ts';
import { isRunning, type ProcessId, processId } from './process-id.ts';

/**
 * What lpk changes on the laptop's own system, and how it is taken back whatever happens to lpk: before each step the
 * way back is in a journal on disk, which the next lpk command follows when this one can't.
 */

export type Action =
  /** Ends well with exit code 0, or any when it `mayFail`. Done only while the path `ifExists` does. */
  | { run: string[]; input?: string; mayFail?: true; ifExists?: string }
  /** Into the file that is there, be it a symlink's target or a bind mount; or else into a new one, 0644. */
  | { write: string; content: string }
  | { remove: string }
  /** A folder, when nothing is in it. */
  | { removeEmpty: string }
  /**
   * Puts a file back that is as we wrote it (`from`): `to`, or none. In one that somebody changed meanwhile, each of
   * `ours` that is still there becomes what it was before.
   */
  | { putBack: string; from: string; ours: [text: string, before: string][]; to?: string | undefined }
  /** Ends a process: SIGTERM, and SIGKILL when that is not enough. `startedAt` is filled in when the step is applied. */
  | { end: { pid: number; startedAt?: string } };

/**
 * `undo` takes `do` back, also a half-done one, and is harmless when done twice. `what` is what a person reads. One that is
 * `urgent` would do harm without lpk, and is taken back at once when lpk is gone, not by the next one.
 */
export type Step = { what: string; do: Action[]; undo: Action[]; urgent?: true };

type Undoing = { what: string; undo: Action[] };
type Journal = { v: 1; steps: Undoing[] };

const COMMAND_MS = 30_000;
const GRACE_MS = 2_000;
/** Of a command's output, for its error. */
const TAIL_CHARS = 500;

/** @param what that asks for it: `--tun`. Throws `needs-root`. */
export function assertMayChangeLaptop(what: string): void {
  if (!process.getuid || process.getuid() === 0) return; // Windows tells by the first command
  throw new LpkError('needs-root', `${what} changes this computer's own network, which only root may`);
}

/**
 * The folders with journals, this user's own first, where new ones go. Root's are where every user sees that there are some, as they may be left to an
 * lpk that runs without root.
 */
export function changesFolders(stateFolder: string, env = process.env): string[] {
  const own = path.join(stateFolder, 'changes');
  if (process.platform === 'win32') return [own];
  const system = '/var/lib/lpk/changes';
  return process.getuid?.() === 0 && !env.XDG_STATE_HOME ? [system, own] : [own, system];
}

export class LaptopChanges {
  readonly #file: string;
  #steps: Undoing[] = [];
  #guard: Guard | undefined;
  /** One thing at a time. */
  #last: Promise<unknown> = Promise.resolve();

  private constructor(file: string) {
    this.#file = file;
  }

  /** Changes nothing yet, and writes nothing. */
  static open(folder: string): LaptopChanges {
    return new LaptopChanges(path.join(folder, journalName(processId())));
  }

  /** What is changed at present, oldest first. */
  get pending(): string[] {
    return this.#steps.map(({ what }) => what);
  }

  /**
   * Does the steps one after the other. Rejects with `needs-root` or `laptop-setup` at the first that fails; it, and those before it, are still
   * to be undone.
   */
  apply(steps: Step[]): Promise<void> {
    return this.#next(async () => {
      for (const step of steps) {
        this.#steps.push({ what: step.what, undo: step.undo.map(withStart) });
        writeJournal(this.#file, this.#steps);
        if (step.urgent) this.#guard ??= startGuard(path.dirname(this.#file), processId());
        for (const action of step.do) await perform(action).catch((cause) => fail(step.what, cause));
      }
    });
  }

  /**
   * Takes everything back, the last step first, each one tried even when another fails. Rejects with `laptop-setup` when some could
   * not be; these stay in the journal, for the next lpk command.
   * @param say told what was found changed by somebody else, and left so.
   */
  undo(say: (line: string) => void = () => {}): Promise<void> {
    return this.#next(async () => {
      if (this.#steps.length === 0) return;
      const { left, failures } = await undoAll(this.#steps, say);
      this.#steps = left;
      settleJournal(this.#file, left);
      if (left.length === 0) this.#guard?.dismiss();
      if (failures.length > 0) throw new LpkError('laptop-setup', failures.join('; '));
    });
  }

  #next<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => {});
    return result;
  }
}

/**
 * Takes back what lpk processes left that are gone. Those of running ones are left alone, and of several lpk at the same time
 * one does it. Less than a millisecond when there is nothing. Never rejects: what fails is said, one line each, and tried by the next lpk again.
 */
export async function undoLeftovers(folders: string[], say: (line: string) => void): Promise<void> {
  for (const folder of folders) {
    for (const name of namesIn(folder)) {
      const holder = holderOf(name.replace(/\.tmp$/, ''));
      if (!holder || isRunning(holder)) continue;
      // Of a journal that was never whole; its step was not begun.
      if (name.endsWith('.tmp')) {
        if (isOurs(path.join(folder, name))) fs.rmSync(path.join(folder, name), { force: true });
        continue;
      }
      await undoLeftover(folder, name, say).catch((error) => {
        const why = error instanceof Error ? error.message : String(error);
        say(`could not undo what an lpk that is gone (pid ${holder.pid}) changed on this computer: ${why}`);
      });
    }
  }
}

async function undoLeftover(folder: string, name: string, say: (line: string) => void): Promise<void> {
  const found = path.join(folder, name);
  const owner = /^\d+/.exec(name)?.[0];
  // Root follows no journal of somebody else: it says what to run.
  if (!isOurs(found)) {
    say(
      `an lpk that is gone (pid ${owner}) left changes on this computer; this takes them back: sudo -E lpk proxy down`,
    );
    return;
  }
  // Who renames it has it; the name of its holder is its last part.
  const file = path.join(folder, `${/^[^.]+/.exec(name)?.[0]}.${journalName(processId())}`);
  try {
    fs.renameSync(found, file);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return;
    throw error;
  }
  const { steps }: Journal = JSON.parse(fs.readFileSync(file, 'utf8'));
  const { left, failures } = await undoAll(steps, say);
  // Given back under the name of the dead, so that it is a leftover again.
  settleJournal(file, left);
  if (left.length > 0) fs.renameSync(file, found);
  for (const { what } of steps.toReversed()) {
    if (!left.some((step) => step.what === what))
      say(`undid what an lpk that is gone (pid ${owner}) had changed: ${what}`);
  }
  for (const failure of failures) say(`could not undo ${failure}`);
}

type Undone = { left: Undoing[]; failures: string[] };

async function undoAll(steps: Undoing[], say: (line: string) => void): Promise<Undone> {
  const left: Undoing[] = [];
  const failures: string[] = [];
  for (const step of steps.toReversed()) {
    let failed = false;
    for (const action of step.undo) {
      try {
        await perform(action, say);
      } catch (error) {
        failed = true;
        failures.push(`${step.what}: ${error instanceof Error ? error.message : error}`);
      }
    }
    if (failed) left.unshift(step);
  }
  return { left, failures };
}

async function perform(action: Action, say: (line: string) => void = () => {}): Promise<void> {
  if ('run' in action) {
    if (action.ifExists && !fs.existsSync(action.ifExists)) return;
    await run(action.run, action.input).catch((error) => {
      if (!action.mayFail) throw error;
    });
  } else if ('write' in action) {
    fs.mkdirSync(path.dirname(action.write), { recursive: true });
    overwrite(action.write, action.content);
  } else if ('remove' in action) {
    fs.rmSync(action.remove, { force: true });
  } else if ('removeEmpty' in action) {
    removeEmpty(action.removeEmpty);
  } else if ('putBack' in action) {
    putBack(action, say);
  } else {
    await end(action.end);
  }
}

/** Never leaves the file empty, not even for a moment: the new text first, then the end of the old one goes. */
function overwrite(file: string, content: string): void {
  const bytes = Buffer.from(content);
  const fd = fs.openSync(file, fs.constants.O_WRONLY | fs.constants.O_CREAT, 0o644);
  try {
    let written = 0;
    do written += fs.writeSync(fd, bytes, written, bytes.length - written, written);
    while (written < bytes.length);
    fs.ftruncateSync(fd, bytes.length);
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

type PutBack = Extract<Action, { putBack: string }>;

function putBack({ putBack: file, from, ours, to }: PutBack, say: (line: string) => void): void {
  let now: string;
  try {
    now = fs.readFileSync(file, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return;
    throw error;
  }
  if (now === from) {
    if (to === undefined) fs.rmSync(file);
    else overwrite(file, to);
    return;
  }
  const without = ours.reduce((text, [part, before]) => text.replace(part, () => before), now);
  if (without !== now) {
    overwrite(file, without);
    say(`${file} was changed by another program meanwhile: only lpk's lines were taken out`);
  } else if (now !== to) {
    say(`${file} was written anew by another program meanwhile: it is left as it is`);
  }
}

function removeEmpty(folder: string): void {
  try {
    fs.rmdirSync(folder);
  } catch (error) {
    if (!['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(systemCode(error) ?? '')) throw error;
  }
}

async function end({ pid, startedAt = '' }: { pid: number; startedAt?: string }): Promise<void> {
  const isThere = () => isRunning({ pid, startedAt });
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (!isThere()) return;
    try {
      process.kill(pid, signal);
    } catch (error) {
      if (systemCode(error) === 'ESRCH') return;
      throw error;
    }
    const patience = Date.now() + GRACE_MS;
    while (isThere() && Date.now() < patience) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  if (isThere()) throw new Error(`process ${pid} does not end`);
}

function run([program, ...args]: string[], input = ''): Promise<void> {
  return new Promise((resolve, reject) => {
    const options = { timeout: COMMAND_MS, windowsHide: true };
    const child = execFile(program as string, args, options, (error, stdout, stderr) => {
      if (!error) return resolve();
      const command = [program, ...args].join(' ');
      if (systemCode(error) === 'ENOENT') return reject(new Error(`there is no ${program} to run: ${command}`));
      const said = (stderr.trim() || stdout.trim()).slice(-TAIL_CHARS).replaceAll(/\s*\n\s*/g, ' | ');
      reject(new Error(`${command}: ${said || error.message}`));
    });
    child.stdin?.on('error', () => {}); // it may end without having read all
    child.stdin?.end(input);
  });
}

function fail(what: string, cause: unknown): never {
  const isRight = ['EACCES', 'EPERM'].includes(systemCode(cause) ?? '');
  const why = cause instanceof Error ? cause.message : String(cause);
  throw new LpkError(isRight ? 'needs-root' : 'laptop-setup', `could not change ${what}: ${why}`, { cause });
}

function withStart(action: Action): Action {
  return 'end' in action ? { end: { ...processId(action.end.pid), ...action.end } } : action;
}

/** On disk when this returns: the file, and its name in the folder. */
function writeJournal(file: string, steps: Undoing[]): void {
  const folder = path.dirname(file);
  fs.mkdirSync(folder, { recursive: true, mode: process.getuid?.() === 0 ? 0o755 : 0o700 });
  const draft = `${file}.tmp`;
  const fd = fs.openSync(draft, 'w', 0o600);
  try {
    fs.writeFileSync(fd, JSON.stringify({ v: 1, steps } satisfies Journal));
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
  fs.renameSync(draft, file);
  syncFolder(folder);
}

function settleJournal(file: string, left: Undoing[]): void {
  if (left.length > 0) writeJournal(file, left);
  else fs.rmSync(file, { force: true });
}

function syncFolder(folder: string): void {
  if (process.platform === 'win32') return; // which can't
  const fd = fs.openSync(folder, 'r');
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** `OWNER.json`; while another undoes it: `OWNER.OTHER.json`. */
function journalName({ pid, startedAt }: ProcessId): string {
  return `${pid}-${startedAt}.json`;
}

/** Who has the journal in hand. Undefined for a file that is none. */
function holderOf(name: string): ProcessId | undefined {
  const [, pid, startedAt] = /^(?:\d+-\w*\.)?(\d+)-(\w*)\.json$/.exec(name) ?? [];
  return pid === undefined || startedAt === undefined ? undefined : { pid: Number(pid), startedAt };
}

function namesIn(folder: string): string[] {
  try {
    return fs.readdirSync(folder);
  } catch {
    return [];
  }
}

/** A file of this user, or none. */
export function isOurs(file: string): boolean {
  if (!process.getuid) return true;
  const stat = fs.lstatSync(file, { throwIfNoEntry: false });
  return stat === undefined || (stat.uid === process.getuid() && stat.isFile());
}
