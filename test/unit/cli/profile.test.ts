/** lpk.yaml: what may stand in it, what is said of what may not, and how it is written. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { Ajv2020 } from 'ajv/dist/2020.js';
import type { Argv } from 'yargs';
import { connectVerb, readConnectOptions } from '../../../cli/connect-options.ts';
import schema from '../../../cli/lpk.schema.json' with { type: 'json' };
import { chooseProfile, findProfiles, type Profile, parseProfiles } from '../../../cli/profile.ts';
import { mergeLines, profileLine } from '../../../cli/profile-words.ts';
import { replaceFile, saveProfile, withProfile } from '../../../cli/profile-write.ts';
import type { Words } from '../../../cli/verb.ts';
import { joinWords, splitWords } from '../../../cli/words.ts';

const dir = mkdtempSync(join(tmpdir(), 'lpk-profile-'));
after(() => rmSync(dir, { recursive: true }));

const WHOLE = `# two ways in
default: web
profiles:
  web:
    target: web
    context: dev
    namespace: shop
    kubeconfig: ../kubeconfig
    container: app
    ports: [3000:80, 9229]
    freePorts: true
    command: npm run "the app"
    env: { DEBUG: "1", RETRIES: 3, ON: true }
    envFiles: [.env]
    envInclude: [GO*]
    envExclude: ["*_TOKEN"]
    volumes: ro
    volumeLimitMiB: 7
    capture: env
    transport: proxy
    readiness: connected
    agentImage: r/node:24
    proxyPort: 1080
    holdSeconds: 5
    restoreAfterSeconds: 20
    restorer: false
    whenHeld: wait
    waitRestored: false
    dnsInclude: [corp.example]
    selfTest: false
    routes: [10.9.0.0/16]
    noRoutes: [10.8.0.0/16]
  db:
    target: statefulset/db
    command: [sh, -c, "echo $HOME"]
`;

test('everything a profile may hold arrives where the command line would bring it', () => {
  const file = parseProfiles(join(dir, 'lpk.yaml'), WHOLE);
  writeFileSync(join(dir, '.env'), 'FROM_FILE=yes\nDEBUG=0\n');
  const line = profileLine(file.profiles.web as Profile, file.path);
  const options = readConnectOptions(line.words, line.command);
  assert.deepEqual(
    { ...options, environment: undefined },
    {
      ...readConnectOptions({ target: 'web' }, undefined),
      target: 'web',
      namespace: 'shop',
      context: 'dev',
      kubeconfig: join(dir, '../kubeconfig'),
      ports: [
        { laptopPort: 3000, containerPort: 80 },
        { laptopPort: 9229, containerPort: undefined },
      ],
      ...{
        container: 'app',
        transport: 'proxy',
        readiness: 'connected',
        agentImage: 'r/node:24',
        proxyPort: 1080,
        holdMs: 5_000,
        restoreAfterMs: 20_000,
        restorer: false,
        whenHeld: 'wait',
        wait: false,
        selfTest: false,
        freePorts: true,
        volumes: { limitBytes: 7 * 1024 * 1024, writeBack: false },
      },
      ...{
        dnsInclude: ['corp.example'],
        capture: 'env',
        routes: ['10.9.0.0/16'],
        noRoutes: ['10.8.0.0/16'],
        environment: undefined,
      },
      command: { program: 'npm', args: ['run', 'the app'] },
    },
  );
  assert.deepEqual(options.environment, {
    include: ['GO*'],
    exclude: ['*_TOKEN'],
    set: { FROM_FILE: 'yes', DEBUG: '1', RETRIES: '3', ON: 'true' },
  });
  assert.deepEqual(profileLine(file.profiles.db as Profile, file.path).command, ['sh', '-c', 'echo $HOME']);
});

test('what stands on the line goes over the profile', () => {
  const file = parseProfiles(join(dir, 'lpk.yaml'), WHOLE);
  const below = profileLine(file.profiles.web as Profile, file.path);
  const words = { namespace: 'other', port: ['4000'], env: ['DEBUG=2'], 'env-file': undefined };
  const { words: merged, command } = mergeLines({ words, command: ['true'] }, below);
  const options = readConnectOptions(merged, command);
  assert.equal(options.namespace, 'other');
  assert.equal(options.context, 'dev');
  assert.deepEqual(options.ports, [{ laptopPort: 4000, containerPort: undefined }]);
  assert.equal(options.environment.set.DEBUG, '2');
  assert.equal(options.environment.set.RETRIES, '3');
  assert.deepEqual(options.command, { program: 'true', args: [] });
});

test('what to do when somebody holds the workload is asked once: the line’s answer stands alone', () => {
  const file = parseProfiles(join(dir, 'lpk.yaml'), WHOLE);
  const below = profileLine(file.profiles.web as Profile, file.path);
  const { words } = mergeLines({ words: { 'take-over': true }, command: undefined }, below);
  assert.equal(readConnectOptions(words, undefined).whenHeld, 'take-over');
});

/** Options of `lpk connect` that no profile has, each with the reason. */
const NOT_IN_PROFILES: Record<string, string> = {
  profile: 'it names the profile',
  output: 'it is for the program that reads this one run',
  verbose: 'it is for the person who looks into this one run',
};

/** Every option and positional of `lpk connect`, as its own reader is given them. */
function connectWords(): string[] {
  const names: string[] = [];
  const note = (name: string) => {
    names.push(name);
    return recorder;
  };
  const recorder = { option: note, positional: note };
  connectVerb.options(recorder as unknown as Argv);
  return names;
}

type Field = { type?: string | string[]; enum?: string[]; minimum?: number; maximum?: number };
const FIELDS = Object.entries(schema.$defs.profile.properties as Record<string, Field>);

/** Values that the schema allows for a field, enough to bring it onto the line. */
function examples({ type, enum: choices, minimum }: Field): unknown[] {
  if (choices) return choices;
  const [kind] = [type ?? []].flat();
  const values: Record<string, unknown[]> = {
    string: ['x'],
    boolean: [true, false],
    integer: [minimum],
    array: [['1']],
    object: [{ A: 'b' }],
  };
  return values[kind as string] as unknown[];
}

/** The words that a profile brings onto the line by this one field. */
function wordsOf(field: string, value: unknown): string[] {
  const line = (profile: object): Words => {
    const { words, command } = profileLine(profile as Profile, '/code/lpk.yaml');
    return { ...words, ...(command ? { '--': command } : {}) };
  };
  const without = line({});
  const found = Object.entries(line({ [field]: value }));
  return found.filter(([name, word]) => !isDeepStrictEqual(word, without[name])).map(([name]) => name);
}

test('every option of lpk connect has its field in lpk.yaml, and every field its option', () => {
  const options = connectWords();
  assert.ok(options.includes('target') && options.includes('hold') && options.includes('env-file'), 'they are found');
  const reached = new Map(
    FIELDS.map(([name, field]) => [name, examples(field).flatMap((value) => wordsOf(name, value))]),
  );
  const all = [...reached.values()].flat();
  const readme = readFileSync(join(import.meta.dirname, '../../../README.md'), 'utf8')
    .split('\n## ')
    .find((part) => part.startsWith('lpk.yaml')) as string;
  assert.deepEqual(
    options.filter((name) => !all.includes(name) && !(name in NOT_IN_PROFILES)),
    [],
    'add it to cli/lpk.schema.json, cli/profile.ts, cli/profile-words.ts and the README, or to the exceptions above',
  );
  assert.deepEqual(
    Object.keys(NOT_IN_PROFILES).filter((name) => all.includes(name) || !options.includes(name)),
    [],
    'no exception any more',
  );
  for (const [field, words] of reached) {
    assert.ok(words.length > 0, `the field ${field} does nothing`);
    assert.match(readme, new RegExp(`\\b${field}\\b`), `the README does not name ${field}`);
    const unknown = words.filter((word) => word !== '--' && !options.includes(word));
    assert.deepEqual(unknown, [], `${field} is no option of lpk connect`);
  }
});

test('the schema allows of each option what the option allows', () => {
  for (const [name, field] of FIELDS) {
    if (!field.enum && field.maximum === undefined) continue;
    const [word = ''] = wordsOf(name, examples(field)[0]);
    // Those that are one choice here and several options there have no list to compare with.
    if (field.enum?.some((value) => wordsOf(name, value)[0] !== word)) continue;
    const allowed = field.enum ? field.enum.join(' or ') : `a number from ${field.minimum} to ${field.maximum}`;
    assert.throws(
      () => readConnectOptions({ target: 'web', [word]: 'other' }, undefined),
      { code: 'usage', message: `--${word} is ${allowed}, not other` },
      name,
    );
  }
});

/** The text, and what is said of it. */
const MALFORMED: [string, string, string][] = [
  [
    'no YAML',
    'profiles:\n  web: {target: web\n',
    '3:1: Flow map in block collection must be sufficiently indented and end with a }',
  ],
  ['a tab', 'profiles:\n\tweb: {}\n', '2:1: Tabs are not allowed as indentation'],
  ['empty', '', '1:1: expected fields, got nothing'],
  ['a list', '- web\n', '1:1: expected fields, got a list'],
  ['no profiles', 'default: web\n', '1:1: "profiles" is missing'],
  ['profiles without one', 'profiles: {}\n', '1:11: profiles: is empty'],
  ['no target', 'profiles:\n  web:\n    namespace: shop\n', '3:5: profiles.web: "target" is missing'],
  [
    'a misspelled field',
    'profiles:\n  web:\n    target: web\n    port: [80]\n',
    '4:5: profiles.web: "port" is unknown; known: target, context',
  ],
  [
    'an unknown field at the top',
    'profile: web\nprofiles: {web: {target: web}}\n',
    '1:1: "profile" is unknown; known: default, profiles',
  ],
  [
    'a target that is none',
    'profiles:\n  web:\n    target: "Web App"\n',
    '3:13: profiles.web.target: "Web App" does not fit',
  ],
  [
    'a port that is none',
    'profiles:\n  web:\n    target: web\n    ports:\n      - 80\n      - http\n',
    '6:9: profiles.web.ports[1]: "http" does not fit',
  ],
  [
    'a port out of range',
    'profiles: {web: {target: web, ports: [70000]}}\n',
    '1:39: profiles.web.ports[0]: 70000 is not from 1 to 65535',
  ],
  [
    'ports that are no list',
    'profiles:\n  web:\n    target: web\n    ports: 80\n',
    '4:12: profiles.web.ports: expected a list, got a whole number (80)',
  ],
  [
    'a variable that is a list',
    'profiles:\n  web:\n    target: web\n    env:\n      A: [1]\n',
    '5:10: profiles.web.env.A: expected text or a number or true or false, got a list',
  ],
  [
    'an unknown capture',
    'profiles: {web: {target: web, capture: ptrace}}\n',
    '1:40: profiles.web.capture: expected "auto" or "seccomp" or "env" or "none", got "ptrace"',
  ],
  [
    'a default that is not there',
    'default: api\nprofiles:\n  web: {target: web}\n',
    '1:10: there is no profile "api"; there is web',
  ],
  [
    'a quote left open',
    'profiles:\n  web:\n    target: web\n    command: npm "start\n',
    '4:14: profiles.web.command: a quote is not closed',
  ],
  [
    'an unknown token',
    'profiles: {web: {target: web, env: {A: $(secrets:x)}}}\n',
    '1:40: profiles.web.env.A: $(secrets:x) is unknown',
  ],
  ['a field twice', 'profiles:\n  web:\n    target: web\n    target: api\n', '4:5: Map keys must be unique'],
  [
    'several faults',
    'profiles:\n  web: {target: 7, ports: x}\n',
    '2:17: profiles.web.target: expected text, got a whole number (7) (and 1 more)',
  ],
];

test('a malformed file is told with line and column', () => {
  for (const [what, text, expected] of MALFORMED) {
    assert.throws(
      () => parseProfiles('lpk.yaml', text),
      (error: Error & { code: string }) => {
        assert.equal(error.code, 'profile-invalid', what);
        assert.equal(error.message.slice(0, expected.length + 9), `lpk.yaml:${expected}`, what);
        assert.ok(!error.message.includes('\n'), what);
        return true;
      },
    );
  }
});

test('the nearest file upwards is used', () => {
  const deep = join(dir, 'a/b/c');
  mkdirSync(deep, { recursive: true });
  writeFileSync(join(dir, 'lpk.yaml'), 'profiles: {top: {target: web}}\n');
  assert.deepEqual(Object.keys(findProfiles(deep)?.profiles ?? {}), ['top']);
  writeFileSync(join(dir, 'a/lpk.yaml'), 'profiles: {near: {target: web}}\n');
  assert.equal(findProfiles(deep)?.path, join(dir, 'a/lpk.yaml'));
  rmSync(join(dir, 'a/lpk.yaml'));
  rmSync(join(dir, 'lpk.yaml'));
});

test('one above that is another user’s is not used', (t) => {
  if (process.getuid?.() !== 0) return t.skip('only root can make one');
  const folder = mkdtempSync(join(dir, 'other-'));
  const path = join(folder, 'lpk.yaml');
  mkdirSync(join(folder, 'below'));
  writeFileSync(path, 'profiles: {web: {target: web, command: rm}}\n');
  chownSync(path, 65534, 65534);
  assert.throws(() => findProfiles(join(folder, 'below')), { code: 'profile-invalid', message: /another user’s/ });
  assert.equal(findProfiles(folder)?.path, path);
});

test('one above that is a link is not used: its command would run where the link is', () => {
  const linking = mkdtempSync(join(dir, 'linking-'));
  mkdirSync(join(linking, 'below'));
  writeFileSync(join(dir, 'own.yaml'), 'profiles: {web: {target: web, command: make}}\n');
  symlinkSync(join(dir, 'own.yaml'), join(linking, 'lpk.yaml'));
  assert.throws(() => findProfiles(join(linking, 'below')), { code: 'profile-invalid', message: /a symbolic link/ });
  assert.deepEqual(Object.keys(findProfiles(linking)?.profiles ?? {}), ['web']);
});

test('lpk init looks at the file of its own folder only', () => {
  const folder = mkdtempSync(join(dir, 'init-'));
  const below = join(folder, 'below');
  mkdirSync(below);
  writeFileSync(join(folder, 'lpk.yaml'), 'profiles: 7\n');
  const env = { ...process.env, KUBECONFIG: join(folder, 'none') };
  const init = () => {
    const options = { cwd: below, env, encoding: 'utf8' } as const;
    return spawnSync(process.execPath, [join(import.meta.dirname, '../../../cli/main.ts'), 'init', 'web'], options)
      .stderr;
  };
  assert.match(init(), /kubeconfig/i);
  writeFileSync(join(below, 'lpk.yaml'), 'profiles: 7\n');
  assert.match(init(), /below\/lpk\.yaml:1:11/);
});

test('anchors may be used, circles are no profiles', () => {
  const many = Array.from({ length: 300 }, (_, i) => `  p${i}: *web`).join('\n');
  const file = parseProfiles('lpk.yaml', `profiles:\n  web: &web {target: web}\n${many}\n`);
  assert.equal(file.profiles.p299?.target, 'web');
  for (const text of [
    'profiles: &a {web: *a}\n',
    'profiles: {web: &w {target: web, env: {A: *w}}}\n',
    'profiles: *a\n',
  ]) {
    assert.throws(() => parseProfiles('lpk.yaml', text), { code: 'profile-invalid' }, text);
  }
  assert.throws(() => parseProfiles('lpk.yaml', 'profiles: {1: {target: web, command: "\'"}}\n'), {
    code: 'profile-invalid',
  });
});

test('who may read a file stays as it was, and a new one with variables is for its owner', async (t) => {
  if (process.platform === 'win32') return t.skip('has no modes');
  const folder = mkdtempSync(join(dir, 'modes-'));
  const path = join(folder, 'lpk.yaml');
  const modeOf = (file: string) => (statSync(file).mode & 0o777).toString(8);
  await saveProfile(path, 'web', { target: 'web', env: { PASSWORD: 'x' } });
  assert.equal(modeOf(path), '600');
  await saveProfile(path, 'db', { target: 'statefulset/db' });
  assert.equal(modeOf(path), '600', 'the other profile’s variables are still in it');
  chmodSync(path, 0o664);
  await saveProfile(path, 'db', { target: 'db', env: { A: 'b' } });
  assert.equal(modeOf(path), '664');

  const plain = join(folder, 'tasks.json');
  await replaceFile(plain, '{}');
  assert.equal(modeOf(plain), (0o666 & ~process.umask()).toString(8));
  if (process.getuid?.() !== 0) return;
  chownSync(plain, 65534, 65534);
  await replaceFile(plain, '{"version": "2.0.0"}');
  assert.deepEqual([statSync(plain).uid, statSync(plain).gid], [65534, 65534]);
});

test('a file that can’t be written is told', async () => {
  const saving = saveProfile(join(dir, 'nowhere/lpk.yaml'), 'web', { target: 'web' });
  await assert.rejects(saving, { code: 'profile-invalid', message: /can’t be written: ENOENT/ });
});

test('a file without bounds is not read', () => {
  const folder = mkdtempSync(join(dir, 'large-'));
  writeFileSync(join(folder, 'lpk.yaml'), `#${'x'.repeat(1024 * 1024)}\n`);
  assert.throws(() => findProfiles(folder), { code: 'profile-invalid', message: /more than 1048576 bytes/ });
});

test('which profile is meant', () => {
  const of = (text: string) => parseProfiles('lpk.yaml', text);
  const two = 'profiles: {a: {target: a}, b: {target: b}}';
  assert.equal(chooseProfile(of('profiles: {a: {target: a}}'), undefined), 'a');
  assert.equal(chooseProfile(of(two), undefined), undefined);
  assert.equal(chooseProfile(of(`default: b\n${two}`), undefined), 'b');
  assert.equal(chooseProfile(of(`default: b\n${two}`), 'a'), 'a');
  assert.throws(() => chooseProfile(of(two), 'c'), {
    code: 'usage',
    message: 'lpk.yaml has no profile "c"; it has a, b',
  });
});

test('a profile is added and replaced, and all else stays', () => {
  const first = withProfile('lpk.yaml', undefined, 'web', { target: 'web', ports: ['3000:80'] });
  assert.equal(
    first,
    '# lpk connect (without a target) uses this; lpk connect --profile NAME another one.\n\nprofiles:\n  web:\n    target: web\n    ports:\n      - 3000:80\n',
  );
  const edited = first.replace('  web:', '  # the shop\n  web: # by hand');
  const second = withProfile('lpk.yaml', edited, 'db', { target: 'statefulset/db' });
  assert.match(second, /# the shop\n {2}web:\n {4}# by hand\n {4}target: web/);
  assert.equal(parseProfiles('lpk.yaml', second).default, 'web', 'what was meant without a name is meant still');
  const third = withProfile('lpk.yaml', second, 'db', { target: 'deployment/db' });
  assert.equal(parseProfiles('lpk.yaml', third).profiles.db?.target, 'deployment/db');
  assert.match(third, /# the shop/);
  assert.throws(() => withProfile('lpk.yaml', 'profiles: 7\n', 'db', { target: 'db' }), { code: 'profile-invalid' });
});

test('what is written validates, by lpk and by a validator that is not ours', async () => {
  const path = join(dir, 'lpk.yaml');
  await saveProfile(path, 'web', { target: 'web', ports: ['3000:80'], command: ['npm', 'start'], env: { A: 'b: #c' } });
  await saveProfile(path, 'db', { target: 'statefulset/db', namespace: 'shop' });
  const file = findProfiles(dir);
  assert.equal(file?.profiles.web?.env?.A, 'b: #c');
  assert.deepEqual(
    readdirSync(dir).filter((name) => name.startsWith('.lpk')),
    [],
    'nothing is left beside it',
  );
  assert.equal(existsSync(path), true);
  const { path: _, ...content } = file as { path: string };
  const validate = new Ajv2020({ strict: true, allowUnionTypes: true }).compile(schema);
  assert.equal(validate(content), true, JSON.stringify(validate.errors));
  assert.equal(validate({ profiles: { web: {} } }), false);
});

test('the schema uses no word that lpk’s own validator does not know', () => {
  const known = new Set(
    '$schema title description $defs $ref type enum pattern minLength minimum maximum items minItems minProperties required properties additionalProperties'.split(
      ' ',
    ),
  );
  const look = (part: Record<string, unknown>) => {
    for (const [word, value] of Object.entries(part)) {
      assert.ok(known.has(word), word);
      const inner = word === 'properties' || word === '$defs' ? Object.values(value as object) : [value];
      for (const each of inner) if (each && typeof each === 'object' && !Array.isArray(each)) look(each);
    }
  };
  look(schema);
});

test('words are split as a shell splits them', () => {
  const table: [string, string[] | undefined][] = [
    ['npm start', ['npm', 'start']],
    ['  a\t b\n', ['a', 'b']],
    [`sh -c 'echo "$X"' "a b" c\\ d "\\"q\\n"`, ['sh', '-c', 'echo "$X"', 'a b', 'c d', '"q\\n']],
    [`a'b'"c"d ''`, ['abcd', '']],
    ['', []],
    ['"open', undefined],
    ["it's", undefined],
  ];
  for (const [text, words] of table) {
    assert.deepEqual(splitWords(text), words, text);
    if (words) assert.deepEqual(splitWords(joinWords(words)), words, text);
  }
  const { stdout } = spawnSync('sh', ['-c', `printf '%s\\0' ${joinWords(["it's", 'a b', '$X', '', '\\'])}`], {
    encoding: 'utf8',
  });
  assert.equal(stdout, "it's\0a b\0$X\0\0\\\0");
});
