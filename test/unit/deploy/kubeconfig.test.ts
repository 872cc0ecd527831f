import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { after, beforeEach, test } from 'node:test';
import { readLogin } from '../../../agent/deploy/kubeconfig.ts';

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-kubeconfig-'));
after(() => rmSync(dir, { recursive: true }));
beforeEach(() => {
  delete process.env.KUBECONFIG;
});

/** JSON is YAML. */
function write(name: string, content: unknown): string {
  const file = path.join(dir, name);
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
  return file;
}

const entry = (name: string, fields: { user?: object; cluster?: object; namespace?: string } = {}) => ({
  clusters: [{ name: `${name}-cluster`, cluster: { server: `https://${name}.test:6443/`, ...fields.cluster } }],
  users: [{ name: `${name}-user`, user: fields.user ?? { token: `${name}-token` } }],
  contexts: [{ name, context: { cluster: `${name}-cluster`, user: `${name}-user`, namespace: fields.namespace } }],
  'current-context': name,
});

test('the current context says where and as whom; options go before it', async () => {
  const kubeconfig = write('a', entry('a', { namespace: 'shop' }));
  const { credentials, ...login } = await readLogin({ kubeconfig });
  assert.deepEqual(login, { context: 'a', server: 'https://a.test:6443', namespace: 'shop', user: 'a-user' });
  assert.deepEqual(await credentials(), { headers: { Authorization: 'Bearer a-token' } });
  assert.equal((await readLogin({ kubeconfig, namespace: 'other' })).namespace, 'other');
  assert.equal((await readLogin({ kubeconfig: write('b', entry('b')) })).namespace, 'default');
});

test('KUBECONFIG is a list: the first file wins, absent ones are passed over', async () => {
  const second = { ...entry('two'), users: [...entry('two').users, { name: 'one-user', user: { token: 'not this' } }] };
  const files = [path.join(dir, 'absent'), write('one', entry('one')), write('two', second)];
  process.env.KUBECONFIG = files.join(path.delimiter);
  const login = await readLogin({});
  assert.equal(login.context, 'one');
  assert.deepEqual((await login.credentials()).headers, { Authorization: 'Bearer one-token' });
  assert.equal((await readLogin({ context: 'two' })).server, 'https://two.test:6443');
  const kubeconfig = write('three', entry('three'));
  assert.equal((await readLogin({ kubeconfig })).context, 'three', '--kubeconfig goes before KUBECONFIG');
});

test('a kubeconfig that can’t be used says which and why', async () => {
  const { clusters, users, contexts } = entry('x');
  const current = { 'current-context': 'x' };
  const table: [string, unknown, RegExp][] = [
    ['text', 'just text', /is not a kubeconfig/],
    ['list', '[]', /is not a kubeconfig/],
    ['empty', '', /the input is empty/],
    ['yaml', 'a: [', /is not valid YAML/],
    ['no-current', { clusters, users, contexts }, /no current context is set \(it has: x\)/],
    ['no-cluster', { users, contexts, ...current }, /names the cluster "x-cluster", which is not there/],
    ['no-user', { clusters, contexts, ...current }, /names the user "x-user", which is not there/],
    ['no-server', { ...entry('x'), clusters: [{ name: 'x-cluster', cluster: {} }] }, /server is missing/],
    ['bad-server', entry('x', { cluster: { server: 'api.test:6443' } }), /no http\(s\) address: api.test:6443/],
  ];
  for (const [name, content, message] of table) {
    const kubeconfig = write(name, content);
    await assert.rejects(readLogin({ kubeconfig }), (error: Error & { code: string }) => {
      assert.equal(error.code, 'kubeconfig-invalid', name);
      assert.match(error.message, message);
      assert.ok(error.message.includes(kubeconfig), `${name}: the path is named`);
      assert.ok(!error.message.includes('\n'), `${name}: one line`);
      return true;
    });
  }
  const kubeconfig = write('unknown', entry('x'));
  const unknown = { code: 'kubeconfig-invalid', message: /there is no context "y" \(it has: x\)/ };
  await assert.rejects(readLogin({ kubeconfig, context: 'y' }), unknown);
  const absent = path.join(dir, 'absent');
  const none = { code: 'kubeconfig-invalid', message: `there is no kubeconfig at ${absent}` };
  await assert.rejects(readLogin({ kubeconfig: absent }), none);
});

test('without KUBECONFIG it is ~/.kube/config, and the error says so', async (t) => {
  const home = process.env.HOME;
  process.env.HOME = path.join(dir, 'home');
  t.after(() => {
    process.env.HOME = home;
  });
  const expected = `there is no kubeconfig at ${path.join(homedir(), '.kube', 'config')} and KUBECONFIG is not set`;
  await assert.rejects(readLogin({}), { code: 'kubeconfig-invalid', message: expected });
});

test('client certificates: as data, or as files beside the kubeconfig', async () => {
  write('ca.pem', 'CA');
  write('cert.pem', 'CERT');
  const user = { 'client-certificate': 'cert.pem', 'client-key-data': Buffer.from('KEY').toString('base64') };
  const cluster = { 'certificate-authority': './ca.pem', 'tls-server-name': 'kubernetes' };
  const login = await readLogin({ kubeconfig: write('files', entry('f', { user, cluster })) });
  const made = await login.credentials();
  assert.deepEqual([made.ca, made.cert, made.key].map(String), ['CA', 'CERT', 'KEY']);
  assert.deepEqual([made.servername, made.rejectUnauthorized], ['kubernetes', undefined]);
  const insecure = await readLogin({
    kubeconfig: write('insecure', entry('f', { cluster: { 'insecure-skip-tls-verify': true } })),
  });
  assert.equal((await insecure.credentials()).rejectUnauthorized, false);
  const absent = await readLogin({
    kubeconfig: write('absent-ca', entry('f', { cluster: { 'certificate-authority': 'no.pem' } })),
  });
  await assert.rejects(absent.credentials(), { code: 'kubeconfig-invalid', message: /no\.pem/ });
});

test('token files, basic auth and impersonation', async () => {
  write('token', 'from-file\n');
  const headers = async (name: string, user: object) =>
    (await (await readLogin({ kubeconfig: write(name, entry('t', { user })) })).credentials()).headers;
  assert.deepEqual(await headers('token-file', { tokenFile: 'token' }), { Authorization: 'Bearer from-file' });
  const pair = Buffer.from('u:p:w').toString('base64');
  assert.deepEqual(await headers('basic', { username: 'u', password: 'p:w' }), { Authorization: `Basic ${pair}` });
  assert.deepEqual(await headers('as', { token: 't', as: 'jane', 'as-groups': ['dev', 'ops'] }), {
    Authorization: 'Bearer t',
    'Impersonate-User': 'jane',
    'Impersonate-Group': ['dev', 'ops'],
  });
  assert.deepEqual(await headers('nobody', {}), {});
});

/** A credential plugin that counts its runs and keeps what it was told. */
function plugin(status: object, args: string[] = []) {
  const count = path.join(dir, 'runs');
  writeFileSync(count, '');
  const answer = JSON.stringify({ apiVersion: 'client.authentication.k8s.io/v1', kind: 'ExecCredential', status });
  const script = `echo run >> '${count}'; echo "$KUBERNETES_EXEC_INFO" > '${count}.info'; echo '${answer}'`;
  const exec = {
    apiVersion: 'client.authentication.k8s.io/v1',
    command: 'sh',
    args: ['-c', script, ...args],
    provideClusterInfo: true,
    interactiveMode: 'Never',
  };
  const runs = () => readFileSync(count, 'utf8').split('\n').length - 1;
  return { exec, runs, info: () => JSON.parse(readFileSync(`${count}.info`, 'utf8')) };
}

test('a credential plugin is run once at a time, again when its answer expires, or when asked anew', async () => {
  const { exec, runs, info } = plugin({ token: 'plugged' });
  const login = await readLogin({ kubeconfig: write('exec', entry('e', { user: { exec } })) });
  const both = await Promise.all([login.credentials(), login.credentials()]);
  assert.deepEqual(
    both.map(({ headers }) => headers),
    Array(2).fill({ Authorization: 'Bearer plugged' }),
  );
  await login.credentials();
  assert.equal(runs(), 1);
  await login.credentials(true);
  assert.equal(runs(), 2);
  assert.deepEqual(info(), {
    apiVersion: 'client.authentication.k8s.io/v1',
    kind: 'ExecCredential',
    spec: { interactive: false, cluster: { server: 'https://e.test:6443' } },
  });
  const old = plugin({ token: 'old', expirationTimestamp: '2020-01-01T00:00:00Z' });
  const expired = await readLogin({ kubeconfig: write('expired', entry('e', { user: { exec: old.exec } })) });
  await expired.credentials();
  await expired.credentials();
  assert.equal(old.runs(), 2);
  const pem = plugin({ clientCertificateData: 'CERT', clientKeyData: 'KEY' });
  const certificate = await readLogin({ kubeconfig: write('pem', entry('e', { user: { exec: pem.exec } })) });
  const made = await certificate.credentials();
  assert.deepEqual([made.cert, made.key, made.headers], ['CERT', 'KEY', {}]);
});

test('a credential plugin that is absent or fails', async () => {
  const login = async (name: string, exec: object) =>
    await readLogin({ kubeconfig: write(name, entry('e', { user: { exec } })) });
  const absent = await login('no-plugin', { command: 'lpk-no-such-plugin' });
  await assert.rejects(absent.credentials(), {
    code: 'kubeconfig-invalid',
    message: /"lpk-no-such-plugin" of user "e-user" is not installed/,
  });
  const failing = await login('failing', { command: 'sh', args: ['-c', 'echo "log in\nfirst" >&2; exit 1'] });
  await assert.rejects(failing.credentials(), {
    code: 'unauthorized',
    message: /"sh" of user "e-user" failed: log in first$/,
  });
  const beside = await login('beside', { command: './plugin.sh' });
  await assert.rejects(beside.credentials(), { message: new RegExp(`"${path.join(dir, 'plugin.sh')}"`) });
});

test('what only the whole KubeConfig class can do still works: a proxy, an auth provider', async () => {
  const cluster = { 'proxy-url': 'http://proxy.test:3128' };
  const login = await readLogin({ kubeconfig: write('proxy', entry('p', { cluster })) });
  const { agent, headers } = await login.credentials();
  assert.equal(agent?.constructor.name, 'HttpsProxyAgent');
  assert.deepEqual(headers, { Authorization: 'Bearer p-token' });
  const provider = { name: 'gcp', config: { 'access-token': 'g', expiry: '2999-01-01T00:00:00Z' } };
  const gcp = await readLogin({ kubeconfig: write('gcp', entry('p', { user: { 'auth-provider': provider } })) });
  assert.deepEqual((await gcp.credentials()).headers, { Authorization: 'Bearer g' });
});
