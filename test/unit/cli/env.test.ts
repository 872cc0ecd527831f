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
  assert.deepEqual({ ...parseEnv(environmentText('dotenv', VARIABLES)) }, VARIABLES);
});

test('shell lines set what is there, and only names that a shell knows', () => {
  const lines = environmentText('shell', { ...VARIABLES, 'my.setting': '1' });
  const read = `${lines}\nfor n in ${Object.keys(VARIABLES).join(' ')}; do eval "printf '%s\\0' \\"\\$$n\\""; done`;
  const values = execFileSync('/bin/sh', ['-c', read], { encoding: 'utf8' }).split('\0').slice(0, -1);
  assert.deepEqual(values, Object.values(VARIABLES));
  assert.doesNotMatch(lines, /my\.setting/);
});

test('docker’s lines are as they are, without those it can’t have; JSON has all', () => {
  assert.equal(environmentText('docker', { A: ' $x "y"', LINES: 'one\ntwo' }), 'A= $x "y"');
  assert.deepEqual(JSON.parse(environmentText('json', VARIABLES)), VARIABLES);
});
