import assert from 'node:assert/strict';
import test from 'node:test';
import { parseCidr } from '../../../proxy/cidr.ts';
import { freeDevice, planTun } from '../../../proxy/tun-plan.ts';

const wanted = { socks: { port: 1080 }, ranges: ['10.96.0.0/16', '10.244.0.0/16', 'fd00:96::/112'].map(parseCidr) };
const ipv4 = { ...wanted, ranges: wanted.ranges.slice(0, 2) };

test('Linux: one batch of ip', () => {
  assert.deepEqual(planTun('linux', 'lpk0', wanted), {
    device: 'lpk0',
    config: '{"device":"tun://lpk0","proxy":"socks5://127.0.0.1:1080","mtu":9000,"loglevel":"warn"}\n',
    ready: ['ip', 'link', 'show', 'dev', 'lpk0'],
    steps: [
      {
        what: 'the device lpk0, and routes to it: 10.96.0.0/16, 10.244.0.0/16, fd00:96::/112',
        do: [
          {
            run: ['ip', '-batch', '-'],
            input: [
              'addr add 192.0.0.8/32 dev lpk0',
              'addr add fd6c:706b:7475::8/128 dev lpk0 nodad',
              'link set dev lpk0 mtu 9000 multicast off up',
              'route add 10.96.0.0/16 dev lpk0',
              'route add 10.244.0.0/16 dev lpk0',
              'route add fd00:96::/112 dev lpk0',
              '',
            ].join('\n'),
          },
        ],
        undo: [],
      },
    ],
  });
});

test('macOS: a utun, ifconfig and route', () => {
  const { config, ready, steps } = planTun('darwin', 'utun40', wanted);
  assert.equal(config, '{"device":"tun://utun40","proxy":"socks5://127.0.0.1:1080","mtu":9000,"loglevel":"warn"}\n');
  assert.deepEqual(ready, ['ifconfig', 'utun40']);
  assert.deepEqual(steps[0]?.do, [
    { run: ['ifconfig', 'utun40', 'inet', '192.0.0.8', '192.0.0.8', 'up'] },
    { run: ['ifconfig', 'utun40', 'inet6', 'fd6c:706b:7475::8', 'prefixlen', '128', 'up'] },
    { run: ['route', '-q', '-n', 'add', '-inet', '10.96.0.0/16', '-interface', 'utun40'] },
    { run: ['route', '-q', '-n', 'add', '-inet', '10.244.0.0/16', '-interface', 'utun40'] },
    { run: ['route', '-q', '-n', 'add', '-inet6', 'fd00:96::/112', '-interface', 'utun40'] },
  ]);
});

test('Windows: netsh, for this boot only', () => {
  const { config, ready, steps } = planTun('win32', 'lpk0', wanted);
  assert.equal(config, '{"device":"tun://lpk0","proxy":"socks5://127.0.0.1:1080","mtu":9000,"loglevel":"warn"}\n');
  assert.deepEqual(ready, ['netsh', 'interface', 'show', 'interface', 'name=lpk0']);
  const netsh = (version: string, ...words: string[]) => ({
    run: ['netsh', 'interface', version, 'add', ...words, 'store=active'],
  });
  assert.deepEqual(steps[0]?.do, [
    netsh('ipv4', 'address', 'lpk0', '192.0.0.8', '255.255.255.255'),
    netsh('ipv6', 'address', 'lpk0', 'fd6c:706b:7475::8'),
    netsh('ipv4', 'route', '10.96.0.0/16', 'lpk0', 'metric=1'),
    netsh('ipv4', 'route', '10.244.0.0/16', 'lpk0', 'metric=1'),
    netsh('ipv6', 'route', 'fd00:96::/112', 'lpk0', 'metric=1'),
  ]);
});

test('without a range of IPv6 the device has no address of it', () => {
  for (const platform of ['linux', 'darwin', 'win32'] as const) {
    assert.doesNotMatch(JSON.stringify(planTun(platform, 'lpk0', ipv4)), /fd6c/);
  }
});

test('a password is in the settings, as a URL writes it, and in no command', () => {
  const plan = planTun('linux', 'lpk0', { ...wanted, socks: { port: 1080, user: 'a:b', password: 'p@ss/word' } });
  assert.match(plan.config, /"socks5:\/\/a%3Ab:p%40ss%2Fword@127\.0\.0\.1:1080"/);
  assert.doesNotMatch(JSON.stringify(plan.steps), /word/);
});

test('a device that nobody has', () => {
  assert.equal(freeDevice('linux', ['lo', 'eth0']), 'lpk0');
  assert.equal(freeDevice('linux', ['lo', 'lpk0', 'lpk1', 'lpk3']), 'lpk2');
  assert.equal(freeDevice('darwin', ['utun0', 'utun40']), 'utun41');
  assert.equal(
    freeDevice(
      'linux',
      Array.from({ length: 10 }, (_, i) => `lpk${i}`),
    ),
    undefined,
  );
});
