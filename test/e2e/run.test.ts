import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { installPackages } from '../cluster/packages.ts';
import { run as runToEnd } from '../cluster/run.ts';
import { debianFile } from '../unit/proxy/debian.ts';
import { Backends } from './backends.ts';
import { Laptop } from './laptop.ts';
import { endAll, type Lpk } from './lpk.ts';
import { Person } from './programs/person.ts';
import { Shop, service, workload } from './shop.ts';

/** `lpk run`: real programs of every make reach the cluster by its names, for an ordinary user and without a proxy setting. */

let shop: Shop;
let laptop: Laptop;
let person: Person;
let backends: Backends;
let sshOptions: string[];

before(async () => {
  await installPackages({
    ...{ curl: '/usr/bin/curl', wget: '/usr/bin/wget', git: '/usr/bin/git', 'openssh-client': '/usr/bin/ssh' },
    ...{ 'python3-requests': '/usr/lib/python3/dist-packages/requests', ruby: '/usr/bin/ruby' },
    ...{ 'redis-tools': '/usr/bin/redis-cli', 'postgresql-client': '/usr/bin/psql' },
  });
  shop = await Shop.open('run');
  laptop = await Laptop.make();
  [person, backends] = await Promise.all([
    Person.on(laptop, shop),
    Backends.start(shop),
    shop.deploy(workload('Deployment', 'web'), service('web', [[80, 8080]])),
  ]);
  const health = path.join(person.programs, 'health');
  await Promise.all([
    backends.add(shop, { name: 'grpc', port: 50051 }, (address, port) => [health, `${address}:${port}`]),
    serveGit(),
    serveSsh(),
  ]);
});

after(async () => {
  endAll();
  await backends?.stop();
  person?.leave();
  await laptop?.remove();
  await shop?.close();
});

const PAGE = /^web in pod web-/m;
const PYTHON = 'import requests, sys; print(requests.get(sys.argv[1], timeout=10).text)';
const NODE_FETCH = 'console.log(await (await fetch(process.argv[1])).text())';
const NODE_NET = `
  const socket = net.connect(80, process.argv[1], () => socket.end('GET / HTTP/1.0\\r\\n\\r\\n'));
  socket.pipe(process.stdout)`;
const RUBY = 'puts Net::HTTP.get(URI(ARGV[0]))';
const PIPELINE = `set -eo pipefail
  curl -sS $1 > first & (curl -sS $1 | tr a-z A-Z | head -1)
  wait $!; cat first`;

type Row = [name: string, command: (namespace: string) => string[], expected: RegExp];

const own: Row[] = [
  ['curl', (ns) => ['curl', '-sS', `http://web.${ns}/`], PAGE],
  ['a static program of musl', (ns) => [path.join(person.programs, 'static-tcp'), `web.${ns}`, '80'], PAGE],
  ['a static Go program', (ns) => [path.join(person.programs, 'client'), 'http', `http://web.${ns}/`], PAGE],
];

const table: Row[] = [
  ...own,
  ['curl, by the bare name', () => ['curl', '-sS', 'http://web/'], PAGE],
  ['curl, by the whole name', (ns) => ['curl', '-sS', `http://web.${ns}.svc.cluster.local./`], PAGE],
  ['wget', (ns) => ['wget', '-qO-', '-T', '10', '-t', '1', `http://web.${ns}/`], PAGE],
  ['Python requests', (ns) => ['/usr/bin/python3', '-c', PYTHON, `http://web.${ns}/`], PAGE],
  ['Node fetch', (ns) => [person.node, '--input-type=module', '-e', NODE_FETCH, `http://web.${ns}/`], PAGE],
  ['Node net', (ns) => [person.node, '-e', NODE_NET, `web.${ns}`], PAGE],
  [
    'Java HttpClient, URL and Socket',
    (ns) => ['java', '-cp', person.programs, 'Get', `http://web.${ns}/`],
    /^HttpClient: web in pod web-.*\nURL: web in pod web-.*\nSocket: 80\n$/,
  ],
  ['Go gRPC', (ns) => [path.join(person.programs, 'client'), 'grpc', `grpc.${ns}:50051`], /^SERVING\n$/],
  ['Ruby Net::HTTP', (ns) => ['ruby', '-rnet/http', '-e', RUBY, `http://web.${ns}/`], PAGE],
  [
    'psql',
    (ns) => ['psql', '-h', `pg.${ns}`, '-U', 'postgres', '-Atc', "select 6 * 7, 'from postgres'"],
    /^42\|from postgres\n$/,
  ],
  ['redis-cli', (ns) => ['redis-cli', '-e', '-h', `redis.${ns}`, 'ping'], /^PONG\n$/],
  [
    'git clone',
    (ns) => [
      'sh',
      '-ec',
      'rm -rf cloned; git clone -q "$0" cloned; cat cloned/page',
      `http://git.${ns}/repository.git`,
    ],
    /^from the repository\n$/,
  ],
  ['ssh', (ns) => ['ssh', ...sshOptions, `ssh.${ns}`, 'echo from the far side'], /^from the far side\n$/],
  [
    'a shell with a pipeline, a subshell and a job in the background',
    (ns) => ['bash', '-c', PIPELINE, 'bash', `http://web.${ns}/`],
    /^WEB IN POD WEB-.*\nweb in pod web-.*\n$/,
  ],
];

describe('by the proxy that runs', () => {
  let proxy: Lpk;

  before(async () => {
    proxy = person.start('proxy', 'up', '-n', shop.namespace);
    await proxy.event('ready');
  });

  after(async () => {
    proxy.signal('SIGINT');
    assert.deepEqual(await proxy.exit(), { code: 0, signal: null }, `${proxy}`);
  });

  for (const [name, command, expected] of table) {
    test(name, async () => {
      const words = command(shop.namespace);
      const without = await person.run(words);
      assert.notEqual(without.code, 0, `without lpk: ${JSON.stringify(without)}`);
      assert.doesNotMatch(without.stdout, expected);
      const got = await person.lpkRun(words);
      assert.match(got.stdout, expected, `${JSON.stringify(got)}; ${proxy}`);
      assert.equal(got.code, 0, got.stderr);
      assert.match(got.stderr, /^captured: .* by the proxy into /m);
    });
  }
});

describe('by an agent of its own', () => {
  for (const [name, command, expected] of own) {
    test(name, async () => {
      const got = await person.lpkRun(command(shop.namespace));
      assert.match(got.stdout, expected, JSON.stringify(got));
      assert.equal(got.code, 0, got.stderr);
      assert.match(got.stderr, /^captured: .* by an agent in /m);
    });
  }
});

test('lpk connect: its command is caught as well', async () => {
  const client = [path.join(person.programs, 'client'), 'grpc', `grpc.${shop.namespace}:50051`];
  const lpk = person.start('connect', 'deployment/web', '-n', shop.namespace, '--', ...client);
  await lpk.line(/^SERVING$/);
  assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
  await lpk.event('capture', ({ capture }) => capture === 'seccomp');
});

/** A repository as files, which is all that git's dumb protocol needs. */
async function serveGit(): Promise<void> {
  const [work, served] = [path.join(person.folder, 'work'), path.join(person.folder, 'served')];
  mkdirSync(work);
  writeFileSync(path.join(work, 'page'), 'from the repository\n');
  const git = (...args: string[]) => runToEnd('git', ['-c', 'user.name=t', '-c', 'user.email=t@t.test', ...args]);
  await git('init', '-q', work);
  await git('-C', work, 'add', 'page');
  await git('-C', work, 'commit', '-q', '-m', 'page');
  await git('clone', '-q', '--bare', work, path.join(served, 'repository.git'));
  await git('-C', path.join(served, 'repository.git'), 'update-server-info');
  const program = path.join(import.meta.dirname, 'programs/static-server.ts');
  await backends.add(shop, { name: 'git', port: 80 }, (address, port) => [
    ...[process.execPath, program, served, address, `${port}`],
  ]);
}

/** As root, sshd wants a user to be unprivileged as, and a folder: it gets them in a mount namespace of its own. */
const OWN_VIEW = 'mount -t tmpfs none /run && mkdir /run/sshd && mount --bind "$1" /etc/passwd && shift && exec "$@"';

async function serveSsh(): Promise<void> {
  const { file, env } = await debianFile('openssh-server', '/usr/sbin/sshd');
  const folder = path.join(person.folder, 'ssh');
  const [host, client, config, passwd, known] = ['host', 'home/client', 'config', 'passwd', 'home/known'].map((name) =>
    path.join(folder, name),
  ) as [string, string, string, string, string];
  mkdirSync(path.join(folder, 'home'), { recursive: true });
  for (const key of [host, client]) await runToEnd('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key]);
  person.give(client);
  writeFileSync(passwd, `${readFileSync('/etc/passwd', 'utf8')}sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n`);
  writeFileSync(known, `ssh ${readFileSync(`${host}.pub`, 'utf8')}`);
  await backends.add(shop, { name: 'ssh', port: 22 }, (address, port) => {
    const lines = [`Port ${port}`, `ListenAddress ${address}`, `HostKey ${host}`, `AuthorizedKeysFile ${client}.pub`];
    const rest = ['PermitRootLogin prohibit-password', 'StrictModes no', 'PidFile none', 'UsePAM no', ''];
    writeFileSync(config, [...lines, ...rest].join('\n'));
    const daemon = ['env', `LD_LIBRARY_PATH=${env.LD_LIBRARY_PATH ?? ''}`, file, '-D', '-q', '-f', config];
    return ['unshare', '-m', 'sh', '-c', OWN_VIEW, 'sh', passwd, ...daemon];
  });
  const options = ['BatchMode=yes', 'HostKeyAlias=ssh', `UserKnownHostsFile=${known}`].flatMap((each) => ['-o', each]);
  sshOptions = ['-F', 'none', '-i', client, '-l', 'root', ...options];
}
