import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { goBuild, goFetch } from './go.ts';
import { ClusterError, cache, DEFAULT_VERSION } from './place.ts';
import { step } from './progress.ts';

const COREDNS_VERSION = '1.14.7';

/** A Go module whose program is built once: its sources by file name. */
type Module = { name: string; version: string; title: string; ldflags: string; sources: Record<string, string> };

/** The binary that is etcd, all of Kubernetes and kubectl, by its first argument. Built unless it is cached. */
export async function kubeBinary(version: string): Promise<string> {
  const stamp = ['k8s.io/component-base/version', 'k8s.io/client-go/pkg/version'];
  const [major, minor] = version.split('.');
  const facts = { gitVersion: `v${version}`, gitMajor: major, gitMinor: minor };
  const ldflags = stamp.flatMap((where) => Object.entries(facts).map(([key, value]) => `-X ${where}.${key}=${value}`));
  return built({
    name: 'kube',
    version,
    title: `Kubernetes v${version} (some 7 minutes on two cores)`,
    ldflags: ldflags.join(' '),
    sources: version === DEFAULT_VERSION ? sources('kube') : await otherVersion(version),
  });
}

export async function corednsBinary(): Promise<string> {
  const module = { name: 'coredns', version: COREDNS_VERSION, title: `CoreDNS v${COREDNS_VERSION}`, ldflags: '' };
  return built({ ...module, sources: sources('coredns') });
}

function sources(name: string): Record<string, string> {
  const folder = path.join(import.meta.dirname, name);
  const read = (file: string) => [file, fs.readFileSync(path.join(folder, file), 'utf8')];
  return Object.fromEntries(['main.go', 'go.mod', 'go.sum'].map(read));
}

/** The sources for a version that isn't pinned here. The module proxy's checksum database vouches for them. */
async function otherVersion(version: string): Promise<Record<string, string>> {
  const hint = 'name a version that is among `go list -m -versions k8s.io/kubernetes`';
  const { GoMod }: { GoMod: string } = JSON.parse(
    await goFetch(['mod', 'download', '-json', `k8s.io/kubernetes@v${version}`], { hint }),
  );
  const own = fs.readFileSync(GoMod, 'utf8');
  return { 'main.go': sources('kube')['main.go']!, 'go.mod': kubeModule(version, own) };
}

/**
 * The go.mod of our binary for a version of Kubernetes, from Kubernetes' own: that one replaces each of its parts with
 * a folder of its repository, and a part of version 1.X.Y is published as v0.X.Y. `go mod tidy` adds the rest.
 */
export function kubeModule(version: string, own: string): string {
  const line = (pattern: RegExp, what: string) => {
    const found = pattern.exec(own)?.[1];
    if (!found)
      throw new ClusterError(`the go.mod of Kubernetes v${version} names no ${what}: its form is not known here`);
    return found;
  };
  const part = version.replace(/^\d+/, 'v0');
  const parts = [...own.matchAll(/^\s*(?:replace )?(k8s\.io\/\S+) => \.\/staging\//gm)].map(([, name]) => name);
  return [
    'module lpk.test/kube',
    `go ${line(/^go (\S+)$/m, 'Go version')}`,
    `require k8s.io/kubernetes v${version}`,
    `require go.etcd.io/etcd/server/v3 ${line(/^\s*go\.etcd\.io\/etcd\/server\/v3 (\S+)/m, 'etcd server')}`,
    `replace (\n${parts.map((name) => `\t${name} => ${name} ${part}`).join('\n')}\n)`,
  ].join('\n\n');
}

/** Builds a module's program unless one of the same sources is cached, and gives its path. */
async function built({ name, version, title, ldflags, sources }: Module): Promise<string> {
  const hash = createHash('sha256');
  for (const part of [ldflags, ...Object.entries(sources).flat()]) hash.update(`${part.length}:${part}`);
  const file = path.join(cache, `${name}-v${version}-${hash.digest('hex').slice(0, 12)}`, name);
  if (fs.existsSync(file)) return file;

  let packages = 0;
  const detail = () => (packages > 0 ? `${packages} packages` : '');
  await step(`building ${title}`, () => build(), detail);
  return file;

  async function build(): Promise<void> {
    fs.mkdirSync(cache, { recursive: true, mode: 0o700 });
    // In the cache, so that the finished program can be renamed to its place.
    const folder = fs.mkdtempSync(path.join(cache, `${name}-build-`));
    try {
      for (const [source, text] of Object.entries(sources)) fs.writeFileSync(path.join(folder, source), text);
      if (!sources['go.sum']) await goFetch(['mod', 'tidy'], { cwd: folder });
      const flags = ['-trimpath', '-v', '-ldflags', `-s -w ${ldflags}`, '-o', name];
      const onLine = (line: string) => {
        if (!line.startsWith('go: ')) packages++;
      };
      await goBuild(flags, '.', { cwd: folder, onLine });
      removeOlder();
      fs.mkdirSync(path.dirname(file), { recursive: true });
      fs.renameSync(path.join(folder, name), file);
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  }

  function removeOlder(): void {
    const older = fs.readdirSync(cache).filter((entry) => entry.startsWith(`${name}-v${version}-`));
    for (const entry of older) fs.rmSync(path.join(cache, entry), { recursive: true });
  }
}
