import assert from 'node:assert/strict';
import test from 'node:test';
import { inTurn, paired } from '../../bench/pairs.ts';

test('a load that grows evenly is no difference between the sides', async () => {
  const order: string[] = [];
  let load = 0;
  const [a, b] = await inTurn(['a', 'b'], async (side) => {
    order.push(side);
    load += 10;
    return { us: (side === 'a' ? 100 : 105) + load, absent: undefined };
  });
  assert.deepEqual(order, ['a', 'b', 'b', 'a']);
  assert.deepEqual([a, b], [{ us: 125 }, { us: 130 }]);
});

test('a round is measured once for both sides, whichever is asked first', async () => {
  let rounds = 0;
  const sides = paired(['a', 'b'], async () => [{ round: ++rounds }, { round: 10 * rounds }]);
  const [a, b] = sides as [(typeof sides)[0], (typeof sides)[0]];
  assert.deepEqual([a.name, b.name], ['a', 'b']);
  assert.deepEqual([await a.measure(), await b.measure()], [{ round: 1 }, { round: 10 }]);
  assert.deepEqual([await b.measure(), await a.measure()], [{ round: 20 }, { round: 2 }]);
  assert.equal(rounds, 2);
});
