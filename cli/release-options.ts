import { LpkError } from '../agent/wire/errors.ts';
import { type ClusterOptions, clusterOptions, readClusterOptions, readText, type Verb, type Words } from './verb.ts';

export type ReleaseOptions = ClusterOptions & {
  target: string;
  /** Don't ask. */
  yes: boolean;
};

export const releaseVerb: Verb = {
  command: 'release [target]',
  describe: 'End a colleague’s session: their workload is put back, and their lpk says who did it',
  examples: [
    ['lpk release web', 'asks first'],
    ['lpk release deployment/web -n shop --yes', 'does not'],
  ],
  options: (words) =>
    clusterOptions(
      words
        .positional('target', {
          type: 'string',
          describe:
            'SERVICE, deployment/NAME, statefulset/NAME, daemonset/NAME, replicaset/NAME, rollout/NAME or pod/NAME',
        })
        .option('yes', { alias: 'y', boolean: true, describe: 'Do not ask' }),
    ),
  async run(words, command, output) {
    const options = readReleaseOptions(words, command);
    const { releaseSession } = await import('./release.ts');
    return await releaseSession(options, output);
  },
};

/** @throws LpkError `usage`. */
export function readReleaseOptions(words: Words, command?: string[]): ReleaseOptions {
  const target = readText(words, 'target');
  if (command) throw new LpkError('usage', 'release takes no command');
  if (!target) throw new LpkError('usage', 'release needs a target: a Service, or deployment/NAME and the like');
  return { ...readClusterOptions(words), target, yes: words.yes === true };
}
