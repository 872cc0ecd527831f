import { LpkError } from '../agent/wire/errors.ts';
import { type ClusterOptions, clusterOptions, readClusterOptions, type Verb, type Words } from './verb.ts';

export type StatusOptions = ClusterOptions & { allNamespaces: boolean };

export const statusVerb: Verb = {
  command: 'status',
  describe: 'List the sessions in the cluster, whoever’s, and the proxies that run here',
  examples: [
    ['lpk status -n shop', 'who holds what in the namespace'],
    ['lpk status -A -o json', 'in every namespace, for a program'],
  ],
  options: (words) =>
    clusterOptions(words.option('all-namespaces', { alias: 'A', boolean: true, describe: 'In every namespace' })),
  async run(words, command, output) {
    const options = readStatusOptions(words, command);
    const { status } = await import('./status.ts');
    return await status(options, output);
  },
};

/** @throws LpkError `usage`. */
export function readStatusOptions(words: Words, command?: string[]): StatusOptions {
  if (command) throw new LpkError('usage', 'status takes no command');
  return { ...readClusterOptions(words), allNamespaces: words['all-namespaces'] === true };
}
