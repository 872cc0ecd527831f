import assert from 'node:assert/strict';
import test from 'node:test';
import {
  hostResolvers,
  planSystemDns,
  type SystemDns,
  type SystemDnsFacts,
  systemDnsServer,
  systemDnsWay,
} from '../../../dns/system.ts';

const wanted: SystemDns = {
  pid: 1234,
  server: { address: '127.0.0.1', port: 5300 },
  clusterDomain: 'cluster.local',
  namespace: 'shop',
  namespaces: ['default', 'shop'],
  include: ['.corp.example.'],
};

const linux: SystemDnsFacts = { platform: 'linux', resolved: false, servers: ['192.168.1.1'] };
const stub = '# by systemd\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch home\n';
const resolved: SystemDnsFacts = {
  ...linux,
  resolved: true,
  resolvConf: stub,
  uplinks: 'nameserver 192.168.1.1\nsearch home\n',
};

test('the way is what the laptop has', () => {
  assert.equal(systemDnsWay(resolved), 'systemd-resolved');
  assert.equal(systemDnsWay({ ...resolved, resolved: false }), 'resolv.conf', 'the stub is named, and nobody is there');
  assert.equal(systemDnsWay({ ...resolved, resolvConf: 'nameserver 192.168.1.1\n' }), 'resolv.conf', 'it is not asked');
  assert.equal(systemDnsWay({ ...linux, platform: 'darwin' }), 'macos');
  assert.equal(systemDnsWay({ ...linux, platform: 'win32' }), 'windows');
  assert.throws(() => systemDnsWay({ ...linux, platform: 'aix' }), /not aix/);
});

test('where the port can not be said, it is 53 of an address of our own', () => {
  for (const way of ['resolv.conf', 'windows'] as const) {
    const { addresses, port } = systemDnsServer(way);
    assert.deepEqual([addresses[0], addresses.at(-1), addresses.length, port], ['127.0.0.153', '127.0.0.162', 10, 53]);
  }
  for (const way of ['systemd-resolved', 'macos'] as const) {
    assert.deepEqual(systemDnsServer(way), { addresses: ['127.0.0.1'], port: 0 });
  }
  assert.throws(
    () => planSystemDns({ ...linux, resolvConf: '' }, wanted),
    /resolv\.conf knows no port but 53, not 5300/,
  );
  assert.throws(() => planSystemDns({ ...linux, platform: 'win32' }, wanted), /windows knows no port but 53/);
});

test('systemd-resolved: domains on a link of our own', () => {
  assert.deepEqual(planSystemDns(resolved, wanted), [
    {
      what: 'the link lpk-dns1234, for the names of the cluster',
      do: [
        { run: ['ip', 'link', 'add', 'name', 'lpk-dns1234', 'type', 'dummy'] },
        { run: ['ip', 'addr', 'add', '192.0.0.8/32', 'dev', 'lpk-dns1234'] },
        { run: ['ip', 'link', 'set', 'dev', 'lpk-dns1234', 'multicast', 'off', 'up'] },
      ],
      undo: [{ run: ['ip', 'link', 'del', 'dev', 'lpk-dns1234'], ifExists: '/proc/sys/net/ipv4/conf/lpk-dns1234' }],
      urgent: true,
    },
    {
      what: 'systemd-resolved: the names of the cluster go to lpk by the link lpk-dns1234',
      do: [
        { run: ['resolvectl', 'dns', 'lpk-dns1234', '127.0.0.1:5300'] },
        {
          run: [
            ...['resolvectl', 'domain', 'lpk-dns1234', 'shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local'],
            ...['~svc', '~shop', '~default', '~corp.example'],
          ],
        },
        { run: ['resolvectl', 'default-route', 'lpk-dns1234', 'false'] },
        { run: ['resolvectl', 'flush-caches'], mayFail: true },
      ],
      undo: [{ run: ['resolvectl', 'flush-caches'], mayFail: true }],
    },
  ]);
});

test('systemd-resolved: on the TUN device when there is one, which takes the settings with it', () => {
  const [step, ...more] = planSystemDns(resolved, {
    ...wanted,
    link: 'lpk0',
    server: { address: '127.0.0.153', port: 53 },
  });
  assert.deepEqual(more, []);
  assert.deepEqual(step?.do[0], { run: ['resolvectl', 'dns', 'lpk0', '127.0.0.153'] });
  assert.deepEqual(step?.undo, [{ run: ['resolvectl', 'flush-caches'], mayFail: true }]);
});

test('more namespaces than a link takes domains: ours is among the first, and the includes stay', () => {
  const namespaces = Array.from({ length: 300 }, (_, i) => `team-${i}`);
  const [, step] = planSystemDns(resolved, { ...wanted, namespaces });
  const { run } = step!.do[1] as { run: string[] };
  const domains = run.slice(3);
  assert.equal(domains.length, 3 + 1 + 200 + 1);
  assert.ok(domains.includes('~shop') && domains.includes('~team-198') && !domains.includes('~team-199'));
  assert.equal(domains.at(-1), '~corp.example');
});

test('macOS: a file for each domain, and one for the search list', () => {
  const content = '# lpk 1234\nnameserver 127.0.0.1\nport 5300\n';
  const names = ['cluster.local', 'svc', 'shop', 'default', 'corp.example'];
  const flush = [
    { run: ['dscacheutil', '-flushcache'], mayFail: true },
    { run: ['killall', '-HUP', 'mDNSResponder'], mayFail: true },
  ];
  const [step, ...more] = planSystemDns({ ...linux, platform: 'darwin' }, wanted);
  assert.deepEqual(more, []);
  assert.deepEqual(step, {
    what: '/etc/resolver: cluster.local, svc, shop, default, corp.example, search.lpk-1234',
    do: [
      ...names.map((name) => ({ write: `/etc/resolver/${name}`, content })),
      {
        write: '/etc/resolver/search.lpk-1234',
        content: '# lpk 1234\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\n',
      },
      ...flush,
    ],
    undo: [
      ...[...names, 'search.lpk-1234'].map((name) => ({ remove: `/etc/resolver/${name}` })),
      { removeEmpty: '/etc/resolver' },
      ...flush,
    ],
    urgent: true,
  });
});

test('macOS: a file of another program is neither written nor removed, nor is a folder that was there', () => {
  const [step] = planSystemDns({ ...linux, platform: 'darwin', resolverFiles: ['svc', 'other.test'] }, wanted);
  const touched = [...step!.do, ...step!.undo].map((action) => JSON.stringify(action));
  assert.deepEqual(
    touched.filter((text) => /resolver\/(svc|other\.test)"|removeEmpty/.test(text)),
    [],
  );
  assert.ok(touched.some((text) => text.includes('/etc/resolver/shop')));
});

test('Windows: rules with our comment', () => {
  const powershell = ['powershell.exe', '-NoProfile', '-NonInteractive', '-Command'];
  assert.deepEqual(
    planSystemDns({ ...linux, platform: 'win32' }, { ...wanted, server: { address: '127.0.0.153', port: 53 } }),
    [
      {
        what: 'name resolution rules (NRPT) for the names of the cluster',
        do: [
          {
            run: [
              ...powershell,
              "$ErrorActionPreference = 'Stop'; Add-DnsClientNrptRule " +
                "-Namespace '.cluster.local','.svc','.shop','.default','.corp.example' " +
                "-NameServers '127.0.0.153' -Comment 'lpk 1234'; Clear-DnsClientCache",
            ],
          },
        ],
        undo: [
          {
            run: [
              ...powershell,
              "$ErrorActionPreference = 'Stop'; Get-DnsClientNrptRule | Where-Object Comment -eq 'lpk 1234' | " +
                'Remove-DnsClientNrptRule -Force; Clear-DnsClientCache',
            ],
          },
        ],
      },
    ],
  );
});

test('what is no domain gets into no command and no path', () => {
  for (const include of ['../../etc/passwd', "a'; rm x", 'a b', '', '-x', 'a..b', 'x'.repeat(254)]) {
    for (const platform of ['linux', 'darwin', 'win32'] as const) {
      const facts = { ...resolved, platform };
      const server = { address: '127.0.0.153', port: 53 };
      assert.throws(() => planSystemDns(facts, { ...wanted, server, include: [include] }), /is no domain$/, include);
    }
  }
});

test('the host’s own resolvers, behind its stub and without lpk’s', () => {
  assert.deepEqual(hostResolvers(resolved), ['192.168.1.1']);
  assert.deepEqual(hostResolvers({ ...resolved, uplinks: undefined }), ['127.0.0.53'], 'nothing is known behind it');
  assert.deepEqual(hostResolvers({ ...linux, platform: 'darwin', servers: ['192.168.1.1', '[fe80::1]:5353'] }), [
    '192.168.1.1',
    '[fe80::1]:5353',
  ]);
  assert.deepEqual(hostResolvers({ ...linux, platform: 'win32', servers: ['127.0.0.153', '9.9.9.9'] }), ['9.9.9.9']);
});
