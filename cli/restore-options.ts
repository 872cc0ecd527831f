import { LpkError } from '../agent/wire/errors.ts';
import { type ClusterOptions, clusterOptions, readClusterOptions, readText, type Verb, type Words } from './verb.ts';

export type RestoreOptions = ClusterOptions & {
  /** Undefined: all sessions. */
  target: string | undefined;
  allNamespaces: boolean;
  /** Other people's sessions too. */
  everyone: boolean;
  /** Also a target that a colleague's living session holds. */
  yes: boolean;
  /** Wait for the rollout. */
  wait: boolean;
};

export const restoreVerb: Verb = {
  command: 'restore [target]',
  describe: 'Put back what a session left behind, for instance when its laptop died',
  examples: [
    ['lpk restore web', 'the workload behind the Service web, whoever’s laptop died'],
    ['lpk restore --all -A', 'all that is yours, in every namespace'],
    ['lpk restore --all --everyone --yes', 'all sessions of the namespace'],
  ],
  options: (words) =>
    clusterOptions(
      words
        .positional('target', {
          type: 'string',
          describe:
            'SERVICE, deployment/NAME, statefulset/NAME, daemonset/NAME, replicaset/NAME, rollout/NAME or pod/NAME',
        })
        .option('all', { boolean: true, describe: 'All sessions of yours (of this user and machine)' })
        .option('all-namespaces', { alias: 'A', boolean: true, describe: 'With --all: in every namespace' })
        .option('everyone', { boolean: true, describe: 'With --all: other people’s too' })
        .option('yes', {
          alias: 'y',
          boolean: true,
          describe: 'Confirms --everyone, or that a colleague’s session lives',
        })
        .option('no-wait', { boolean: true, describe: 'Do not wait for the rollout' }),
    ),
  async run(words, command, output) {
    const options = readRestoreOptions(words, command);
    const { restore } = await import('./restore.ts');
    return await restore(options, output);
  },
};

/** @throws LpkError `usage`. */
export function readRestoreOptions(words: Words, command?: string[]): RestoreOptions {
  const target = readText(words, 'target');
  const all = words.all === true;
  const usage = (message: string) => new LpkError('usage', message);
  if (command) throw usage('restore takes no command');
  if (target && all) throw usage('restore takes a target or --all, not both');
  if (!target && !all) throw usage('restore needs a target, or --all');
  for (const name of ['all-namespaces', 'everyone']) {
    if (words[name] === true && !all) throw usage(`--${name} goes with --all`);
  }
  const everyone = words.everyone === true;
  const yes = words.yes === true;
  if (everyone && !yes) throw usage('--everyone takes sessions from other people: confirm it with --yes');
  return {
    ...readClusterOptions(words),
    target,
    allNamespaces: words['all-namespaces'] === true,
    everyone,
    yes,
    wait: words['no-wait'] !== true,
  };
}
