import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { locked } from '../../cluster/lock.ts';
import { APT_PATIENCE } from '../../cluster/packages.ts';

const run = promisify(execFile);

/**
 * A real program for a test: the file itself when the machine has it, else the same file of a Debian package, which is fetched
 * with what it depends on and unpacked under ~/.cache/lpk, once. Nothing is installed: a package may start servers and add users.
 * Gives the file's path and the environment that it needs.
 */
export async function debianFile(name: string, path: string): Promise<{ file: string; env: NodeJS.ProcessEnv }> {
  if (existsSync(path)) return { file: path, env: {} };
  const folder = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'lpk/debian', name);
  // One at a time: apt-get update wants its lists for itself.
  if (!existsSync(folder)) await locked('packages', () => unpack(name, folder));
  const libraries = join(folder, `usr/lib/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`);
  return { file: join(folder, path), env: { LD_LIBRARY_PATH: `${libraries}:${join(libraries, 'pulseaudio')}` } };
}

async function unpack(name: string, folder: string): Promise<void> {
  if (existsSync(folder)) return; // another has fetched it meanwhile
  await mkdir(dirname(folder), { recursive: true });
  const work = await mkdtemp(`${folder}.`);
  try {
    const archives = join(work, 'archives');
    await mkdir(join(archives, 'partial'), { recursive: true });
    const options = [...APT_PATIENCE, '-o', 'Debug::NoLocking=1', '-o', `Dir::Cache::archives=${archives}/`];
    const fetch = () =>
      run('apt-get', ['install', '-y', '--no-install-recommends', '--download-only', ...options, name]);
    // A new machine's package lists are empty or old.
    await fetch().catch(async () => {
      await run('apt-get', [...APT_PATIENCE, 'update']);
      await fetch();
    });
    const files = (await readdir(archives)).filter((file) => file.endsWith('.deb'));
    for (const file of files) await run('dpkg', ['-x', join(archives, file), join(work, 'root')]);
    await rename(join(work, 'root'), folder);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
