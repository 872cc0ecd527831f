import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { parse } from 'yaml';
import schema from '../../cli/lpk.schema.json' with { type: 'json' };
import { connectTasks } from '../../cli/vscode-files.ts';
import { endAll, Lpk } from './lpk.ts';
import { eventually, freePort, Shop, service, sidecar, workload } from './shop.ts';
import { Terminal } from './terminal.ts';

/** `lpk init` at a real terminal, and what `lpk connect` then does without being told more. */

const MAIN = path.join(import.meta.dirname, '../../cli/main.ts');
const dir = mkdtempSync(path.join(tmpdir(), 'lpk-init-'));
const terminals: Terminal[] = [];
let shop: Shop;

before(async () => {
  shop = await Shop.open('init');
  await Promise.all([
    shop.deployCaller(),
    shop.deploy(
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'lists' }, data: { allowed: 'ada' } },
      workload('Deployment', 'web', {
        sidecar: sidecar('side', 8090),
        container: { volumeMounts: [{ name: 'allow-list', mountPath: '/etc/lpk-init-test' }] },
        pod: { volumes: [{ name: 'allow-list', configMap: { name: 'lists' } }] },
      }),
      service('web', [[80, 8080]]),
      workload('Deployment', 'bridge', {
        container: { volumeMounts: [{ name: 'allow-list', mountPath: '/etc/lpk-bridge-test' }] },
        pod: { volumes: [{ name: 'allow-list', configMap: { name: 'allow-list' } }] },
      }),
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'allow-list' }, data: { 'allow-list': 'ada, bob' } },
      workload('Deployment', 'late'),
      service('late', [[80, 8080]]),
      workload('Deployment', 'code'),
      service('code', [[80, 8080]]),
      workload('Deployment', 'api'),
      service('api', [[80, 8080]]),
    ),
  ]);
});

after(async () => {
  for (const terminal of terminals) await terminal.close();
  endAll();
  rmSync(dir, { recursive: true });
  await shop?.close();
});

/** A folder with a program that answers on `port` and says whose variables it has. */
function code(name: string, port: number): string {
  const folder = path.join(dir, name);
  mkdirSync(folder);
  writeFileSync(path.join(folder, 'package.json'), JSON.stringify({ scripts: { start: 'node server.js' } }));
  const list = `(process.env.LIST ? require('fs').readFileSync(process.env.LIST, 'utf8') : 'nobody')`;
  const answer = `'laptop as ' + process.env.ROLE + ', ' + process.env.GREETING + ', for ' + ${list}`;
  const server = `require('http').createServer((_, response) => response.end(${answer})).listen(${port}, '127.0.0.1');`;
  writeFileSync(path.join(folder, 'server.js'), server);
  return folder;
}

async function atTerminal(folder: string, ...args: string[]): Promise<Terminal> {
  const env = { KUBECONFIG: shop.kubeconfig, PATH: `${path.dirname(process.execPath)}:${process.env.PATH}` };
  const terminal = await Terminal.open(folder, [process.execPath, MAIN, ...args], env);
  terminals.push(terminal);
  return terminal;
}

/** lpk in that folder, without a terminal. */
function runIn(folder: string, ...args: string[]): Lpk {
  const env = { KUBECONFIG: shop.kubeconfig, PATH: `${path.dirname(process.execPath)}:${process.env.PATH}` };
  return new Lpk(args, { env, around: (command) => ['env', '-C', folder, ...command] });
}

async function answers(name: string, expected: string): Promise<void> {
  await eventually(`${name} answers "${expected}"`, async () => {
    const { received } = await shop.callHttp(name, 80);
    return String(received).includes(expected);
  });
}

/** What an editor does: attaches to the program, which waits for it, and lets it go on. */
async function attachDebugger(port: number): Promise<void> {
  const [program] = (await (await fetch(`http://127.0.0.1:${port}/json/list`)).json()) as [
    { webSocketDebuggerUrl: string },
  ];
  const socket = new WebSocket(program.webSocketDebuggerUrl);
  await new Promise((resolve, reject) => {
    socket.onerror = () => reject(new Error('the debugger can’t attach'));
    socket.onopen = () => socket.send(JSON.stringify({ id: 1, method: 'Runtime.runIfWaitingForDebugger' }));
    socket.onmessage = resolve;
  });
  socket.close();
}

async function namespaceByName(terminal: Terminal): Promise<void> {
  await terminal.shows(/◆ {2}Namespace/);
  await terminal.type(shop.namespace);
  await terminal.shows(/\(1 match\)/);
  await terminal.press('Enter');
}

describe('lpk init', { concurrency: 2 }, () => {
  test('asks by arrow keys and search, and lpk connect needs no argument', async () => {
    const port = await freePort();
    const folder = code('init', port);
    const variables = { GREETING: 'hello $(services:api)', LIST: '$(volumeMounts:allow-list)/allowed' };
    const lines = Object.entries(variables).map(([name, value]) => `  - name: ${name}\n    value: ${value}\n`);
    const bridge = `version: 0.1\nenv:\n${lines.join('')}`;
    writeFileSync(path.join(folder, 'KubernetesLocalProcessConfig.yaml'), bridge);

    const terminal = await atTerminal(folder, 'init');
    await namespaceByName(terminal);
    await terminal.shows(/◆ {2}Service or workload/);
    await terminal.type('web');
    await terminal.shows(/● web/);
    await terminal.press('Enter');
    await terminal.shows(/◆ {2}Container[^◆]*● app/); // the one that the Service leads to
    await terminal.press('Enter');
    await terminal.shows(/◆ {2}Ports[^\n]*\n│ {2}8080/);
    await terminal.press('C-u');
    await terminal.type('70000:8080');
    await terminal.press('Enter');
    await terminal.shows(/70000 is not a port/);
    await terminal.press('C-u');
    await terminal.type(`${port}:8080`);
    await terminal.press('Enter');
    await terminal.shows(/◆ {2}Launch command[^◆]*● npm start/);
    await terminal.press('Down');
    await terminal.shows(/◆ {2}Launch command[^◆]*● node server\.js/);
    await terminal.press('Up');
    await terminal.shows(/◆ {2}Launch command[^◆]*● npm start/);
    await terminal.press('Enter');
    await terminal.shows(/◆ {2}Name of the profile\n│ {2}web/);
    await terminal.press('Enter');
    await terminal.shows(/profile web is in .*\n(.*\n)*ENDED with 0/);

    const written = parse(readFileSync(path.join(folder, 'lpk.yaml'), 'utf8'));
    const validate = new Ajv2020({ strict: true, allowUnionTypes: true }).compile(schema);
    assert.equal(validate(written), true, JSON.stringify(validate.errors));
    const { context, ...web } = written.profiles.web;
    assert.deepEqual(web, {
      ...{ target: 'web', namespace: shop.namespace, container: 'app', ports: [`${port}:8080`] },
      ...{ command: ['npm', 'start'], env: variables },
    });

    const below = path.join(folder, 'src');
    mkdirSync(below);
    const lpk = runIn(below, 'connect');
    const ready = await lpk.event('ready');
    assert.equal(ready.workload, 'deployment/web');
    await answers('web', 'laptop as web, hello api, for ada');
    process.kill(-lpk.pid, 'SIGINT'); // as Ctrl-C does: npm alone would leave its own child behind
    await lpk.exit();
    await answers('web', 'web in pod');
  });

  test('lpk connect with neither target nor lpk.yaml asks, saves and connects', async () => {
    const port = await freePort();
    const folder = code('asks', port);
    const terminal = await atTerminal(folder, 'connect', '-p', `${port}:8080`);
    await namespaceByName(terminal);
    await terminal.shows(/◆ {2}Service or workload/);
    await terminal.type('deployment/api');
    await terminal.shows(/● deployment\/api/);
    await terminal.press('Enter');
    await terminal.shows(/◆ {2}Launch command[^◆]*● npm start/);
    await terminal.press('Enter');
    await terminal.shows(/◆ {2}Save this in lpk.yaml/);
    await terminal.press('Enter');
    await terminal.shows(/◆ {2}Name of the profile/);
    await terminal.press('Enter');
    await terminal.shows(/proxy into the cluster/);
    await answers('api', 'laptop as api');
    assert.equal(existsSync(path.join(folder, 'lpk.yaml')), true);
    await terminal.press('C-c');
    await terminal.shows(/deployment\/api restored[^\n]*\n(.*\n)*ENDED with 130/);
    await answers('api', 'api in pod');
  });

  test('the task of lpk init --vscode connects, a debugger attaches, and its end puts everything back', async () => {
    const [port, debugPort] = [await freePort(), await freePort()];
    const folder = code('vscode', port);
    const command = ['--profile', 'code', '--vscode', '--', 'node', 'server.js'];
    const made = runIn(folder, 'init', 'code', '-n', shop.namespace, '-p', `${port}:8080`, ...command);
    assert.equal((await made.exit()).code, 0, `${made}`);
    const tasks = JSON.parse(readFileSync(path.join(folder, '.vscode/tasks.json'), 'utf8')).tasks;
    const { configurations } = JSON.parse(readFileSync(path.join(folder, '.vscode/launch.json'), 'utf8'));
    assert.equal(configurations[0].preLaunchTask, tasks[0].label);
    assert.equal(configurations[0].postDebugTask, tasks[1].label);
    assert.equal(tasks[0].command, 'lpk');

    const args = (tasks[0].args as string[]).map((word) => word.replace(`:${configurations[0].port}`, `:${debugPort}`));
    const terminal = await atTerminal(folder, ...args);
    const { beginsPattern, endsPattern } = tasks[0].problemMatcher.background;
    await terminal.shows(new RegExp(endsPattern));
    // As VS Code, which looks at each line of the task's terminal: that of the task with a debugger, and of one without.
    const lines = (await terminal.shows(/proxy into the cluster/)).split('\n');
    const without = connectTasks('code', undefined, undefined)[0]
      ?.problemMatcher as (typeof tasks)[0]['problemMatcher'];
    const found = [beginsPattern, without.background.endsPattern, endsPattern].map((pattern) =>
      lines.flatMap((line, i) => (new RegExp(pattern).test(line) ? [i] : [])),
    );
    assert.deepEqual(
      found.map(({ length }) => length),
      [1, 1, 1],
      lines.join('\n'),
    );
    assert.deepEqual(
      found.flat(),
      found.flat().toSorted((a, b) => a - b),
      lines.join('\n'),
    );
    await attachDebugger(debugPort);
    await answers('code', 'laptop as code');
    await terminal.close(); // VS Code ends a task by ending its terminal
    await answers('code', 'code in pod');
    assert.deepEqual(
      await eventually('nothing is left', async () => {
        const left = await shop.leftOf('deployment/code');
        return left.length === 0 && left;
      }),
      [],
    );
  });

  test('the KubernetesLocalProcessConfig.yaml of Microsoft’s documentation gives its variables', async () => {
    const folder = code('bridge', await freePort());
    const documented = path.join(import.meta.dirname, '../unit/cli/fixtures/KubernetesLocalProcessConfig.yaml');
    copyFileSync(documented, path.join(folder, 'KubernetesLocalProcessConfig.yaml'));
    const program = `const { env } = process, { readFileSync } = require('fs');
      const own = Object.entries(env).filter(([name]) => /^(KUBERNETES_IN|ALLOW|MYAPP|DEBUG|DB_HOST)/.test(name));
      const token = readFileSync(env.KUBERNETES_IN_CLUSTER_CONFIG_OVERRIDE + '/token', 'utf8').split('.').length;
      console.log(JSON.stringify({ ...Object.fromEntries(own), list: readFileSync(env.ALLOW_LIST_PATH, 'utf8'), token }));`;
    const options = ['-n', shop.namespace, '--no-wait'];
    const lpk = runIn(folder, 'connect', 'deployment/bridge', ...options, '--', process.execPath, '-e', program);
    assert.equal((await lpk.exit()).code, 0, `${lpk}`);
    assert.deepEqual(JSON.parse(lpk.lines.find((line) => line.startsWith('{')) as string), {
      KUBERNETES_IN_CLUSTER_CONFIG_OVERRIDE: '/var/run/secrets/kubernetes.io/serviceaccount',
      ALLOW_LIST_PATH: '/etc/lpk-bridge-test/allow-list',
      MYAPP1_SERVICE_HOST: 'myapp1/api/v1/',
      MYAPP2_SERVICE_HOST: 'myapp2.mynamespace',
      DEBUG_MODE: 'true',
      DB_HOST: 'server-bridgetest123.database.windows.net',
      list: 'ada, bob',
      token: 3,
    });
    assert.ok(
      lpk.events.some(({ text }) => String(text).endsWith('lpk has no ManagedIdentity')),
      `${lpk}`,
    );
  });

  test('--free-ports stops what listens on the port, and the command takes it', async () => {
    const port = await freePort();
    const folder = code('ports', port);
    const holder = spawn(process.execPath, ['server.js'], { cwd: folder, stdio: 'ignore' });
    const ended = once(holder, 'exit');
    await eventually('the other program listens', async () => {
      return await fetch(`http://127.0.0.1:${port}`).then(
        () => true,
        () => false,
      );
    });
    const options = ['-n', shop.namespace, '-p', `${port}:8080`];
    const told = runIn(folder, 'connect', 'late', ...options, '--', 'true');
    assert.match(
      (await told.event('port-taken')).text,
      new RegExp(`^port ${port} is taken by .*\\(pid ${holder.pid}\\)`),
    );
    await told.exit();
    assert.equal(holder.exitCode ?? holder.signalCode, null);

    const lpk = runIn(folder, 'connect', 'late', ...options, '--free-ports', '--', 'node', 'server.js');
    assert.deepEqual((await lpk.event('port-freed')).pids, [holder.pid]);
    assert.deepEqual(await ended, [null, 'SIGTERM']);
    await answers('late', 'laptop as late');
    process.kill(-lpk.pid, 'SIGINT');
    await lpk.exit();
  });

  test('lpk services lists what can be called', async () => {
    const lpk = shop.lpk('services');
    assert.equal((await lpk.exit()).code, 0, `${lpk}`);
    const web = lpk.events.find(({ event, name }) => event === 'service' && name === 'web');
    assert.deepEqual(web?.ports, [{ name: 'p80', port: 80, protocol: 'TCP' }]);
    assert.ok(web?.names.includes(`web.${shop.namespace}.svc.cluster.local`), `${lpk}`);
    assert.match(String(web?.endpoints[0]?.address), /^10\..*:8080$/);
  });

  test('Ctrl-C at a question changes nothing', async () => {
    const folder = code('stops', await freePort());
    const terminal = await atTerminal(folder, 'init');
    await terminal.shows(/◆ {2}Namespace/);
    await terminal.press('C-c');
    await terminal.shows(/stopped; nothing was changed\n(.*\n)*ENDED with 130/);
    assert.equal(existsSync(path.join(folder, 'lpk.yaml')), false);
  });
});
