import { LpkError } from '../agent/wire/errors.ts';
import { clusterOptions, readClusterOptions, type Verb } from './verb.ts';

export const doctorVerb: Verb = {
  command: 'doctor',
  describe: 'Say what works on this computer and in the cluster, and what to do about what doesn’t',
  examples: [['lpk doctor -n shop', 'rights are looked at in the namespace']],
  options: clusterOptions,
  async run(words, command, output) {
    if (command) throw new LpkError('usage', 'doctor takes no command after --');
    const options = readClusterOptions(words);
    const { doctor } = await import('./doctor.ts');
    return doctor(options, output);
  },
};
