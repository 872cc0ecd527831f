import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { installPackages } from '../cluster/packages.ts';
import { Laptop } from './laptop.ts';
import { endAll, Lpk } from './lpk.ts';
import { Person } from './programs/person.ts';
import { Shop, service, workload } from './shop.ts';

/** What is the laptop's own works during capture as without lpk: loopback, sockets, debuggers, signals, the terminal. */

let shop: Shop;
let laptop: Laptop;
let person: Person;
let page: string;

const PAGE = /^web in pod web-/m;

before(async () => {
  await installPackages({ curl: '/usr/bin/curl', gdb: '/usr/bin/gdb', python3: '/usr/bin/python3' });
  shop = await Shop.open('run-local');
  laptop = await Laptop.make();
  [person] = await Promise.all([
    Person.on(laptop, shop),
    shop.deploy(workload('Deployment', 'web'), service('web', [[80, 8080]])),
  ]);
  page = `http://web.${shop.namespace}/`;
  await person.start('proxy', 'up', '-n', shop.namespace).event('ready');
});

after(async () => {
  endAll();
  person?.leave();
  await laptop?.remove();
  await shop?.close();
});

const program = (name: string) => path.join(person.lpk, 'test/e2e/programs', name);
const run = (...command: string[]) => person.start('run', '--', ...command);

describe('the laptop’s own sockets', () => {
  test('its listener is reachable on loopback, and asks the cluster when it is called', async () => {
    const server = `http.createServer(async (_, response) => response.end(await (await fetch(process.argv[1])).text()))
      .listen(0, '127.0.0.1', function () { console.log('port ' + this.address().port) })`;
    const lpk = run(person.node, '-e', server, page);
    const port = (await lpk.line(/^port/)).split(' ')[1];
    const got = await person.run(['curl', '-sS', `http://127.0.0.1:${port}/`]);
    assert.match(got.stdout, PAGE, `${JSON.stringify(got)}; ${lpk}`);
    lpk.signal('SIGTERM');
    assert.deepEqual(await lpk.exit(), { code: 143, signal: null });
  });

  test('servers on loopback and on unix sockets, abstract ones too', async () => {
    const sockets = `const at = (where, name) => http.createServer((_, response) => response.end(name)).listen(where);
      at({ host: '127.0.0.1', port: 8123 }, 'IPv4'); at({ host: '::1', port: 8123 }, 'IPv6');
      at({ path: 'own.sock' }, 'unix'); at({ path: '\\0lpk-own' }, 'abstract').on('listening', () => console.log('ready'))`;
    const servers = new Lpk([], { json: false, around: () => person.on([person.node, '-e', sockets]) });
    await servers.line(/^ready/);
    const urls = [
      ...['http://127.0.0.1:8123/', 'http://localhost:8123/', 'http://[::1]:8123/'],
      ...['--unix-socket own.sock http://here/', '--abstract-unix-socket lpk-own http://here/', page],
    ];
    const all = urls.map((words) => `curl -sS ${words}; echo`).join('; ');
    const { stdout, stderr } = await person.lpkRun(['sh', '-c', all]);
    const [v4, localhost, v6, unix, abstract, ofPod] = stdout.split('\n');
    assert.deepEqual([v4, v6, unix, abstract], ['IPv4', 'IPv6', 'unix', 'abstract'], stderr);
    assert.match(localhost as string, /^IPv[46]$/);
    assert.match(ofPod as string, PAGE);
    servers.signal('SIGTERM');
    await servers.exit();
  });
});

describe('how it ends', () => {
  for (const [how, script, code] of [
    ['its own exit code', 'exit 7', 7],
    ['a signal', 'kill -9 $$', 137],
    ['another', 'kill -SEGV $$', 139],
  ] as const) {
    test(`${how}: lpk’s is ${code}`, async () => {
      const { code: own } = await person.lpkRun(['sh', '-c', script]);
      assert.equal(own, code);
    });
  }

  test('SIGTERM to lpk is for the program, which may take its time', async () => {
    const lpk = run('bash', '-c', `trap 'curl -sS ${page}; exit 3' TERM; echo ready; while :; do sleep 0.1; done`);
    await lpk.line(/^ready/);
    lpk.signal('SIGTERM');
    assert.deepEqual(await lpk.exit(), { code: 3, signal: null }, `${lpk}`);
    assert.match(lpk.lines.join('\n'), PAGE, 'it reached the cluster meanwhile');
  });

  test('a command that is not there', async () => {
    const { code, stderr } = await person.lpkRun(['./no-such-program']);
    assert.equal(code, 127);
    assert.match(stderr, /no-such-program: command not found/);
  });
});

describe('debuggers', () => {
  test('node --inspect-brk waits, is reached on loopback, and goes on', async () => {
    const script = 'console.log(await (await fetch(process.argv[1])).text())';
    const lpk = run(person.node, '--inspect-brk=127.0.0.1:9329', '--input-type=module', '-e', script, page);
    await lpk.until('the debugger’s port', () => /Debugger listening on/.exec(lpk.stderr) ?? undefined);
    const debuggers = await person.run([person.node, program('resume.ts'), '127.0.0.1:9329']);
    assert.deepEqual(debuggers, { code: 0, stdout: 'its console was heard\n', stderr: '' }, `${lpk}`);
    assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
    assert.match(lpk.lines.join('\n'), PAGE);
  });

  test('gdb launches the program, stops it at its connect, and sees it end', async () => {
    const orders = ['set breakpoint pending on', 'break connect', 'run', 'delete', 'continue'].flatMap((each) => [
      '-ex',
      each,
    ]);
    const got = await person.lpkRun(['gdb', '-q', '-nx', '-batch', ...orders, '--args', 'curl', '-sS', page]);
    assert.match(got.stdout, PAGE, JSON.stringify(got));
    assert.match(got.stdout, /^Breakpoint 1, /m);
    assert.match(got.stdout, /exited normally/);
  });
});

describe('the terminal', () => {
  for (const how of ['with lpk', 'without lpk'] as const) {
    test(`${how}: size, change of size, Ctrl-Z and fg, Ctrl-C, exit code`, async () => {
      const words = ['/usr/bin/python3', program('interactive.py'), page];
      const command = how === 'with lpk' ? person.words('run', '--', ...words) : words;
      const shell = new Lpk([], {
        json: false,
        around: () => person.on(['script', '-qec', 'bash --norc --noprofile -i', '/dev/null']),
      });
      shell.type("PS1=; stty -echo rows 33 cols 101\necho 'set' up\n");
      await shell.line(/^set up$/);
      shell.type(`${command.join(' ')}\n`);
      const [, tty, isTerminal, size] = (await shell.line(/^terminal /)).split(' ');
      assert.deepEqual([isTerminal, size], ['True', '101x33']);
      shell.type('\x1a');
      await shell.line(/Stopped/);
      shell.type("echo 'the shell' again\n");
      await shell.line(/^the shell again$/);
      shell.type('fg\n');
      shell.type('hello\n');
      await shell.line(/^heard hello$/);
      const resized = await person.run(['stty', '-F', tty as string, 'rows', '40', 'cols', '90']);
      assert.equal(resized.code, 0, resized.stderr);
      await shell.line(/^resized 90x40$/);
      if (how === 'with lpk') {
        shell.type('page\n');
        await shell.line(PAGE);
      }
      shell.type('\x03once\n');
      await Promise.all([shell.line(/interrupted$/), shell.line(/^heard once$/)]);
      assert.equal(shell.lines.filter((line) => /interrupted$/.test(line)).length, 1, `${shell}`);
      shell.type('quit\n');
      shell.type('echo its code $?\n');
      await shell.line(/^its code 5$/);
      shell.type('exit\n');
      assert.deepEqual(await shell.exit(), { code: 0, signal: null }, `${shell}`);
    });
  }
});
