import { dirname, resolve } from 'node:path';
import type { Profile } from './profile.ts';
import type { Words } from './verb.ts';
import { splitWords } from './words.ts';

/** What came from the command line, or was added to it. */
export type Line = { words: Words; command: string[] | undefined };

/** A profile as the command line that says the same; files are named from the folder of `path`, the file it is in. */
export function profileLine(profile: Profile, path: string): Line {
  const from = (file: string | undefined) => (file === undefined ? undefined : resolve(dirname(path), file));
  const { command } = profile;
  return {
    command: typeof command === 'string' ? splitWords(command) : command,
    words: {
      target: profile.target,
      context: profile.context,
      namespace: profile.namespace,
      kubeconfig: from(profile.kubeconfig),
      container: profile.container,
      port: profile.ports?.map(String),
      env: profile.env && Object.entries(profile.env).map(([name, value]) => `${name}=${value}`),
      'env-file': profile.envFiles?.map(from),
      'env-include': profile.envInclude,
      'env-exclude': profile.envExclude,
      capture: profile.capture,
      transport: profile.transport,
      'agent-image': profile.agentImage,
      'proxy-port': profile.proxyPort?.toString(),
      hold: profile.holdSeconds?.toString(),
      route: profile.routes,
      'no-route': profile.noRoutes,
    },
  };
}

/** What `line` says, and what it leaves open from `below`. Variables add up, the line's after the others, which they go over. */
export function mergeLines(line: Line, below: Line): Line {
  const words: Words = {};
  for (const each of [below.words, line.words]) {
    for (const [name, value] of Object.entries(each)) if (value !== undefined) words[name] = value;
  }
  const env = [below.words.env, line.words.env].flatMap((list) => (list ?? []) as string[]);
  if (env.length > 0) words.env = env;
  return { words, command: line.command ?? below.command };
}
