import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { after, before, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import type { Json } from '../../agent/deploy/kube.ts';
import { readTar } from '../../agent/wire/tar.ts';
import { kubectl, userKubeconfig } from '../cluster/cluster.ts';
import { endAll, Lpk } from './lpk.ts';
import { connectSocks } from './scene.ts';
import { eventually, Shop, service, workload } from './shop.ts';
import { Terminal } from './terminal.ts';

/** What lpk tells of a session afterwards: its variables, its log, its bundle; and that no secret is in the last two. */

const MAIN = path.join(import.meta.dirname, '../../cli/main.ts');
const TOKEN = '/var/run/secrets/kubernetes.io/serviceaccount/token';
const FILES = '/etc/e2e-diagnose';
const PASSWORD = `Pw-${randomBytes(9).toString('hex')}/"'&`;
const LINES = `first ${randomBytes(9).toString('hex')}\nsecond ${randomBytes(9).toString('hex')}`;
const OWN = `own-${randomBytes(9).toString('hex')}`;
const PROXY_PASSWORD = `proxy-${randomBytes(9).toString('hex')}`;

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-diagnose-e2e-'));
const env = { TMPDIR: path.join(dir, 'tmp'), XDG_STATE_HOME: path.join(dir, 'state') };
let shop: Shop;
let limited: string;
let terminal: Terminal | undefined;

before(async () => {
  mkdirSync(env.TMPDIR);
  shop = await Shop.open('diagnose');
  const stringData = { password: PASSWORD, lines: LINES };
  await shop.create({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'credentials' }, stringData });
  await shop.create(service('web', [8080]));
  limited = await limitedUser('limited');
  const variables = [
    { name: 'PASSWORD', valueFrom: { secretKeyRef: { name: 'credentials', key: 'password' } } },
    { name: 'DATABASE_URL', value: 'postgres://shop:$(PASSWORD)@db.shop:5432/shop' },
    { name: 'MODE', value: 'plain' },
    { name: 'PORT', value: '8080' },
    { name: 'ROLE', value: 'web' },
  ];
  await shop.deploy(
    workload('Deployment', 'web', {
      container: {
        env: variables,
        envFrom: [{ prefix: 'ALL_', secretRef: { name: 'credentials' } }],
        volumeMounts: [{ name: 'files', mountPath: FILES }],
      },
      pod: { volumes: [{ name: 'files', secret: { secretName: 'credentials' } }] },
    }),
  );
});

after(async () => {
  endAll();
  await terminal?.close();
  await shop?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** A user who may do all that `lpk connect` does, but not exec. */
async function limitedUser(name: string): Promise<string> {
  const file = path.join(dir, name);
  await userKubeconfig(file, name);
  const rules = [
    { apiGroups: ['apps'], resources: ['deployments'], verbs: ['get', 'list', 'watch', 'patch'] },
    { apiGroups: [''], resources: ['pods', 'services'], verbs: ['get', 'list', 'watch'] },
    { apiGroups: [''], resources: ['configmaps', 'secrets'], verbs: ['create', 'delete'] },
    { apiGroups: [''], resources: ['pods/proxy'], verbs: ['get'] },
  ];
  const rbac = 'rbac.authorization.k8s.io';
  await shop.create(
    { apiVersion: `${rbac}/v1`, kind: 'Role', metadata: { name }, rules },
    {
      ...{ apiVersion: `${rbac}/v1`, kind: 'RoleBinding', metadata: { name } },
      roleRef: { apiGroup: rbac, kind: 'Role', name },
      subjects: [{ kind: 'User', name }],
    },
  );
  return file;
}

function lpk(verb: string, ...args: string[]): Lpk {
  return new Lpk(shop.args(verb, ...args), { env });
}

async function ended(command: Lpk, code: number): Promise<Lpk> {
  assert.equal((await command.exit()).code, code, `${command}`);
  return command;
}

const logs = () => readdirSync(path.join(env.TMPDIR, 'lpk')).map((name) => path.join(env.TMPDIR, 'lpk', name));

async function unpack(bundle: string): Promise<Map<string, string>> {
  const texts = new Map<string, string>();
  const archive = gunzipSync(readFileSync(bundle));
  const END_BYTES = 1_024;
  for await (const entry of readTar(Readable.from([archive.subarray(0, -END_BYTES)]))) {
    const pieces: Buffer[] = [];
    for await (const piece of entry.content) pieces.push(piece);
    texts.set(entry.path.replace(/^[^/]*\//, ''), Buffer.concat(pieces).toString());
  }
  return texts;
}

test('a real session: log, bundle and diagnose tell what happened, and none of them a secret', async () => {
  const program = `cat ${TOKEN}; echo; cat ${FILES}/password; echo "$PASSWORD $DATABASE_URL $ALL_lines"; echo up; read end`;
  const args = ['--capture', 'none', '--env', `OWN=${OWN}`, '--', 'sh', '-c', program, '--password=argument'];
  const session = lpk('connect', 'web', ...args);
  const { path: log } = await session.event('log');
  const { proxyPort } = await session.event('ready');
  await session.line(/^up$/);
  const [token] = session.lines as [string];
  assert.equal(token.split('.').length, 3, 'the program has the token');
  const secrets = (await shop.get('secrets')).items as Json[];
  const key = secrets.find(({ metadata }) => metadata.name.startsWith('lpk-'))?.data as Record<string, string>;
  const { users } = JSON.parse(await kubectl(['config', 'view', '--raw', '-o', 'json']));
  // Nothing listens there in the pod: refused, or closed at once where the way is long.
  const refused = await connectSocks(proxyPort, '127.0.0.1', 9).catch(() => undefined);
  if (refused) await finished(refused.resume()).catch(() => {});

  const file = path.join(dir, 'live.tar.gz');
  const live = await ended(lpk('diagnose', 'deployment/web', '--file', file), 0);
  const here = await live.event('session');
  assert.equal(here.workload, 'deployment/web');
  assert.equal(here.transport, 'proxy');
  for (const name of ['PASSWORD', 'DATABASE_URL', 'ALL_password', 'ALL_lines', 'OWN', 'MODE'])
    assert.ok(here.variables.handed.includes(name), `${name} in ${here.variables.handed}`);
  assert.ok(here.variables.leftOut.includes('PATH'));
  const target = await live.event('target');
  assert.deepEqual(target.variables, [
    'PASSWORD',
    'DATABASE_URL',
    'MODE',
    'PORT',
    'ROLE',
    'ALL_* of Secret credentials',
  ]);
  assert.deepEqual((await live.event('dns')).search[0], `${shop.namespace}.svc.cluster.local`);
  assert.ok((await live.event('service')).names.includes(`web.${shop.namespace}.svc.cluster.local`));
  assert.equal((await live.event('bundle')).path, file);
  assert.equal(statSync(file).mode & 0o777, 0o600);

  const read = await ended(lpk('env', 'web', '--kubeconfig', limited), 0);
  assert.equal((await read.event('from-session')).pid, session.pid);
  const { variables } = await read.event('env');
  assert.deepEqual([variables.PASSWORD, variables.ALL_lines, variables.MODE], [PASSWORD, LINES, 'plain']);

  session.signal('SIGTERM');
  await session.exit();
  const proxy = new Lpk(shop.args('proxy', 'up', '--port', '0', '--dns-port', '0', '--user', 'ann'), {
    env: { ...env, LPK_PROXY_PASSWORD: PROXY_PASSWORD },
  });
  await proxy.event('ready');
  await ended(new Lpk(['proxy', 'down'], { env }), 0);
  await ended(proxy, 0);

  const text = readFileSync(log, 'utf8');
  assert.equal(path.dirname(log), path.join(env.TMPDIR, 'lpk'));
  assert.deepEqual([statSync(path.dirname(log)).mode & 0o777, statSync(log).mode & 0o777], [0o700, 0o600]);
  for (const line of [
    /start: lpk connect .*--env=\*\*\* .*-- sh \(3 arguments\)/,
    /start: lpk \S+, Node \d+\.\d+\.\d+, linux /,
    /swap: container app of deployment\/web swapped state=done seconds=[\d.]+ session=/,
    /attached: connected to pod web-\S+ by proxy, .* pod=web-\S+ transport=proxy/,
    /request: PATCH \/apis\/apps\/v1\/namespaces\/\S+\/deployments\/web status=200 ms=\d+/,
    /failed: tcp 127\.0\.0\.1:9 refused/,
    /restore: deployment\/web restored state=done/,
    /end: lpk ends exitCode=\d+/,
  ])
    assert.match(text, line);

  const after = path.join(dir, 'after.tar.gz');
  const bundled = await ended(lpk('diagnose', '--file', after), 0);
  const files = await unpack(after);
  assert.ok(files.has('report.txt') && files.has('report.jsonl'));
  assert.ok(files.has(`logs/${path.basename(log)}`), [...files.keys()].join());
  const texts: [string, string][] = [
    ...logs().map((name): [string, string] => [name, readFileSync(name, 'utf8')]),
    ...files,
    ...(await unpack(file)),
    ['diagnose while it runs', `${live}`],
    ['diagnose after it', `${bundled}`],
    ['what lpk says', session.stderr],
  ];
  assert.ok(texts.length > 12, `${texts.length} texts`);
  const known = {
    ...{ PASSWORD, OWN, PROXY_PASSWORD, token, argument: '--password=argument' },
    ...Object.fromEntries(LINES.split('\n').map((line) => [line.slice(0, 6), line])),
    ...Object.fromEntries(Object.entries(key).map(([name, value]) => [`key ${name}`, atob(value)])),
    'client key': users[0].user['client-key-data'],
    ...Object.fromEntries(
      atob(users[0].user['client-key-data'])
        .split('\n')
        .filter((line) => line.length > 30)
        .map((line, i) => [`line ${i} of the client key`, line]),
    ),
  };
  for (const [what, secret] of Object.entries(known))
    for (const [where, said] of texts)
      for (const form of [secret, btoa(secret), encodeURIComponent(secret), JSON.stringify(secret).slice(1, -1)])
        assert.ok(!said.includes(form), `${what} is in ${where}`);
});

test('lpk env: from the container; where that is not allowed only with --yes, by a session that leaves nothing', async () => {
  const direct = await ended(lpk('env', 'web'), 0);
  const all = (await direct.event('env')).variables;
  assert.deepEqual([all.PASSWORD, all.MODE, all.ALL_password], [PASSWORD, 'plain', PASSWORD]);

  const spec = await shop.specOf('deployment/web');
  const refused = await ended(lpk('env', 'web', '--kubeconfig', limited), 1);
  const { code, message } = await refused.event('error');
  assert.equal(code, 'forbidden');
  assert.match(message, /^user "limited" lacks rights .*pods\/exec; --yes reads the variables .* by a short session/);
  const words = shop.args('env', 'web', '--kubeconfig', limited);
  terminal = await Terminal.open(dir, [process.execPath, MAIN, ...words], env);
  await terminal.shows(
    /Read the variables of deployment\/web by a short session, which replaces its pod for a moment\?/,
  );
  await terminal.press('Enter'); // No is proposed
  await terminal.shows(/deployment\/web is left as it is[\s\S]*ENDED with 130/);
  assert.equal(await shop.specOf('deployment/web'), spec);

  const read = await ended(lpk('env', 'web', '--kubeconfig', limited, '--yes'), 0);
  const { variables } = await read.event('env');
  const { HOSTNAME: _, ...expected } = all;
  assert.deepEqual(variables, expected);
  await read.event('not-whole');
  await read.event('restore', ({ state }) => state === 'done');
  assert.equal(await shop.specOf('deployment/web'), spec);
  await eventually('nothing is left', async () => (await shop.objectsOf('deployment/web')).length === 0);
});

test('diagnose works without a kubeconfig, with a cluster that is not there, and without rights, and says what it does not know', async () => {
  const nowhere = path.join(dir, 'nowhere');
  const gone = path.join(dir, 'gone');
  await kubectl(['config', 'set-cluster', 'gone', '--server=https://127.0.0.1:1'], { kubeconfig: gone });
  await kubectl(['config', 'set-context', 'gone', '--cluster=gone'], { kubeconfig: gone });
  await kubectl(['config', 'use-context', 'gone'], { kubeconfig: gone });
  const nobody = path.join(dir, 'nobody');
  await userKubeconfig(nobody, 'nobody');
  const table: [kubeconfig: string, cluster: RegExp, unknown: RegExp[]][] = [
    [nowhere, /there is no kubeconfig at/, [/^the target, Services and DNS names/]],
    [
      gone,
      /can't reach the cluster at https:\/\/127\.0\.0\.1:1: nothing listens there/,
      [/^the target, Services and DNS names/],
    ],
    [nobody, /, Kubernetes v1\./, [/^target web$/, /^Services and DNS names$/]],
  ];
  for (const [i, [kubeconfig, cluster, unknown]] of table.entries()) {
    const file = path.join(dir, `case-${i}.tar.gz`);
    const got = await ended(lpk('diagnose', 'web', '--kubeconfig', kubeconfig, '--file', file), 0);
    assert.match((await got.event('finding', ({ name }) => name === 'cluster')).text, cluster);
    for (const what of unknown) await got.event('unknown', (event) => what.test(event.what) && event.why !== '');
    assert.ok((await unpack(file)).has('report.txt'));
  }
  const again = await ended(lpk('diagnose', '--kubeconfig', nowhere, '--file', path.join(dir, 'case-0.tar.gz')), 2);
  assert.match((await again.event('error')).message, /case-0\.tar\.gz is there already/);
});

test('a temporary folder that can not be written to is no error, and --verbose shows what would be there', async () => {
  const file = path.join(dir, 'no-folder');
  writeFileSync(file, '');
  const listed = new Lpk(shop.args('services', '--verbose'), { env: { ...env, TMPDIR: file } });
  await ended(listed, 0);
  assert.equal((await listed.event('service')).name, 'web');
  assert.match(listed.stderr, /^\S+Z request: GET \/api\/v1\/namespaces\/\S+\/services status=200 ms=\d+$/m);
});

test('a full disk ends the log, not the session', {
  skip: process.platform !== 'linux' && 'it mounts a small disk',
}, async () => {
  const small = path.join(dir, 'small');
  mkdirSync(small);
  const full = `mount -t tmpfs -o size=16k tmpfs ${small}; mkdir -m 700 ${small}/lpk; head -c 1M /dev/zero > ${small}/filler; exec "$@"`;
  const around = (command: string[]) => ['unshare', '--mount', 'sh', '-c', full, 'sh', ...command];
  const listed = new Lpk(shop.args('services'), { env: { ...env, TMPDIR: small }, around });
  await ended(listed, 0);
  assert.equal((await listed.event('service')).name, 'web');
});
