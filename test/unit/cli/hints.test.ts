import assert from 'node:assert/strict';
import test from 'node:test';
import { ERROR_CODES } from '../../../agent/wire/errors.ts';
import { HINTS } from '../../../cli/hints.ts';

test('every error code has a hint of one line', () => {
  for (const code of ERROR_CODES) {
    const hint = HINTS[code];
    assert.equal(typeof hint, 'string', `${code} has no hint`);
    assert.match(hint, /^\S.{10,118}\S$/, `${code}: a hint is one line of text, got ${JSON.stringify(hint)}`);
  }
});

test('there is no hint for a code that does not exist', () => {
  assert.deepEqual(Object.keys(HINTS).toSorted(), [...ERROR_CODES].toSorted());
});
