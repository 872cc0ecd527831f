import assert from 'node:assert/strict';
import { test } from 'node:test';
import { helpsToServe, missingHelp } from '../../../agent/deploy/helpful-rights.ts';
import type { Cluster, RequestOptions } from '../../../agent/deploy/kube.ts';
import { missingRights, preflightRestore, type Right } from '../../../agent/deploy/preflight.ts';
import { workloadRef } from '../../../agent/deploy/workload.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import { inWords } from '../../rbac.ts';

/** What is asked of the cluster, and how what is missing is said. */

/** A cluster where the user `ann` lacks these. */
function clusterLacking(...lacking: string[]): Cluster {
  return {
    namespace: 'shop',
    user: 'ann',
    request: async (_method: string, _path: string, { body }: RequestOptions) => {
      const { resourceAttributes } = (body as { spec: { resourceAttributes: Right } }).spec;
      return { status: { allowed: !lacking.includes(inWords(resourceAttributes)) } };
    },
  } as unknown as Cluster;
}

test('all that is missing is in one line', async () => {
  const held = { ...workloadRef('statefulset', 'shop', 'db'), workload: { spec: {} } };
  const cluster = clusterLacking('patch statefulsets.apps', 'delete pods', 'delete secrets', 'watch statefulsets.apps');
  await assert.rejects(preflightRestore(cluster, held, { wait: false }), {
    code: 'forbidden',
    message:
      'user "ann" lacks rights in namespace shop to restore statefulset/db: patch statefulsets.apps "db"; delete pods; delete secrets',
  });
});

test('what helps and is missing is a line for each thing that lpk then does without', async () => {
  const helps = helpsToServe({ kind: 'deployment', service: 'web' }, { command: true, restorer: false });
  assert.deepEqual(await missingHelp(clusterLacking('create pods/exec', 'list events'), helps), [
    'the command lacks the variables of its image: user "ann" may not create pods/exec',
  ]);
});

test('who may not even ask finds out by trying', async () => {
  const request = () => Promise.reject(new LpkError('forbidden', 'selfsubjectaccessreviews is forbidden'));
  const cluster = { namespace: 'shop', request } as unknown as Cluster;
  assert.deepEqual(await missingRights(cluster, [{ verb: 'get', resource: 'pods' }]), []);
  const away = () => Promise.reject(new LpkError('cluster-unreachable', 'nothing listens there'));
  const unreachable = { namespace: 'shop', request: away } as unknown as Cluster;
  await assert.rejects(missingRights(unreachable, [{ verb: 'get', resource: 'pods' }]), {
    code: 'cluster-unreachable',
  });
});
