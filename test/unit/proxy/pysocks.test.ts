import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { dirname } from 'node:path';
import { text } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import type { DoorOptions } from '../../../proxy/door.ts';
import { debianFile } from './debian.ts';
import { door, fakeCluster, received, serve } from './fakes.ts';
import { serveUdp } from './udp-client.ts';

/** Python's PySocks at the door: TCP, UDP, names, passwords and its words for what went wrong. */

async function python(t: TestContext, script: string, options: Partial<DoorOptions> = {}) {
  const { file, env } = await debianFile('python3-socks', '/usr/lib/python3/dist-packages/socks.py');
  const cluster = fakeCluster({ replyEarly: false });
  const { port } = await door(t, { dial: cluster.dial, ...options });
  const tcp = await serve(t, async (socket) => socket.end(`got ${await received(socket)}`));
  const udp = await serveUdp(t, (datagram) => `echo ${datagram}`);
  const prelude = `import socket, socks\nDOOR, TCP, UDP = ${port}, ${tcp}, ${udp}\n`;
  const child = spawn('/usr/bin/python3', ['-c', prelude + script], {
    env: { ...env, PYTHONPATH: dirname(file) },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [out, err] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  assert.equal(err, '');
  return { lines: out.trimEnd().split('\n'), cluster, tcp, udp };
}

test('TCP by name, IPv4 and IPv6, half-closed', async (t) => {
  const { lines, cluster } = await python(
    t,
    `
for host in ('web.shop', '10.96.0.10', 'fd00::a'):
    s = socks.socksocket()
    s.settimeout(10)
    s.set_proxy(socks.SOCKS5, '127.0.0.1', DOOR)
    s.connect((host, TCP))
    s.sendall(host.encode())
    s.shutdown(socket.SHUT_WR)
    print(s.recv(100).decode())
`,
  );
  assert.deepEqual(lines, ['got web.shop', 'got 10.96.0.10', 'got fd00::a']);
  assert.deepEqual(
    cluster.flows.map(({ host }) => host),
    ['web.shop', '10.96.0.10', 'fd00::a'],
  );
});

test('UDP by name and address; the sender of an answer is whom it was asked', async (t) => {
  const { lines, cluster, udp } = await python(
    t,
    `
s = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.set_proxy(socks.SOCKS5, '127.0.0.1', DOOR)
for host in ('10.96.0.10', 'dns.kube-system'):
    s.sendto(host.encode(), (host, UDP))
    print(*s.recvfrom(100))
c = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
c.settimeout(10)
c.set_proxy(socks.SOCKS5, '127.0.0.1', DOOR)
c.connect(('10.96.0.11', UDP))
c.send(b'connected')
print(c.recv(100))
`,
  );
  assert.deepEqual(lines, [
    `b'echo 10.96.0.10' ('10.96.0.10', ${udp})`,
    `b'echo dns.kube-system' (b'dns.kube-system', ${udp})`,
    "b'echo connected'",
  ]);
  assert.deepEqual(
    cluster.flows.map(({ protocol, host }) => `${protocol} ${host}`),
    ['udp 10.96.0.10', 'udp dns.kube-system', 'udp 10.96.0.11'],
  );
});

test('a password, right and wrong, over SOCKS5 and HTTP', async (t) => {
  const { lines } = await python(
    t,
    `
for kind in (socks.SOCKS5, socks.HTTP):
    for password in ('secret', 'wrong'):
        s = socks.socksocket()
        s.settimeout(10)
        s.set_proxy(kind, '127.0.0.1', DOOR, username='me', password=password)
        try:
            s.connect(('web', TCP))
            s.shutdown(socket.SHUT_WR)
            print(s.recv(100))
        except Exception as error:
            print(type(error).__name__, error)
`,
    { credentials: { user: 'me', password: 'secret' } },
  );
  assert.equal(lines[0], "b'got '");
  assert.match(lines[1] ?? '', /SOCKS5 authentication failed/);
  assert.equal(lines[2], "b'got '");
  assert.match(lines[3] ?? '', /407/);
});

test('it has its own words for every reply', async (t) => {
  const { lines } = await python(
    t,
    `
for code in ('refused', 'unreachable', 'enetunreach', 'timed-out', 'not-allowed', 'internal'):
    s = socks.socksocket()
    s.settimeout(10)
    s.set_proxy(socks.SOCKS5, '127.0.0.1', DOOR)
    try:
        s.connect((code + '.fail', 80))
    except socks.ProxyError as error:
        print(error.socket_err)
`,
  );
  assert.deepEqual(lines, [
    '0x05: Connection refused',
    '0x04: Host unreachable',
    '0x03: Network unreachable',
    '0x06: TTL expired',
    '0x02: Connection not allowed by ruleset',
    '0x01: General SOCKS server failure',
  ]);
});
