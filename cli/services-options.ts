import { LpkError } from '../agent/wire/errors.ts';
import { type ClusterOptions, clusterOptions, readClusterOptions, type Verb } from './verb.ts';

export type ServicesOptions = ClusterOptions & { allNamespaces: boolean };

export const servicesVerb: Verb = {
  command: 'services',
  describe: 'List what a pod can call: Services, their ports, endpoints and DNS names',
  examples: [
    ['lpk services -n shop', 'as a pod in the namespace calls them'],
    ['lpk services -A -o json', 'in every namespace, for a program'],
  ],
  options: (words) =>
    clusterOptions(words.option('all-namespaces', { alias: 'A', boolean: true, describe: 'In every namespace' })),
  async run(words, command, output) {
    if (command) throw new LpkError('usage', 'services takes no command after --');
    const options = { ...readClusterOptions(words), allNamespaces: words['all-namespaces'] === true };
    const { services } = await import('./services.ts');
    return await services(options, output);
  },
};
