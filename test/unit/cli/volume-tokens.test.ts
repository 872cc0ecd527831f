/** $(volumeMounts:NAME) in the command's variables. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Cluster, RequestOptions } from '../../../agent/deploy/kube.ts';
import { placeVolumes, withVolumePlaces } from '../../../cli/volume-tokens.ts';

const TOKEN = '/var/run/secrets/kubernetes.io/serviceaccount';
const mounts = [
  { name: 'allow-list', mountPath: '/config' },
  { name: 'kube-api-access-x7k2p', mountPath: TOKEN },
  { name: 'kube-api-access-zzzzz', mountPath: '/second' },
];

function placed(set: Record<string, string>, place?: (path: string) => string) {
  const told: string[] = [];
  return { set: placeVolumes(set, mounts, place, (text) => told.push(text)), told };
}

test('a volume is where the command finds it; of several that fit, the first', () => {
  const set = {
    A: '$(volumeMounts:allow-list)/allow-list',
    B: '$(volumeMounts:kube-api-access-*)',
    C: 'x$(services:y)',
  };
  assert.deepEqual(
    placed(set, (path) => (path === TOKEN ? path : `/tmp/v${path}`)),
    {
      set: { A: '/tmp/v/config/allow-list', B: TOKEN, C: 'x$(services:y)' },
      told: [],
    },
  );
});

test('the token’s old name is its place of today', () => {
  const set = { A: '$(volumeMounts:default-token-*)', B: '$(volumeMounts:shop-token-x7k2p)/token' };
  assert.deepEqual(placed(set, (path) => path).set, { A: TOKEN, B: `${TOKEN}/token` });
  const old = [{ name: 'default-token-1234', mountPath: '/elsewhere' }, ...mounts];
  assert.deepEqual(
    placeVolumes({ A: set.A }, old, (path) => path, assert.fail),
    { A: '/elsewhere' },
  );
  assert.deepEqual(
    placeVolumes(
      { A: set.A },
      [],
      (path) => path,
      () => {},
    ),
    {},
  );
});

test('one that the pod has not is told, and the variable left out', () => {
  assert.deepEqual(
    placed({ A: '$(volumeMounts:secrets)/x', B: '1' }, (path) => path),
    {
      set: { B: '1' },
      told: [
        'A is left out: the pod has no volume secrets (it has: allow-list, kube-api-access-x7k2p, kube-api-access-zzzzz)',
      ],
    },
  );
});

test('without copies it is the pod’s path, and that is told', () => {
  assert.deepEqual(placed({ A: '$(volumeMounts:allow-list)/x' }), {
    set: { A: '/config/x' },
    told: ['A names a file of the pod, whose volumes are not copied'],
  });
});

test('the pod is asked only when a variable needs it', async () => {
  const asked: string[] = [];
  const cluster = {
    request: async (_method: string, path: string, { query }: RequestOptions) => {
      asked.push(`${path}?${query?.fieldSelector}`);
      return { items: [{ spec: { containers: [{ name: 'side' }, { name: 'app', volumeMounts: mounts }] } }] };
    },
  } as unknown as Cluster;
  const given = { cluster, namespace: 'shop', pod: 'web-1', container: 'app', place: (path: string) => path };
  const output = { warn: assert.fail };
  assert.deepEqual(await withVolumePlaces({ A: '1' }, { ...given, output }), { A: '1' });
  assert.deepEqual(asked, []);
  assert.deepEqual(await withVolumePlaces({ A: '$(volumeMounts:allow-list)' }, { ...given, output }), { A: '/config' });
  assert.deepEqual(asked, ['/api/v1/namespaces/shop/pods?metadata.name=web-1']);
});
