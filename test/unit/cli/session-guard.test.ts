import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { test } from 'node:test';
import type { Target } from '../../../agent/deploy/find.ts';
import { apiVersionOf, workloadRef } from '../../../agent/deploy/workload.ts';
import type { AttachmentEvents } from '../../../cli/attachment.ts';
import { Output, type Sink } from '../../../cli/output.ts';
import { tellRestorer } from '../../../cli/session-guard.ts';
import { FakeCluster } from './fake-cluster.ts';

const ROLE = '/apis/rbac.authorization.k8s.io/v1/namespaces/shop/roles/lpk-s1';
const LEASE = '/apis/coordination.k8s.io/v1/namespaces/shop/leases/lpk-s1';

/** A session whose pods' and revisions' names come one by one. */
function scene(kind: 'replicaset' | 'daemonset' | 'deployment') {
  const fake = new FakeCluster();
  for (const path of [ROLE, LEASE]) fake.objects.set(path, { metadata: { name: 'lpk-s1' } });
  const ref = workloadRef(kind, 'shop', 'web');
  const spec = { replicas: 1, updateStrategy: { type: 'OnDelete' } };
  const workload = { apiVersion: apiVersionOf(kind), metadata: { name: 'web' }, spec };
  const pods = new EventEmitter<AttachmentEvents>();
  let said = '';
  const write = (text: string) => {
    said += text;
  };
  const sink = { write, on: () => {} } as unknown as Sink;
  const output = new Output({ format: 'text', stdout: sink, stderr: sink, env: {}, nowMs: () => 0 });
  const target = { ...ref, workload } as unknown as Target;
  const { cluster } = fake;
  tellRestorer({ cluster, target, session: 's1', silenceMs: 45_000, restorer: true, remedy: 'lpk x', output }, pods);
  return {
    fake,
    /** To its end: a fake cluster answers at once. */
    async tell(event: 'named' | 'revision', ...named: [string[]] | [string]) {
      pods.emit(event, ...(named as [string & string[]]));
      await new Promise(setImmediate);
    },
    /** The names that the Role lets it delete, and those that the Lease tells it. */
    get allowed(): string[] {
      const rules = (fake.objects.get(ROLE).rules ?? []) as { resources: string[]; resourceNames: string[] }[];
      const named = rules.filter(({ resources }) => /pods|replicasets|controllerrevisions/.test(`${resources}`));
      return named.flatMap(({ resources, resourceNames }) =>
        `${resources}` === 'replicasets' && resourceNames[0] === 'web' ? [] : resourceNames,
      );
    },
    get told(): string[] {
      const { annotations = {} } = fake.objects.get(LEASE).metadata;
      const pods = annotations['lpk.dev/pods']?.split(',') ?? [];
      return [...pods, ...JSON.parse(annotations['lpk.dev/revisions'] ?? '[]')];
    },
    get said() {
      return said;
    },
  };
}

test('a pod that could not be named to the restorer is named with the next: it is told of none that it may not delete', async () => {
  const at = scene('replicaset');
  at.fake.refused.add(`PATCH ${ROLE}`);
  await at.tell('named', ['web-a']);
  assert.deepEqual(at.told, []);
  assert.match(at.said, /the restorer would put replicaset\/web back, but not delete its agents' pods/);
  at.fake.refused.clear();
  await at.tell('named', ['web-a', 'web-b']);
  assert.deepEqual(
    [at.allowed, at.told],
    [
      ['web-a', 'web-b'],
      ['web-a', 'web-b'],
    ],
  );
});

test('a pod whose name did not reach the Lease is told with the next', async () => {
  const at = scene('replicaset');
  at.fake.refused.add(`PATCH ${LEASE}`);
  await at.tell('named', ['web-a']);
  at.fake.refused.clear();
  await at.tell('named', ['web-b']);
  assert.deepEqual([at.allowed, at.told], [['web-b'], ['web-b']]);
});

test('revisions that could not be named are named with the next; those of who may not are never told', async () => {
  const at = scene('deployment');
  at.fake.failing.add(`PATCH ${ROLE}`);
  await at.tell('revision', 'web-1');
  assert.deepEqual(at.told, []);
  at.fake.failing.clear();
  await at.tell('revision', 'web-2');
  assert.deepEqual(
    [at.allowed, at.told],
    [
      ['web-1', 'web-2'],
      ['web-1', 'web-2'],
    ],
  );

  const may = scene('daemonset');
  may.fake.refused.add(`PATCH ${ROLE}`);
  await may.tell('revision', 'web-1');
  may.fake.refused.clear();
  await may.tell('named', ['web-a']);
  await may.tell('revision', 'web-2');
  assert.deepEqual([may.allowed, may.told], [['web-a'], ['web-a']]);
});

test('pods and revisions that are named at once do not take each other’s rights', async () => {
  const at = scene('daemonset');
  void at.tell('named', ['web-a']);
  void at.tell('revision', 'web-1');
  await at.tell('named', ['web-b']);
  await at.tell('revision', 'web-1');
  assert.deepEqual(at.told, ['web-b', 'web-1']);
  for (const name of at.told) assert.ok(at.allowed.includes(name), `${at.allowed}`);
});
