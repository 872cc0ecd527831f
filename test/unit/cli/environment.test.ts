import assert from 'node:assert/strict';
import test from 'node:test';
import { childEnvironment, proxyEnvironment } from '../../../cli/environment.ts';

const laptop = { PATH: '/usr/bin', HOME: '/home/ann', SHELL: '/bin/zsh', LANG: 'de_DE.UTF-8', EDITOR: 'vim' };

test('the pod’s variables lie over the laptop’s', () => {
  const { env } = childEnvironment({
    laptop: { ...laptop, DB_HOST: 'localhost', MINE: 'yes' },
    pod: { DB_HOST: 'db.shop', KUBERNETES_SERVICE_HOST: '10.96.0.1', LANG: 'C', EMPTY: '' },
    proxy: { port: 1080 },
  });
  assert.equal(env.DB_HOST, 'db.shop');
  assert.equal(env.KUBERNETES_SERVICE_HOST, '10.96.0.1');
  assert.equal(env.LANG, 'C');
  assert.equal(env.EMPTY, '');
  assert.equal(env.MINE, 'yes');
});

test('what describes the machine stays the laptop’s, and is named', () => {
  const pod: Record<string, string> = { KEEP: 'x' };
  const machine =
    'PATH HOME HOSTNAME SHELL PWD OLDPWD TERM USER LOGNAME TMPDIR SHLVL _ LD_PRELOAD LD_LIBRARY_PATH NODE_VERSION ' +
    'YARN_VERSION NODE_OPTIONS JAVA_TOOL_OPTIONS PYTHONPATH DOTNET_STARTUP_HOOKS';
  for (const name of machine.split(' ')) pod[name] = 'the pod’s';
  const { env, leftOut } = childEnvironment({ laptop, pod, proxy: { port: 1080 } });
  assert.equal(env.PATH, '/usr/bin');
  assert.equal(env.HOME, '/home/ann');
  assert.equal(env.KEEP, 'x');
  for (const [name, value] of Object.entries(env)) assert.notEqual(value, 'the pod’s', `${name} is the pod’s`);
  assert.deepEqual(leftOut, machine.split(' ').toSorted());
});

test('a debugger’s NODE_OPTIONS on the laptop stays, the pod’s never arrives', () => {
  const { env } = childEnvironment({
    laptop: { ...laptop, NODE_OPTIONS: '--require /vscode/bootloader.js' },
    pod: { NODE_OPTIONS: '--require /otel/a.js' },
    proxy: { port: 1080 },
  });
  assert.equal(env.NODE_OPTIONS, '--require /vscode/bootloader.js');
});

test('a variable the laptop does not define is not there as “undefined”', () => {
  const { env } = childEnvironment({ laptop: { ...laptop, GONE: undefined }, pod: {}, proxy: { port: 1080 } });
  assert.equal('GONE' in env, false);
});

test('proxy variables win over the laptop’s and the pod’s', () => {
  const { env, leftOut } = childEnvironment({
    laptop: { ...laptop, HTTP_PROXY: 'http://corp:3128' },
    pod: { https_proxy: 'http://egress:3128', NO_PROXY: '*' },
    proxy: { port: 1080 },
  });
  for (const name of ['HTTP_PROXY', 'http_proxy', 'HTTPS_PROXY', 'https_proxy', 'ALL_PROXY', 'all_proxy']) {
    assert.equal(env[name], 'http://127.0.0.1:1080', name);
  }
  assert.equal(env.NO_PROXY, 'localhost,127.0.0.1,::1');
  assert.equal(env.NODE_USE_ENV_PROXY, '1');
  assert.deepEqual(leftOut, ['NO_PROXY', 'https_proxy']);
});

test('NO_PROXY keeps the laptop’s names and addresses, but nothing that leads past the cluster', () => {
  const kept = 'git.corp.example, .intra.example,192.168.7.7  localhost,registry:5000,fd00::7';
  const dropped = '*,10.0.0.0/8,172.16.0.0/12,10.,10.*,fd00::/8,.svc,*.svc,svc.cluster.local,.cluster.local,.local,';
  const env = proxyEnvironment({ NO_PROXY: `${dropped},${kept}` }, 1080);
  const want = 'localhost,127.0.0.1,::1,git.corp.example,.intra.example,192.168.7.7,registry:5000,fd00::7';
  assert.equal(env.NO_PROXY, want);
  assert.equal(env.no_proxy, want);
  assert.equal(
    proxyEnvironment({ no_proxy: 'git.corp.example' }, 1).NO_PROXY,
    'localhost,127.0.0.1,::1,git.corp.example',
  );
});

test('JAVA_TOOL_OPTIONS: the laptop’s first, so that ours win', () => {
  const env = proxyEnvironment({ JAVA_TOOL_OPTIONS: '-Xmx1g -Dhttp.proxyHost=corp', NO_PROXY: '.intra.example' }, 1080);
  assert.equal(
    env.JAVA_TOOL_OPTIONS,
    '-Xmx1g -Dhttp.proxyHost=corp ' +
      '-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=1080 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=1080 ' +
      '-DsocksProxyHost=127.0.0.1 -DsocksProxyPort=1080 ' +
      '-Dhttp.nonProxyHosts=localhost|127.*|[::1]|*.intra.example -DsocksNonProxyHosts=localhost|127.*|[::1]|*.intra.example',
  );
});

test('globs bring a machine’s variables in and leave others out; what is set comes last', () => {
  const pod = { PATH: '/app/bin', HOME: '/app', APP_KEY: 'a', APP_DEBUG: '1', HTTP_PROXY: 'http://pods:1' };
  const choice = { include: ['PAT?'], exclude: ['APP_D*'], set: { APP_KEY: 'mine', HTTP_PROXY: 'http://mine:2' } };
  const { env, leftOut } = childEnvironment({ laptop: { HOME: '/home/me' }, pod, proxy: { port: 1080 }, choice });
  assert.equal(env.PATH, '/app/bin');
  assert.equal(env.HOME, '/home/me');
  assert.equal(env.APP_KEY, 'mine');
  assert.equal(env.HTTP_PROXY, 'http://mine:2');
  assert.equal(env.APP_DEBUG, undefined);
  assert.deepEqual(leftOut, ['APP_DEBUG', 'HOME', 'HTTP_PROXY']);
});
