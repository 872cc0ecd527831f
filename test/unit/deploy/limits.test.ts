import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseQuantity, raisedLimits } from '../../../agent/deploy/limits.ts';

test('a quantity is read as the API server reads it', () => {
  const table: [string, number][] = [
    ...([
      ['0', 0],
      ['1', 1],
      ['0.5', 0.5],
      ['.5', 0.5],
      ['5.', 5],
      ['+1', 1],
    ] as [string, number][]),
    ...([
      ['100m', 0.1],
      ['1u', 1e-6],
      ['1n', 1e-9],
      ['2k', 2_000],
      ['3M', 3e6],
      ['1G', 1e9],
      ['1E', 1e18],
    ] as [string, number][]),
    ...([
      ['1e3', 1_000],
      ['1E3', 1_000],
      ['1e-3', 0.001],
      ['12E+2', 1_200],
    ] as [string, number][]),
    ...([
      ['1Ki', 1_024],
      ['16Mi', 2 ** 24],
      ['0.5Gi', 2 ** 29],
      ['1Ei', 2 ** 60],
    ] as [string, number][]),
  ];
  for (const [text, value] of table) assert.ok(Math.abs(parseQuantity(text) - value) <= value * 1e-12, text);
  for (const text of ['', 'x', '1KiB', '1ki', '1 Mi', '1mi', '--1'])
    assert.equal(parseQuantity(text), Number.NaN, text);
});

test('only limits that are there and too small are raised', () => {
  assert.deepEqual(raisedLimits({ memory: '16Mi', cpu: '10m', 'ephemeral-storage': '1Mi' }), [
    { resource: 'memory', was: '16Mi', now: '64Mi' },
    { resource: 'cpu', was: '10m', now: '200m' },
  ]);
  for (const limits of [undefined, {}, { memory: '64Mi', cpu: '0.2' }, { memory: '1Gi', cpu: 2 }])
    assert.deepEqual(raisedLimits(limits), []);
});
