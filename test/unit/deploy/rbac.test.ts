import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { helpsToProxy, helpsToRestore, helpsToSee, helpsToServe } from '../../../agent/deploy/helpful-rights.ts';
import {
  type Right,
  rightsToProxy,
  rightsToReach,
  rightsToReadVariables,
  rightsToRestore,
  rightsToServe,
} from '../../../agent/deploy/preflight.ts';
import { rightsToLease, rightsToNamePods, rightsToRestorer } from '../../../agent/deploy/restorer.ts';
import { WORKLOAD_KINDS, workloadRef } from '../../../agent/deploy/workload.ts';
import { inWords, readRoles } from '../../rbac.ts';

/** docs/rbac.yaml is what lpk asks for: no more, no less, and what is optional is marked. */

const roles = readRoles(readFileSync(path.join(import.meta.dirname, '../../../docs/rbac.yaml'), 'utf8'));

const each = (verbs: string[], of: Omit<Right, 'verb'>) => verbs.map((verb) => ({ verb, ...of }));
const ofKinds = (verbs: string[]) =>
  WORKLOAD_KINDS.flatMap((kind) => each(verbs, { group: 'apps', resource: `${kind}s` }));
const held = WORKLOAD_KINDS.map((kind) => ({ ...workloadRef(kind, 'shop', 'web'), workload: { spec: {} } }));

/** What finding a target reads (agent/deploy/find.ts). */
const service = each(['get'], { resource: 'services' });
const pod = [...each(['get'], { resource: 'pods' }), ...each(['get'], { group: 'apps', resource: 'replicasets' })];

const serve = [...service, ...held.flatMap(rightsToServe), ...rightsToReach('proxy')];
const helps = (restorer: boolean) =>
  WORKLOAD_KINDS.flatMap((kind) => helpsToServe({ kind }, { command: true, restorer }));
const rightsOf = (all: { rights: Right[] }[]) => all.flatMap(({ rights }) => rights);
const restorer = held.flatMap(rightsToRestorer);
const discovery = { group: 'discovery.k8s.io', resource: 'endpointslices' };

const expected: Record<string, { needed: Right[]; optional: Right[] }> = {
  'lpk-connect': {
    needed: serve,
    optional: [...rightsToLease(), ...restorer, ...rightsOf(helps(true)), ...pod],
  },
  'lpk-connect-no-restorer': { needed: serve, optional: [...rightsToLease(), ...rightsOf(helps(false)), ...pod] },
  'lpk-proxy': { needed: [...rightsToProxy(), ...rightsToReach('proxy')], optional: rightsOf(helpsToProxy()) },
  'lpk-env': { needed: [...service, ...ofKinds(['get', 'list']), ...rightsToReadVariables()], optional: pod },
  'lpk-services': { needed: each(['list'], { resource: 'services' }), optional: each(['list'], discovery) },
  'lpk-status': {
    needed: [...ofKinds(['list']), ...each(['list'], { resource: 'configmaps' })],
    optional: rightsOf(helpsToSee()),
  },
  'lpk-restore': {
    needed: [...service, ...held.flatMap((each) => rightsToRestore(each, { wait: true }))],
    optional: [...rightsOf(WORKLOAD_KINDS.flatMap(helpsToRestore)), ...pod],
  },
};

test('there is a Role for each verb, and no other', () => {
  assert.deepEqual([...roles.keys()], Object.keys(expected));
});

for (const [name, { needed, optional }] of Object.entries(expected)) {
  test(`the Role ${name} is what lpk asks for`, () => {
    const role = roles.get(name) ?? [];
    const words = (rights: Right[]) => [...new Set(rights.map(inWords))].toSorted();
    const must = words(needed);
    assert.deepEqual(words(role.filter((right) => !right.optional)), must);
    assert.deepEqual(
      words(role.filter((right) => right.optional)),
      words(optional).filter((right) => !must.includes(right)),
    );
    const all = role.map(inWords);
    assert.deepEqual(all.length, new Set(all).size, 'each once');
  });
}

test('the Role lpk-kinds is what the other kinds ask for besides', () => {
  const more = readRoles(readFileSync(path.join(import.meta.dirname, '../../../docs/rbac-kinds.yaml'), 'utf8'));
  assert.deepEqual([...more.keys()], ['lpk-kinds']);
  const template = { metadata: {}, spec: { template: {} } };
  const replicaSet = { ...workloadRef('replicaset', 'shop', 'web'), workload: template };
  const bare = { ...workloadRef('pod', 'shop', 'web'), workload: template };
  const beside = { ...bare, beside: workloadRef('deployment', 'shop', 'web') };
  const rollout = { ...workloadRef('rollout', 'shop', 'web'), workload: template };
  const asked = [replicaSet, bare, beside, rollout].flatMap((target) => [
    ...rightsToServe(target),
    ...rightsToRestore(target, { wait: true }),
    ...rightsToRestorer(target),
    ...rightsToNamePods(target),
  ]);
  const has = (rights: Right[]) => new Set(rights.map(inWords));
  const connect = has([...(roles.get('lpk-connect') ?? []), ...(roles.get('lpk-restore') ?? [])]);
  const lacking = [...has(asked)].filter((right) => !connect.has(right));
  const given = has(more.get('lpk-kinds') ?? []);
  assert.deepEqual(
    lacking.filter((right) => !given.has(right)),
    [],
    'nothing is missing',
  );
  const superfluous = [...given].filter((right) => !has(asked).has(right));
  assert.deepEqual(superfluous, []);
});
