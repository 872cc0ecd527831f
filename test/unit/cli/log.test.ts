import assert from 'node:assert/strict';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Writable } from 'node:stream';
import test, { type TestContext } from 'node:test';
import { LpkError } from '../../../agent/wire/errors.ts';
import { loggedCommandLine } from '../../../cli/command-line.ts';
import { Log } from '../../../cli/log.ts';
import { Output, type Sink } from '../../../cli/output.ts';

function open(t: TestContext, options: { verbose?: boolean } = {}) {
  const folder = fs.mkdtempSync(path.join(tmpdir(), 'lpk-log-test-'));
  const said = { out: '', err: '' };
  const sink = (name: 'out' | 'err') =>
    new Writable({
      write(chunk, _encoding, done) {
        said[name] += chunk;
        done();
      },
    }) as Sink;
  const output = new Output({ format: 'json', stdout: sink('out'), stderr: sink('err'), env: {}, nowMs: () => 0 });
  const log = Log.open('connect', { folders: [folder] });
  output.keepLog(log, options.verbose === true);
  t.after(() => {
    log.close();
    fs.rmSync(folder, { recursive: true });
  });
  const written = () => {
    log.close();
    return fs
      .readFileSync(log.path as string, 'utf8')
      .replaceAll(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z /gm, '')
      .trimEnd()
      .split('\n');
  };
  return { output, log, said, written };
}

test('what is said is in the log, with the fields that were chosen for it and no others', (t) => {
  const { output, written } = open(t);
  const step = output.step('swapping container app', 'swap', { container: 'app', token: 'never' });
  step.done('container app swapped', { session: 'abc', variables: { A: 'never' } });
  output.warn('link to pod web-1 lost (websocket closed)', 'link-down', { pod: 'web-1', holdMs: 60_000 });
  output.result('A=never', 'env', { variables: { A: 'never' } });
  output.note('request', 'GET /version', { status: 200, ms: 7, body: 'never' });
  assert.deepEqual(written(), [
    'swap: swapping container app state=started container=app',
    'swap: container app swapped state=done seconds=0 session=abc',
    'link-down: link to pod web-1 lost (websocket closed) pod=web-1 holdMs=60000',
    'request: GET /version status=200 ms=7',
  ]);
});

test('an error is there with its code, stack and causes; an answer’s body that is the cause is not', (t) => {
  const { output, written } = open(t);
  const system = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
  output.fail(new LpkError('cluster-unreachable', 'can’t reach it', { cause: system }));
  output.fail(new LpkError('forbidden', 'no', { cause: { kind: 'Status', message: 'never' } }));
  const text = written().join('\n');
  assert.match(text, /^error: \[cluster-unreachable\] LpkError: can’t reach it\n {8}at .*log\.test\.ts/);
  assert.match(text, /\n {4}caused by: Error: connect ECONNREFUSED\n/);
  assert.doesNotMatch(text, /never/);
});

test('secrets of the session and what looks like one are masked, and control bytes harmless', (t) => {
  const { output, log, written } = open(t);
  output.hide(['correct-horse']);
  output.say('it says correct-horse to https://ann:pw@host/ \x1b[31m');
  output.fail(new Error('Bearer abcdefgh\nsecond line'));
  const text = written().join('\n');
  assert.match(text, /^say: it says \*\*\* to https:\/\/\*\*\*@host\/ \\u\{1b\}\[31m\n/);
  assert.doesNotMatch(text, /abcdefgh/);
  assert.match(text, /\n {4}second line\n/);
  assert.ok(log.note('x', `${'y'.repeat(4_090)}correct-horse`).length < 4_200);
  assert.doesNotMatch(log.note('x', `${'y'.repeat(4_090)}correct-horse`), /correct/, 'masked before it is cut');
});

test('many of a kind are one line', (t) => {
  const { output, log, written } = open(t);
  for (let i = 0; i < 1_000; i++) output.count('failed', 'tcp db:5432 refused');
  for (let i = 0; i < 40; i++) output.count('failed', `tcp host-${i}:1 name-not-found`);
  log.close();
  const [line, ...more] = written();
  assert.match(line as string, /^failed: tcp db:5432 refused ×1000, tcp host-0:1 name-not-found, .*, others ×9$/);
  assert.deepEqual(more, []);
});

test('--verbose says on stderr what else is in the log, once', (t) => {
  const { output, said } = open(t, { verbose: true });
  output.say('a word');
  output.note('request', 'GET /version', { status: 200 });
  assert.match(said.err, /^a word\n\S+Z request: GET \/version status=200\n$/);
  const quiet = open(t);
  quiet.output.note('request', 'GET /version');
  assert.equal(quiet.said.err, '');
});

test('the log’s place is said, and an event', (t) => {
  const { output, said, log } = open(t);
  output.sayLog();
  assert.equal(said.err, `log: ${log.path}\n`);
  assert.deepEqual(JSON.parse(said.out), { event: 'log', text: `log: ${log.path}`, path: log.path });
});

test('without a place nothing is said of it, and nothing fails', () => {
  const log = Log.open('connect', { folders: ['/proc/nowhere'] });
  let err = '';
  const stderr = { on() {}, write: (text: string) => (err += text) } as unknown as Sink;
  const output = new Output({ format: 'text', stderr, env: {} });
  output.keepLog(log, false);
  output.sayLog();
  output.note('x', 'y');
  log.close();
  assert.deepEqual([log.path, err], [undefined, '']);
});

test('of the command line there are the options, but only values that are no secret, and only the command’s name', () => {
  const words = {
    ...{ _: ['connect'], $0: 'lpk', target: 'web', n: 'shop', namespace: 'shop', p: ['1:2'], port: ['1:2', '3'] },
    ...{ env: ['A=secret', 'B=secret'], 'agent-image': 'node', agentImage: 'node', verbose: true, wait: false },
    ...{ 'not-known-yet': 'secret', context: undefined },
  };
  assert.equal(
    loggedCommandLine('connect', words, ['/usr/bin/psql', '--password=secret', 'x']),
    'lpk connect --target=web --namespace=shop --port=1:2 --port=3 --env=*** --env=*** --agent-image=node --verbose --not-known-yet=*** -- psql (2 arguments)',
  );
});
