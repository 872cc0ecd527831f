import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseEnviron } from '../../../agent/deploy/container-environment.ts';

test('a process’s environment: values with =, newlines and nothing in them; junk is passed over', () => {
  const bytes = Buffer.from('A=1\0B=x=y\0C=\0D=two\nlines\0junk\0=C:\\windows\0');
  assert.deepEqual(parseEnviron(bytes), { A: '1', B: 'x=y', C: '', D: 'two\nlines' });
});
