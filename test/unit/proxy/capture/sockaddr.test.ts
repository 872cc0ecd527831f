import assert from 'node:assert/strict';
import test from 'node:test';
import {
  type Address,
  isNameService,
  isUntouched,
  readAddress,
  writeAddress,
} from '../../../../proxy/capture/sockaddr.ts';

/** As a C program has them in memory. */
const KNOWN: [string, Address][] = [
  ['020000500a0000010000000000000000', { family: 4, host: '10.0.0.1', port: 80 }],
  ['0a00005000000000fd00000000000000000000000000000100000000', { family: 6, host: 'fd00::1', port: 80 }],
];

test('reads and writes what the kernel takes', () => {
  for (const [hex, address] of KNOWN) {
    assert.deepEqual(readAddress(Buffer.from(hex, 'hex')), address);
    assert.equal(writeAddress(address).toString('hex'), hex);
  }
  const mapped = writeAddress({ family: 6, host: '10.0.0.1', port: 80 });
  assert.equal(mapped.toString('hex'), `0a00005000000000${'00'.repeat(10)}ffff0a00000100000000`);
  assert.deepEqual(readAddress(mapped), { family: 6, host: '10.0.0.1', port: 80 });
  for (const host of ['::', '::1', 'fd00:1:2:3:4:5:6:7', '2001:db8::']) {
    assert.equal(readAddress(writeAddress({ family: 6, host, port: 1 }))?.host, host);
  }
});

test('what is too short, or no IP address, is none', () => {
  for (const hex of [
    '',
    '0200',
    '0200005001020304',
    '0a000050000000000000000000000000',
    '01002f746d702f78000000000000000000',
  ]) {
    const bytes = Buffer.from(hex, 'hex');
    assert.equal(readAddress(bytes), undefined);
    assert.equal(isUntouched(bytes, bytes.length), true);
  }
});

test('loopback, link-local, multicast and broadcast are untouched, but for port 53', () => {
  const judge = (host: string, port: number) => {
    const bytes = writeAddress({ family: host.includes(':') ? 6 : 4, host, port });
    return isUntouched(bytes, bytes.length);
  };
  const untouched = [
    '127.0.0.1',
    '127.9.9.9',
    '0.0.0.0',
    '169.254.1.1',
    '224.0.0.251',
    '255.255.255.255',
    '::1',
    '::',
    'fe80::1',
    'ff02::fb',
  ];
  const touched = [
    '10.0.0.1',
    '126.0.0.1',
    '128.0.0.1',
    '169.253.0.1',
    '223.255.255.255',
    'fd00::1',
    '2001:db8::1',
    '::2:0:0:1',
  ];
  for (const host of untouched) assert.deepEqual([judge(host, 80), judge(host, 53)], [true, false], host);
  for (const host of touched) assert.equal(judge(host, 80), false, host);
  for (const [host, verdict] of [
    ['127.0.0.1', true],
    ['10.0.0.1', false],
  ] as const) {
    const mapped = writeAddress({ family: 6, host, port: 80 });
    assert.equal(isUntouched(mapped, mapped.length), verdict);
  }
});

test('knows the name services that glibc asks before DNS, wherever the path ends', () => {
  const unix = (path: string, tail = '\0') => Buffer.concat([Buffer.of(1, 0), Buffer.from(path + tail, 'latin1')]);
  for (const path of ['/var/run/nscd/socket', '/run/systemd/resolve/io.systemd.Resolve']) {
    for (const tail of ['', '\0', '\0rest']) {
      const bytes = unix(path, tail);
      assert.equal(isNameService(bytes, bytes.length), true);
    }
  }
  for (const path of ['/tmp/x', '', '/run/nscd/socket2']) {
    const bytes = unix(path);
    assert.equal(isNameService(bytes, bytes.length), false);
  }
});
