import { concernsCluster, readContainerEnvironment } from '../agent/deploy/container-environment.ts';
import { findTarget, parseTarget, type Target } from '../agent/deploy/find.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import { sessionsBeside } from '../agent/deploy/pod-sessions.ts';
import { preflightVariables } from '../agent/deploy/preflight.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import { type SessionRecord, sessionOf } from '../agent/restore/record.ts';
import { LpkError } from '../agent/wire/errors.ts';
import { canAsk, openAsk } from './ask.ts';
import { openCluster } from './cluster.ts';
import type { EnvFormat, EnvOptions } from './env-options.ts';
import { childEnvironment } from './environment.ts';
import { offerRestore } from './left-behind.ts';
import type { Output } from './output.ts';
import { printable } from './printable.ts';
import { shellLines } from './proxy-env.ts';
import { askSession, type SessionEnvironment } from './session-control.ts';
import { sessionsHere } from './sessions-here.ts';

/**
 * `lpk env`: what the pod's container has, as a command of `lpk connect` would get it. From a session of this laptop that has the
 * target, else from the container itself, else, when that is agreed to, from a session that is made for it.
 */
export async function env(options: EnvOptions, output: Output): Promise<number> {
  const cluster = await openCluster(options, output);
  const offered = offerRestore(cluster, output);
  try {
    const target = await findTarget(cluster, parseTarget(options.target), { container: options.container });
    const found = (await fromSession(cluster, target, output)) ?? (await fromContainer(cluster, target));
    if (!('why' in found)) {
      tell(found, options, output);
      return 0;
    }
    const name = workloadName(target);
    const { why } = found;
    const how = `a short session, which replaces ${target.replicas === 1 ? 'its pod' : 'its pods'} for a moment`;
    if (!options.yes && !canAsk(output)) {
      const code = why.code === 'forbidden' ? why.code : 'usage';
      throw new LpkError(code, `${why.message}; --yes reads the variables of ${name} by ${how}`, { cause: why });
    }
    output.say(`the variables of ${name} can't be read from its container: ${why.message}`, 'not-read', {
      code: why.code,
    });
    const question = `Read the variables of ${name} by ${how}?`;
    if (!options.yes && !(await (await openAsk()).confirm(question, false))) {
      throw new LpkError('cancelled', `${name} is left as it is`);
    }
    const { shortSession } = await import('./short-session.ts');
    return await shortSession(cluster, target, options, output, (variables) =>
      tell({ variables, whole: false }, options, output),
    );
  } finally {
    await offered;
    cluster.close();
  }
}

async function fromSession(cluster: Cluster, target: Target, output: Output): Promise<SessionEnvironment | undefined> {
  const here = sessionsHere();
  if (here.size === 0) return undefined;
  for (const { id, container } of await recordsOf(cluster, target)) {
    const pid = here.get(id);
    if (pid === undefined || container !== target.container) continue;
    try {
      const found = await askSession(id, 'environment');
      output.say(`from your session of ${workloadName(target)}, process ${pid}`, 'from-session', { session: id, pid });
      return found;
    } catch (error) {
      // It starts, or ends.
      output.note('env', `process ${pid} has the session and does not answer: ${error}`);
    }
  }
  return undefined;
}

/** Of the session that has the target, or of those with a pod beside its, which is of the same make. */
async function recordsOf(cluster: Cluster, target: Target): Promise<SessionRecord[]> {
  const record = sessionOf(target.workload);
  if (record) return [record];
  const beside = await sessionsBeside(cluster, target).catch((error: unknown) => {
    if (error instanceof LpkError && error.code === 'forbidden') return [];
    throw error;
  });
  return beside.map((session) => session.record);
}

async function fromContainer(cluster: Cluster, target: Target): Promise<SessionEnvironment | { why: LpkError }> {
  try {
    await preflightVariables(cluster, target);
    return { variables: await readContainerEnvironment(cluster, target), whole: true };
  } catch (error) {
    if (!(error instanceof LpkError) || concernsCluster(error)) throw error;
    return { why: error };
  }
}

function tell({ variables: pod, whole }: SessionEnvironment, options: EnvOptions, output: Output): void {
  output.hide(Object.values(pod));
  if (!whole) output.say('without the variables of its image, which only the container itself can tell', 'not-whole');
  const { env: variables } = childEnvironment({ laptop: {}, pod, choice: options.environment });
  const names = Object.keys(variables).sort();
  const sorted = Object.fromEntries(names.map((name) => [name, variables[name] as string]));
  const { text, leftOut } = environmentText(options.format, sorted);
  if (leftOut.length > 0) {
    output.warn(`left out, as ${options.format} has no words for them: ${leftOut.map(printable).join(', ')}`);
  }
  output.result(text, 'env', { variables: sorted });
}

/**
 * The names that every reader of a format takes for a name. An image may have others: what follows a newline in one would be a line of
 * its own, past the filter of what is the laptop's own, and what follows a `#` a comment.
 */
const NAMES = {
  shell: /^[A-Za-z_]\w*$/,
  dotenv: /^[\w.-]+$/,
  docker: /^(?!#)[!-<>-~]+$/,
};

/** Lines of the format; `leftOut`: names of what it has no words for. */
export function environmentText(
  format: EnvFormat,
  variables: Record<string, string>,
): { text: string; leftOut: string[] } {
  if (format === 'json') return { text: JSON.stringify(variables, undefined, 2), leftOut: [] };
  const lines: string[] = [];
  const leftOut: string[] = [];
  for (const [name, value] of Object.entries(variables)) {
    const line = NAMES[format].test(name) ? lineOf(format, name, value) : undefined;
    if (line === undefined) leftOut.push(name);
    else lines.push(line);
  }
  return { text: lines.join('\n'), leftOut };
}

function lineOf(format: keyof typeof NAMES, name: string, value: string): string | undefined {
  switch (format) {
    case 'shell':
      return shellLines('sh', { [name]: value }).join('\n');
    case 'docker': // every byte after the first = is the value
      return value.includes('\n') ? undefined : `${name}=${value}`;
    case 'dotenv': {
      const quoted = dotenvQuoted(value);
      return quoted === undefined ? undefined : `${name}=${quoted}`;
    }
  }
}

/** As Node's util.parseEnv, and the dotenv packages of other languages, read it back. */
function dotenvQuoted(value: string): string | undefined {
  if (/^[\w./:@%+,-]*$/.test(value)) return value;
  if (!value.includes("'")) return `'${value}'`;
  if (!value.includes('"') && !value.includes('\\')) return `"${value.replaceAll('\n', '\\n')}"`;
  if (/[\r\n]/.test(value)) return undefined; // few but JavaScript's know backticks: the others would read each line by itself
  if (!value.includes('`')) return `\`${value}\``;
  return `"${value.replaceAll('"', '\\"')}"`;
}
