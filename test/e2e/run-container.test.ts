import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { installPackages } from '../cluster/packages.ts';
import { run as runToEnd } from '../cluster/run.ts';
import { Laptop } from './laptop.ts';
import { endAll } from './lpk.ts';
import { Person, type Told, USER } from './programs/person.ts';
import { Shop, service, workload } from './shop.ts';

/**
 * lpk as the init of a container, as Docker would start it with `--user`: runc, Docker's default seccomp profile by Docker's
 * own module (test/e2e/programs/go), its namespaces and its capabilities.
 */

/** https://github.com/moby/moby, daemon/pkg/oci/caps/defaults.go */
const DOCKER_CAPABILITIES = [
  ...['CHOWN', 'DAC_OVERRIDE', 'FSETID', 'FOWNER', 'MKNOD', 'NET_RAW', 'SETGID', 'SETUID', 'SETFCAP', 'SETPCAP'],
  ...['NET_BIND_SERVICE', 'SYS_CHROOT', 'KILL', 'AUDIT_WRITE'],
].map((name) => `CAP_${name}`);

const folder = mkdtempSync(path.join(tmpdir(), 'lpk-container-'));
const PAGE = /^web in pod web-/m;

let shop: Shop;
let laptop: Laptop;
let person: Person;

before(async () => {
  await installPackages({ curl: '/usr/bin/curl', runc: '/usr/sbin/runc' });
  shop = await Shop.open('run-con');
  laptop = await Laptop.make();
  [person] = await Promise.all([
    Person.on(laptop, shop),
    shop.deploy(workload('Deployment', 'web'), service('web', [[80, 8080]])),
  ]);
});

after(async () => {
  endAll();
  person?.leave();
  await laptop?.remove();
  await shop?.close();
  rmSync(folder, { recursive: true });
});

test('Docker’s default profile forbids pidfd_getfd: lpk says so and takes proxy variables', async () => {
  const got = await inContainer(DOCKER_CAPABILITIES, lpkRun('auto', 'curl', '-sS', 'http://web/'));
  assert.match(got.stdout, PAGE, JSON.stringify(got));
  assert.equal(got.code, 0);
  assert.match(got.stderr, /^proxy variables, as the program can't be captured here: .*pidfd_getfd \(EPERM\)/m);
});

test('and --capture seccomp is refused with the same reason', async () => {
  const got = await inContainer(DOCKER_CAPABILITIES, lpkRun('seccomp', 'curl', '-sS', 'http://web/'));
  assert.equal(got.code, 1, JSON.stringify(got));
  assert.equal(got.stdout, '');
  assert.match(got.stderr, /lpk: the program can't be captured here: .*pidfd_getfd \(EPERM\).*--cap-add SYS_PTRACE/);
});

test('with --cap-add SYS_PTRACE it captures, all but musl’s names, and says so', async () => {
  const { clusterIP } = (await shop.get('services/web')).spec as { clusterIP: string };
  const both = `curl -sS http://web/ && /programs/static-tcp ${clusterIP} 80; /programs/static-tcp web 80`;
  const got = await inContainer([...DOCKER_CAPABILITIES, 'CAP_SYS_PTRACE'], lpkRun('auto', 'sh', '-c', both));
  assert.equal(got.stdout.match(new RegExp(PAGE, 'gm'))?.length, 2, JSON.stringify(got));
  assert.match(got.stderr, /^captured: /m);
  assert.match(
    got.stderr,
    /but not names asked for over unconnected sockets .*: user and network namespaces are refused/,
  );
  assert.match(got.stderr, /^getaddrinfo: /m);
});

test('it is the init, whose program’s exit code is the container’s, whatever that leaves behind', async () => {
  const orphan = '(sleep 600 &); ps -o comm= -p 1; exit 7';
  const got = await inContainer([...DOCKER_CAPABILITIES, 'CAP_SYS_PTRACE'], lpkRun('seccomp', 'sh', '-c', orphan));
  assert.match(got.stdout, /^(node|MainThread)$/m, JSON.stringify(got));
  assert.equal(got.code, 7);
});

function lpkRun(capture: string, ...command: string[]): string[] {
  return ['/node', '/lpk/cli/main.ts', 'run', '-n', shop.namespace, '--capture', capture, '--', ...command];
}

let containers = 0;

/** The host's programs in namespaces of their own, but for the network, which is the laptop's. */
async function inContainer(bounding: string[], args: string[]): Promise<Told> {
  const name = `lpk-run-${process.pid}-${++containers}`;
  const bundle = path.join(folder, name);
  const rootfs = path.join(bundle, 'rootfs');
  for (const each of ['usr', 'etc', 'lpk', 'programs', 'home', 'proc', 'dev', 'tmp'])
    mkdirSync(path.join(rootfs, each), { recursive: true });
  for (const each of ['bin', 'sbin', 'lib', 'lib64']) symlinkSync(`usr/${each}`, path.join(rootfs, each));
  chmodSync(folder, 0o711);
  const spec = specification(laptop.networkNamespace, bounding, args);
  const profile = await runToEnd(path.join(person.programs, 'docker-seccomp'), [], { input: JSON.stringify(spec) });
  Object.assign(spec.linux, { seccomp: JSON.parse(profile) });
  writeFileSync(path.join(bundle, 'config.json'), JSON.stringify(spec));
  const runc = ['--root', path.join(folder, 'runc'), 'run', '--bundle', bundle, name];
  return new Promise((resolve) => {
    execFile('runc', runc, { timeout: 180_000, cwd: '/' }, (error, stdout, stderr) =>
      resolve({ code: error ? (error.signal ?? error.code ?? 'unknown') : 0, stdout, stderr }),
    );
  });
}

/** An OCI runtime's (runtime-spec 1.0) for what `docker run --user 65534` asks of it. */
function specification(network: string, bounding: string[], args: string[]) {
  const bind = (source: string, destination: string) => ({
    ...{ type: 'bind', source, destination },
    options: ['rbind', 'ro', 'nosuid', 'nodev'],
  });
  const ofDevice = {
    type: 'tmpfs',
    source: 'tmpfs',
    destination: '/dev',
    options: ['nosuid', 'strictatime', 'mode=755'],
  };
  const own = { type: 'tmpfs', source: 'tmpfs', destination: '/home', options: ['nosuid', `uid=${USER}`, 'mode=700'] };
  return {
    ociVersion: '1.0.2',
    process: {
      user: { uid: USER, gid: USER },
      args,
      env: ['PATH=/usr/bin:/bin', 'HOME=/home', 'KUBECONFIG=/etc/kubeconfig'],
      cwd: '/home',
      capabilities: { bounding, permitted: [], effective: [], inheritable: [], ambient: [] },
      noNewPrivileges: false,
    },
    root: { path: 'rootfs', readonly: false },
    mounts: [
      { type: 'proc', source: 'proc', destination: '/proc' },
      ofDevice,
      {
        type: 'devpts',
        source: 'devpts',
        destination: '/dev/pts',
        options: ['newinstance', 'ptmxmode=0666', 'mode=0620'],
      },
      own,
      bind('/usr', '/usr'),
      ...['passwd', 'group', 'nsswitch.conf'].map((name) => bind(`/etc/${name}`, `/etc/${name}`)),
      bind(person.resolvConf, '/etc/resolv.conf'),
      bind(person.kubeconfig, '/etc/kubeconfig'),
      bind(path.join(import.meta.dirname, '../..'), '/lpk'),
      bind(process.execPath, '/node'),
      bind(person.programs, '/programs'),
    ],
    linux: {
      namespaces: [
        { type: 'pid' },
        { type: 'ipc' },
        { type: 'uts' },
        { type: 'mount' },
        { type: 'network', path: network },
      ],
      maskedPaths: ['/proc/kcore', '/proc/keys', '/proc/timer_list', '/proc/scsi'],
      readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
    },
  };
}
