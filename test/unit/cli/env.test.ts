import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { parseEnv } from 'node:util';
import { environmentText } from '../../../cli/env.ts';

const VARIABLES = {
  PLAIN: 'a/b:c',
  EMPTY: '',
  SPACES: ' two  words ',
  QUOTES: `it's "x"`,
  SINGLE: "it's",
  LINES: 'one\ntwo',
  DOLLAR: '$HOME `id` \\ #',
};

test('dotenv lines are read back as they were', () => {
  assert.deepEqual({ ...parseEnv(environmentText('dotenv', VARIABLES).text) }, VARIABLES);
});

test('shell lines set what is there, and only names that a shell knows', () => {
  const { text: lines, leftOut } = environmentText('shell', { ...VARIABLES, 'my.setting': '1' });
  const read = `${lines}\nfor n in ${Object.keys(VARIABLES).join(' ')}; do eval "printf '%s\\0' \\"\\$$n\\""; done`;
  const values = execFileSync('/bin/sh', ['-c', read], { encoding: 'utf8' }).split('\0').slice(0, -1);
  assert.deepEqual(values, Object.values(VARIABLES));
  assert.doesNotMatch(lines, /my\.setting/);
  assert.deepEqual(leftOut, ['my.setting']);
});

test('docker’s lines are as they are, without those it can’t have; JSON has all', () => {
  assert.deepEqual(environmentText('docker', { A: ' $x "y"', 'Log:Level': '2', LINES: 'one\ntwo' }), {
    text: 'A= $x "y"\nLog:Level=2',
    leftOut: ['LINES'],
  });
  assert.deepEqual(JSON.parse(environmentText('json', VARIABLES).text), VARIABLES);
});

test('an image’s names and values make no lines of their own', () => {
  const hostile = {
    'A\nLD_PRELOAD': '/tmp/evil.so',
    'A\rLD_PRELOAD': '/tmp/evil.so',
    'export LD_PRELOAD': '/tmp/evil.so',
    '\ufeffLD_PRELOAD': '/tmp/evil.so',
    '# comment': 'x',
    '#comment': 'x',
    '': 'x',
  };
  for (const format of ['shell', 'dotenv', 'docker'] as const) {
    const { text, leftOut } = environmentText(format, { ...hostile, GOOD: '1' });
    assert.match(text, /^(export )?GOOD='?1'?;?$/, format);
    assert.deepEqual(leftOut, Object.keys(hostile), format);
  }
  // Not every reader of a .env knows backticks.
  const lines = environmentText('dotenv', { A: `it's "\nLD_PRELOAD=/tmp/evil.so\n` });
  assert.deepEqual(lines, { text: '', leftOut: ['A'] });
});
