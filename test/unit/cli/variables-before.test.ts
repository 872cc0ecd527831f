import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Cluster, Json } from '../../../agent/deploy/kube.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import { variablesBefore, variablesOver } from '../../../cli/variables-before.ts';

const TARGET = { namespace: 'shop', podQuery: { labelSelector: 'app=web' }, container: 'app' };

async function saidOf(answer: () => Promise<Json>): Promise<string[]> {
  const said: string[] = [];
  const cluster = { request: answer } as unknown as Cluster;
  assert.equal(await variablesBefore(cluster, TARGET, { say: (text) => void said.push(text) }), undefined);
  return said;
}

test('why the command lacks its image’s variables is said, once', async () => {
  assert.deepEqual(await saidOf(async () => ({ items: [] })), [
    'the command lacks the variables of its image: no pod of it runs',
  ]);
  const refused = async () => {
    throw new LpkError('forbidden', 'user "ann" may not create pods/exec');
  };
  assert.deepEqual(await saidOf(refused), [], 'missing rights are said together, elsewhere');
});

test('the agent’s variables go over those from before, but not its own limits', () => {
  const field = (name: string, valueFrom: object) => ({ name, valueFrom });
  const limit = { resourceFieldRef: { resource: 'limits.memory' } };
  const env = [
    field('GOMEMLIMIT', limit),
    field('NOT_READ', limit),
    field('POD_NAME', { fieldRef: { fieldPath: 'metadata.name' } }),
  ];
  const containers = [
    { name: 'side', env: [field('POD_NAME', limit)] },
    { name: 'app', env },
  ];
  const target = { container: 'app', workload: { spec: { template: { spec: { containers } } } } };
  const before = { OF_IMAGE: 'yes', GOMEMLIMIT: '33554432', POD_NAME: 'web-1' };
  const agents = { GOMEMLIMIT: '67108864', NOT_READ: '67108864', POD_NAME: 'web-2' };
  const over = { OF_IMAGE: 'yes', GOMEMLIMIT: '33554432', NOT_READ: '67108864', POD_NAME: 'web-2' };
  assert.deepEqual(variablesOver(before, agents, target), over);
  assert.deepEqual(variablesOver(undefined, agents, target), agents);
});
