/** tasks.json and launch.json: what is added, and that nothing else changes. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { parse } from 'jsonc-parser';
import { addToVsCode } from '../../../cli/vscode.ts';
import { type Debugging, debugging } from '../../../cli/vscode-debug.ts';
import { connectTasks, launchConfiguration, leaveInput, withEntries } from '../../../cli/vscode-files.ts';

const dir = mkdtempSync(join(tmpdir(), 'lpk-vscode-'));
after(() => rmSync(dir, { recursive: true }));

const TASKS = `// ours, by hand
{
\t"version": "2.0.0", /* as VS Code wants it */
\t"tasks": [
\t\t{ "label": "build", "type": "shell", "command": "make" }, // keep me
\t\t/* and me */
\t\t{
\t\t\t"label": "lpk: old",
\t\t\t"type": "process",
\t\t},
\t],
}
`;
const LAUNCH = `{
    // Use IntelliSense to learn about possible attributes.
    "version": "0.2.0",
    "configurations": [
        {
            "type": "node",
            "request": "launch",
            "name": "tests", // the tests
            "program": "\${workspaceFolder}/test.js"
        }
    ],
    "compounds": []
}
`;

/** As it stands in a file, so many levels deep. */
function indented(value: unknown, unit: string, depth: number): string {
  return JSON.stringify(value, undefined, unit).replace(/^/gm, unit.repeat(depth));
}

test('existing files keep their comments and entries; a second time changes nothing', async () => {
  mkdirSync(join(dir, '.vscode'));
  const [tasks, launch] = ['tasks.json', 'launch.json'].map((name) => join(dir, '.vscode', name)) as [string, string];
  writeFileSync(tasks, TASKS);
  writeFileSync(launch, LAUNCH);
  const said: string[] = [];
  const given = { name: 'web', profile: { target: 'web', command: ['npm', 'start'] } };
  const output = { say: (text: string) => void said.push(text) };
  await addToVsCode(dir, given, output);

  const command = ['npm', 'start'];
  const debug = debugging(command) as Debugging;
  const [connect, leave] = connectTasks('web', command, debug);
  const made = readFileSync(tasks, 'utf8');
  const list = `${indented(connect, '\t', 2)},\n${indented(leave, '\t', 2)},\n\t],\n`;
  const inputs = `\t"inputs": [\n${indented(leaveInput('web'), '\t', 2)}\n\t],\n`;
  assert.equal(made, TASKS.replace('\t],\n', list + inputs), 'all else as it was, to the byte');
  const parsed = parse(made, [], { allowTrailingComma: true });
  assert.deepEqual(
    parsed.tasks.map(({ label }: { label: string }) => label),
    ['build', 'lpk: old', 'lpk: web', 'lpk: leave web'],
  );
  assert.deepEqual(parsed.tasks[2].args, [
    'connect',
    '--profile',
    'web',
    '--',
    'npm',
    '--node-options=--inspect=127.0.0.1:9229',
    'start',
  ]);
  assert.equal(parsed.tasks[2].isBackground, true);
  assert.equal(parsed.tasks[3].command, `echo \${input:lpk-leave-web}`);
  assert.deepEqual(parsed.inputs, [
    { id: 'lpk-leave-web', type: 'command', command: 'workbench.action.tasks.terminate', args: 'lpk: web' },
  ]);

  const launched = readFileSync(launch, 'utf8');
  const entry = indented(launchConfiguration('web', debug), '    ', 2);
  const expected = LAUNCH.replace('        }\n    ],', `        },\n${entry}\n    ],`);
  assert.equal(launched, expected, 'all else as it was, to the byte');
  const { configurations, compounds } = parse(launched);
  assert.deepEqual(compounds, []);
  assert.equal(configurations[0].name, 'tests');
  assert.deepEqual(configurations[1], {
    ...{ name: 'lpk: web', type: 'node', request: 'attach', address: '127.0.0.1', port: 9229 },
    ...{ continueOnAttach: true, skipFiles: ['<node_internals>/**'] },
    ...{ preLaunchTask: 'lpk: web', postDebugTask: 'lpk: leave web' },
  });
  assert.match(said.join(), /F5 with "lpk: web"/);

  await addToVsCode(dir, given, output);
  assert.equal(readFileSync(tasks, 'utf8'), made);
  assert.equal(readFileSync(launch, 'utf8'), launched);

  await addToVsCode(dir, { name: 'web', profile: { target: 'web', command: 'go run ./cmd/web -v' } }, output);
  const again = parse(readFileSync(launch, 'utf8'));
  assert.equal(again.configurations.length, 2, 'replaced, not added once more');
  assert.equal(again.configurations[1].type, 'go');
  assert.ok(readFileSync(launch, 'utf8').startsWith(LAUNCH.slice(0, LAUNCH.indexOf('        }\n    ],'))));
});

test('files are made where there are none; a program that lpk can’t debug gets the task only', async () => {
  const folder = mkdtempSync(join(dir, 'new-'));
  const said: string[] = [];
  const profile = { target: 'web', command: 'python3 app.py' };
  await addToVsCode(folder, { name: 'py', profile }, { say: (text) => void said.push(text) });
  const { version, tasks } = JSON.parse(readFileSync(join(folder, '.vscode/tasks.json'), 'utf8'));
  assert.equal(version, '2.0.0');
  assert.deepEqual(tasks[0].args, ['connect', '--profile', 'py', '--', 'python3', 'app.py']);
  assert.throws(() => readFileSync(join(folder, '.vscode/launch.json')), { code: 'ENOENT' });
  assert.match(said.join(), /does not know how to debug python3 app\.py/);
});

test('a file that is not JSON with comments is told with line and column, and nothing is written', async () => {
  const folder = mkdtempSync(join(dir, 'broken-'));
  mkdirSync(join(folder, '.vscode'));
  writeFileSync(join(folder, '.vscode/launch.json'), '{\n  "version" "0.2.0"\n}\n');
  const adding = addToVsCode(folder, { name: 'web', profile: { target: 'web', command: 'node a.js' } }, { say() {} });
  await assert.rejects(adding, {
    code: 'profile-invalid',
    message: /launch\.json:2:13: ColonExpected; it was left as it is$/,
  });
  assert.throws(() => readFileSync(join(folder, '.vscode/tasks.json')), { code: 'ENOENT' });
  for (const text of ['[]', '{"tasks": {}}']) {
    const lists = [{ name: 'tasks', by: 'label', entries: [{ label: 'a' }] }];
    assert.throws(() => withEntries('tasks.json', text, '2.0.0', lists), { code: 'profile-invalid' });
  }
});

test('wherever comments, commas and line ends are, they stay', () => {
  const table: [what: string, text: string, made: string][] = [
    [
      'a comment behind the last item, and no comma',
      '{\n  "version": "2.0.0",\n  "tasks": [\n    {"label":"x"} // x, no more\n    // the end\n  ]\n}',
      '{\n  "version": "2.0.0",\n  "tasks": [\n    {"label":"x"}, // x, no more\n    // the end\n    {\n      "label": "a"\n    }\n  ]\n}',
    ],
    [
      'a comma that is in a comment only',
      '{"version": "2.0.0", "tasks": [{} /* , */]}',
      '{"version": "2.0.0", "tasks": [{}, /* , */\n  {\n    "label": "a"\n  }\n]}',
    ],
    [
      'brackets in comments and texts',
      '{ // ]}\n  "x": "]}",\n  "version": "2.0.0",\n  "tasks": [] /* ] */, // }\n}\n',
      '{ // ]}\n  "x": "]}",\n  "version": "2.0.0",\n  "tasks": [\n    {\n      "label": "a"\n    }\n  ] /* ] */, // }\n}\n',
    ],
    [
      'nothing but a comment',
      '{\n    // mine\n}\n',
      '{\n    // mine\n    "version": "2.0.0",\n    "tasks": [\n        {\n            "label": "a"\n        }\n    ]\n}\n',
    ],
    [
      'line ends of Windows',
      '{\r\n  "version": "2.0.0",\r\n  "tasks": [\r\n  ]\r\n}\r\n',
      '{\r\n  "version": "2.0.0",\r\n  "tasks": [\r\n    {\r\n      "label": "a"\r\n    }\r\n  ]\r\n}\r\n',
    ],
    [
      'an entry that is ours, in the person’s own form',
      '{ "version": "2.0.0", "tasks": [ { /* ours */ "label": "a" }, ] }',
      '{ "version": "2.0.0", "tasks": [ { /* ours */ "label": "a" }, ] }',
    ],
    [
      'an entry that was ours, among others',
      '{ "version": "2.0.0", "tasks": [{"label":"a", "old": 1}, {"label":"b"}] } // b',
      '{ "version": "2.0.0", "tasks": [{\n  "label": "a"\n}, {"label":"b"}] } // b',
    ],
  ];
  for (const [what, text, expected] of table) {
    const lists = [{ name: 'tasks', by: 'label', entries: [{ label: 'a' }] }];
    const made = withEntries('tasks.json', text, '2.0.0', lists);
    assert.equal(made, expected, what);
    assert.equal(withEntries('tasks.json', made, '2.0.0', lists), made, `${what}, once more`);
  }
});

type Matcher = { pattern: { regexp: string }; background: { beginsPattern: string; endsPattern: string } };

function matcher(command: string[] | undefined): Matcher {
  const debug = command && debugging(command);
  return connectTasks('web', command, debug)[0]?.problemMatcher as Matcher;
}

test('the problem matcher finds the ready line of lpk, and none before it', () => {
  const { background } = matcher(['python3', 'app.py']);
  const before = [
    'profile web of /code/lpk.yaml',
    '✔ deployment/web, container app, in shop (0.0 s)',
    'connected to pod web-1 by proxy, 4.3 ms away',
    '✔ the agent runs in deployment/web (1.6 s)',
    'deployment/web port 80 → 127.0.0.1:8080',
  ];
  const ready = 'proxy into the cluster: socks5h://127.0.0.1:33203 or http://127.0.0.1:33203';
  const ends = new RegExp(background.endsPattern);
  assert.deepEqual(
    before.filter((line) => ends.test(line)),
    [],
  );
  assert.match(ready, ends);
  assert.match(before[0] as string, new RegExp(background.beginsPattern));
  const source = readFileSync(join(import.meta.dirname, '../../../cli/connect.ts'), 'utf8');
  assert.ok(
    source.includes('output.say(`proxy into the cluster: '),
    'the line that lpk connect says is another by now',
  );
});

test('the problem matcher finds a fault of lpk.yaml in what lpk connect says', () => {
  const folder = mkdtempSync(join(dir, 'fault-'));
  writeFileSync(join(folder, 'lpk.yaml'), 'profiles:\n  web:\n    namespace: shop\n');
  const main = join(import.meta.dirname, '../../../cli/main.ts');
  const { stderr } = spawnSync(process.execPath, [main, 'connect'], { cwd: folder, encoding: 'utf8' });
  const found = stderr.split('\n').map((line) => new RegExp(matcher(undefined).pattern.regexp).exec(line));
  const fault = [join(realpathSync(folder), 'lpk.yaml'), '3', '5', 'profiles.web: "target" is missing'];
  assert.deepEqual(
    found.filter(Boolean).map((each) => each?.slice(1)),
    [fault],
  );
});

test('with a debugger it is the program’s own line: Node’s', async () => {
  const command = debugging([process.execPath, '-e', 'process.exit(7)'])?.command as string[];
  const child = spawn(
    process.execPath,
    command.slice(1).map((word) => word.replace(':9229', ':0')),
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const ends = new RegExp(matcher(['node', 'a.js']).background.endsPattern);
  let text = '';
  for await (const chunk of child.stderr) {
    text += chunk;
    if (ends.test(text)) child.kill();
  }
  assert.match(text, ends);
});

test('what lpk can debug, and how it is started then', () => {
  const table: [string, string | undefined][] = [
    ['node --enable-source-maps a.js', 'node --inspect-brk=127.0.0.1:9229 --enable-source-maps a.js'],
    ['npm run dev', 'npm --node-options=--inspect=127.0.0.1:9229 run dev'],
    ['go run .', 'dlv debug . --headless --api-version=2 --listen=127.0.0.1:2345'],
    ['go run ./cmd/a -v x', 'dlv debug ./cmd/a --headless --api-version=2 --listen=127.0.0.1:2345 -- -v x'],
    ['go run -race .', undefined],
    ['go test', undefined],
    ['java -jar a.jar', 'java -agentlib:jdwp=transport=dt_socket,server=y,suspend=y,address=127.0.0.1:5005 -jar a.jar'],
    ['./gradlew bootRun', './gradlew bootRun --debug-jvm'],
    ['./gradlew test', undefined],
    ['yarn dev', undefined],
    ['python3 app.py', undefined],
  ];
  for (const [given, expected] of table) assert.equal(debugging(given.split(' '))?.command.join(' '), expected, given);
});
