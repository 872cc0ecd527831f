/** What a pod can call, from what the API server has of it. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Json } from '../../../agent/deploy/kube.ts';
import { domainOf, seenServices } from '../../../cli/services.ts';

const service = (name: string, spec: Json, namespace = 'shop') => ({ metadata: { name, namespace }, spec });
const slice = (name: string, more: Json) => ({
  metadata: { namespace: 'shop', labels: { 'kubernetes.io/service-name': name } },
  addressType: 'IPv4',
  ...more,
});

const SERVICES = [
  service('web', {
    type: 'ClusterIP',
    clusterIP: '10.96.0.7',
    clusterIPs: ['10.96.0.7', 'fd00::7'],
    ports: [
      { name: 'http', port: 80, protocol: 'TCP', targetPort: 8080 },
      { port: 53, protocol: 'UDP' },
    ],
  }),
  service('db', { type: 'ClusterIP', clusterIP: 'None', clusterIPs: ['None'], ports: [{ port: 5432 }] }),
  service('mail', { type: 'ExternalName', externalName: 'mail.example.com' }),
  {
    ...service('lpk-0123456789', { type: 'ClusterIP', clusterIP: '10.96.0.8', ports: [{ port: 80 }] }),
    metadata: { name: 'lpk-0123456789', namespace: 'shop', labels: { 'app.kubernetes.io/managed-by': 'lpk' } },
  },
  service('api', { type: 'NodePort', clusterIP: '10.96.0.9', ports: [{ port: 80 }] }, 'other'),
];
const SLICES = [
  slice('web', {
    endpoints: [
      { addresses: ['10.0.0.1'], targetRef: { kind: 'Pod', name: 'web-7d4b9c6f5-x2x7q' } },
      { addresses: ['10.0.0.2'], conditions: { ready: false } },
      // `lpk proxy up --like deployment/web`
      { addresses: ['10.0.0.8'], conditions: { ready: false }, targetRef: { kind: 'Pod', name: 'lpk-0123456789' } },
    ],
    ports: [{ port: 8080 }],
  }),
  slice('web', {
    addressType: 'IPv6',
    endpoints: [{ addresses: ['fd00::1'], conditions: { ready: true } }],
    ports: [{ port: 8080 }],
  }),
  slice('db', {
    endpoints: [
      { addresses: ['10.0.0.4'], hostname: 'db-1' },
      { addresses: ['10.0.0.3'], hostname: 'db-0' },
    ],
    ports: [{ port: 5432 }, { port: 5432, protocol: 'UDP' }],
  }),
  {
    ...slice('web', { endpoints: [{ addresses: ['10.0.9.9'] }] }),
    metadata: { namespace: 'other', labels: { 'kubernetes.io/service-name': 'web' } },
  },
];

test('ports, endpoints and names, as a pod in the namespace sees them', () => {
  const [web, db, mail, api, ...more] = seenServices(SERVICES, SLICES, { from: 'shop', domain: 'cluster.local' });
  assert.deepEqual(web, {
    name: 'web',
    namespace: 'shop',
    type: 'ClusterIP',
    addresses: ['10.96.0.7', 'fd00::7'],
    ports: [
      { name: 'http', port: 80, protocol: 'TCP' },
      { port: 53, protocol: 'UDP' },
    ],
    endpoints: [
      { address: '10.0.0.1:8080', ready: true },
      { address: '10.0.0.2:8080', ready: false },
      { address: '[fd00::1]:8080', ready: true },
    ],
    names: ['web', 'web.shop', 'web.shop.svc', 'web.shop.svc.cluster.local'],
  });
  assert.deepEqual([db?.type, db?.addresses], ['headless', []]);
  assert.deepEqual(db?.endpoints, [
    { address: '10.0.0.4:5432', ready: true },
    { address: '10.0.0.3:5432', ready: true },
  ]);
  assert.deepEqual(db?.names.slice(4), ['db-0.db.shop.svc.cluster.local', 'db-1.db.shop.svc.cluster.local']);
  assert.deepEqual([mail?.type, mail?.ports, mail?.endpoints], ['ExternalName mail.example.com', [], []]);
  assert.deepEqual(more, [], 'nothing of lpk’s own');
  assert.deepEqual(api?.names, ['api.other', 'api.other.svc', 'api.other.svc.cluster.local']);
});

test('who may not list endpoints sees the rest', () => {
  const [web] = seenServices(SERVICES, undefined, { from: 'shop', domain: 'k.example' });
  assert.equal(web?.endpoints, undefined);
  assert.equal(web?.names.at(-1), 'web.shop.svc.k.example');
});

test('the cluster’s domain, of a Corefile', () => {
  assert.equal(
    domainOf('.:53 {\n    kubernetes k.example in-addr.arpa ip6.arpa {\n  pods insecure\n}\n}'),
    'k.example',
  );
  assert.equal(domainOf('.:53 {\n  kubernetes cluster.local. {\n}'), 'cluster.local');
  assert.equal(domainOf('.:53 {\n  # kubernetes x.y\n  forward . 1.1.1.1\n}'), undefined);
  assert.equal(domainOf(''), undefined);
});
