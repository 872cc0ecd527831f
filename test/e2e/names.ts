import { kubectl } from '../cluster/cluster.ts';
import { type Shop, service, workload } from './shop.ts';

/** Every form of name that a pod can use, and what a pod's own resolver says to it. */

export type Name = {
  name: string;
  type: 'A' | 'AAAA' | 'SRV' | 'PTR' | 'TXT' | 'CNAME';
  /** What HTTP on this port of it answers; only for names that lead to an address. */
  page?: { port: number; pattern: RegExp };
};

/** `web` behind a Service, `db` a StatefulSet behind a headless one, `ext` another name for the other namespace's `web`. */
export async function deployNames(shop: Shop, other: Shop): Promise<void> {
  await Promise.all([
    shop.deployCaller(),
    shop.deploy(
      workload('Deployment', 'web'),
      service('web', [[80, 8080]]),
      workload('StatefulSet', 'db', { spec: { replicas: 2, podManagementPolicy: 'Parallel' } }),
      service('db', [8080], { clusterIP: 'None' }),
      {
        ...{ apiVersion: 'v1', kind: 'Service', metadata: { name: 'ext' } },
        spec: { type: 'ExternalName', externalName: `web.${other.namespace}.svc.cluster.local` },
      },
    ),
    other.deploy(workload('Deployment', 'web', { env: { ROLE: 'other' } }), service('web', [[80, 8080]])),
  ]);
}

export async function names(shop: Shop, other: Shop): Promise<Name[]> {
  const [here, there] = [shop.namespace, other.namespace];
  const { clusterIP } = (await shop.get('services/web')).spec as { clusterIP: string };
  const forms = (name: string, namespace: string) =>
    [name, `${name}.${namespace}`, `${name}.${namespace}.svc`, `${name}.${namespace}.svc.cluster.local`] as const;
  const pages = (all: readonly string[], port: number, pattern: RegExp): Name[] =>
    all.map((name) => ({ name, type: 'A', page: { port, pattern } }));
  const plain = (type: Name['type'], ...all: string[]): Name[] => all.map((name) => ({ name, type }));
  return [
    ...pages(forms('web', here), 80, /^web in pod web-/),
    ...pages(forms('web', there).slice(1), 80, /^other in pod web-/),
    ...pages(['ext', `ext.${here}.svc.cluster.local`], 80, /^other in pod web-/),
    ...pages(forms('db', here), 8080, /^db in pod db-[01]$/m),
    ...pages(forms('db-0.db', here), 8080, /^db in pod db-0$/m),
    ...pages(forms('db-1.db', here), 8080, /^db in pod db-1$/m),
    ...plain('AAAA', 'web', `web.${there}`),
    ...plain('SRV', 'web', ...forms('_p80._tcp.web', here), `_p80._tcp.web.${there}`, '_p8080._tcp.db'),
    ...plain('CNAME', 'ext', `ext.${here}.svc.cluster.local`),
    ...plain('PTR', `${clusterIP.split('.').reverse().join('.')}.in-addr.arpa`),
    ...plain('TXT', 'dns-version.cluster.local'),
    ...plain('A', `nosuch.${here}.svc.cluster.local`, `web.nosuch.svc.cluster.local`),
  ];
}

/** Runs in the pod: getaddrinfo for addresses, else each entry of its search list in turn, as resolv.conf(5) has it. */
const ASK = `
const dns = require('node:dns').promises;
const search = require('node:fs').readFileSync('/etc/resolv.conf', 'utf8').match(/^search (.*)$/m)[1].split(' ');
const text = { SRV: (r) => [r.priority, r.weight, r.port, r.name + '.'].join(' '), PTR: (r) => r + '.', CNAME: (r) => r + '.',
  TXT: (r) => r.map((each) => JSON.stringify(each)).join(' ') };
async function ask({ name, type }) {
  if (type === 'A' || type === 'AAAA') {
    const found = await dns.lookup(name, { all: true, family: type === 'A' ? 4 : 6 }).catch(() => []);
    return found.map(({ address }) => address);
  }
  for (const each of [...search.map((entry) => name + '.' + entry), name]) {
    const found = await dns.resolve(each, type).catch(() => undefined);
    if (found) return found.map(text[type]);
  }
  return [];
}
Promise.all(JSON.parse(process.argv[1]).map(ask)).then((all) => console.log(JSON.stringify(all)));
`;

/** One list of record data for each name, sorted; empty when there is no such name or record. */
export async function podAnswers(shop: Shop, all: Name[]): Promise<string[][]> {
  const args = ['exec', '-n', shop.namespace, 'caller', '--', 'node', '-e', ASK, JSON.stringify(all)];
  return (JSON.parse(await kubectl(args)) as string[][]).map((records) => records.sort());
}
