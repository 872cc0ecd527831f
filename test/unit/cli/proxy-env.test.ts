import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { detectShell, shellLines, shellVariables } from '../../../cli/proxy-env.ts';

const AWKWARD = `it's "quoted" $HOME \`x\` \\ %PATH% $(y)`;

test('each shell’s lines set what was asked for, whatever is in it, and unset it', () => {
  for (const shell of ['/bin/sh', '/bin/bash', '/bin/zsh', '/bin/dash'].filter((path) => existsSync(path))) {
    const name = shell.endsWith('bash') ? 'bash' : shell.endsWith('zsh') ? 'zsh' : 'sh';
    const set = shellLines(name, { LPK_A: AWKWARD, LPK_B: '' }).join('\n');
    const script = `eval "$1"; printf '%s|%s|' "$LPK_A" "\${LPK_B-unset}"; eval "$2"; printf %s "\${LPK_A-unset}"`;
    const unset = shellLines(name, { LPK_A: undefined }).join('\n');
    const got = execFileSync(shell, ['-c', script, shell, set, unset], { encoding: 'utf8' });
    assert.equal(got, `${AWKWARD}||unset`, shell);
  }
  assert.deepEqual(shellLines('fish', { A: "it's \\", B: undefined }), ["set -gx A 'it\\'s \\\\';", 'set -e B;']);
  assert.deepEqual(shellLines('powershell', { A: "it's $x", B: undefined }), [
    "$Env:A = 'it''s $x';",
    'Remove-Item -ErrorAction SilentlyContinue Env:B;',
  ]);
  assert.deepEqual(shellLines('cmd', { A: '100% & more', B: undefined }), ['set "A=100%% & more"', 'set "B="']);
});

test('the shell is found by $SHELL, and on Windows by what the shells leave', () => {
  const table: [NodeJS.ProcessEnv, NodeJS.Platform, string][] = [
    [{ SHELL: '/bin/bash' }, 'linux', 'bash'],
    [{ SHELL: '/usr/bin/zsh' }, 'darwin', 'zsh'],
    [{ SHELL: '/usr/bin/fish' }, 'linux', 'fish'],
    [{ SHELL: '/bin/dash' }, 'linux', 'sh'],
    [{ SHELL: '/usr/bin/pwsh' }, 'linux', 'powershell'],
    [{ SHELL: 'C:\\Program Files\\Git\\usr\\bin\\bash.exe' }, 'win32', 'bash'],
    [{}, 'linux', 'sh'],
    [{ PROMPT: '$P$G' }, 'win32', 'cmd'],
    [{}, 'win32', 'powershell'],
  ];
  for (const [environment, platform, shell] of table)
    assert.equal(detectShell(environment, platform), shell, JSON.stringify(environment));
  assert.throws(() => detectShell({ SHELL: '/bin/tcsh' }, 'linux'), { name: 'LpkError', code: 'usage' });
});

/** As a shell does with the lines. */
function evaluated(environment: NodeJS.ProcessEnv, changes: Record<string, string | undefined>): NodeJS.ProcessEnv {
  const after = { ...environment, ...changes };
  for (const name of Object.keys(after)) if (after[name] === undefined) delete after[name];
  return after;
}

test('what the variables had before comes back, also after setting them twice', () => {
  const before = {
    HOME: '/home/me',
    HTTP_PROXY: 'http://corp:8080',
    NO_PROXY: 'intranet',
    JAVA_TOOL_OPTIONS: '-Xmx1g',
  };
  const access = { host: '127.0.0.1', port: 1080, direct: ['10.0.0.1'], ranges: [] };
  const once = evaluated(before, shellVariables(before, access));
  assert.equal(once.HTTP_PROXY, 'http://127.0.0.1:1080');
  assert.equal(once.NO_PROXY, 'localhost,127.0.0.1,::1,10.0.0.1,intranet');
  assert.match(once.JAVA_TOOL_OPTIONS as string, /^-Xmx1g -Dhttp\.proxyHost=127\.0\.0\.1 /);
  const twice = evaluated(once, shellVariables(once, { ...access, port: 1081 }));
  assert.equal(twice.HTTP_PROXY, 'http://127.0.0.1:1081');
  assert.equal(twice.JAVA_TOOL_OPTIONS, once.JAVA_TOOL_OPTIONS?.replaceAll('1080', '1081'));
  assert.deepEqual(evaluated(twice, shellVariables(twice, undefined)), before);
});

test('where no proxy was set there is nothing to take back', () => {
  assert.deepEqual(shellVariables({ HTTP_PROXY: 'http://corp:8080' }, undefined), {});
});

test('a password is part of the proxy’s address, escaped', () => {
  const access = {
    host: '127.0.0.1',
    port: 1080,
    direct: [],
    ranges: [],
    credentials: { user: 'me', password: 'p@ss/word' },
  };
  assert.equal(shellVariables({}, access).https_proxy, 'http://me:p%40ss%2Fword@127.0.0.1:1080');
});
