import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { endWhenLonely } from '../../../agent/pod/lonely.ts';

test('an agent ends once nobody was there for that long, and not before', (t) => {
  let now = 0;
  t.mock.method(performance, 'now', () => now);
  mock.timers.enable({ apis: ['setInterval'] });
  t.after(() => mock.timers.reset());
  const pass = (ms: number) => {
    for (const end = now + ms; now < end; ) {
      now += 1_000;
      mock.timers.tick(1_000);
    }
  };
  let there = false;
  let ends = 0;
  endWhenLonely(
    () => there,
    10_000,
    () => ends++,
  );
  pass(9_000);
  there = true;
  pass(60_000);
  assert.equal(ends, 0, 'a laptop was there');
  there = false;
  pass(9_000);
  assert.equal(ends, 0);
  pass(30_000);
  assert.equal(ends, 1, 'once');
});
