import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net, { type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { leaveLastWords } from '../../../agent/pod/last-words.ts';
import { startProbes } from '../../../agent/pod/probes.ts';
import { Judge } from '../../../agent/pod/readiness.ts';

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-words-'));
after(() => rmSync(dir, { recursive: true }));

test('a port that is taken is named where the kubelet reads it', async (t) => {
  const other = net.createServer();
  await new Promise<void>((resolve) => other.listen(0, resolve));
  t.after(() => other.close());
  const { port } = other.address() as AddressInfo;
  const failure = await startProbes(port, new Judge('connected', () => undefined)).catch((error: unknown) => error);
  const file = path.join(dir, 'termination-log');
  writeFileSync(file, '');
  leaveLastWords(failure, file);
  assert.equal(readFileSync(file, 'utf8'), `port ${port}, which the agent is to use, is taken\n`);
});

test('other errors are told as they are; a file that is not there is not made', () => {
  const file = path.join(dir, 'other');
  writeFileSync(file, '');
  leaveLastWords(new Error('no key'), file);
  assert.equal(readFileSync(file, 'utf8'), 'no key\n');
  leaveLastWords(new Error('no key'), path.join(dir, 'none'));
  assert.equal(existsSync(path.join(dir, 'none')), false);
});
