import { createHash } from 'node:crypto';
import { existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { goBuild } from '../../cluster/go.ts';
import { installPackages } from '../../cluster/packages.ts';
import { cache } from '../../cluster/place.ts';
import { run } from '../../cluster/run.ts';

const here = import.meta.dirname;

/** A folder with this folder's programs: `client`, `health`, `docker-seccomp`, `static-tcp`, `Get.class`. */
export async function builtPrograms(): Promise<string> {
  return await builtOnce('programs', ['*.c', '*.java', 'go/go.*', 'go/*/*.go'], async (work) => {
    await installPackages({ 'musl-tools': '/usr/bin/musl-gcc', 'default-jdk-headless': '/usr/bin/javac' });
    await buildGo('go', './...', work);
    await run('musl-gcc', ['-static', '-Os', '-Wall', '-Werror', '-o', `${work}/static-tcp`, `${here}/static-tcp.c`]);
    await run('javac', ['-d', work, `${here}/Get.java`]);
  });
}

/**
 * A folder with `in-cluster`, which is client-go's: a module of its own, as it takes minutes where the packages are not those that Kubernetes
 * itself was built of.
 */
export async function builtInClusterClient(): Promise<string> {
  return await builtOnce('in-cluster', ['in-cluster/*'], (work) => buildGo('in-cluster', '.', work));
}

/** The folder that `build` filled, once for each state of the sources. */
async function builtOnce(name: string, sources: string[], build: (work: string) => Promise<void>): Promise<string> {
  const hash = createHash('sha256');
  for (const file of globSync([...sources, 'build.ts'], { cwd: here }).sort()) {
    const text = readFileSync(path.join(here, file));
    hash.update(`${file}:${text.length}:`).update(text);
  }
  const folder = path.join(cache, `${name}-${hash.digest('hex').slice(0, 12)}`);
  if (existsSync(folder)) return folder;
  mkdirSync(cache, { recursive: true, mode: 0o700 });
  const work = mkdtempSync(path.join(cache, `${name}-build-`));
  try {
    await build(work);
    for (const older of globSync(`${name}-*`, { cwd: cache })) {
      if (path.join(cache, older) !== work) rmSync(path.join(cache, older), { recursive: true });
    }
    renameSync(work, folder);
  } catch (error) {
    rmSync(work, { recursive: true, force: true });
    throw error;
  }
  return folder;
}

/** Static binaries. */
async function buildGo(module: string, packages: string, to: string): Promise<void> {
  const flags = ['-trimpath', '-ldflags', '-s -w', '-o', `${to}/`];
  await goBuild(flags, packages, { cwd: path.join(here, module) });
}
