import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test, { type TestContext } from 'node:test';
import { writeBundle } from '../../../cli/diagnose-bundle.ts';

const NOW = new Date('2026-11-26T10:20:30.400Z');

function folderFor(t: TestContext): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-bundle-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

test('the bundle is an archive that tar unpacks, for its user alone', (t) => {
  const folder = folderFor(t);
  const file = path.join(folder, 'b.tar.gz');
  const texts = new Map([
    ['report.txt', 'ünïcode\n'],
    ['logs/connect-20261126T000000Z-1.log', 'x'.repeat(512)],
    ['logs/empty.log', ''],
  ]);
  assert.equal(writeBundle(texts, file, NOW), file);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  execFileSync('tar', ['xzf', file, '-C', folder], { stdio: ['ignore', 'ignore', 'inherit'] });
  for (const [name, text] of texts)
    assert.equal(readFileSync(path.join(folder, 'lpk-diagnose-20261126T102030Z', name), 'utf8'), text);
});

test('without a name it is in the working folder, named by the time', (t) => {
  const before = process.cwd();
  const folder = folderFor(t);
  process.chdir(folder);
  t.after(() => process.chdir(before));
  assert.equal(path.basename(writeBundle(new Map(), undefined, NOW)), 'lpk-diagnose-20261126T102030Z.tar.gz');
});

test('a file that is there stays as it is; one that can’t be written is told', (t) => {
  const file = path.join(folderFor(t), 'b.tar.gz');
  writeFileSync(file, 'mine');
  assert.throws(() => writeBundle(new Map(), file), {
    code: 'usage',
    message: `${file} is there already: name another with --file`,
  });
  assert.equal(readFileSync(file, 'utf8'), 'mine');
  const nowhere = path.join(file, 'x.tar.gz');
  assert.throws(() => writeBundle(new Map(), nowhere), { code: 'usage', message: /can't be written \(ENOTDIR\)/ });
});
