/** What each room may import, and how things are called: the rules of the design, held. */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { basename, dirname, join, posix } from 'node:path';
import test from 'node:test';

const root = join(import.meta.dirname, '../..');

type Rule = { rooms: string[]; packages: string[]; why: string };

/** Node's own modules and the room itself are always allowed. */
const RULES: Record<string, Rule> = {
  'agent/wire': {
    rooms: [],
    packages: [],
    why: 'both ends speak the protocol, so it may lean on neither of them',
  },
  'agent/restore': {
    rooms: ['agent/wire'],
    packages: [],
    why: 'it takes a session back from the laptop and, bundled, from the restorer in the cluster: it is given its way to ask',
  },
  'agent/pod': {
    rooms: ['agent/wire', 'agent/restore'],
    packages: [],
    why: 'it is bundled into the one file that runs in the pod, which is to stay small',
  },
  'agent/deploy': {
    rooms: ['agent/wire', 'agent/restore'],
    packages: ['@kubernetes/client-node', 'js-yaml', 'esbuild'],
    why: 'it changes the cluster for any caller: it knows no laptop network, no command line and no agent from within',
  },
  proxy: {
    rooms: ['agent/wire'],
    packages: ['koffi'],
    why: 'a door makes flows, whatever the cluster behind the tunnel; tests run it without one',
  },
  dns: {
    rooms: [],
    packages: [],
    why: 'its answers come from functions that it is given',
  },
  cli: {
    rooms: ['agent/wire', 'agent/restore', 'agent/deploy', 'proxy', 'dns'],
    packages: ['yargs', 'yaml', 'jsonc-parser', '@clack/prompts'],
    why: 'it puts the others together, except for what runs in the pod only',
  },
};

const FORBIDDEN_NAMES = /^(utils?|common|helpers?|index|misc|shared)\b/;

function sources(...patterns: string[]): string[] {
  return globSync(patterns, { cwd: root, exclude: (name) => name === 'node_modules' }).map((file) =>
    file.replaceAll('\\', '/'),
  );
}

function roomOf(file: string): string | undefined {
  return Object.keys(RULES).find((room) => file.startsWith(`${room}/`));
}

/** The specifiers of a module's imports and re-exports, static and dynamic. */
function imports(text: string): string[] {
  const code = text.replace(/^\s*(\/\/|\/?\*).*$/gm, '');
  const patterns = [
    /^(?:import|export)\b[^'";]*?\bfrom\s+['"]([^'"]+)['"]/gm,
    /^import\s+['"]([^'"]+)['"]/gm,
    /\b(?:import|require)\(\s*['"]([^'"]+)['"]/g,
  ];
  return patterns.flatMap((pattern) => [...code.matchAll(pattern)].map((match) => match[1] as string));
}

/** Why `file` may not import `specifier`; undefined when it may. */
function objection(file: string, specifier: string): string | undefined {
  if (isBuiltin(specifier)) return undefined;
  const room = roomOf(file) as string;
  const { rooms, packages, why } = RULES[room] as Rule;
  if (!specifier.startsWith('.')) {
    const name = specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/');
    return packages.includes(name) ? undefined : `${file} imports the package ${name}: ${room} may not, as ${why}`;
  }
  const target = posix.join(posix.dirname(file), specifier);
  const other = roomOf(target);
  if (other === room || (other && rooms.includes(other))) return undefined;
  return `${file} imports ${target}: ${room} may not, as ${why}`;
}

test('every room imports only what it may', () => {
  const files = sources('{agent,proxy,dns,cli}/**/*.ts');
  assert.ok(files.length > 20, `only ${files.length} files found`);
  for (const file of files) assert.ok(roomOf(file), `${file} is in no room`);
  const found = files.flatMap((file) =>
    imports(readFileSync(join(root, file), 'utf8')).flatMap((specifier) => objection(file, specifier) ?? []),
  );
  assert.deepEqual(found, []);
});

test('every package a room imports is a dependency of lpk', () => {
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  // Bundling is for checkouts; the npm package has the agent bundled.
  const known = new Set([...Object.keys(dependencies), 'esbuild']);
  const used = new Set(Object.values(RULES).flatMap(({ packages }) => packages));
  assert.deepEqual(
    [...used].filter((name) => !known.has(name)),
    [],
  );
});

test('every relative import is a file that exists, with its extension', () => {
  const missing = sources('{agent,proxy,dns,cli,test,scripts}/**/*.ts').flatMap((file) =>
    imports(readFileSync(join(root, file), 'utf8'))
      .filter((specifier) => specifier.startsWith('.') && !existsSync(join(root, dirname(file), specifier)))
      .map((specifier) => `${file} imports ${specifier}`),
  );
  assert.deepEqual(missing, []);
});

test('the rule sees every kind of import, and names what breaks it', () => {
  const text = [
    "import fs from 'node:fs';",
    "import type { A } from '../pod/server.ts';",
    'import {',
    '  b,',
    "} from './frames.ts';",
    "import 'yargs/helpers';",
    "export { c } from '../../cli/main.ts';",
    "  const d = await import('@scope/name/deep');",
    "// import e from 'commented-out';",
    " * import f from 'commented-out';",
  ].join('\n');
  const found = imports(text);
  assert.deepEqual(found, [
    'node:fs',
    '../pod/server.ts',
    './frames.ts',
    '../../cli/main.ts',
    'yargs/helpers',
    '@scope/name/deep',
  ]);
  const objections = found.flatMap((specifier) => objection('agent/wire/link.ts', specifier) ?? []);
  assert.deepEqual(
    objections.map((text) => text.split(':')[0]),
    [
      'agent/wire/link.ts imports agent/pod/server.ts',
      'agent/wire/link.ts imports cli/main.ts',
      'agent/wire/link.ts imports the package yargs',
      'agent/wire/link.ts imports the package @scope/name',
    ],
  );
  assert.equal(objection('cli/connect.ts', '../agent/deploy/kube.ts'), undefined);
  assert.match(
    objection('cli/connect.ts', '../agent/pod/main.ts') ?? '',
    /^cli\/connect.ts imports agent\/pod\/main.ts/,
  );
});

test('no file has a name that says nothing', () => {
  const files = sources('{agent,proxy,dns,cli,test,scripts}/**/*.{ts,mjs,js}');
  assert.deepEqual(
    files.filter((file) => FORBIDDEN_NAMES.test(basename(file))),
    [],
  );
});

test('a connection is reset in one place, which knows when Node can’t', () => {
  const files = sources('{agent,proxy,dns,cli}/**/*.ts').filter((file) => file !== 'agent/wire/reset-socket.ts');
  assert.ok(files.length > 100);
  assert.deepEqual(
    files.filter((file) => readFileSync(join(root, file), 'utf8').includes('resetAndDestroy')),
    [],
  );
});

test('agent/ says laptop and cluster, not local and remote', () => {
  const found = sources('agent/**/*.{ts,md}').flatMap((file) =>
    readFileSync(join(root, file), 'utf8')
      .split('\n')
      .flatMap((line, i) => (saysSide(line) ? [`${file}:${i + 1}: ${line.trim()}`] : [])),
  );
  assert.deepEqual(found, [], 'words that mean the opposite at the other end');
});

/** Node's own names, paths and the cluster's domain are no choice of ours. */
function saysSide(line: string): boolean {
  const ours = line.replaceAll(/\b(local|remote)(Address|Port|Family)\b|\/usr\/local\b|\bcluster\.local\b/g, '');
  const words = ours.replaceAll(/([a-z])([A-Z])/g, '$1 $2').toLowerCase();
  return /(^|[^a-z])(local|remote)(ly)?([^a-z]|$)/.test(words);
}

test('the rule on words knows identifiers from what they are made of', () => {
  for (const line of ['const localPeer = 1;', '// the remote end', 'REMOTE_END', 'isRemote()', 'locally']) {
    assert.equal(saysSide(line), true, line);
  }
  for (const line of [
    'localhost',
    'socket.remoteAddress',
    'x.svc.cluster.local',
    '/usr/local/bin',
    'locale',
    'localPort',
  ]) {
    assert.equal(saysSide(line), false, line);
  }
});
