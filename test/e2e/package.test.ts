/** The npm package, as a person gets it. Needs npm and its registry, but no cluster. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';

const root = join(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'lpk-package-'));
const installed = join(folder, 'installed');
const env = { ...process.env, PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH}` };
const run = (command: string, args: string[], cwd: string) =>
  execFileSync(command, args, { cwd, env, encoding: 'utf8' });

let tarball: string;

before(() => {
  run('npm', ['pack', '--silent', '--pack-destination', folder], root);
  tarball = join(folder, readdirSync(folder).find((name) => name.endsWith('.tgz')) as string);
  mkdirSync(installed);
  run(
    'npm',
    [
      'install',
      '--prefix',
      installed,
      '--no-audit',
      '--no-fund',
      '--prefer-offline',
      '--fetch-retries=5',
      '--silent',
      tarball,
    ],
    folder,
  );
});

after(() => rmSync(folder, { recursive: true }));

test('the tarball has what it should and nothing else', () => {
  const files = run('tar', ['-tzf', tarball], folder).trimEnd().split('\n');
  const intended = [
    /^package\/(package\.json|README\.md|CHANGELOG\.md|LICENSE)$/,
    /^package\/(agent\/wire\/SPEC\.md|docs\/(rbac(-[a-z]+)?\.yaml|faults\.md))$/,
    /^package\/dist\/(agent\.mjs|cli\/lpk\.schema\.json)$/,
    /^package\/dist\/(cli|proxy|proxy\/capture|dns|agent\/wire|agent\/deploy|agent\/restore)\/[a-z0-9-]+\.js$/,
  ];
  assert.deepEqual(
    files.filter((file) => !intended.some((pattern) => pattern.test(file))),
    [],
  );
  for (const file of [
    'LICENSE',
    'README.md',
    'CHANGELOG.md',
    'agent/wire/SPEC.md',
    'docs/rbac.yaml',
    'docs/rbac-cluster.yaml',
    'dist/agent.mjs',
    'dist/cli/connect.js',
    'dist/cli/lpk.schema.json',
  ]) {
    assert.ok(files.includes(`package/${file}`), `${file} is missing`);
  }
});

test('lpk runs from an empty folder', () => {
  const lpk = join(installed, 'node_modules/.bin/lpk');
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  assert.equal(run(lpk, ['--version'], '/'), `${version}\n`);
  assert.match(run(lpk, ['--help'], '/'), /lpk connect \[target\]/);
});

test('the verbs load, with all they import', () => {
  for (const verb of ['connect', 'restore']) {
    const url = pathToFileURL(join(installed, `node_modules/lpk/dist/cli/${verb}.js`));
    run(process.execPath, ['-e', `import(${JSON.stringify(url)}).then((m) => m.${verb}.call)`], '/');
  }
});

test('the agent is there, the same as from the sources', async () => {
  const { bundleAgent } = await import('../../agent/deploy/bundle.ts');
  const url = pathToFileURL(join(installed, 'node_modules/lpk/dist/agent/deploy/bundle.js'));
  const print = `import(${JSON.stringify(url)}).then(async (m) => process.stdout.write(await m.agentBundle()))`;
  assert.equal(run(process.execPath, ['-e', print], '/'), await bundleAgent(join(root, 'agent/pod/main.ts')));
});
