import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';

/** A few runs of each kind, the same each time; a million others: `scripts/node test/fuzz/doors.ts 1000000`. */
test('the doors survive hostile clients', { timeout: 600_000 }, () => {
  const script = join(import.meta.dirname, '../../fuzz/doors.ts');
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, '1000', 'all', '7'], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  assert.deepEqual(
    [...stdout.matchAll(/^(.+): (\d+) hostile inputs/gm)].map(([, name, runs]) => `${name} ${runs}`),
    ['socks 1000', 'socks over loopback 10', 'http 1000', 'http over loopback 10', 'udp 1000'],
  );
});
