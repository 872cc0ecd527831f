import { readFileSync } from 'node:fs';
import { parseEnv } from 'node:util';
import type { Argv } from 'yargs';
import { LpkError } from '../agent/wire/errors.ts';
import type { Words } from './verb.ts';

/** Which of the pod's variables the command gets, and which of its own. */
export type EnvironmentChoice = {
  /** Globs of names (`*`, `?`) that are taken over although they describe a machine; and of those that are not. */
  include: string[];
  exclude: string[];
  /** Over everything else. */
  set: Record<string, string>;
};

const list = { array: true, string: true, requiresArg: true } as const;

export function environmentOptions(words: Argv): Argv {
  return words
    .option('env', { ...list, describe: 'NAME=VALUE for the command, over the pod’s, may be repeated' })
    .option('env-file', { ...list, describe: 'File of NAME=VALUE lines, may be repeated' })
    .option('env-include', {
      ...list,
      describe: 'GLOB of the pod’s variables that are otherwise left out (PATH, HOME, …)',
    })
    .option('env-exclude', { ...list, describe: 'GLOB of the pod’s variables to leave out' });
}

/** LpkError `usage`: what is no NAME=VALUE, or a file that can't be read. */
export function readEnvironmentChoice(words: Words): EnvironmentChoice {
  const texts = (name: string) => ((words[name] ?? []) as unknown[]).map(String);
  const set: Record<string, string> = {};
  for (const file of texts('env-file')) Object.assign(set, readEnvFile(file));
  for (const text of texts('env')) {
    const at = text.indexOf('=');
    if (at < 1) throw new LpkError('usage', `--env is NAME=VALUE, not ${text}`);
    set[text.slice(0, at)] = text.slice(at + 1);
  }
  return { include: texts('env-include'), exclude: texts('env-exclude'), set };
}

function readEnvFile(file: string): NodeJS.Dict<string> {
  try {
    return parseEnv(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new LpkError('usage', `--env-file ${file} can’t be read: ${cause instanceof Error ? cause.message : cause}`, {
      cause,
    });
  }
}

/** Whether one of the globs is `name`; `*` is any text, `?` one character. */
export function matchesAny(globs: string[], name: string): boolean {
  return globs.some((glob) => {
    const pattern = glob
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replaceAll('*', '.*')
      .replaceAll('?', '.');
    return new RegExp(`^${pattern}$`, 's').test(name);
  });
}
