import { setTimeout as pause } from 'node:timers/promises';
import { interruption, run } from './run.ts';

const TRIES = 3;
const AGAIN_MS = 3_000;

export type GoOptions = { cwd?: string; hint?: string; onLine?: (line: string) => void };

/** Runs go. What needs the network is tried again: a module proxy fails now and then. */
export async function goFetch(args: string[], options: GoOptions): Promise<string> {
  for (let tries = 1; ; tries++) {
    try {
      return await go(args, options);
    } catch (error) {
      if (tries === TRIES || interruption.aborted) throw error;
      await pause(AGAIN_MS);
    }
  }
}

/** Builds packages. Listed with all that they depend on first, which fetches just that, they are built without the network. */
export async function goBuild(flags: string[], packages: string, options: GoOptions): Promise<void> {
  await goFetch(['list', UNSTAMPED, '-deps', packages], { ...options, onLine: () => {} });
  await go(['build', UNSTAMPED, ...flags, packages], options);
}

/** Without Git's view of the folder that it is built in. */
const UNSTAMPED = '-buildvcs=false';

function go(args: string[], options: GoOptions): Promise<string> {
  // The caller's own Go workspace and flags are not for this module.
  const env = { ...process.env, CGO_ENABLED: '0', GOWORK: 'off', GOFLAGS: '' };
  const hint = 'is Go on PATH, and does it reach the module proxy?';
  return run('go', args, { env, hint, ...options });
}
