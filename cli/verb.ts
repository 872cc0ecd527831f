import type { Argv } from 'yargs';
import { LpkError } from '../agent/wire/errors.ts';
import type { Output } from './output.ts';

/** What yargs read: nothing is trusted to have a type until one of the readers below gave it one. */
export type Words = Record<string, unknown>;

/** A verb of the command line. Reading its options must be quick: what the verb itself needs is imported when it runs. */
export type Verb = {
  /** As yargs wants it: `connect [target]`. */
  command: string;
  describe: string;
  /** Shown by `--help`: command line, what it does. */
  examples: [string, string][];
  options(words: Argv): Argv;
  /**
   * @param command what came after `--`; undefined without one.
   * @returns the exit code.
   * @throws LpkError `usage` and whatever the verb's work throws.
   */
  run(words: Words, command: string[] | undefined, output: Output): Promise<number>;
  /** It asks no cluster anything: there is nothing to keep a log of. */
  offline?: true;
};

/** Verbs that share a word: `proxy up`, `proxy down`. */
export type VerbGroup = { command: string; describe: string; verbs: Verb[] };

/** Which cluster, and where in it. */
export type ClusterOptions = {
  namespace: string | undefined;
  context: string | undefined;
  kubeconfig: string | undefined;
};

export function clusterOptions(words: Argv): Argv {
  return words
    .option('namespace', {
      alias: 'n',
      string: true,
      requiresArg: true,
      describe: 'Namespace (default: the context’s)',
    })
    .option('context', {
      string: true,
      requiresArg: true,
      describe: 'Context of the kubeconfig (default: the current one)',
    })
    .option('kubeconfig', {
      string: true,
      requiresArg: true,
      describe: 'Kubeconfig file (default: KUBECONFIG, ~/.kube/config)',
    })
    .option('output', {
      alias: 'o',
      string: true,
      requiresArg: true,
      describe: 'text, or json: one object per line on stdout',
    })
    .option('verbose', { boolean: true, describe: 'Show on stderr what else goes into the log' });
}

export function readClusterOptions(words: Words): ClusterOptions {
  readChoice(words, 'output', ['text', 'json'], 'text');
  return {
    namespace: readText(words, 'namespace'),
    context: readText(words, 'context'),
    kubeconfig: readText(words, 'kubeconfig'),
  };
}

/** @throws LpkError `usage` when it is given twice or is empty. */
export function readText(words: Words, name: string): string | undefined {
  const value = words[name];
  if (value === undefined) return undefined;
  if (Array.isArray(value)) throw new LpkError('usage', `--${name} is given more than once`);
  if (value === '') throw new LpkError('usage', `--${name} needs a value`);
  return String(value);
}

export function readChoice<T extends string>(words: Words, name: string, choices: readonly T[], otherwise: T): T {
  const value = readText(words, name) ?? otherwise;
  const choice = choices.find((one) => one === value);
  if (choice === undefined) throw new LpkError('usage', `--${name} is ${choices.join(' or ')}, not ${value}`);
  return choice;
}

/** An option that may be repeated; each value may be a list with commas. */
export function readList(words: Words, name: string): string[] {
  const values = ((words[name] ?? []) as unknown[]).flatMap((value) => String(value).split(','));
  if (values.includes('')) throw new LpkError('usage', `--${name} needs a value`);
  return values;
}

/** A whole number from `least` to `most`. */
export function readNumber(
  words: Words,
  name: string,
  bounds: { least: number; most: number; otherwise: number },
): number {
  const value = readText(words, name);
  if (value === undefined) return bounds.otherwise;
  const number = /^\d{1,9}$/.test(value) ? Number(value) : Number.NaN;
  if (!(number >= bounds.least && number <= bounds.most)) {
    throw new LpkError('usage', `--${name} is a number from ${bounds.least} to ${bounds.most}, not ${value}`);
  }
  return number;
}
