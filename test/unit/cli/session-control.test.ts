import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test, { type TestContext } from 'node:test';
import { askSession, openSessionControl, type SessionStatus } from '../../../cli/session-control.ts';
import { sessionsHere } from '../../../cli/sessions-here.ts';

const STATUS: SessionStatus = {
  ...{ session: 's1', pid: 7, context: 'dev', namespace: 'shop', workload: 'deployment/web', container: 'app' },
  ...{ pods: ['web-1'], transport: 'proxy', link: 'up', rttMs: 1.5, proxyPort: 1080, ports: [] },
  variables: { handed: ['A'], leftOut: ['PATH'] },
};
const ENVIRONMENT = { variables: { A: 'line\nline' }, whole: true };

function folderFor(t: TestContext): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-control-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

const answers = { status: () => STATUS, environment: () => ENVIRONMENT };

test('a session answers other commands of its user, on a socket that is theirs alone', async (t) => {
  const folder = folderFor(t);
  const close = await openSessionControl('s1', answers, () => folder);
  t.after(close);
  assert.deepEqual(await askSession('s1', 'status', folder), STATUS);
  assert.deepEqual(await askSession('s1', 'environment', folder), ENVIRONMENT);
  assert.equal(statSync(path.join(folder, 's1.sock')).mode & 0o777, 0o600);
  close();
  await assert.rejects(askSession('s1', 'status', folder), { code: 'ENOENT' });
  assert.deepEqual(readdirSync(folder), []);
});

test('what is not asked for so is not answered', async (t) => {
  const folder = folderFor(t);
  t.after(await openSessionControl('s1', answers, () => folder));
  await assert.rejects(askSession('s1', 'elsewhere' as 'status', folder), { code: 'internal', message: /404/ });
});

test('where no socket can be made the session does without', async (t) => {
  const file = path.join(folderFor(t), 'file');
  writeFileSync(file, '');
  const close = await openSessionControl('s1', answers, () => file);
  close();
});

test('the socket of a session that died goes with its note', async (t) => {
  const folder = folderFor(t);
  writeFileSync(path.join(folder, 's1.json'), JSON.stringify({ pid: process.pid, startedAt: 'before' }));
  writeFileSync(path.join(folder, 's1.sock'), '');
  assert.deepEqual(sessionsHere(folder), new Map());
  assert.deepEqual(readdirSync(folder), []);
});
