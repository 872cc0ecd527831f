import { LpkError } from '../agent/wire/errors.ts';
import { type ClusterOptions, clusterOptions, readClusterOptions, readText, type Verb } from './verb.ts';

export type DiagnoseOptions = ClusterOptions & {
  target: string | undefined;
  container: string | undefined;
  /** Of the bundle; undefined: a new one in the working folder. */
  file: string | undefined;
};

export const diagnoseVerb: Verb = {
  command: 'diagnose [target]',
  describe: 'Gather what somebody else needs to find a fault: versions, sessions, names, logs; secrets masked',
  examples: [
    ['lpk diagnose', 'while the session runs that has the fault, or after it'],
    ['lpk diagnose web -n shop --file web.tar.gz', 'what the target has, too'],
  ],
  options: (words) =>
    clusterOptions(
      words
        .positional('target', {
          type: 'string',
          describe: 'SERVICE, deployment/NAME, statefulset/NAME, daemonset/NAME or pod/NAME',
        })
        .option('container', { string: true, requiresArg: true, describe: 'Which container, when the pod has several' })
        .option('file', {
          string: true,
          requiresArg: true,
          describe: 'Where to write the bundle (default: lpk-diagnose-TIME.tar.gz here)',
        }),
    ),
  async run(words, command, output) {
    if (command) throw new LpkError('usage', 'diagnose takes no command after --');
    const options = {
      ...readClusterOptions(words),
      ...{ target: readText(words, 'target'), container: readText(words, 'container'), file: readText(words, 'file') },
    };
    const { diagnose } = await import('./diagnose.ts');
    return await diagnose(options, output);
  },
};
