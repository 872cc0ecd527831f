import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { type Readable, Writable } from 'node:stream';
import test from 'node:test';
import { LpkError } from '../../../agent/wire/errors.ts';
import { HINTS } from '../../../cli/hints.ts';
import { type Format, Output, type Sink } from '../../../cli/output.ts';

class Screen extends Writable {
  text = '';
  isTTY = false;
  columns = 80;
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.text += chunk;
    done();
  }
  /** What a terminal would show: every cleared line gone. */
  get shown(): string {
    return this.text
      .split('\n')
      .map((line) => line.slice(line.lastIndexOf('\r\x1b[2K') === -1 ? 0 : line.lastIndexOf('\r\x1b[2K') + 5))
      .join('\n');
  }
}

function open(options: { format?: Format; tty?: boolean; env?: NodeJS.ProcessEnv } = {}) {
  const stdout = new Screen();
  const stderr = new Screen();
  stderr.isTTY = options.tty ?? false;
  const clock = { ms: 0 };
  const output = new Output({
    format: options.format ?? 'text',
    stdout: stdout as Sink,
    stderr: stderr as Sink,
    env: options.env ?? { TERM: 'xterm', NO_COLOR: '1' },
    nowMs: () => clock.ms,
  });
  return { output, stdout, stderr, clock };
}

test('on a terminal a live line is drawn anew as its text changes, gives way to what is said, and leaves nothing behind', () => {
  const { output, stderr, clock } = open({ tty: true });
  let leftS = 9;
  const end = output.live(() => `waiting ${leftS} s more`);
  assert.match(stderr.shown, /^⠋ waiting 9 s more \(0\.0 s\)$/);
  leftS = 8;
  clock.ms = 1_000;
  output.say('a word');
  assert.match(stderr.shown, /^a word\n⠋ waiting 8 s more \(1\.0 s\)$/);
  end();
  assert.equal(stderr.shown, 'a word\n');
  output.live(() => 'never ended');
  output.close();
  assert.equal(stderr.shown, 'a word\n');
});

test('without a terminal a live line is not seen', () => {
  const { output, stdout, stderr } = open();
  output.live(() => 'waiting')();
  assert.equal(stderr.text + stdout.text, '');
});

test('without a terminal a step is plain lines, its progress too', () => {
  const { output, stdout, stderr, clock } = open();
  const step = output.step('rolling out deployment/web', 'rollout');
  step.update('rolling out deployment/web: 1 of 2 pods');
  step.update('rolling out deployment/web: 1 of 2 pods');
  clock.ms = 1234;
  step.done('deployment/web is served');
  assert.equal(
    stderr.text,
    'rolling out deployment/web …\nrolling out deployment/web: 1 of 2 pods …\n✔ deployment/web is served (1.2 s)\n',
  );
  assert.equal(stdout.text, '');
});

test('on a terminal a step is one live line that becomes its result', () => {
  const { output, stderr, clock } = open({ tty: true });
  const step = output.step('swapping', 'swap');
  assert.match(stderr.shown, /^⠋ swapping \(0\.0 s\)$/);
  clock.ms = 2500;
  step.update('swapping: 1 of 2');
  assert.match(stderr.shown, /^⠋ swapping: 1 of 2 \(2\.5 s\)$/);
  output.say('a word in between');
  assert.match(stderr.shown, /^a word in between\n⠋ swapping: 1 of 2 \(2\.5 s\)$/);
  step.fail();
  assert.equal(stderr.shown, 'a word in between\n✖ swapping: 1 of 2 (2.5 s)\n');
  step.done('too late');
  assert.equal(stderr.shown, 'a word in between\n✖ swapping: 1 of 2 (2.5 s)\n');
});

test('a step that is dropped leaves nothing', () => {
  const { output, stderr } = open({ tty: true });
  const outer = output.step('outer', 'outer');
  const inner = output.step('inner', 'inner');
  inner.drop();
  inner.done('too late');
  assert.equal(stderr.shown, '⠋ outer (0.0 s)');
  outer.drop();
  assert.equal(stderr.shown, '');
  output.close();
  assert.equal(stderr.shown, '');
});

test('a step under way comes back when one within it ends', () => {
  const { output, stderr } = open({ tty: true });
  const outer = output.step('outer', 'outer');
  output.step('inner', 'inner').done();
  assert.equal(stderr.shown, '✔ inner (0.0 s)\n⠋ outer (0.0 s)');
  outer.done();
  assert.equal(stderr.shown, '✔ inner (0.0 s)\n✔ outer (0.0 s)\n');
});

test('the live line never wraps', () => {
  const { output, stderr } = open({ tty: true });
  stderr.columns = 30;
  const step = output.step('waiting for a very long name of a deployment', 'rollout');
  assert.ok(stderr.shown.length < 30, JSON.stringify(stderr.shown));
  assert.match(stderr.shown, /^⠋ waiting.*… \(0\.0 s\)$/);
  step.done('done');
});

test('colors on a terminal only, and not with NO_COLOR or TERM=dumb', () => {
  const says = (tty: boolean, env: NodeJS.ProcessEnv) => {
    const { output, stderr } = open({ tty, env });
    output.step('x', 'x').done();
    return stderr.text;
  };
  const green = '\x1b[32m✔\x1b[0m x';
  assert.ok(says(true, { TERM: 'xterm' }).includes(green));
  assert.ok(says(true, { TERM: 'xterm', NO_COLOR: '' }).includes(green));
  assert.ok(says(true, { TERM: 'xterm', NO_COLOR: '1' }).includes('✔ x'));
  assert.equal(says(true, { TERM: 'dumb' }), 'x …\n✔ x (0.0 s)\n');
  assert.equal(says(false, { TERM: 'xterm' }), 'x …\n✔ x (0.0 s)\n');
});

test('while a command has the terminal there is no live line, and what is said names lpk', () => {
  const { output, stderr } = open({ tty: true });
  const step = output.step('connecting', 'connect');
  output.yieldTerminal();
  assert.equal(stderr.shown, '', 'the live line is gone before the command starts');
  output.say('connection lost');
  step.update('connecting again');
  assert.equal(stderr.shown, 'lpk: connection lost\nlpk: connecting again …\n');
  output.takeTerminal();
  assert.match(stderr.shown, /⠋ connecting again \(0\.0 s\)$/);
  step.done();
});

test('-o json: one object per line on stdout, text for people on stderr', () => {
  const { output, stdout, stderr, clock } = open({ format: 'json' });
  const step = output.step('rolling out', 'rollout', { workload: 'deployment/web' });
  clock.ms = 1500;
  step.update('1 of 2', { ready: 1 });
  step.done();
  output.say('only for people');
  output.say('ready', 'ready', { proxyPort: 1080 });
  output.result('restored', 'restored', { workload: 'deployment/web' });
  output.fail(new LpkError('forbidden', 'not allowed to patch'));
  const lines = stdout.text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(lines, [
    { event: 'rollout', state: 'started', text: 'rolling out', workload: 'deployment/web' },
    { event: 'rollout', state: 'progress', text: '1 of 2', ready: 1 },
    { event: 'rollout', state: 'done', text: 'rolling out', seconds: 1.5 },
    { event: 'ready', text: 'ready', proxyPort: 1080 },
    { event: 'restored', workload: 'deployment/web' },
    { event: 'error', code: 'forbidden', message: 'not allowed to patch', hint: HINTS.forbidden },
  ]);
  assert.match(
    stderr.text,
    /✔ rolling out \(1\.5 s\)\nonly for people\nready\nlpk: not allowed to patch\n {2}→ ask an admin/,
  );
});

test('an error is one line and its hint', () => {
  const { output, stdout, stderr } = open();
  output.fail(new LpkError('port-taken', 'port 1080 is taken', { cause: new Error('EADDRINUSE') }));
  assert.equal(stderr.text, `lpk: port 1080 is taken\n  → ${HINTS['port-taken']}\n`);
  assert.equal(stdout.text, '');
});

test('a bug is one line too, and says where the details are; LPK_DEBUG=1 prints them with their causes', () => {
  const bug = new TypeError('x is not a function\n    at y');
  const quiet = open();
  quiet.output.fail(bug);
  assert.equal(quiet.stderr.text, `lpk: internal error: TypeError: x is not a function\n  → ${HINTS.internal}\n`);
  const loud = open({ env: { LPK_DEBUG: '1' } });
  loud.output.fail(new LpkError('internal', 'it broke', { cause: bug }));
  assert.match(loud.stderr.text, /LpkError: it broke\n\s+at .*output\.test\.ts/);
  assert.match(loud.stderr.text, /caused by:\nTypeError: x is not a function/);
});

test('steps that nobody ended have failed when everything is over', () => {
  const { output, stderr } = open({ tty: true });
  output.step('one', 'one');
  output.step('two', 'two');
  output.close();
  assert.equal(stderr.shown, '✖ two (0.0 s)\n✖ one (0.0 s)\n');
});

test('a reader that goes away is no error', async () => {
  const program = join(import.meta.dirname, 'fixtures/talks-on.ts');
  const child = fork(program, { silent: true });
  await once(child.stdout as Readable, 'data');
  child.stdout?.destroy();
  child.stderr?.destroy();
  child.send('go on');
  const [code, signal] = await once(child, 'exit');
  assert.deepEqual([code, signal], [7, null]);
});

test('what was asked for is as it is for programs, and without control characters on a terminal', () => {
  const { output, stdout } = open();
  const text = "export A='\x1b]0;title\x07\x9b2J';\nexport B='ä';";
  output.result(text, 'env');
  assert.equal(stdout.text, `${text}\n`);
  stdout.isTTY = true;
  output.result(text, 'env');
  const shown = "export A='\\u{1b}]0;title\\u{7}\\u{9b}2J';\nexport B='ä';\n";
  assert.equal(stdout.text, `${text}\n${shown}`);
});
