import net from 'node:net';
import { LpkError } from '../wire/errors.ts';
import type { Cluster, Json } from './kube.ts';

/** What a laptop must know to tell the cluster's names and addresses from others. */
export type ClusterNetwork = {
  /** CIDRs of Services and pods, as far as this user may see them. */
  ranges: string[];
  /** All namespaces, or where they may not be listed the present one. */
  namespaces: string[];
};

/** Around an address that no known range holds: a node's usual share of the pods, and a guess for Services. */
const AROUND_IPV4 = 24;
const AROUND_IPV6 = 64;

/**
 * Looks at ServiceCIDRs, the nodes' pod ranges, Services and pods; what may not be read is left out, and where the whole
 * cluster may not be listed, the namespace is. LpkError: what requests throw, `forbidden` and `not-found` excepted.
 */
export async function clusterNetwork(cluster: Cluster): Promise<ClusterNetwork> {
  const { namespace } = cluster;
  const [cidrs, nodes, services, pods, namespaces] = await Promise.all([
    readable(cluster, '/apis/networking.k8s.io/v1/servicecidrs', '/apis/networking.k8s.io/v1beta1/servicecidrs'),
    readable(cluster, '/api/v1/nodes'),
    readable(cluster, '/api/v1/services', `/api/v1/namespaces/${namespace}/services`),
    readable(cluster, `/api/v1/namespaces/${namespace}/pods`),
    readable(cluster, '/api/v1/namespaces'),
  ]);
  const known = new net.BlockList();
  const ranges = new Set<string>();
  const add = (cidr: string) => {
    const [address, bits] = cidr.split('/') as [string, string];
    ranges.add(cidr);
    known.addSubnet(address, Number(bits), family(address));
  };
  for (const { spec } of cidrs) for (const cidr of (spec?.cidrs ?? []) as string[]) add(cidr);
  for (const { spec } of nodes) for (const cidr of (spec?.podCIDRs ?? []) as string[]) add(cidr);
  const seen = [
    ...services.flatMap(({ spec }) => (spec.clusterIPs ?? [spec.clusterIP]) as string[]),
    // A pod in its node's network has the node's address, which is none of the cluster's own.
    ...pods
      .filter(({ spec }) => !spec.hostNetwork)
      .flatMap(({ status }) => ((status?.podIPs ?? []) as Json[]).map(({ ip }) => ip as string)),
  ];
  for (const address of seen) {
    if (net.isIP(address) === 0 || known.check(address, family(address))) continue;
    add(around(address));
  }
  const names = namespaces.map(({ metadata }) => metadata.name as string);
  return { ranges: [...ranges], namespaces: names.length > 0 ? names : [namespace] };
}

/** The items of the first of these lists that may be read. */
async function readable(cluster: Cluster, ...paths: string[]): Promise<Json[]> {
  for (const path of paths) {
    try {
      return (await cluster.request('GET', path)).items ?? [];
    } catch (error) {
      if (!(error instanceof LpkError) || (error.code !== 'forbidden' && error.code !== 'not-found')) throw error;
    }
  }
  return [];
}

function family(address: string): 'ipv4' | 'ipv6' {
  return net.isIPv6(address) ? 'ipv6' : 'ipv4';
}

/** The range of the usual size that an address is in. */
function around(address: string): string {
  if (net.isIPv4(address)) return `${address.split('.').slice(0, 3).join('.')}.0/${AROUND_IPV4}`;
  const groups = new URL(`http://[${address}]/`).hostname.slice(1, -1); // RFC 5952 text
  const [head = '', tail] = groups.split('::');
  const before = head === '' ? [] : head.split(':');
  const after = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? 0 : 8 - before.length - after.length;
  const whole = [...before, ...Array<string>(zeros).fill('0'), ...after];
  return `${whole.slice(0, 4).join(':')}::/${AROUND_IPV6}`;
}
