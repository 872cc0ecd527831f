import { LpkError } from '../agent/wire/errors.ts';
import { parsePortMapping } from './connect-options.ts';
import { type ClusterOptions, clusterOptions, readClusterOptions, readText, type Verb, type Words } from './verb.ts';

/** What is named on the line is not asked. */
export type InitOptions = ClusterOptions & {
  target: string | undefined;
  container: string | undefined;
  ports: string[];
  profile: string | undefined;
  vscode: boolean;
  command: string[] | undefined;
};

export const initVerb: Verb = {
  command: 'init [target]',
  describe: 'Ask once what to connect and how to start it, and write lpk.yaml for `lpk connect`',
  examples: [
    ['lpk init', 'asks for all; then `lpk connect` is enough'],
    ['lpk init --vscode', 'F5 connects, debugs, and puts everything back'],
    ['lpk init web -n shop -p 3000:80 --profile shop -- npm start', 'asks only for what is not named'],
  ],
  options: (words) =>
    clusterOptions(
      words
        .positional('target', { type: 'string', describe: 'SERVICE, deployment/NAME and the like' })
        .option('port', {
          alias: 'p',
          array: true,
          string: true,
          requiresArg: true,
          describe: 'LOCAL[:CONTAINER], may be repeated',
        })
        .option('container', { string: true, requiresArg: true, describe: 'Which container, when the pod has several' })
        .option('profile', { string: true, requiresArg: true, describe: 'Name of the profile, new or replaced' })
        .option('vscode', {
          boolean: true,
          describe: 'Add a task and a launch configuration to .vscode; of a profile that is there, without asking',
        }),
    ),
  async run(words, command, output) {
    const options = readInitOptions(words, command);
    const { init } = await import('./init-verb.ts');
    return init(options, output);
  },
};

/** LpkError `usage`. */
export function readInitOptions(words: Words, command: string[] | undefined): InitOptions {
  if (command?.length === 0) throw new LpkError('usage', 'there is no command after --');
  const ports = ((words.port ?? []) as unknown[]).map(String);
  for (const mapping of ports) parsePortMapping(mapping);
  return {
    ...readClusterOptions(words),
    target: readText(words, 'target'),
    container: readText(words, 'container'),
    profile: readText(words, 'profile'),
    vscode: words.vscode === true,
    ports,
    command,
  };
}
