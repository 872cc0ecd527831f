import { release } from 'node:os';
import path from 'node:path';
import { Writable } from 'node:stream';
import yargs, { type Argv } from 'yargs';
import { type ErrorCode, LpkError } from '../agent/wire/errors.ts';
import { loggedCommandLine } from './command-line.ts';
import { connectVerb } from './connect-options.ts';
import { isDetached } from './detached.ts';
import { diagnoseVerb } from './diagnose-options.ts';
import { doctorVerb } from './doctor-options.ts';
import { envVerb } from './env-options.ts';
import { initVerb } from './init-options.ts';
import { changesFolders, undoLeftovers } from './laptop-changes.ts';
import { Log } from './log.ts';
import { secretVariables } from './mask.ts';
import { nearest } from './nearest-word.ts';
import { Output } from './output.ts';
import { proxyVerbs } from './proxy-options.ts';
import { releaseVerb } from './release-options.ts';
import { restoreVerb } from './restore-options.ts';
import { runVerb } from './run-options.ts';
import { servicesVerb } from './services-options.ts';
import { stateFolderName } from './state-folder.ts';
import { statusVerb } from './status-options.ts';
import type { Verb, VerbGroup, Words } from './verb.ts';
import { version } from './version.ts';
import { endLeftVolumes } from './volume-leftovers.ts';

const VERBS: (Verb | VerbGroup)[] = [
  connectVerb,
  initVerb,
  runVerb,
  proxyVerbs,
  envVerb,
  servicesVerb,
  statusVerb,
  releaseVerb,
  restoreVerb,
  doctorVerb,
  diagnoseVerb,
];

/** Exit codes that mean something to a shell; every other failure is 1. */
const EXIT_CODES: Partial<Record<ErrorCode, number>> = {
  usage: 2,
  'command-not-executable': 126,
  'command-not-found': 127,
  cancelled: 130,
};

/** lpk, whole. The only place that turns an error into what a person reads and an exit code. */
async function main(args: string[]): Promise<number> {
  const dashes = args.indexOf('--');
  const words = dashes === -1 ? args : args.slice(0, dashes);
  const command = dashes === -1 ? undefined : args.slice(dashes + 1);
  const format = asksForJson(words) ? 'json' : 'text';
  const output = new Output({ format, ...(isDetached() ? { stderr: nowhere() } : {}) });
  process.on('uncaughtException', (error) => {
    if (process.listenerCount('uncaughtException') > 1) return; // a session has its own, which puts things back first
    process.exit(failed(output, error));
  });
  try {
    const chosen = await read(words);
    if (chosen && !chosen.verb.offline) keepLog(chosen, command, output);
    if (chosen) {
      const say = (line: string) => output.say(line, 'leftover');
      await undoLeftovers(changesFolders(stateFolderName()), say);
      endLeftVolumes(path.join(stateFolderName(), 'volumes'), say);
    }
    const exitCode = chosen ? await chosen.verb.run(chosen.words, command, output) : 0;
    output.note('end', 'lpk ends', { exitCode });
    return exitCode;
  } catch (error) {
    return failed(output, error);
  } finally {
    output.close();
  }
}

/** For what nobody reads. */
function nowhere(): Writable {
  return new Writable({ write: (_chunk, _encoding, done) => done() });
}

function failed(output: Output, error: unknown): number {
  output.close();
  output.fail(error);
  return error instanceof LpkError ? (EXIT_CODES[error.code] ?? 1) : 1;
}

function keepLog({ name, words }: Chosen, command: string[] | undefined, output: Output): void {
  const log = Log.open(name.replace(' ', '-'));
  output.keepLog(log, words.verbose === true);
  output.hide(secretVariables(process.env));
  output.hide([words.env ?? []].flat().map((each) => String(each).replace(/^[^=]*=/, ''))); // an error may quote it
  const { versions, platform, arch, pid } = process;
  output.note('start', loggedCommandLine(name, words, command), { pid });
  output.note('start', `lpk ${version()}, Node ${versions.node}, ${platform} ${release()} on ${arch}`);
}

type Chosen = { verb: Verb; name: string; words: Words };

/** Which verb, with which options; undefined when yargs answered by itself (`--help`, `--version`). */
async function read(args: string[]): Promise<Chosen | undefined> {
  let chosen: Chosen | undefined;
  let line: Argv = yargs(args)
    .scriptName('lpk')
    .usage('lpk: run a local process as if it were inside a Kubernetes cluster\n\nUsage: $0 VERB [OPTIONS]')
    .parserConfiguration({
      ...{ 'boolean-negation': false, 'greedy-arrays': false, 'parse-positional-numbers': false },
      'camel-case-expansion': false, // else an unknown option is told twice
    })
    .locale('en')
    .version(version())
    .alias('help', 'h')
    .strict()
    .exitProcess(false)
    .showHelpOnFail(false)
    .fail((message, error) => {
      throw usageError(message, error);
    })
    .wrap(Math.min(120, process.stdout.columns ?? 100));
  const add = (to: Argv, verb: Verb, before = ''): Argv =>
    to.command(
      verb.command,
      verb.describe,
      (words) => verb.options(words).example(verb.examples).usage(`lpk ${before}${verb.command}\n\n${verb.describe}`),
      (found) => {
        chosen = { verb, name: `${before}${nameOf(verb)}`, words: found };
      },
    );
  for (const entry of VERBS) {
    line =
      'verbs' in entry
        ? line.command(entry.command, entry.describe, (words) =>
            entry.verbs
              .reduce((to, verb) => add(to, verb, `${entry.command} `), words)
              .usage(`lpk ${entry.command} VERB\n\n${entry.describe}`)
              .demandCommand(1, `${entry.command} needs a verb: ${entry.verbs.map(nameOf).join(', ')}`),
          )
        : add(line, entry);
  }
  line = line.example(
    VERBS.map((entry) => ('verbs' in entry ? entry.verbs[0] : entry)?.examples[0] as [string, string]),
  );
  if (args.length === 0) throw new LpkError('usage', `name a verb: ${VERBS.map(nameOf).join(', ')}`);
  assertVerb(args, VERBS);
  await line.parseAsync();
  return chosen;
}

/** What yargs found wrong: by a message, or by an error of its own (which it calls YError). Other errors are a verb's. */
function usageError(message: string | undefined, error: Error | undefined): Error {
  if (error && error.name !== 'YError') return error;
  return new LpkError('usage', error?.message ?? message ?? 'the command line is not understood', { cause: error });
}

/** LpkError `usage` when the line begins with a word that is none of these verbs; of a group's verbs, its second word. */
function assertVerb([word, ...words]: string[], verbs: (Verb | VerbGroup)[]): void {
  if (word === undefined || word.startsWith('-')) return;
  const found = verbs.find((verb) => nameOf(verb) === word);
  if (found) return 'verbs' in found ? assertVerb(words, found.verbs) : undefined;
  const names = verbs.map(nameOf);
  const meant = nearest(word, names);
  const rest = meant ? `did you mean ${meant}?` : `there is ${names.join(', ')}`;
  throw new LpkError('usage', `there is no verb "${word}"; ${rest}`);
}

function nameOf(verb: { command: string }): string {
  return verb.command.split(' ', 1)[0] as string;
}

/** Asked before yargs reads the line, so that an error in the line is told in the right format too. */
function asksForJson(words: string[]): boolean {
  return /(^|\n)(-o|--output)[=\n]json(\n|$)/.test(words.join('\n'));
}

process.exit(await main(process.argv.slice(2)));
