import assert from 'node:assert/strict';
import net from 'node:net';
import test from 'node:test';
import vm from 'node:vm';
import { pacFile } from '../../../proxy/pac.ts';

/** The file runs as in a browser: with the format's own functions (as MDN has them) and nothing else. */
function proxyFor(host: string): string {
  const text = pacFile({
    port: 1080,
    domain: 'cluster.local',
    namespaces: ['shop', 'kube-system'],
    ranges: ['10.96.0.0/12', '10.244.1.0/24', '192.0.2.7/32', 'fd00::/108'],
    include: ['corp.example'],
  });
  const context = vm.createContext({
    isPlainHostName: (name: string) => !name.includes('.'),
    dnsDomainIs: (name: string, domain: string) => name.endsWith(domain),
    isInNet: (name: string, address: string, mask: string) => {
      assert.ok(net.isIPv4(name), 'a name would be looked up on the laptop');
      const bits = (text: string) => text.split('.').reduce((sum, part) => (sum << 8) | Number(part), 0);
      return (bits(name) & bits(mask)) === (bits(address) & bits(mask));
    },
  });
  vm.runInContext(text, context);
  return vm.runInContext(`FindProxyForURL('http://x/', ${JSON.stringify(host)})`, context);
}

const CLUSTER = [
  ...['web', 'WEB', 'web.', 'web.shop', 'db-0.db.shop', 'dns.kube-system', 'web.shop.svc', 'Web.Shop.SVC.'],
  ...[
    'web.shop.svc.cluster.local',
    'cluster.local',
    'corp.example',
    'git.corp.example',
    '10.96.0.10',
    '10.111.255.255',
  ],
  ...['10.244.1.9', '192.0.2.7'],
];
const OUTSIDE = [
  ...[
    'localhost',
    'LOCALHOST',
    'localhost.',
    'example.com',
    'web.shop.example',
    'myshop.com',
    'webshop.notshop',
    'notcorp.example',
  ],
  ...[
    'a.notcluster.local',
    '10.112.0.1',
    '10.95.255.255',
    '10.244.2.1',
    '192.0.2.8',
    '127.0.0.1',
    '::1',
    '[::1]',
    'fd00::a',
  ],
];

for (const host of CLUSTER) {
  test(`a PAC file sends ${host} to the cluster`, () => assert.equal(proxyFor(host), 'PROXY 127.0.0.1:1080'));
}
for (const host of OUTSIDE) {
  test(`a PAC file leaves ${host} alone`, () => assert.equal(proxyFor(host), 'DIRECT'));
}

test('a PAC file is ES3: no word that old interpreters lack', () => {
  const text = pacFile({ port: 1, domain: 'd', namespaces: [], ranges: ['0.0.0.0/0'], include: [] });
  assert.doesNotMatch(text, /\b(let|const)\b|=>|`|endsWith|includes/);
  assert.match(text, /\["0\.0\.0\.0","0\.0\.0\.0"\]/);
});
