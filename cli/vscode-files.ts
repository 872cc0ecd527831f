import { type ParseError, parse, printParseErrorCode } from 'jsonc-parser';
import { LpkError } from '../agent/wire/errors.ts';
import { added, replaced } from './jsonc-edit.ts';
import type { Debugging } from './vscode-debug.ts';

/** What `lpk connect` says when the agent runs: the cluster is reached, and calls arrive as soon as something listens here. */
const READY = 'proxy into the cluster: ';

type Entry = Record<string, unknown>;

/**
 * The task that connects, and the one that ends it. VS Code takes the first for ready when its `endsPattern` matches: with a
 * debugger that is the program's own line, as it is later than lpk's.
 */
export function connectTasks(profile: string, command: string[] | undefined, debug: Debugging | undefined): Entry[] {
  const run = debug?.command ?? command;
  const connect = {
    label: connectLabel(profile),
    type: 'process',
    command: 'lpk',
    args: ['connect', '--profile', profile, ...(run ? ['--', ...run] : [])],
    isBackground: true,
    problemMatcher: {
      owner: 'lpk',
      fileLocation: 'absolute',
      // Faults of lpk.yaml: FILE:LINE:COLUMN: MESSAGE.
      pattern: { regexp: '^lpk: (.+?):(\\d+):(\\d+): (.*)$', file: 1, line: 2, column: 3, message: 4 },
      background: {
        activeOnStart: true,
        beginsPattern: 'profile .+ of .+lpk\\.yaml',
        endsPattern: escaped(debug?.ready ?? READY),
      },
    },
    presentation: { reveal: 'always', panel: 'dedicated' },
  };
  const leave = {
    label: leaveLabel(profile),
    type: 'shell',
    command: `echo \${input:${inputId(profile)}}`,
    problemMatcher: [],
    presentation: { reveal: 'never', panel: 'shared', close: true },
  };
  return [connect, leave];
}

/** What the second task has VS Code do: its terminal's end is a SIGHUP, on which lpk puts everything back. */
export function leaveInput(profile: string): Entry {
  const command = 'workbench.action.tasks.terminate';
  return { id: inputId(profile), type: 'command', command, args: connectLabel(profile) };
}

export function launchConfiguration(profile: string, { attach }: Debugging): Entry {
  return {
    name: connectLabel(profile),
    ...attach,
    preLaunchTask: connectLabel(profile),
    postDebugTask: leaveLabel(profile),
  };
}

function connectLabel(profile: string): string {
  return `lpk: ${profile}`;
}

function leaveLabel(profile: string): string {
  return `lpk: leave ${profile}`;
}

function inputId(profile: string): string {
  return `lpk-leave-${profile}`;
}

function escaped(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

/**
 * A tasks.json or launch.json with these entries in its lists: each in place of the one of the same `by`, else at the end. Everything
 * else stays as it is, to the byte. LpkError `profile-invalid` when it is no JSON with comments.
 */
export function withEntries(
  path: string,
  text: string | undefined,
  version: string,
  lists: { name: string; by: string; entries: Entry[] }[],
): string {
  let made = text?.trim() ? text : '{\n}\n';
  let read = fieldsOf(path, made);
  const take = (changed: string) => {
    made = changed;
    read = fieldsOf(path, made);
  };
  if (read.version === undefined) take(added(made, [], version, 'version'));
  for (const { name, by, entries } of lists) {
    if (read[name] === undefined) take(added(made, [], [], name));
    for (const entry of entries) {
      const list = read[name];
      if (!Array.isArray(list)) throw new LpkError('profile-invalid', `${path}: "${name}" is not a list`);
      const there = list.findIndex((each) => each?.[by] === entry[by]);
      take(there >= 0 ? replaced(made, [name, there], entry) : added(made, [name], entry));
    }
  }
  return made;
}

function fieldsOf(path: string, text: string): Record<string, unknown> {
  const errors: ParseError[] = [];
  const value: unknown = parse(text, errors, { allowTrailingComma: true });
  const [error] = errors;
  if (error) {
    const before = text.slice(0, error.offset).split('\n');
    const where = `${path}:${before.length}:${(before.at(-1) as string).length + 1}`;
    throw new LpkError('profile-invalid', `${where}: ${printParseErrorCode(error.error)}; it was left as it is`);
  }
  if (!value || typeof value !== 'object' || Array.isArray(value)) {
    throw new LpkError('profile-invalid', `${path}:1:1: expected { … }; it was left as it is`);
  }
  return value as Record<string, unknown>;
}
