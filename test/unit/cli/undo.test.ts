import assert from 'node:assert/strict';
import test from 'node:test';
import { LpkError } from '../../../agent/wire/errors.ts';
import { Undo } from '../../../cli/undo.ts';

function stack() {
  const reports: [string, string | undefined][] = [];
  return { reports, undo: new Undo((failure, remedy) => reports.push([failure, remedy])) };
}

test('the last thing done is undone first, one at a time', async () => {
  const { undo } = stack();
  const log: string[] = [];
  for (const name of ['one', 'two', 'three']) {
    undo.add(name, async () => {
      log.push(`${name} begins`);
      await new Promise(setImmediate);
      log.push(`${name} ends`);
    });
  }
  await undo.run();
  assert.deepEqual(log, ['three begins', 'three ends', 'two begins', 'two ends', 'one begins', 'one ends']);
  assert.deepEqual(undo.failed, []);
});

test('a failing step does not keep the others from their turn, and is reported with what to do', async () => {
  const { undo, reports } = stack();
  const log: string[] = [];
  undo.add('remove the Secret', async () => void log.push('secret'));
  undo.add(
    'restore deployment/web',
    () => Promise.reject(new LpkError('cluster-unreachable', 'no answer')),
    'lpk restore deployment/web -n shop',
  );
  undo.add('close the proxy', () => {
    throw new TypeError('sync');
  });
  await undo.run();
  assert.deepEqual(log, ['secret']);
  assert.deepEqual(reports, [
    ['could not close the proxy: sync', undefined],
    ['could not restore deployment/web: no answer', 'lpk restore deployment/web -n shop'],
  ]);
  assert.deepEqual(undo.failed, ['close the proxy', 'restore deployment/web']);
});

test('it runs once, however often it is called', async () => {
  const { undo } = stack();
  let times = 0;
  undo.add('step', async () => void times++);
  await Promise.all([undo.run(), undo.run()]);
  await undo.run();
  assert.equal(times, 1);
});

test('what is added while or after leaving is undone at once', async () => {
  const { undo } = stack();
  const log: string[] = [];
  undo.add('early', async () => {
    undo.add('late', async () => void log.push('late'));
    log.push('early');
  });
  await undo.run();
  assert.deepEqual(log, ['early', 'late']);
  await new Promise<void>((undone) => {
    undo.add('later', async () => {
      log.push('later');
      undone();
    });
  });
  await undo.run();
  assert.deepEqual(log, ['early', 'late', 'later']);
});

test('pending names what is still to do, the one under way included', async () => {
  const { undo } = stack();
  let seen: string[] = [];
  undo.add('first', async () => {});
  undo.add('second', async () => {
    seen = undo.pending;
  });
  assert.deepEqual(undo.pending, ['second', 'first']);
  await undo.run();
  assert.deepEqual(seen, ['second', 'first']);
  assert.deepEqual(undo.pending, []);
});
