import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { matchesAny, readEnvironmentChoice } from '../../../cli/environment-options.ts';

test('--env-file and --env are read in this order, the later one wins', (t) => {
  const dir = mkdtempSync(path.join(tmpdir(), 'lpk-env-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const file = path.join(dir, 'dev.env');
  writeFileSync(file, '# comment\nA=1\nB="two words"\nexport C=3\n');
  const choice = readEnvironmentChoice({ 'env-file': [file], env: ['A=x=y', 'D='], 'env-exclude': ['OTEL_*'] });
  assert.deepEqual(choice, {
    include: [],
    exclude: ['OTEL_*'],
    set: { A: 'x=y', B: 'two words', C: '3', D: '' },
  });
});

test('what is no variable, or no file, is refused', () => {
  for (const words of [{ env: ['A'] }, { env: ['=1'] }, { 'env-file': ['/nowhere/.env'] }])
    assert.throws(() => readEnvironmentChoice(words), { name: 'LpkError', code: 'usage' }, JSON.stringify(words));
});

test('a glob is the whole name, and its other characters stand for themselves', () => {
  const table: [string, string, boolean][] = [
    ['APP_*', 'APP_KEY', true],
    ['APP_*', 'MY_APP_KEY', false],
    ['*_KEY', 'APP_KEY', true],
    ['A?', 'AB', true],
    ['A?', 'ABC', false],
    ['A.B', 'AxB', false],
    ['A[1]', 'A1', false],
  ];
  for (const [glob, name, matches] of table) assert.equal(matchesAny([glob], name), matches, `${glob} ${name}`);
});
