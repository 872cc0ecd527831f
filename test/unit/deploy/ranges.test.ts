import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Cluster, Json } from '../../../agent/deploy/kube.ts';
import { clusterNetwork } from '../../../agent/deploy/ranges.ts';
import { LpkError } from '../../../agent/wire/errors.ts';

/** A cluster of these lists; what isn't among them may not be read. */
function clusterOf(lists: Record<string, Json[]>): Cluster {
  const request = (_method: string, path: string) => {
    const items = lists[path];
    return items ? Promise.resolve({ items }) : Promise.reject(new LpkError('forbidden', path));
  };
  return { namespace: 'shop', request } as unknown as Cluster;
}

test('the ranges are those the cluster states; addresses within them add nothing', async () => {
  const cluster = clusterOf({
    '/apis/networking.k8s.io/v1/servicecidrs': [{ spec: { cidrs: ['10.96.0.0/16', 'fd00:96::/112'] } }],
    '/api/v1/nodes': [
      { spec: { podCIDRs: ['10.244.0.0/24'] } },
      { spec: { podCIDRs: ['10.244.1.0/24'] } },
      { spec: {} },
    ],
    '/api/v1/services': [
      { spec: { clusterIPs: ['10.96.0.1', 'fd00:96::1'] } },
      { spec: { clusterIP: 'None', clusterIPs: ['None'] } },
      { spec: { type: 'ExternalName' } },
    ],
    '/api/v1/namespaces/shop/pods': [{ spec: {}, status: { podIPs: [{ ip: '10.244.1.7' }] } }],
    '/api/v1/namespaces': [{ metadata: { name: 'default' } }, { metadata: { name: 'shop' } }],
  });
  assert.deepEqual(await clusterNetwork(cluster), {
    ranges: ['10.96.0.0/16', 'fd00:96::/112', '10.244.0.0/24', '10.244.1.0/24'],
    namespaces: ['default', 'shop'],
  });
});

test('who may only read a namespace gets a range around each address seen there', async () => {
  const cluster = clusterOf({
    '/api/v1/namespaces/shop/services': [
      { spec: { clusterIPs: ['172.20.5.9'] } },
      { spec: { clusterIPs: ['172.20.5.10'] } },
    ],
    '/api/v1/namespaces/shop/pods': [
      { spec: {}, status: { podIPs: [{ ip: '192.168.31.4' }, { ip: 'fd12:3456:789a:1::17' }] } },
      { spec: { hostNetwork: true }, status: { podIPs: [{ ip: '172.31.0.5' }] } },
      { spec: {}, status: {} },
    ],
  });
  assert.deepEqual(await clusterNetwork(cluster), {
    ranges: ['172.20.5.0/24', '192.168.31.0/24', 'fd12:3456:789a:1::/64'],
    namespaces: ['shop'],
  });
});

test('a cluster that can’t be reached is no cluster without ranges', async () => {
  const request = () => Promise.reject(new LpkError('cluster-unreachable', 'gone'));
  await assert.rejects(clusterNetwork({ namespace: 'shop', request } as unknown as Cluster), {
    code: 'cluster-unreachable',
  });
});
