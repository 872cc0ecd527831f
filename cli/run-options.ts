import { LpkError } from '../agent/wire/errors.ts';
import type { AgentOptions } from './agent-spec.ts';
import { CAPTURES, type CaptureChoice } from './capture-choice.ts';
import { readRanges } from './ranges-options.ts';
import {
  type ClusterOptions,
  clusterOptions,
  readChoice,
  readClusterOptions,
  readNumber,
  readText,
  type Verb,
} from './verb.ts';

export type RunOptions = ClusterOptions &
  AgentOptions & {
    capture: CaptureChoice;
    /** CIDRs to catch besides those found, and those not to. */
    routes: string[];
    noRoutes: string[];
    command: { program: string; args: string[] };
  };

const text = { string: true, requiresArg: true } as const;
const list = { array: true, string: true, requiresArg: true } as const;

export const runVerb: Verb = {
  command: 'run',
  describe: 'Run a command that reaches the cluster by its names, without replacing anything',
  examples: [
    ['lpk run -n shop -- psql -h db', 'any program, with no proxy setting and without root (Linux)'],
    ['lpk run -- ./static-binary', 'through the proxy that runs (lpk proxy up), else through an agent of its own'],
  ],
  options: (words) =>
    clusterOptions(words)
      .option('capture', { ...text, describe: 'auto (default), seccomp, env (proxy variables) or none' })
      .option('route', { ...list, describe: 'CIDR that is the cluster’s besides those found, may be repeated' })
      .option('no-route', { ...list, describe: 'CIDR that is not the cluster’s, may be repeated' })
      .option('like', { ...text, describe: 'An agent of its own is like this workload: see lpk proxy up --help' })
      .option('transport', { ...text, describe: 'auto (default), proxy or port-forward' })
      .option('agent-image', { ...text, describe: 'Image with Node for the agent (default: node:24-alpine)' })
      .option('hold', {
        ...text,
        describe: 'Seconds the agent keeps connections while the laptop is away (default: 60)',
      }),
  async run(words, command, output) {
    const [program, ...args] = command ?? [];
    if (program === undefined) throw new LpkError('usage', 'run needs a command: lpk run -- COMMAND');
    const { run } = await import('./run.ts');
    return run(
      {
        ...readClusterOptions(words),
        capture: readChoice(words, 'capture', CAPTURES, 'auto'),
        routes: readRanges(words, 'route'),
        noRoutes: readRanges(words, 'no-route'),
        like: readText(words, 'like'),
        transport: readChoice(words, 'transport', ['auto', 'proxy', 'port-forward'] as const, 'auto'),
        agentImage: readText(words, 'agent-image'),
        holdMs: readNumber(words, 'hold', { least: 1, most: 86_400, otherwise: 60 }) * 1_000,
        command: { program, args },
      },
      output,
    );
  },
};
