import { createHash } from 'node:crypto';
import { existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { installPackages } from '../../cluster/packages.ts';
import { cache } from '../../cluster/place.ts';
import { run } from '../../cluster/run.ts';

const here = import.meta.dirname;

/** A folder with this folder's programs, built once for each state of their sources: `client`, `health`, `docker-seccomp`, `static-tcp`, `Get.class`. */
export async function builtPrograms(): Promise<string> {
  const hash = createHash('sha256');
  for (const file of globSync(['*.c', '*.java', 'go/go.*', 'go/*/*.go', 'build.ts'], { cwd: here }).sort()) {
    const text = readFileSync(path.join(here, file));
    hash.update(`${file}:${text.length}:`).update(text);
  }
  const folder = path.join(cache, `programs-${hash.digest('hex').slice(0, 12)}`);
  if (existsSync(folder)) return folder;
  await installPackages({ 'musl-tools': '/usr/bin/musl-gcc', 'default-jdk-headless': '/usr/bin/javac' });
  mkdirSync(cache, { recursive: true, mode: 0o700 });
  const work = mkdtempSync(path.join(cache, 'programs-build-'));
  try {
    // The caller's own Go workspace and flags are not for this module.
    const env = { ...process.env, CGO_ENABLED: '0', GOWORK: 'off', GOFLAGS: '-buildvcs=false' };
    const hint = 'is Go on PATH, and does it reach the module proxy?';
    const flags = ['-mod=readonly', '-trimpath', '-ldflags', '-s -w', '-o', `${work}/`];
    await run('go', ['build', ...flags, './...'], { cwd: path.join(here, 'go'), env, hint });
    await run('musl-gcc', ['-static', '-Os', '-Wall', '-Werror', '-o', `${work}/static-tcp`, `${here}/static-tcp.c`]);
    await run('javac', ['-d', work, `${here}/Get.java`]);
    for (const older of globSync('programs-*', { cwd: cache })) {
      if (path.join(cache, older) !== work) rmSync(path.join(cache, older), { recursive: true });
    }
    renameSync(work, folder);
  } catch (error) {
    rmSync(work, { recursive: true, force: true });
    throw error;
  }
  return folder;
}
