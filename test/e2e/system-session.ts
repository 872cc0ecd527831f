import dgram from 'node:dgram';
import http from 'node:http';
import { LaptopChanges } from '../../cli/laptop-changes.ts';
import { planSystemDns, systemDnsFacts, systemDnsServer, systemDnsWay } from '../../dns/system.ts';
import { openDoor } from '../../proxy/door.ts';
import { openTun } from '../../proxy/tun.ts';
import { routedRanges } from '../../proxy/tun-routes.ts';
import { fakeCluster } from '../unit/proxy/fakes.ts';
import { tinyDns } from './tiny-dns.ts';

/**
 * What `lpk proxy up --tun --system-dns` does to the laptop, with a cluster that is on loopback: JOURNALS NUMBER RANGE…. Of
 * those that run at once each has its number, and so its web server's port, 80 + NUMBER, and its UDP echo's, 7000 + NUMBER. SIGTERM undoes it.
 */
const [journals, number, ...wanted] = process.argv.slice(2) as [string, string, ...string[]];

const cluster = fakeCluster({ replyEarly: false });
const web = http.createServer((request, response) => {
  response.setHeader('connection', 'close').end(`${request.headers.host} by ${cluster.flows.at(-1)?.host}\n`);
});
await new Promise<void>((resolve) => web.listen(80 + Number(number), '127.0.0.1', resolve));
const echo = dgram.createSocket('udp4', (datagram, { port, address }) => echo.send(datagram, port, address));
await new Promise<void>((resolve) => echo.bind(7_000 + Number(number), '127.0.0.1', resolve));
const door = await openDoor({ port: 0, dial: cluster.dial });

const facts = await systemDnsFacts();
const address = systemDnsServer(systemDnsWay(facts)).addresses[Number(number)] as string;
await tinyDns(address, { 'web.shop': '10.96.7.8', 'outside.test': '203.0.113.7' });

const changes = LaptopChanges.open(journals);
try {
  const { device, ended } = await openTun({
    socks: { port: door.port },
    ranges: routedRanges(wanted, { unwanted: [], keepOut: [] }),
    changes,
  });
  void ended.then(({ message }) => console.log(message));
  const dns = planSystemDns(facts, {
    pid: process.pid,
    server: { address, port: 53 },
    link: device,
    clusterDomain: 'cluster.local',
    namespace: 'shop',
    namespaces: ['shop'],
    include: [],
  });
  await changes.apply(dns);
  console.log(`ready ${device}`);
  await new Promise((resolve) => process.once('SIGTERM', resolve));
} catch (error) {
  console.log(error instanceof Error && 'code' in error ? `${error.code}: ${error.message}` : error);
}
await changes.undo(console.log);
console.log('undone');
process.exit();
