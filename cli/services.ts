import { isOurPodName, isOurs } from '../agent/deploy/agent-container.ts';
import type { Cluster, Json } from '../agent/deploy/kube.ts';
import { LpkError } from '../agent/wire/errors.ts';
import { openCluster } from './cluster.ts';
import { offerRestore } from './left-behind.ts';
import type { Output } from './output.ts';
import type { ServicesOptions } from './services-options.ts';

/** A Service as a pod sees it. */
export type SeenService = {
  name: string;
  namespace: string;
  type: string;
  /** None for a headless Service or an ExternalName. */
  addresses: string[];
  ports: { name?: string; port: number; protocol: string }[];
  /** `ADDRESS:PORT` and whether it is ready; undefined: they may not be listed. */
  endpoints?: { address: string; ready: boolean }[];
  /** Names that resolve to it, the one that a pod in `from` would use first; those of single pods after its own. */
  names: string[];
};

const DEFAULT_DOMAIN = 'cluster.local';
const SHOWN_ENDPOINTS = 3;

/** `lpk services`: a table, or an object for each. */
export async function services(options: ServicesOptions, output: Output): Promise<number> {
  const cluster = await openCluster(options, output);
  const offered = offerRestore(cluster, output);
  try {
    const { namespace } = cluster;
    const { seen, withEndpoints } = await readServices(cluster, options);
    if (output.format === 'json') for (const each of seen) output.result('', 'service', each);
    else if (seen.length === 0)
      output.say(`there is no Service in ${options.allNamespaces ? 'the cluster' : namespace}`);
    else for (const line of table(seen)) output.result(line, 'service');
    if (!withEndpoints)
      output.say(
        `the endpoints are not known: user "${cluster.user}" may not list endpointslices.discovery.k8s.io`,
        'goes-without',
      );
    return 0;
  } finally {
    await offered;
    cluster.close();
  }
}

/** As a pod in the cluster's namespace sees them. LpkError: what requests throw, but not that endpoints or the domain may not be read. */
export async function readServices(
  cluster: Cluster,
  { allNamespaces }: { allNamespaces: boolean },
): Promise<{ seen: SeenService[]; withEndpoints: boolean; domain: string; isDomainKnown: boolean }> {
  const within = allNamespaces ? '' : `/namespaces/${cluster.namespace}`;
  const [list, slices, known] = await Promise.all([
    cluster.request('GET', `/api/v1${within}/services`),
    allowed(cluster.request('GET', `/apis/discovery.k8s.io/v1${within}/endpointslices`)),
    clusterDomain(cluster),
  ]);
  const domain = known ?? DEFAULT_DOMAIN;
  const seen = seenServices(list.items, slices?.items, { from: cluster.namespace, domain });
  return { seen, withEndpoints: slices !== undefined, domain, isDomainKnown: known !== undefined };
}

/** `from`: the namespace of the pod that looks; `domain`: the cluster's, mostly cluster.local. */
export function seenServices(
  list: Json[],
  slices: Json[] | undefined,
  { from, domain }: { from: string; domain: string },
): SeenService[] {
  const theirs = list.filter((service) => !isOurs(service));
  return theirs.map(({ metadata: { name, namespace }, spec }) => {
    const own = slices?.filter(({ metadata }) => {
      return metadata.namespace === namespace && metadata.labels?.['kubernetes.io/service-name'] === name;
    });
    const headless = spec.clusterIP === 'None';
    const clusterIPs = (spec.clusterIPs ?? [spec.clusterIP]) as (string | undefined)[];
    const full = `${name}.${namespace}.svc.${domain}`;
    const names = [`${name}.${namespace}`, `${name}.${namespace}.svc`, full];
    return {
      name,
      namespace,
      type: headless ? 'headless' : spec.type === 'ExternalName' ? `ExternalName ${spec.externalName}` : spec.type,
      addresses: clusterIPs.filter((address): address is string => !!address && address !== 'None'),
      ports: ((spec.ports ?? []) as Json[]).map((port) => ({
        ...(port.name ? { name: port.name } : {}),
        port: port.port,
        protocol: port.protocol ?? 'TCP',
      })),
      ...(own ? { endpoints: once(own.flatMap(endpointsOf)) } : {}),
      names: [...(namespace === from ? [name] : []), ...names, ...(headless && own ? podNames(own, full) : [])],
    };
  });
}

function endpointsOf({ endpoints, ports, addressType }: Json): { address: string; ready: boolean }[] {
  // A proxy's pod that is made like the Service's own (`--like`) has their labels, and is never ready.
  const theirs = ((endpoints ?? []) as Json[]).filter(({ targetRef }) => !isOurPodName(targetRef?.name));
  return theirs.flatMap(({ addresses, conditions }) =>
    (addresses as string[]).flatMap((address) => {
      const host = addressType === 'IPv6' ? `[${address}]` : address;
      const at = ((ports ?? []) as Json[]).map(({ port }) => `${host}:${port}`);
      // "A nil value should be interpreted as true": EndpointConditions.
      return (at.length > 0 ? at : [host]).map((each) => ({ address: each, ready: conditions?.ready !== false }));
    }),
  );
}

/** A port of two protocols is one address twice. */
function once(endpoints: { address: string; ready: boolean }[]): { address: string; ready: boolean }[] {
  return [...new Map(endpoints.map((each) => [each.address, each])).values()];
}

/** Of the pods behind a headless Service that have a hostname, as a StatefulSet's have. */
function podNames(slices: Json[], full: string): string[] {
  const hostnames = slices.flatMap(({ endpoints }) => ((endpoints ?? []) as Json[]).map(({ hostname }) => hostname));
  return [...new Set(hostnames.filter(Boolean))].toSorted().map((hostname) => `${hostname}.${full}`);
}

function table(seen: SeenService[]): string[] {
  const rows = seen.map(({ names, addresses, type, ports, endpoints }) => [
    names[0] as string,
    addresses.join(', ') || type,
    ports
      .map(({ name, port, protocol }) => `${port}${protocol === 'TCP' ? '' : `/${protocol}`}${name ? ` ${name}` : ''}`)
      .join(', ') || '-',
    endpoints ? shownEndpoints(endpoints) : '?',
    names.find((name) => name.includes('.svc.')) as string,
  ]);
  const all = [['CALL IT', 'ADDRESS', 'PORTS', 'ENDPOINTS', 'WHOLE NAME'], ...rows];
  const widths = all[0]?.map((_, i) => Math.max(...all.map((row) => (row[i] as string).length))) ?? [];
  return all.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] as number))
      .join('  ')
      .trimEnd(),
  );
}

function shownEndpoints(endpoints: { address: string; ready: boolean }[]): string {
  const shown = endpoints
    .slice(0, SHOWN_ENDPOINTS)
    .map(({ address, ready }) => (ready ? address : `${address} (not ready)`));
  const more = endpoints.length - shown.length;
  return [...shown, ...(more > 0 ? [`${more} more`] : [])].join(', ') || 'none';
}

/** As CoreDNS is told, where that may be read (https://coredns.io/plugins/kubernetes/: the first zone). */
async function clusterDomain(cluster: Cluster): Promise<string | undefined> {
  const map = await allowed(cluster.request('GET', '/api/v1/namespaces/kube-system/configmaps/coredns'));
  return domainOf(map?.data?.Corefile ?? '');
}

export function domainOf(corefile: string): string | undefined {
  return /^\s*kubernetes\s+([a-z0-9][-a-z0-9.]*[a-z0-9])\.?(\s|$)/m.exec(corefile)?.[1];
}

/** Undefined when it may not be read, or is not there. */
async function allowed(request: Promise<Json>): Promise<Json | undefined> {
  return await request.catch((error: unknown) => {
    if (!(error instanceof LpkError) || !['forbidden', 'not-found'].includes(error.code)) throw error;
  });
}
