import { access, constants } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { LpkError } from '../agent/wire/errors.ts';

/** The one that `scripts/tun2socks.d/go.mod` pins. */
export const TUN2SOCKS_VERSION = '2.6.0';

/**
 * The tun2socks to run: LPK_TUN2SOCKS, or else the one on PATH, or else the one that `scripts/tun2socks` has built. Rejects with
 * `no-tun2socks`.
 */
export async function findTun2socks(env: NodeJS.ProcessEnv, platform = process.platform): Promise<string> {
  const named = env.LPK_TUN2SOCKS;
  if (named) {
    if (await isProgram(named)) return named;
    throw new LpkError('no-tun2socks', `LPK_TUN2SOCKS is ${named}, which is no program`);
  }
  const name = platform === 'win32' ? 'tun2socks.exe' : 'tun2socks';
  const folders = (env.PATH ?? '').split(path.delimiter).filter(path.isAbsolute);
  const caches = [env.XDG_CACHE_HOME || path.join(env.HOME || homedir(), '.cache')];
  const built = caches.map((cache) => path.join(cache, 'lpk', `tun2socks-v${TUN2SOCKS_VERSION}`));
  for (const folder of [...folders, ...built]) {
    const file = path.join(folder, name);
    if (await isProgram(file)) return file;
  }
  throw new LpkError('no-tun2socks', `there is no tun2socks on PATH, nor in ${built.join(', ')}`);
}

async function isProgram(file: string): Promise<boolean> {
  return access(file, constants.X_OK).then(
    () => true,
    () => false,
  );
}
