import assert from 'node:assert/strict';
import { execFileSync, type StdioOptions } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { agentPorts, newSessionId, SAVED_VARIABLES, START_SCRIPT } from '../../../agent/deploy/agent-container.ts';

const SHELLS = ['/bin/sh', '/bin/bash', '/bin/dash'].filter((shell) => existsSync(shell));

/** Runs the start script in a shell with a `node` that prints its arguments and environment. */
function started(shell: string, env: Record<string, string>) {
  const dir = mkdtempSync(path.join(tmpdir(), 'lpk-start-'));
  const node = path.join(dir, 'node');
  // A shell script, as a real Node would stumble over the environment this is about.
  writeFileSync(node, '#!/bin/sh\nprintf "%s\\n" "$*"\n/usr/bin/env -0\n');
  chmodSync(node, 0o755);
  try {
    // As in a container. (Bash takes a socket for a login from afar, and reads somebody's .bashrc.)
    const stdio: StdioOptions = ['ignore', 'pipe', 'inherit'];
    const script = START_SCRIPT.replace('/usr/local/bin:', `${dir}:`);
    const [args, ...rest] = execFileSync(shell, ['-c', script], { env, encoding: 'utf8', stdio }).split(/\n|\0/);
    const pairs = rest
      .filter(Boolean)
      .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]);
    return { args, env: Object.fromEntries(pairs) as Record<string, string> };
  } finally {
    rmSync(dir, { recursive: true });
  }
}

test('the agent starts without what the environment would make of Node, and finds it under other names', () => {
  const awkward = `it's "quoted" $HOME \`x\` \\ $(y) *`;
  for (const shell of SHELLS) {
    const given = Object.fromEntries(
      SAVED_VARIABLES.filter((name) => !name.startsWith('LD_')).map((name) => [name, awkward]),
    );
    const { args, env } = started(shell, { ...given, PATH: '/app/bin', PLAIN: awkward, NODE_PATH: '' });
    assert.match(args as string, /^--\S+ \/\.lpk\/agent\.mjs$/);
    for (const name of Object.keys(given)) {
      assert.equal(env[name], undefined, `${shell} ${name}`);
      assert.equal(env[`LPK_SAVED_${name}`], name === 'NODE_PATH' ? '' : awkward, `${shell} ${name}`);
    }
    assert.equal(env.PLAIN, awkward);
    assert.equal(env.LPK_SAVED_PATH, '/app/bin');
    assert.match(env.PATH as string, /:\/usr\/bin:\/bin:\/app\/bin$/);
    assert.equal(env.LPK_SAVED_LD_PRELOAD, undefined, 'what was not set stays so');
  }
});

test('Kubernetes leaves the start script as it is', () => {
  // https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
  assert.doesNotMatch(START_SCRIPT, /\$\(|\$\$/);
});

test('session ids are names, and differ', () => {
  const ids = Array.from({ length: 1000 }, newSessionId);
  assert.ok(ids.every((id) => /^[a-z0-9]{10}$/.test(id)));
  assert.equal(new Set(ids).size, 1000);
});

test('in the node’s network the agent’s ports are free of NodePorts and ephemeral ports', () => {
  assert.deepEqual(agentPorts(false), { port: 47601, probePort: 47602 });
  const pairs = Array.from({ length: 2000 }, () => agentPorts(true));
  assert.ok(pairs.every(({ port, probePort }) => port >= 20_000 && probePort === port + 1 && probePort < 30_000));
  assert.ok(new Set(pairs.map(({ port }) => port)).size > 1000, 'two sessions hardly ever meet');
});
