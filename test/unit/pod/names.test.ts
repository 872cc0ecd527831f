import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Names } from '../../../agent/pod/names.ts';

function counted(fails = false) {
  const asked: string[] = [];
  let now = 0;
  const names = new Names(
    async (name) => {
      asked.push(name);
      if (fails) throw Object.assign(new Error('no such name'), { code: 'ENOTFOUND' });
      return [{ address: `10.0.0.${asked.length}`, family: 4 }];
    },
    () => now,
  );
  return { asked, names, pass: (ms: number) => (now += ms) };
}

test('those who ask at once, and within a second, share one question', async () => {
  const { asked, names, pass } = counted();
  const [a, b] = await Promise.all([names.addresses('web'), names.addresses('web')]);
  pass(999);
  assert.deepEqual([a, b, await names.addresses('web')], Array(3).fill([{ address: '10.0.0.1', family: 4 }]));
  pass(1);
  assert.deepEqual(await names.addresses('web'), [{ address: '10.0.0.2', family: 4 }]);
  assert.deepEqual(asked, ['web', 'web']);
});

test('a failure is not kept, nor an answer that was told to be forgotten', async () => {
  const failing = counted(true);
  await assert.rejects(failing.names.addresses('nope'), { code: 'ENOTFOUND' });
  await assert.rejects(failing.names.addresses('nope'), { code: 'ENOTFOUND' });
  assert.equal(failing.asked.length, 2);
  const { asked, names } = counted();
  await names.addresses('web');
  names.forget('web');
  await names.addresses('web');
  assert.equal(asked.length, 2);
});

test('at most 1,024 names are kept', async () => {
  const { asked, names } = counted();
  for (let i = 0; i <= 1_024; i++) await names.addresses(`n${i}`);
  await names.addresses('n1024');
  assert.equal(asked.length, 1_025, 'the newest is known');
  await names.addresses('n0');
  assert.equal(asked.length, 1_026, 'the oldest is not');
});

test('the only address of a name is known while the name is, and no address of several', async () => {
  const { names, pass } = counted();
  assert.equal(names.onlyAddress('web'), undefined);
  await names.addresses('web');
  assert.equal(names.onlyAddress('web'), '10.0.0.1');
  pass(1_000);
  assert.equal(names.onlyAddress('web'), undefined, 'asked anew');
  const two = new Names(async () => ['10.0.0.1', '10.0.0.2'].map((address) => ({ address, family: 4 })));
  await two.addresses('db');
  assert.equal(two.onlyAddress('db'), undefined);
});
