import { containerEnvironment } from '../agent/deploy/container-environment.ts';
import { findTarget, parseTarget } from '../agent/deploy/find.ts';
import { preflightVariables } from '../agent/deploy/preflight.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import { LpkError } from '../agent/wire/errors.ts';
import { openCluster } from './cluster.ts';
import type { EnvFormat, EnvOptions } from './env-options.ts';
import { childEnvironment } from './environment.ts';
import type { Output } from './output.ts';
import { shellLines } from './proxy-env.ts';

/** `lpk env`: what the pod's container has, as a command of `lpk connect` would get it. */
export async function env(options: EnvOptions, output: Output): Promise<number> {
  const cluster = await openCluster(options, output);
  try {
    const { container } = options;
    const target = await findTarget(cluster, parseTarget(options.target), { container });
    await preflightVariables(cluster, target);
    const pod = await containerEnvironment(cluster, target);
    if (!pod) {
      const why = 'no pod of it runs, or its image has no cat';
      throw new LpkError('not-found', `the variables of ${workloadName(target)} can't be read: ${why}`);
    }
    output.hide(Object.values(pod));
    const { env: variables } = childEnvironment({ laptop: {}, pod, choice: options.environment });
    const names = Object.keys(variables).sort();
    const sorted = Object.fromEntries(names.map((name) => [name, variables[name] as string]));
    const left = names.filter((name) => options.format === 'docker' && sorted[name]?.includes('\n'));
    if (left.length > 0) output.warn(`docker's --env-file knows no newline: left out ${left.join(', ')}`);
    output.result(environmentText(options.format, sorted), 'env', { variables: sorted });
    return 0;
  } finally {
    cluster.close();
  }
}

/** Lines of the format; what it has no words for is left out. */
export function environmentText(format: EnvFormat, variables: Record<string, string>): string {
  const all = Object.entries(variables);
  switch (format) {
    case 'shell':
      return shellLines('sh', Object.fromEntries(all.filter(([name]) => /^[A-Za-z_]\w*$/.test(name)))).join('\n');
    case 'dotenv':
      return all.map(([name, value]) => `${name}=${dotenvQuoted(value)}`).join('\n');
    case 'docker': // every byte after the first = is the value
      return all
        .filter(([, value]) => !value.includes('\n'))
        .map(([name, value]) => `${name}=${value}`)
        .join('\n');
    case 'json':
      return JSON.stringify(variables, undefined, 2);
  }
}

/** As Node's util.parseEnv, and the dotenv packages of other languages, read it back. */
function dotenvQuoted(value: string): string {
  if (/^[\w./:@%+,-]*$/.test(value)) return value;
  if (!value.includes("'")) return `'${value}'`;
  if (!value.includes('"') && !value.includes('\\')) return `"${value.replaceAll('\n', '\\n')}"`;
  if (!value.includes('`')) return `\`${value}\``;
  return `"${value.replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;
}
