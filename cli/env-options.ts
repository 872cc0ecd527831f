import { LpkError } from '../agent/wire/errors.ts';
import { type EnvironmentChoice, environmentOptions, readEnvironmentChoice } from './environment-options.ts';
import { type ClusterOptions, clusterOptions, readChoice, readClusterOptions, readText, type Verb } from './verb.ts';

export const ENV_FORMATS = ['shell', 'dotenv', 'json', 'docker'] as const;
export type EnvFormat = (typeof ENV_FORMATS)[number];

export type EnvOptions = ClusterOptions & {
  target: string;
  container: string | undefined;
  format: EnvFormat;
  environment: EnvironmentChoice;
};

export const envVerb: Verb = {
  command: 'env [target]',
  describe: 'Print the variables that a command of lpk connect would get from the pod; changes nothing',
  examples: [
    ['lpk env web -n shop -o dotenv > .env', 'for programs that read such a file'],
    ['eval "$(lpk env web)"', 'into this shell'],
  ],
  options: (words) =>
    clusterOptions(environmentOptions(words))
      .positional('target', {
        type: 'string',
        describe: 'SERVICE, deployment/NAME, statefulset/NAME, daemonset/NAME or pod/NAME',
      })
      .option('container', { string: true, requiresArg: true, describe: 'Which container, when the pod has several' })
      .option('output', {
        alias: 'o',
        string: true,
        requiresArg: true,
        describe: 'shell (default), dotenv, json, docker',
      }),
  async run(words, command, output) {
    if (command) throw new LpkError('usage', 'env takes no command after --');
    const target = readText(words, 'target');
    if (!target) throw new LpkError('usage', 'env needs a target: a Service, or deployment/NAME and the like');
    const format = readChoice(words, 'output', ENV_FORMATS, 'shell');
    const options: EnvOptions = {
      ...readClusterOptions({ ...words, output: undefined }),
      ...{ target, format, container: readText(words, 'container'), environment: readEnvironmentChoice(words) },
    };
    const { env } = await import('./env.ts');
    return env(options, output);
  },
};
