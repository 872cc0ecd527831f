import assert from 'node:assert/strict';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { parseEnviron } from '../../agent/deploy/container-environment.ts';
import type { Json } from '../../agent/deploy/kube.ts';
import { kubectl } from '../cluster/cluster.ts';
import { enter } from '../cluster/node.ts';
import { run } from '../cluster/run.ts';
import { cluster } from '../cluster/up.ts';
import { importImage, removeImage } from './image.ts';
import { endAll, Lpk } from './lpk.ts';
import { builtInClusterClient } from './programs/build.ts';
import { eventually, Shop, service, workload } from './shop.ts';

/** The pod's volumes on the laptop: what a program finds at their paths, how fresh it is, and what a hostile pod comes to. */

/** `nobody`, whom every Debian knows. */
const USER = 65_534;
const CONFIG = '/etc/lpk-e2e/config';
const ALONE = '/etc/lpk-e2e/alone.conf';
const TOKENS = '/var/run/secrets/kubernetes.io/serviceaccount';
const VOLUMES = [
  CONFIG,
  ALONE,
  '/etc/lpk-e2e-secret',
  '/lpk-e2e/all',
  '/lpk-e2e/all/inner',
  '/run/lpk-e2e-labels',
  '/lpk-e2e/disk',
  TOKENS,
];
const dir = mkdtempSync(path.join(tmpdir(), 'lpk-volumes-e2e-'));

/**
 * Every path below the arguments: its kind, permission bits, link or content. For any POSIX shell, the pod's and the laptop's. Kubelet's
 * folders have the time in their names, and a token is another in each pod.
 */
const LIST = `for top; do find "$top" | sort | while read -r f; do
  if [ -L "$f" ]; then echo "$f link $(readlink "$f")"
  elif [ -d "$f" ]; then echo "$f folder $(stat -c %a "$f")"
  else case $f in */token) echo "$f token $(stat -c %a "$f")" ;; *) echo "$f file $(stat -c %a "$f") $(md5sum < "$f")" ;; esac
  fi; done; done | sed -E 's/\\.\\.20[0-9_]+\\.[0-9]+/..TIME/g' | sort -u`;

let shop: Shop;
const volumes: string[] = [];
let image: string;
/** The folder of the Go program of that name. */
let inCluster: string;

before(async () => {
  inCluster = await builtInClusterClient();
  // Devices, and files that only their owner may read, take root.
  shop = await Shop.open('volumes', { root: true });
  image = await importImage(shop.namespace, { OF_IMAGE: 'yes', OVER_IMAGE: 'image', NODE_OPTIONS: '--of-the-image' });
  await claim('disk', path.join(dir, 'disk'));
  await shop.create(
    { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'settings' }, data: { 'a.conf': 'one', 'b.conf': 'two' } },
    { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'source' }, stringData: { password: 'correct horse' } },
    { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'variables' }, data: { CURRENCY: 'EUR', TWICE: 'no' } },
    service('linked', [80]),
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'looker' } },
    {
      ...{ apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'Role', metadata: { name: 'looker' } },
      rules: [{ apiGroups: [''], resources: ['pods'], verbs: ['get', 'list'] }],
    },
    {
      ...{ apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'RoleBinding', metadata: { name: 'looker' } },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'looker' },
      subjects: [{ kind: 'ServiceAccount', name: 'looker', namespace: shop.namespace }],
    },
  );
  await shop.deploy(everyVolume());
});

after(async () => {
  endAll();
  await shop?.close();
  if (volumes.length > 0) await kubectl(['delete', 'persistentvolume', ...volumes, '--wait=false']);
  await removeImage(image);
  rmSync(dir, { recursive: true, force: true });
  if (!existsSync(MANY)) return;
  await inNode('umount', '--lazy', MANY); // pods may have it still
  rmdirSync(MANY);
});

/** A claim of this name, of a folder of this machine's. */
async function claim(name: string, folder: string): Promise<void> {
  const volume = `${shop.namespace}-${name}`;
  const spec = { accessModes: ['ReadWriteOnce'], storageClassName: '' };
  await shop.cluster.request('POST', '/api/v1/persistentvolumes', {
    body: {
      metadata: { name: volume },
      spec: {
        ...{ ...spec, capacity: { storage: '1Gi' }, hostPath: { path: folder, type: 'DirectoryOrCreate' } },
        claimRef: { namespace: shop.namespace, name },
      },
    },
  });
  volumes.push(volume);
  const resources = { requests: { storage: '1Gi' } };
  await shop.cluster.request('POST', `/api/v1/namespaces/${shop.namespace}/persistentvolumeclaims`, {
    body: { metadata: { name }, spec: { ...spec, resources, volumeName: volume } },
  });
}

/** Every kind of volume, and files in them of every kind that a volume has. */
function everyVolume(): Json {
  const fieldRef = (fieldPath: string) => ({ fieldRef: { fieldPath } });
  const token = { serviceAccountToken: { path: 'api/token', expirationSeconds: 600, audience: 'shop' } };
  const fill = `cd /lpk-e2e/disk && mkdir -p deep/er && echo hi > deep/er/file && ln -sf deep/er/file link && ln -sf ../er/file deep/er/self &&
    echo x > 'a name with spaces' && chmod 750 deep && chmod 640 deep/er/file && : > empty && dd if=/dev/zero of=big bs=1024 count=3000`;
  const resource = (name: string, divisor: string) => ({ resourceFieldRef: { resource: name, divisor } });
  const from = (sources: Record<string, object>) =>
    Object.entries(sources).map(([name, valueFrom]) => ({ name, valueFrom }));
  return workload('Deployment', 'all', {
    container: {
      image,
      resources: { limits: { cpu: '2', memory: '256Mi' }, requests: { cpu: '50m', memory: '64Mi' } },
      envFrom: [{ prefix: 'CM_', configMapRef: { name: 'variables' } }, { secretRef: { name: 'source' } }],
      env: [
        ...Object.entries({
          ...{ ROLE: 'all', PORT: '8080', OVER_IMAGE: 'spec', CM_TWICE: 'yes', EMPTY: '', ODD: HOSTILE_VALUE },
          COMPOSED: '$(ROLE) at $(LINKED_SERVICE_HOST), $$(ROLE)',
        }).map(([name, value]) => ({ name, value })),
        ...from({
          POD_NAME: fieldRef('metadata.name'),
          POD_NAMESPACE: fieldRef('metadata.namespace'),
          POD_LABEL: fieldRef("metadata.labels['app']"),
          POD_ACCOUNT: fieldRef('spec.serviceAccountName'),
          NODE: fieldRef('spec.nodeName'),
          NODE_IP: fieldRef('status.hostIP'),
          CPUS: resource('limits.cpu', '1m'),
          MEMORY: resource('requests.memory', '1Mi'),
          ONE_OF_CM: { configMapKeyRef: { name: 'variables', key: 'CURRENCY' } },
          ONE_OF_SECRET: { secretKeyRef: { name: 'source', key: 'password' } },
        }),
      ],
      volumeMounts: [
        { name: 'config', mountPath: CONFIG },
        { name: 'config', mountPath: ALONE, subPath: 'a.conf' },
        { name: 'secret', mountPath: '/etc/lpk-e2e-secret/' },
        { name: 'all', mountPath: '/lpk-e2e/all' },
        { name: 'scratch', mountPath: '/lpk-e2e/all/inner' },
        { name: 'labels', mountPath: '/run/lpk-e2e-labels' },
        { name: 'disk', mountPath: '/lpk-e2e/disk' },
        { name: 'tmp', mountPath: '/tmp' },
      ],
    },
    pod: {
      serviceAccountName: 'looker',
      initContainers: [
        {
          ...{ name: 'fill', image: 'busybox:1', command: ['/bin/sh', '-c', `echo s > /scratch/s; ${fill}`] },
          volumeMounts: [
            { name: 'disk', mountPath: '/lpk-e2e/disk' },
            { name: 'scratch', mountPath: '/scratch' },
          ],
        },
      ],
      volumes: [
        { name: 'config', configMap: { name: 'settings' } },
        {
          name: 'secret',
          secret: {
            secretName: 'source',
            defaultMode: 0o400,
            items: [{ key: 'password', path: 'deep/pw', mode: 0o440 }],
          },
        },
        {
          name: 'all',
          projected: {
            sources: [
              { configMap: { name: 'settings', items: [{ key: 'b.conf', path: 'conf/b', mode: 0o755 }] } },
              { secret: { name: 'source' } },
              { downwardAPI: { items: [{ path: 'namespace', ...fieldRef('metadata.namespace') }] } },
              { configMap: { name: 'settings', items: [{ key: 'a.conf', path: 'inner/.keep' }] } },
              token,
            ],
          },
        },
        { name: 'scratch', emptyDir: {} },
        { name: 'tmp', emptyDir: {} },
        { name: 'labels', downwardAPI: { items: [{ path: 'app', ...fieldRef("metadata.labels['app']") }] } },
        { name: 'disk', persistentVolumeClaim: { claimName: 'disk' } },
      ],
    },
  });
}

/** An escape sequence that sets a terminal's title, a newline, what looks like another variable, quotes. */
const HOSTILE_VALUE = '\u001b]0;pwned\u0007\nPATH=/evil\n\u0001"\'`$(id)\\';

const MILLION = 1_000_000;
/** In the node's memory, and there once for all pods. */
const MANY = `/dev/shm/lpk-volumes-${process.pid}`;

/** So many names, as links to one file: in a few seconds, and a tenth of the memory. */
async function makeMany(): Promise<void> {
  mkdirSync(MANY);
  // Each name takes an inode, of which a machine with little memory has fewer; 0: no limit.
  await inNode('mount', '-t', 'tmpfs', '-o', 'mode=755,nr_inodes=0', 'lpk-volumes', MANY);
  const script = `const { writeFileSync, linkSync } = require('fs'); writeFileSync('0', 'x');
    for (let i = 1; i < ${MILLION}; i++) linkSync('0', String(i))`;
  await inNode(process.execPath, '-e', `process.chdir('${MANY}'); ${script}`);
}

async function inNode(...command: string[]): Promise<void> {
  await run('nsenter', [...enter(cluster().pid), ...command]);
}

/** Volumes as somebody would make them who wants the laptop harm. */
function hostile(): Json {
  const script = `cd /evil && ln -s /etc/passwd passwd && ln -s ../../../.. up && mkdir d && ln -s .. d/top && ln -s d/top/../../.. by-way &&
    truncate -s 1099511627776 sparse && mknod disk b 8 0 && mkfifo pipe && touch "$(printf 'new\\nline')" "$(printf '\\033[2J')" &&
    touch ... ..x '.. ' && dd if=/dev/zero of=huge bs=1048576 count=9 && echo good > good`;
  return workload('Deployment', 'hostile', {
    env: { ODD: HOSTILE_VALUE },
    container: {
      volumeMounts: [
        { name: 'evil', mountPath: '/lpk-e2e/evil' },
        { name: 'many', mountPath: '/lpk-e2e/many' },
      ],
    },
    pod: {
      initContainers: [
        {
          ...{ name: 'evil', image: 'busybox:1', command: ['/bin/sh', '-c', script] },
          volumeMounts: [{ name: 'evil', mountPath: '/evil' }],
        },
      ],
      volumes: [
        { name: 'evil', emptyDir: {} },
        { name: 'many', persistentVolumeClaim: { claimName: 'many' } },
      ],
    },
  });
}

/** Of the only pod that is not about to end. */
async function podOf(name: string): Promise<string> {
  const [pod] = await shop.pods(`deployment/${name}`);
  return pod?.metadata.name;
}

/** The command line that runs `command` as an ordinary user, with Node, lpk, kubectl and in-cluster where this user can read them. */
function asNobody(command: string[]): string[] {
  const folder = path.join(dir, 'person');
  const home = path.join(folder, 'home');
  if (!existsSync(folder)) {
    for (const name of ['bin', 'lpk', 'home']) mkdirSync(path.join(folder, name), { recursive: true });
    for (const name of ['node', 'kubectl', 'in-cluster']) writeFileSync(path.join(folder, 'bin', name), '');
    copyFileSync(shop.kubeconfig, path.join(folder, 'config'));
    chmodSync(path.join(folder, 'config'), 0o644);
    for (const name of [dir, folder]) chmodSync(name, 0o711);
    chmodSync(home, 0o777);
  }
  const mounts = [
    [process.execPath, 'bin/node'],
    [cluster().kube, 'bin/kubectl'],
    [path.join(inCluster, 'in-cluster'), 'bin/in-cluster'],
    [path.join(import.meta.dirname, '../..'), 'lpk'],
  ].map(([from, to]) => `mount --bind ${from} ${path.join(folder, to as string)}`);
  const env = [`HOME=${home}`, `TMPDIR=${home}`, `PATH=${folder}/bin:/usr/bin:/bin`, 'LANG=C.UTF-8'];
  const user = ['setpriv', `--reuid=${USER}`, `--regid=${USER}`, '--clear-groups', 'env', '-i', '-C', home, ...env];
  return [
    'unshare',
    '--mount',
    '--propagation',
    'private',
    'sh',
    '-c',
    `${mounts.join(' && ')} && exec "$@"`,
    'sh',
    ...user,
    ...command,
  ];
}

/** `lpk connect` as that user. */
function nobodysLpk(...args: string[]): Lpk {
  const folder = path.join(dir, 'person');
  return new Lpk(['connect', '-n', shop.namespace, '--kubeconfig', `${folder}/config`, ...args], {
    around: ([, , ...words]) => asNobody([`${folder}/bin/node`, `${folder}/lpk/cli/main.ts`, ...words]),
  });
}

describe('every kind of volume', () => {
  let original: string;

  before(async () => {
    original = await kubectl([
      'exec',
      '-n',
      shop.namespace,
      await podOf('all'),
      '--',
      '/bin/sh',
      '-c',
      LIST,
      'sh',
      ...VOLUMES,
    ]);
    assert.match(original, /disk\/deep\/er\/file file 640/);
  });

  /** A folder's owner, who runs lpk, can write: the only bits that may differ. */
  const comparable = (text: string) =>
    text
      .trim()
      .split('\n')
      .map((line) =>
        line.replace(
          /^(.*) folder (\d+)$/,
          (_, at, mode) => `${at} folder ${(Number.parseInt(mode, 8) | 0o700).toString(8)}`,
        ),
      );

  for (const who of ['root', 'an ordinary user']) {
    test(`is at its path as it was in the pod, for ${who}`, async () => {
      const command = [
        'deployment/all',
        '--',
        '/bin/sh',
        '-c',
        `${LIST}; id -u; grep CapEff /proc/self/status; cp -r ${CONFIG} /lpk-e2e/disk/ 2>&1`,
        'sh',
        ...VOLUMES,
      ];
      const lpk = who === 'root' ? shop.lpk('connect', ...command) : nobodysLpk(...command);
      const told = await lpk.event('volumes', ({ state }) => state === 'done');
      await lpk.exit();
      const lines = lpk.lines.filter((line) => line.startsWith('/'));
      assert.deepEqual(lines, comparable(original), String(lpk));
      assert.deepEqual(told.placed, VOLUMES.filter((at) => at !== '/lpk-e2e/all/inner').toSorted());
      assert.deepEqual(Object.keys(told.left), ['/tmp']); // the laptop's own stays
      assert.equal(existsSync(told.folder), false);
      assert.equal(existsSync('/lpk-e2e'), false);
      assert.match(lpk.lines.join('\n'), /Read-only file system/);
      if (who === 'root') return;
      assert.ok(lpk.lines.includes(`${USER}`), String(lpk));
      assert.ok(
        lpk.lines.some((line) => /^CapEff:\s*0+$/.test(line)),
        String(lpk),
      );
    });
  }

  test('a changed ConfigMap is here within 5 s of its arrival in the pod', async () => {
    const wait = `until grep -q changed ${CONFIG}/a.conf; do sleep 0.1; done`;
    const lpk = shop.lpk(
      'connect',
      'deployment/all',
      '--',
      '/bin/sh',
      '-c',
      `echo begun; ${wait}; echo seen; echo "alone $(cat ${ALONE})"`,
    );
    await lpk.line(/^begun$/);
    const { pod } = await lpk.event('attached');
    const inPod = kubectl(['exec', '-n', shop.namespace, pod, '-c', 'app', '--', '/bin/sh', '-c', wait]).then(() =>
      performance.now(),
    );
    await kubectl(['patch', 'configmap', 'settings', '-n', shop.namespace, '-p', '{"data":{"a.conf":"changed"}}']);
    await kubectl(['annotate', 'pod', pod, '-n', shop.namespace, 'now=1']); // else kubelet takes up to a minute
    await lpk.line(/^seen$/);
    const lateMs = performance.now() - (await inPod);
    assert.ok(lateMs < 5_000, `${lateMs} ms after the pod`);
    await lpk.exit();
    assert.ok(lpk.lines.includes('alone one'), 'a file mounted by subPath stays as it is, as in the pod');
  });

  test('kubectl without a kubeconfig, as an ordinary user, is the pod’s service account', async () => {
    const who =
      'echo "config:[$KUBECONFIG]$(ls ~/.kube 2>&1)"; id -u; grep CapEff /proc/self/status; exec kubectl "$@"';
    const kubectl = (...args: string[]) => nobodysLpk('deployment/all', '--', '/bin/sh', '-c', who, 'sh', ...args);
    const lpk = kubectl('get', 'pods', '-o', 'name');
    assert.equal((await lpk.exit()).code, 0, String(lpk));
    for (const line of [/^config:\[\].*No such file/, new RegExp(`^${USER}$`), /^CapEff:\s*0+$/, /^pod\/all-/]) {
      assert.ok(
        lpk.lines.some((each) => line.test(each)),
        `${line} in ${lpk}`,
      );
    }
    const denied = kubectl('get', 'secrets');
    assert.equal((await denied.exit()).code, 1);
    assert.match(denied.stderr, new RegExp(`system:serviceaccount:${shop.namespace}:looker`));
  });

  test('a static Go program with client-go’s in-cluster configuration is so too', async () => {
    const header = readFileSync(path.join(inCluster, 'in-cluster')).subarray(0, 4_096);
    assert.ok(!header.includes('ld-linux'), 'it is static');
    const lpk = nobodysLpk('deployment/all', '--', 'in-cluster');
    assert.equal((await lpk.exit()).code, 0, String(lpk));
    const { spec } = await shop.cluster.request('GET', '/api/v1/namespaces/default/services/kubernetes');
    assert.ok(lpk.lines.includes(`host https://${spec.clusterIP}:443`), String(lpk));
    assert.ok(
      lpk.lines.some((line) => /^pod all-/.test(line)),
      String(lpk),
    );
    const refused = lpk.lines.find((line) => line.startsWith('refused'));
    assert.ok(
      refused?.includes(`User "system:serviceaccount:${shop.namespace}:looker" cannot list resource "secrets"`),
      String(lpk),
    );
  });
});

describe('what the command has of the environment', () => {
  const PRINT = 'env -0 | base64 | tr -d "\\n"; echo';
  const parse = (line: string) => parseEnviron(Buffer.from(line.trim(), 'base64'));
  /** README, "What your program needs to do". */
  const LAPTOPS = ['PATH', 'HOME', 'HOSTNAME', 'PWD', 'SHLVL', '_', 'OLDPWD', 'NODE_OPTIONS'];

  test('is what it was in the pod: all of spec and image, but for what describes a machine', async () => {
    const pod = await podOf('all');
    const exec = ['exec', '-n', shop.namespace, pod, '-c', 'app', '--', '/bin/sh', '-c', PRINT];
    const original = parse(await kubectl(exec));
    for (const name of ['OF_IMAGE', 'CM_CURRENCY', 'password', 'NODE', 'CPUS', 'LINKED_SERVICE_HOST', 'ONE_OF_SECRET'])
      assert.ok(original[name], `${name} is in the pod`);
    assert.deepEqual([original.ODD, original.OVER_IMAGE, original.CM_TWICE], [HOSTILE_VALUE, 'spec', 'yes']);
    const lpk = shop.lpk('connect', 'deployment/all', '--', '/bin/sh', '-c', `echo "pod $POD_NAME"; ${PRINT}`);
    const { pod: agents } = await lpk.event('attached');
    await lpk.exit();
    const here = parse(lpk.lines.at(-1) ?? '');
    assert.equal(here.POD_NAME, agents); // another pod in its place, as after any restart
    const own = process.env as Record<string, string>;
    const expected = Object.entries(original).filter(([name]) => !LAPTOPS.includes(name) && name !== 'POD_NAME');
    assert.deepEqual(Object.fromEntries(expected.map(([name]) => [name, here[name]])), Object.fromEntries(expected));
    for (const name of ['PATH', 'HOME', 'NODE_OPTIONS']) assert.equal(here[name], own[name], name);
    const added = Object.keys(here).filter((name) => !(name in original) && !(name in own));
    assert.deepEqual(
      added.filter((name) => !LAPTOPS.includes(name)),
      ['LPK_VOLUMES'],
    );
  });
});

test('a hostile pod ends in a report, and in nothing else', async (t) => {
  await Promise.all([makeMany(), claim('many', MANY)]);
  await shop.deploy(hostile());
  const passwd = readFileSync('/etc/passwd', 'utf8');
  const list = `cd /lpk-e2e/evil; ls -A | cat -v; cat good; ls ../many | wc -l; du -sk .. | cut -f1; printf %s "$ODD" | base64 -w0; echo; read -r line`;
  const options = ['deployment/hostile', '--volume-limit', '5', '--no-wait'];
  const lpk = shop.lpk('connect', ...options, '--', '/bin/sh', '-c', list);
  const told = await lpk.event('volumes', ({ state }) => state === 'done');
  const skippedOf = (at: string) => lpk.event('volume-skipped', (event) => event.path === at);
  const { skipped, skippedCount } = await skippedOf('/lpk-e2e/evil');
  for (const [name, why] of [
    ['passwd', /links out/],
    ['up', /links out/],
    ['by-way', /links out/],
    ['sparse', /1099511627776 bytes/],
    ['huge', /9437184 bytes/],
    ['disk', /device/],
    ['pipe', /pipe/],
  ] as const) {
    assert.match(skipped[name] ?? '', why, JSON.stringify(skipped));
  }
  assert.equal(skippedCount, 7, JSON.stringify(skipped));
  const many = await skippedOf('/lpk-e2e/many');
  assert.match(JSON.stringify(many.skipped), /and all after it: there are more than 20000 files/);
  const value = await lpk.line(/^[\w+/=]{40,}$/);
  assert.equal(Buffer.from(value, 'base64').toString(), HOSTILE_VALUE);
  const at = lpk.lines.indexOf(value);
  const [count, kibibytes] = lpk.lines.slice(at - 2, at).map(Number) as [number, number];
  assert.ok(count > 19_000 && count <= 20_000, String(lpk));
  assert.ok(kibibytes < 20_000 * 4 + 2_000, `${kibibytes} KiB on the laptop's disk`);
  const names = ['...', '.. ', '..x', '^[[2J', 'd', 'good', 'line', 'new'];
  assert.deepEqual(lpk.lines.slice(at - 3 - names.length, at - 3).sort(), names.sort());
  assert.equal(lpk.lines[at - 3], 'good');
  // Nothing of the pod's speaks to the terminal, and neither end grows with what the pod has.
  assert.doesNotMatch(lpk.stderr, /[^\P{C}\n]/u);
  const peakMiB = (status: string) => Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1_024;
  const { pod } = await lpk.event('attached');
  const agent = ['exec', '-n', shop.namespace, pod, '-c', 'app', '--', '/bin/cat', '/proc/1/status'];
  const peaks = [readFileSync(`/proc/${lpk.pid}/status`, 'utf8'), await kubectl(agent)].map(peakMiB) as [
    number,
    number,
  ];
  t.diagnostic(
    `copied in ${told.seconds} s; laptop ${peaks[0].toFixed()} MiB, agent ${peaks[1].toFixed()} MiB at most`,
  );
  assert.ok(peaks[0] < 400 && peaks[1] < 250, `${peaks} MiB`);
  assert.ok(told.seconds < 60, `${told.seconds} s`);
  lpk.type('\n');
  assert.equal((await lpk.exit()).code, 0, String(lpk));
  assert.equal(existsSync(told.folder), false);
  assert.equal(existsSync('/lpk-e2e'), false);
  assert.equal(readFileSync('/etc/passwd', 'utf8'), passwd);
});

test('--volumes none leaves everything as it is', async () => {
  const lpk = shop.lpk(
    'connect',
    'deployment/all',
    '--volumes',
    'none',
    '--',
    '/bin/sh',
    '-c',
    `ls ${CONFIG}; echo "[$LPK_VOLUMES]"`,
  );
  await lpk.exit();
  assert.ok(lpk.lines.includes('[]'), String(lpk));
  assert.equal(lpk.lines.includes('a.conf'), false);
});

test('killed, lpk leaves no copy behind', async () => {
  const lpk = shop.lpk('connect', 'deployment/all', '--', '/bin/sh', '-c', 'echo begun; sleep 1000');
  const { folder } = await lpk.event('volumes', ({ state }) => state === 'done');
  await lpk.line(/^begun$/);
  assert.equal(existsSync(folder), true);
  process.kill(-lpk.pid, 'SIGKILL');
  await lpk.exit();
  await eventually('the copies are removed', async () => !existsSync(path.dirname(folder)));
});
