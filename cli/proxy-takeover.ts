import { lookup } from 'node:dns/promises';
import net from 'node:net';
import type { ClusterNetwork } from '../agent/deploy/ranges.ts';
import { LpkError } from '../agent/wire/errors.ts';
import { hostResolvers, planSystemDns, systemDnsFacts, systemDnsWay } from '../dns/system.ts';
import { cidrText } from '../proxy/cidr.ts';
import { openTun } from '../proxy/tun.ts';
import { routedRanges } from '../proxy/tun-routes.ts';
import type { ClusterNames } from './cluster-names.ts';
import { changesFolders, LaptopChanges } from './laptop-changes.ts';
import type { Output } from './output.ts';
import type { ProxyDoors } from './proxy-doors.ts';
import type { ProxyUpOptions } from './proxy-options.ts';
import { stateFolderName } from './state-folder.ts';
import type { Undo } from './undo.ts';

/** What of the laptop's own system leads to the doors. */
export type Taken = {
  systemDns?: string;
  tun?: { device: string; ranges: string[] };
  /** Never resolves; rejects when what was taken over is gone by itself. */
  over: Promise<never>;
};

/**
 * Makes the whole system use the doors, as far as the options say: routes through a TUN device, then the system's DNS. Every
 * change can be undone before it is made. LpkError as `openTun`, and `laptop-setup`.
 */
export async function takeOver(given: {
  options: ProxyUpOptions;
  doors: ProxyDoors;
  names: ClusterNames;
  network: ClusterNetwork;
  server: string;
  namespace: string;
  undo: Undo;
  output: Output;
}): Promise<Taken> {
  const { options, doors, names, network, server, namespace, undo, output } = given;
  const over = Promise.withResolvers<never>();
  over.promise.catch(() => {});
  const taken: Taken = { over: over.promise };
  if (!options.tun && !options.systemDns) return taken;

  const changes = LaptopChanges.open(changesFolders(stateFolderName())[0] as string);
  const say = (line: string) => output.say(line);
  undo.add('take back what was changed on this computer', () => changes.undo(say), 'lpk proxy down');
  if (options.tun) {
    const step = output.step('routing the cluster’s addresses through a TUN device', 'tun');
    try {
      const found = options.fakeIpRange === undefined ? network.ranges : [options.fakeIpRange];
      const keepOut = [...(await addressesOf(server)), ...hostResolvers(await systemDnsFacts()).map(bareAddress)];
      const ranges = routedRanges([...found, ...options.routes], { unwanted: options.noRoutes, keepOut });
      const socks = { port: doors.port, ...options.credentials };
      const { device, ended } = await openTun({ socks, ranges, changes });
      void ended.then((error) => over.reject(error));
      taken.tun = { device, ranges: ranges.map(cidrText) };
      step.done(`${taken.tun.ranges.join(', ')} by ${device}`, taken.tun);
    } catch (error) {
      step.fail();
      throw error;
    }
  }
  if (options.systemDns) {
    const facts = await systemDnsFacts(); // as they are now: what was read at the start may have been edited since
    const way = systemDnsWay(facts);
    const step = output.step(`making the system ask lpk for the cluster’s names (${way})`, 'system-dns');
    try {
      await changes.apply(
        planSystemDns(facts, {
          pid: process.pid,
          server: doors.dnsServer,
          ...(taken.tun ? { link: taken.tun.device } : {}),
          clusterDomain: names.domain,
          namespace,
          namespaces: network.namespaces,
          include: options.dnsInclude,
        }),
      );
      taken.systemDns = way;
      step.done(`the system asks lpk for the cluster’s names (${way})`, { way });
    } catch (error) {
      step.fail();
      throw error;
    }
  }
  return taken;
}

/** Of the API server: the link must not go through itself. */
async function addressesOf(server: string): Promise<string[]> {
  const host = new URL(server).hostname.replace(/^\[|\]$/g, '');
  if (net.isIP(host)) return [host];
  const found = await lookup(host, { all: true }).catch((cause: unknown) => {
    throw new LpkError('cluster-unreachable', `can't resolve ${host}`, { cause });
  });
  return found.map(({ address }) => address);
}

/** Of `address`, `address:port` or `[address]:port`. */
function bareAddress(text: string): string {
  if (net.isIP(text)) return text;
  return text.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
}
