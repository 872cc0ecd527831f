import assert from 'node:assert/strict';
import test from 'node:test';
import { cidrText, parseCidr } from '../../../proxy/cidr.ts';
import {
  assertFree,
  type LaptopRoute,
  linuxRoutes,
  macosRoutes,
  routedRanges,
  windowsRoutes,
} from '../../../proxy/tun-routes.ts';

const text = (routes: LaptopRoute[]) => routes.map(({ range, device }) => `${cidrText(range)} ${device}`);

test('Linux: every table counts, and what is there for all addresses does not', () => {
  // Of `ip -j route show table all` with a VPN that takes the default route in halves, Docker, and a table for a policy.
  const json = JSON.stringify([
    { dst: '0.0.0.0/1', dev: 'tun0' },
    { dst: '128.0.0.0/1', dev: 'tun0' },
    { dst: 'default', gateway: '192.168.1.1', dev: 'eth0' },
    { dst: '172.17.0.0/16', dev: 'docker0', flags: ['linkdown'] },
    { dst: '10.8.0.5', dev: 'tun0' },
    { dst: '100.64.0.0/10', dev: 'tailscale0', table: '52' },
    { type: 'unreachable', dst: '10.99.0.0/16' },
    { type: 'local', dst: '192.168.1.2', dev: 'eth0', table: 'local' },
    { type: 'broadcast', dst: '192.168.1.255', dev: 'eth0', table: 'local' },
    { dst: 'fe80::/64', dev: 'eth0' },
    { type: 'multicast', dst: 'ff00::/8', dev: 'eth0', table: 'local' },
    { dst: 'fd00:1::/64', dev: 'eth0' },
  ]);
  assert.deepEqual(text(linuxRoutes(json)), [
    '172.17.0.0/16 docker0',
    '10.8.0.5/32 tun0',
    '100.64.0.0/10 tailscale0',
    '10.99.0.0/16 unreachable',
    'fd00:1::/64 eth0',
  ]);
  assert.deepEqual(linuxRoutes(''), [], 'ip prints nothing when there are none');
});

test('macOS: netstat’s short forms', () => {
  const netstat = `Routing tables

Internet:
Destination        Gateway            Flags               Netif Expire
default            192.168.1.1        UGScg                 en0
10.96/12           10.8.0.1           UGSc                utun3
10.8.0.1           10.8.0.5           UH                  utun3
127                127.0.0.1          UCS                   lo0
169.254            link#6             UCS                   en0      !
192.168.1          link#6             UCS                   en0      !
224.0.0/4          link#6             UmCS                  en0      !
255.255.255.255/32 link#6             UCS                   en0      !

Internet6:
Destination                             Gateway                         Flags               Netif Expire
default                                 fe80::%utun0                    UGcIg               utun0
::1                                     ::1                             UHL                   lo0
fd00:1::/64                             link#6                          UC                    en0
fe80::%lo0/64                           fe80::1%lo0                     UcI                   lo0
ff00::/8                                ::1                             UmCI                  lo0
`;
  assert.deepEqual(text(macosRoutes(netstat)), [
    '10.96.0.0/12 utun3',
    '10.8.0.1/32 utun3',
    '169.254.0.0/16 en0',
    '192.168.1.0/24 en0',
    'fd00:1::/64 en0',
  ]);
});

test('Windows: Get-NetRoute', () => {
  const json = JSON.stringify([
    { DestinationPrefix: '0.0.0.0/0', InterfaceAlias: 'Wi-Fi' },
    { DestinationPrefix: '172.28.32.0/20', InterfaceAlias: 'vEthernet (WSL)' },
    { DestinationPrefix: '224.0.0.0/4', InterfaceAlias: 'Wi-Fi' },
    { DestinationPrefix: '255.255.255.255/32', InterfaceAlias: 'Wi-Fi' },
    { DestinationPrefix: 'fe80::/64', InterfaceAlias: 'Wi-Fi' },
  ]);
  assert.deepEqual(text(windowsRoutes(json)), ['172.28.32.0/20 vEthernet (WSL)']);
  assert.deepEqual(text(windowsRoutes('{"DestinationPrefix":"10.0.0.0/8","InterfaceAlias":"VPN"}')), [
    '10.0.0.0/8 VPN',
  ]);
});

test('an overlap is refused with both named, whichever is the wider', () => {
  const route = (range: string, device: string): LaptopRoute => ({ range: parseCidr(range), device });
  const routes = [route('192.168.1.0/24', 'eth0'), route('10.0.0.0/8', 'tun0'), route('172.17.0.0/16', 'docker0')];
  assert.throws(() => assertFree([parseCidr('192.168.2.0/24'), parseCidr('10.96.0.0/12')], routes), {
    code: 'route-overlap',
    message: "the cluster's 10.96.0.0/12 overlaps 10.0.0.0/8, which this computer has a route for (tun0)",
  });
  assert.throws(() => assertFree([parseCidr('172.16.0.0/12')], routes), {
    code: 'route-overlap',
    message: "the cluster's 172.16.0.0/12 overlaps 172.17.0.0/16, which this computer has a route for (docker0)",
  });
  assertFree([parseCidr('192.168.2.0/24'), parseCidr('fd00::/8')], routes);
});

test('what is not to be routed is left out, single addresses too', () => {
  const ranges = routedRanges(['10.96.0.0/30', '10.244.0.0/16', 'fd00::/127'], {
    unwanted: ['10.244.0.0/17'],
    keepOut: ['10.96.0.1', 'fd00::1', 'api.example', '192.168.1.1', '[::1]:53'],
  });
  assert.deepEqual(ranges.map(cidrText), ['10.96.0.0/32', '10.96.0.2/31', '10.244.128.0/17', 'fd00::/128']);
  assert.throws(() => routedRanges(['10.96/16'], { unwanted: [], keepOut: [] }), { code: 'usage' });
  assert.throws(() => routedRanges([], { unwanted: ['web'], keepOut: [] }), { code: 'usage' });
});
