import { LpkError } from '../agent/wire/errors.ts';
import { type EnvironmentChoice, environmentOptions, readEnvironmentChoice } from './environment-options.ts';
import { type ClusterOptions, clusterOptions, readChoice, readClusterOptions, readText, type Verb } from './verb.ts';

export const ENV_FORMATS = ['shell', 'dotenv', 'json', 'docker'] as const;
export type EnvFormat = (typeof ENV_FORMATS)[number];

export type EnvOptions = ClusterOptions & {
  target: string;
  container: string | undefined;
  format: EnvFormat;
  /** Of a session that is made for it. */
  agentImage: string | undefined;
  /** Make one without asking. */
  yes: boolean;
  environment: EnvironmentChoice;
};

export const envVerb: Verb = {
  command: 'env [target]',
  describe: 'Print the variables that a command of lpk connect would get from the pod; changes nothing without asking',
  examples: [
    ['lpk env web -n shop -o dotenv > .env', 'for programs that read such a file'],
    ['eval "$(lpk env web)"', 'into this shell'],
    ['lpk env web --yes', 'where the container can’t be asked: by a session of a moment, which replaces the pod'],
  ],
  options: (words) =>
    clusterOptions(environmentOptions(words))
      .positional('target', {
        type: 'string',
        describe:
          'SERVICE, deployment/NAME, statefulset/NAME, daemonset/NAME, replicaset/NAME, rollout/NAME or pod/NAME',
      })
      .option('container', { string: true, requiresArg: true, describe: 'Which container, when the pod has several' })
      .option('yes', {
        alias: 'y',
        boolean: true,
        describe:
          'Do not ask before a short session, where the container can’t be read (no right to exec, no cat in it)',
      })
      .option('agent-image', {
        string: true,
        requiresArg: true,
        describe: 'Image with Node for the agent of a short session',
      })
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
      ...{ agentImage: readText(words, 'agent-image'), yes: words.yes === true },
    };
    const { env } = await import('./env.ts');
    return env(options, output);
  },
};
