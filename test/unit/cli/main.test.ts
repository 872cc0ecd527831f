/** The command line as a person meets it: the real program, without a cluster. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { HINTS } from '../../../cli/hints.ts';

const root = join(import.meta.dirname, '../../..');
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

function lpk(...args: string[]) {
  const env = { ...process.env, KUBECONFIG: '/nowhere/kubeconfig' };
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'cli/main.ts'), ...args], {
    encoding: 'utf8',
    env,
  });
  return { status, stdout, stderr };
}

test('--version', () => {
  assert.deepEqual(lpk('--version'), { status: 0, stdout: `${version}\n`, stderr: '' });
});

test('--help names every verb, with examples', () => {
  for (const args of [['--help'], ['-h']]) {
    const { status, stdout, stderr } = lpk(...args);
    assert.equal(status, 0);
    assert.equal(stderr, '');
    for (const word of ['lpk connect [target]', 'lpk restore [target]', 'Examples:', 'npm start']) {
      assert.ok(stdout.includes(word), `no ${word} in:\n${stdout}`);
    }
  }
});

test('each verb’s --help has its options and examples', () => {
  const connect = lpk('connect', '--help').stdout;
  const options =
    '-p --port --free-ports --profile --dns-include --container -n --namespace --context --kubeconfig --transport --agent-image --proxy-port --no-wait --hold --no-self-test -o --output --verbose';
  for (const word of [...options.split(' '), 'LOCAL[:CONTAINER]', 'lpk connect web -- npm start']) {
    assert.ok(connect.includes(word), `no ${word} in:\n${connect}`);
  }
  const restore = lpk('restore', '--help').stdout;
  for (const word of ['--all', '-A', '--everyone', '--yes', '--no-wait', 'lpk restore --all -A']) {
    assert.ok(restore.includes(word), `no ${word} in:\n${restore}`);
  }
});

test('--help and --version load no Kubernetes client', () => {
  const { stderr } = spawnSync(process.execPath, [join(root, 'cli/main.ts'), '--help'], {
    encoding: 'utf8',
    env: { ...process.env, NODE_DEBUG: 'esm,module' },
  });
  assert.ok(stderr.includes('yargs'), 'the loader tells what it loads');
  assert.ok(!stderr.includes('client-node'), 'the Kubernetes client is loaded');
});

test('a wrong command line is one line with a hint, and exit code 2', () => {
  const table: [string[], RegExp][] = [
    [[], /^lpk: name a verb: connect, init, run, proxy, env, services, status, release, restore, doctor, diagnose$/],
    [['run'], /^lpk: run needs a command: lpk run -- COMMAND$/],
    [['run', '--capture', 'ptrace', '--', 'true'], /^lpk: --capture is auto or seccomp or env or none, not ptrace/],
    [['status', '--', 'true'], /^lpk: status takes no command/],
    [['services', '--', 'true'], /^lpk: services takes no command/],
    [['release'], /^lpk: release needs a target/],
    [['release', 'web', '--', 'true'], /^lpk: release takes no command/],
    [['connect', 'web', '--wait', '--take-over'], /^lpk: --wait leaves .*: choose one/],
    [['connect', 'web', '--restore-after', '14'], /^lpk: --restore-after is a number from 15 to 86400, not 14/],
    [['doctor', '--', 'true'], /^lpk: doctor takes no command/],
    [['proxy'], /^lpk: proxy needs a verb: up, down, status, env$/],
    [['proxy', 'up', '--bind', '0.0.0.0'], /^lpk: --bind 0.0.0.0 needs --allow-lan and a password/],
    [['proxy', 'up', '--fake-ip-range', '10.0.0.0'], /^lpk: --fake-ip-range is a range like/],
    [['proxy', 'env', '--shell', 'tcsh'], /^lpk: --shell is bash, zsh, sh, fish, powershell, cmd, not tcsh/],
    [['proxy', 'down', '--', 'npm'], /^lpk: proxy down takes no command/],
    [['conect', 'web'], /^lpk: there is no verb "conect"; did you mean connect\?$/],
    [['proxy', 'upp'], /^lpk: there is no verb "upp"; did you mean up\?$/],
    [['xyzzy', '--port', '1'], /^lpk: there is no verb "xyzzy"; there is connect, init, run, proxy,/],
    [['connect', 'web', '--colour'], /^lpk: Unknown argument: colour$/],
    [['connect'], /^lpk: connect needs a target/],
    [['connect', 'web', '--port-number', '1'], /^lpk: Unknown argument: port-number$/],
    [['connect', 'web', 'npm', 'start'], /^lpk: .*npm/],
    [['connect', 'web', '-p'], /^lpk: Not enough arguments following: p/],
    [['connect', 'web', '-n', 'a', '-n', 'b'], /^lpk: --namespace is given more than once/],
    [['connect', 'web', '--transport', 'pigeon'], /^lpk: --transport is auto or proxy or port-forward, not pigeon/],
    [['connect', 'web', '--'], /^lpk: there is no command after --/],
    [['restore'], /^lpk: restore needs a target, or --all/],
    [['restore', 'web', '--', 'npm'], /^lpk: restore takes no command/],
  ];
  for (const [args, first] of table) {
    const { status, stdout, stderr } = lpk(...args);
    const lines = stderr.trimEnd().split('\n');
    assert.match(lines[0] as string, first, `lpk ${args.join(' ')}`);
    assert.equal(lines.length, 2, `one line and its hint, got:\n${stderr}`);
    assert.equal(lines[1], `  → ${HINTS.usage}`);
    assert.equal(status, 2);
    assert.equal(stdout, '');
  }
});

test('a failure is one line with a hint, and exit code 1', () => {
  const { status, stdout, stderr } = lpk('restore', '--all');
  assert.match(stderr, /^lpk: [^\n]*\/nowhere\/kubeconfig[^\n]*\n {2}→ [^\n]+\n$/);
  assert.equal(stdout, '');
  assert.equal(status, 1);
});

test('-o json prints errors as one object per line, wherever it stands', () => {
  for (const args of [
    ['restore', '-o', 'json'],
    ['-o=json', 'restore'],
    ['restore', '--output=json'],
  ]) {
    const { status, stdout } = lpk(...args);
    assert.deepEqual(
      JSON.parse(stdout),
      { event: 'error', code: 'usage', message: 'restore needs a target, or --all', hint: HINTS.usage },
      args.join(' '),
    );
    assert.equal(status, 2);
  }
});

test('what comes after -- is the command’s alone', () => {
  const { stderr } = lpk('connect', 'web', '--', 'sh', '-c', 'true', '--', '-p', 'x', '--help');
  assert.match(stderr, /kubeconfig/, 'it went on to the cluster');
});

test('a bug is one line; LPK_DEBUG=1 shows the stack', () => {
  const run = (env: NodeJS.ProcessEnv) =>
    spawnSync(process.execPath, [join(root, 'cli/main.ts'), 'restore', '--all'], {
      encoding: 'utf8',
      env: { ...process.env, KUBECONFIG: '/nowhere/kubeconfig', ...env },
    }).stderr;
  assert.doesNotMatch(run({}), /\n\s+at /);
  assert.match(run({ LPK_DEBUG: '1' }), /LpkError: [^\n]*\n\s+at /);
});
