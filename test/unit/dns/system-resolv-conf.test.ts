import assert from 'node:assert/strict';
import test from 'node:test';
import { hostResolvers, type SystemDns, type SystemDnsFacts } from '../../../dns/system.ts';
import { planResolvConf, serversOf } from '../../../dns/system-resolv-conf.ts';

const ours = { pid: 1234, server: { address: '127.0.0.153', port: 53 } } satisfies Partial<SystemDns>;
const marker =
  '# lpk 1234: cluster names; lpk takes these lines out when it ends, and without lpk the next nameserver answers\n';
const block = `${marker}nameserver 127.0.0.153\n`;

function written(content: string | undefined): string {
  const [step] = planResolvConf(content, ours);
  const [write] = step!.do as [{ write: string; content: string }];
  return write.content;
}

test('our server comes first, all the rest stays behind it', () => {
  const content =
    '# by DHCP\nsearch home\nnameserver 192.168.1.1\nnameserver fe80::1%eth0\noptions ndots:2 timeout:1\n';
  assert.deepEqual(planResolvConf(content, ours), [
    {
      what: '/etc/resolv.conf: nameserver 127.0.0.153 before the others',
      do: [{ write: '/etc/resolv.conf', content: block + content }],
      undo: [{ putBack: '/etc/resolv.conf', from: block + content, ours: [[block, '']], to: content }],
    },
  ]);
});

test('a file that names no server means the one on this machine, and so it is said', () => {
  assert.equal(written('search home\n'), `${block}nameserver 127.0.0.1\nsearch home\n`);
  assert.equal(written(undefined), `${block}nameserver 127.0.0.1\n`);
  const [step] = planResolvConf(undefined, ours);
  assert.equal((step!.undo[0] as { to?: string }).to, undefined, 'a file that was not there goes');
});

test('rotate would send questions past us, and goes; other options stay', () => {
  for (const [line, left] of [
    ['options rotate', 'options'],
    ['options rotate timeout:1', 'options timeout:1'],
    ['options edns0 rotate trust-ad', 'options edns0 trust-ad'],
  ]) {
    const content = `nameserver 192.168.1.1\n${line}\noptions ndots:2\n`;
    const changed = `# lpk took rotate out of the next line\n${left}`;
    assert.equal(written(content), `${block}nameserver 192.168.1.1\n${changed}\noptions ndots:2\n`);
    const [step] = planResolvConf(content, ours);
    const { ours: pieces, to } = step!.undo[0] as { ours: string[][]; to: string };
    assert.deepEqual(pieces, [
      [block, ''],
      [changed, line],
    ]);
    assert.equal(to, content);
  }
  const other = 'nameserver 192.168.1.1\noptions no-rotate-at-all\n';
  assert.equal(written(other), block + other);
});

test('the nameservers of a file: three at most, without any lpk’s', () => {
  assert.deepEqual(
    serversOf('nameserver 1.1.1.1\n#nameserver 2.2.2.2\nnameserver\t3.3.3.3 # x\n nameserver 4.4.4.4\n'),
    ['1.1.1.1', '3.3.3.3'],
  );
  const four = [1, 2, 3, 4].map((n) => `nameserver 10.0.0.${n}\n`).join('');
  assert.deepEqual(serversOf(four), ['10.0.0.1', '10.0.0.2', '10.0.0.3']);
  assert.deepEqual(serversOf(written(four)), ['10.0.0.1', '10.0.0.2', '10.0.0.3'], 'ours is in place');
  const second = planResolvConf(written(four), { pid: 99, server: { address: '127.0.0.154', port: 53 } });
  assert.deepEqual(serversOf((second[0]!.do[0] as { content: string }).content), ['10.0.0.1', '10.0.0.2', '10.0.0.3']);
  assert.deepEqual(serversOf('search home\n'), ['127.0.0.1']);
  assert.deepEqual(serversOf(written('')), ['127.0.0.1']);
});

test('what a network manager made of our file has our address no longer among the host’s resolvers', () => {
  const facts: SystemDnsFacts = { platform: 'linux', resolved: false, servers: [] };
  // It kept the servers, and threw the comments away.
  assert.deepEqual(hostResolvers({ ...facts, resolvConf: 'nameserver 127.0.0.153\nnameserver 10.0.0.1\n' }), [
    '10.0.0.1',
  ]);
});
