import path from 'node:path';
import { LpkError } from '../agent/wire/errors.ts';
import { proxyEnvironment } from './environment.ts';
import type { ProxyAccess } from './proxy-control.ts';

/** How each shell is told of variables. */

export const SHELLS = ['bash', 'zsh', 'sh', 'fish', 'powershell', 'cmd'] as const;
export type Shell = (typeof SHELLS)[number];

export function isShell(name: string): name is Shell {
  return (SHELLS as readonly string[]).includes(name);
}

/** The shell that will read it, as far as the environment tells. LpkError `usage` when it doesn't. */
export function detectShell(environment: NodeJS.ProcessEnv, platform: NodeJS.Platform): Shell {
  const name = path.posix.basename((environment.SHELL ?? '').replaceAll('\\', '/')).replace(/\.exe$/i, '');
  if (isShell(name)) return name;
  if (['dash', 'ash', 'ksh', 'mksh'].includes(name)) return 'sh';
  if (name === 'pwsh') return 'powershell';
  // cmd sets PROMPT; PowerShell extends PSModulePath with the user's own folder, and inherits PROMPT only from a cmd around it.
  if (platform === 'win32')
    return environment.PROMPT && !environment.PSExecutionPolicyPreference ? 'cmd' : 'powershell';
  if (name === '') return 'sh';
  throw new LpkError('usage', `lpk doesn't know the shell ${name}: name one like it with --shell`);
}

/** Where the values wait that the proxy's variables took the place of. */
const BEFORE = 'LPK_BEFORE_';

/**
 * The variables of a shell whose programs are to use the proxy, or (without one) no longer are. What they had before is kept
 * beside them, so that it comes back; doing it twice changes nothing more.
 */
export function shellVariables(
  environment: NodeJS.ProcessEnv,
  access: ProxyAccess | undefined,
): Record<string, string | undefined> {
  const before: NodeJS.ProcessEnv = { ...environment };
  const ours = new Set((environment.LPK_PROXY_VARIABLES ?? '').split(' ').filter(Boolean));
  for (const name of ours) before[name] = environment[`${BEFORE}${name}`];
  const result: Record<string, string | undefined> = {};
  for (const name of ours) {
    result[name] = before[name];
    if (environment[`${BEFORE}${name}`] !== undefined) result[`${BEFORE}${name}`] = undefined;
  }
  if (!access) return ours.size > 0 ? { ...result, LPK_PROXY_VARIABLES: undefined } : {};
  const wanted = proxyEnvironment(before, access.port, access);
  for (const [name, value] of Object.entries(wanted)) {
    result[name] = value;
    if (before[name] !== undefined) result[`${BEFORE}${name}`] = before[name];
  }
  return { ...result, LPK_PROXY_VARIABLES: Object.keys(wanted).join(' ') };
}

/** Lines that set these variables, and with `undefined` unset them. */
export function shellLines(shell: Shell, variables: Record<string, string | undefined>): string[] {
  return Object.entries(variables).map(([name, value]) => {
    switch (shell) {
      case 'fish':
        return value === undefined ? `set -e ${name};` : `set -gx ${name} ${fishQuoted(value)};`;
      case 'powershell':
        return value === undefined
          ? `Remove-Item -ErrorAction SilentlyContinue Env:${name};`
          : `$Env:${name} = '${value.replaceAll("'", "''")}';`;
      case 'cmd':
        return value === undefined ? `set "${name}="` : `set "${name}=${value.replaceAll('%', '%%')}"`;
      default:
        return value === undefined ? `unset ${name};` : `export ${name}='${value.replaceAll("'", `'\\''`)}';`;
    }
  });
}

function fishQuoted(value: string): string {
  return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
