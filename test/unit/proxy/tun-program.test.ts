import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { findTun2socks, TUN2SOCKS_VERSION } from '../../../proxy/tun-program.ts';

test('the one that is named, on PATH, built: in this order', async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-tun-program-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const program = (...parts: string[]) => {
    const file = path.join(folder, ...parts);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, '#!/bin/sh\n', { mode: 0o755 });
    return file;
  };
  const none = { PATH: path.join(folder, 'bin'), XDG_CACHE_HOME: path.join(folder, 'cache') };
  await assert.rejects(findTun2socks(none), {
    code: 'no-tun2socks',
    message: `there is no tun2socks on PATH, nor in ${folder}/cache/lpk/tun2socks-v${TUN2SOCKS_VERSION}`,
  });
  const built = program('cache', 'lpk', `tun2socks-v${TUN2SOCKS_VERSION}`, 'tun2socks');
  assert.equal(await findTun2socks(none), built);
  const onPath = program('bin', 'tun2socks');
  assert.equal(await findTun2socks(none), onPath);
  const named = program('named');
  assert.equal(await findTun2socks({ ...none, LPK_TUN2SOCKS: named }), named);
  await assert.rejects(findTun2socks({ ...none, LPK_TUN2SOCKS: '/nowhere' }), {
    code: 'no-tun2socks',
    message: 'LPK_TUN2SOCKS is /nowhere, which is no program',
  });
});

test('the version that is looked for is the one that go.mod pins', () => {
  const file = path.join(import.meta.dirname, '../../../scripts/tun2socks.d/go.mod');
  assert.match(
    readFileSync(file, 'utf8'),
    new RegExp(`^require github\\.com/xjasonlyu/tun2socks/v2 v${TUN2SOCKS_VERSION}$`, 'm'),
  );
});
