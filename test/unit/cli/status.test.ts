import assert from 'node:assert/strict';
import { linkSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import type { FoundSession } from '../../../agent/deploy/apply.ts';
import { leftBehind, proxiesLeftBehind } from '../../../cli/left-behind.ts';
import { Output, type Sink } from '../../../cli/output.ts';
import { readableSpan } from '../../../cli/readable-time.ts';
import { noteSession, notesHere, sessionsHere } from '../../../cli/sessions-here.ts';
import { tellLocal, tellSessions } from '../../../cli/status.ts';
import { FakeCluster } from './fake-cluster.ts';

const ME = { owner: 'ann', host: 'box' };
const BOB = { owner: 'bob', host: 'mill' };
const NOTE = { what: 'deployment/web', namespace: 'shop', context: 'prod' };
const NOW = Date.parse('2026-11-24T12:00:00Z');

async function status(fake: FakeCluster, here: Map<string, number> = new Map()): Promise<string[]> {
  let out = '';
  const stdout = { on: () => {}, write: (text: string) => (out += text) } as unknown as Sink;
  const output = new Output({ format: 'text', stdout, env: {} });
  await tellSessions(fake.cluster, { allNamespaces: false }, { output, me: ME, here });
  return out.trimEnd().split('\n');
}

/** A Lease that was renewed so many seconds ago. */
function lease(fake: FakeCluster, id: string, ago: number): void {
  const spec = { renewTime: new Date(NOW - ago * 1_000).toISOString(), leaseDurationSeconds: 45 };
  const labels = { 'app.kubernetes.io/managed-by': 'lpk', 'lpk.dev/session': id };
  const metadata = { name: `lpk-${id}`, namespace: 'shop', uid: id, labels, creationTimestamp: '2026-11-24T10:00:00Z' };
  fake.objects.set(`/apis/coordination.k8s.io/v1/namespaces/shop/leases/lpk-${id}`, { metadata, spec });
}

test('each session: whose, since when, and whether it lives', async () => {
  const fake = new FakeCluster();
  for (const name of ['a', 'b', 'c', 'd']) fake.deployment(name);
  fake.hold('a', { id: 's1', ...ME });
  lease(fake, 's1', 44);
  fake.hold('b', { id: 's2', ...BOB });
  lease(fake, 's2', 46);
  fake.hold('c', { id: 's3', ...BOB });
  fake.hold('d', { id: 's4', ...ME });
  lease(fake, 's5', 7_200);
  assert.deepEqual(await status(fake, new Map([['s4', 77]])), [
    'deployment/a in shop: ann on box (you) since 2026-11-24 10:00:00 UTC; alive, last seen 44 s ago',
    'deployment/b in shop: bob on mill since 2026-11-24 10:00:00 UTC; silent, last seen 46 s ago',
    'deployment/c in shop: bob on mill since 2026-11-24 10:00:00 UTC; unknown',
    'deployment/d in shop: ann on box (you) since 2026-11-24 10:00:00 UTC; alive, process 77 here',
    'objects of session s5 in shop: made 2026-11-24 10:00:00 UTC; left-over, last seen 2 h ago',
  ]);
});

test('it is the API server’s clock that counts, not a laptop’s', async () => {
  const fake = new FakeCluster();
  fake.deployment('a');
  fake.hold('a', { id: 's1', ...BOB });
  lease(fake, 's1', 3_600);
  const { metadata } = fake.objects.get('/apis/coordination.k8s.io/v1/namespaces/shop/leases/lpk-s1');
  const time = new Date(NOW - 5_000).toISOString();
  metadata.managedFields = [{ manager: 'lpk', time, fieldsV1: { 'f:spec': { 'f:renewTime': {} } } }];
  assert.match((await status(fake))[0] ?? '', /; alive, last seen 5 s ago$/);
});

test('no sessions is said', async () => {
  assert.deepEqual(await status(new FakeCluster()), ['no sessions in namespace shop']);
});

test('who may not list Leases or Secrets still sees the sessions', async () => {
  const fake = new FakeCluster();
  fake.deployment('a');
  fake.hold('a', { id: 's1', ...BOB });
  fake.refused.add('GET /apis/coordination.k8s.io/v1/namespaces/shop/leases');
  fake.refused.add('GET /api/v1/namespaces/shop/secrets');
  assert.equal((await status(fake)).length, 1);
});

test('left behind is one’s own, that no process here has, and that its restorer had time for', () => {
  const found = (id: string, person: object, ago?: number): FoundSession => ({
    id,
    namespace: 'shop',
    workload: { kind: 'deployment', namespace: 'shop', name: id, apiPath: '' },
    record: { v: 1, id, owner: '', host: '', since: '', container: 'c', changed: [], ...person },
    ...(ago === undefined
      ? {}
      : { lease: { renewedAt: new Date(NOW - ago * 1_000).toISOString(), silenceMs: 45_000, holder: 'ann@box' } }),
  });
  const sessions = [
    found('alive', ME, 10),
    found('restorers', ME, 100),
    found('dead', ME, 106),
    found('here', ME, 1_000),
    found('bobs', BOB, 1_000),
    found('unknown', ME),
    found('unknown-here', ME),
    { id: 'orphan', namespace: 'shop' },
  ];
  const here = new Map([
    ['here', 1],
    ['unknown-here', 2],
  ]);
  const left = leftBehind(sessions, { me: ME, here, nowMs: NOW });
  assert.deepEqual(
    left.map(({ id }) => id),
    ['dead', 'unknown'],
  );
});

test('a proxy is left behind when it is one’s own, and no process here has it', () => {
  const proxy = (id: string, person: object): FoundSession => ({
    ...{ id, namespace: 'shop', proxy: { owner: '', host: '', since: '', ...person } },
  });
  const sessions = [proxy('dead', ME), proxy('here', ME), proxy('bobs', BOB), { id: 'orphan', namespace: 'shop' }];
  const left = proxiesLeftBehind(sessions, ME, new Map([['here', 1]]));
  assert.deepEqual(
    left.map(({ id }) => id),
    ['dead'],
  );
});

test('the sessions of this laptop are those whose process runs; notes of the dead, and garbage, go', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-here-'));
  try {
    const forget = noteSession('mine', NOTE, () => folder);
    writeFileSync(path.join(folder, 'dead.json'), JSON.stringify({ pid: process.pid, startedAt: 'before' }));
    writeFileSync(path.join(folder, 'half.json'), '{"pid":');
    utimesSync(path.join(folder, 'half.json'), 0, 0);
    assert.deepEqual(sessionsHere(folder), new Map([['mine', process.pid]]));
    assert.deepEqual(readdirSync(folder), ['mine.json']);
    forget();
    assert.deepEqual(sessionsHere(folder), new Map());
    noteSession('nowhere', NOTE, () => {
      throw new Error('EROFS');
    })();
  } finally {
    rmSync(folder, { recursive: true });
  }
  assert.deepEqual(sessionsHere(folder), new Map(), 'no folder, no sessions');
});

test('a note is never half there for who reads it, and one that can’t be read yet is not taken away', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-here-'));
  try {
    noteSession('mine', NOTE, () => folder);
    const before = path.join(folder, 'before');
    linkSync(path.join(folder, 'mine.json'), before);
    noteSession('mine', { ...NOTE, what: 'lpk run' }, () => folder);
    assert.equal(JSON.parse(readFileSync(before, 'utf8')).what, NOTE.what, 'who has it open reads the whole of it');
    assert.equal(notesHere(folder).get('mine')?.what, 'lpk run');
    writeFileSync(path.join(folder, 'new.json'), '');
    notesHere(folder);
    assert.deepEqual(readdirSync(folder).toSorted(), ['before', 'mine.json', 'new.json']);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('what runs here and was not listed is told too: of another namespace, or when the cluster has no answer', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-here-'));
  try {
    for (const id of ['listed', 'elsewhere']) noteSession(id, NOTE, () => folder);
    let out = '';
    const stdout = { on: () => {}, write: (text: string) => (out += text) } as unknown as Sink;
    const here = notesHere(folder);
    tellLocal(here, new Set(['listed']), new Output({ format: 'text', stdout, env: {} }));
    assert.equal(out, `here: deployment/web in shop (prod), process ${process.pid}\n`);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('spans of time', () => {
  const spans = [-5, 3, 119, 120, 7_199, 7_200, 172_799, 172_800].map((seconds) => readableSpan(seconds * 1_000));
  assert.deepEqual(spans, ['0 s', '3 s', '119 s', '2 min', '120 min', '2 h', '48 h', '2 days']);
});
