import { dirname, resolve } from 'node:path';
import { envWords } from './env-tokens.ts';
import type { Profile } from './profile.ts';
import type { Words } from './verb.ts';
import { splitWords } from './words.ts';

/** What came from the command line, or was added to it. */
export type Line = { words: Words; command: string[] | undefined };

/** A profile as the command line that says the same; files are named from the folder of `path`, the file it is in. */
export function profileLine(profile: Profile, path: string): Line {
  const from = (file: string | undefined) => (file === undefined ? undefined : resolve(dirname(path), file));
  const { command } = profile;
  const { env, names, routes } = envWords(
    Object.entries(profile.env ?? {}).map(([name, value]) => [name, String(value)]),
  );
  return {
    command: typeof command === 'string' ? splitWords(command) : command,
    words: {
      target: profile.target,
      context: profile.context,
      namespace: profile.namespace,
      kubeconfig: from(profile.kubeconfig),
      container: profile.container,
      replicas: profile.replicas,
      port: profile.ports?.map(String),
      'free-ports': profile.freePorts,
      env,
      'env-file': profile.envFiles?.map(from),
      'env-include': profile.envInclude,
      'env-exclude': profile.envExclude,
      volumes: profile.volumes,
      'volume-limit': profile.volumeLimitMiB?.toString(),
      capture: profile.capture,
      transport: profile.transport,
      readiness: profile.readiness,
      'agent-image': profile.agentImage,
      'proxy-port': profile.proxyPort?.toString(),
      hold: profile.holdSeconds?.toString(),
      'restore-after': profile.restoreAfterSeconds?.toString(),
      'no-restorer': profile.restorer === false || undefined,
      wait: profile.whenHeld === 'wait' || undefined,
      'take-over': profile.whenHeld === 'take-over' || undefined,
      'no-wait': profile.waitRestored === false || undefined,
      'no-self-test': profile.selfTest === false || undefined,
      route: listOf(profile.routes, routes),
      'dns-include': listOf(profile.dnsInclude, names),
      'no-route': profile.noRoutes,
    },
  };
}

/** Two answers to one question: either on the line goes over both of below. */
const WHEN_HELD = ['wait', 'take-over'];

/** What `line` says, and what it leaves open from `below`. Variables add up: the line's come last, and so go over the others. */
export function mergeLines(line: Line, below: Line): Line {
  const answered = WHEN_HELD.some((name) => line.words[name] === true) ? WHEN_HELD : [];
  const words: Words = {};
  for (const [name, value] of Object.entries(below.words)) if (!answered.includes(name)) words[name] = value;
  for (const [name, value] of Object.entries(line.words)) if (value !== undefined) words[name] = value;
  const env = [below.words.env, line.words.env].flatMap((list) => (list ?? []) as string[]);
  if (env.length > 0) words.env = env;
  return { words, command: line.command ?? below.command };
}

/** Undefined when there is nothing in it: the line's own list is left open. */
function listOf(...lists: (string[] | undefined)[]): string[] | undefined {
  const all = lists.flatMap((list) => list ?? []);
  return all.length > 0 ? all : undefined;
}
