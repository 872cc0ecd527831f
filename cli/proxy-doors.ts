import net from 'node:net';
import type { ClusterNetwork } from '../agent/deploy/ranges.ts';
import { LpkError, systemCode } from '../agent/wire/errors.ts';
import { FakeAddresses } from '../dns/fake.ts';
import { type DnsServer, type DnsServerOptions, openDnsServer } from '../dns/server.ts';
import { systemDnsFacts, systemDnsServer, systemDnsWay } from '../dns/system.ts';
import { openDoor } from '../proxy/door.ts';
import type { Dial } from '../proxy/flow.ts';
import { PAC_TYPE, pacFile } from '../proxy/pac.ts';
import type { Route } from '../proxy/route.ts';
import { blockList, type ClusterNames, isWithin } from './cluster-names.ts';
import { listenersOf } from './free-port.ts';
import type { ProxyUpOptions } from './proxy-options.ts';
import { named } from './taken-ports.ts';

/** Usual ports; when one is taken and none was asked for, any free one does. */
const PROXY_PORT = 1080;
const DNS_PORT = 1053;
/** A flow that is silent so long, both ways, is forgotten: half-open connections must not pile up for days. */
const FLOW_IDLE_MS = 24 * 60 * 60_000;

export type ProxyDoors = {
  /** The mixed door's. */
  readonly port: number;
  readonly address: string;
  readonly dnsAddress: string;
  readonly dnsServer: { address: string; port: number };
  dnsStats(): ReturnType<DnsServer['stats']>;
  respond: DnsServer['respond'];
  close(): Promise<void>;
};

/**
 * The mixed SOCKS and HTTP door and the DNS server. Rejects with LpkError `port-taken`, `not-allowed` (a port that is root's) or
 * `usage`.
 */
export async function openDoors(given: {
  options: ProxyUpOptions;
  route: Route;
  names: ClusterNames;
  network: ClusterNetwork;
}): Promise<ProxyDoors> {
  const { options, route, names, network } = given;
  const { dns: mode, dnsInclude: include, dnsExclude: exclude } = options;
  const fake = options.fakeIpRange === undefined ? undefined : new FakeAddresses(options.fakeIpRange);
  let port = 0;
  const pac = () => pacFile({ port, domain: names.domain, ...network, include });
  const door = await firstFree(options.port, PROXY_PORT, (wanted) =>
    openDoor({
      port: wanted,
      host: options.bind,
      dial: fake ? unmasked(route.dial, fake) : route.dial,
      flowIdleMs: FLOW_IDLE_MS,
      pages: { '/proxy.pac': () => ({ type: PAC_TYPE, body: pac() }) },
      ...(options.credentials ? { credentials: options.credentials } : {}),
    }),
  );
  port = door.port;
  const dns = await openDns(options, {
    ...names.responderOptions({ mode, include, exclude }),
    ...(fake ? { fake } : {}),
  }).catch(async (error: unknown) => {
    await door.close();
    throw error;
  });
  return {
    port,
    address: endpoint(options.bind, port),
    dnsAddress: endpoint(dns.host, dns.server.port),
    dnsServer: { address: dns.host, port: dns.server.port },
    dnsStats: () => dns.server.stats(),
    respond: dns.server.respond,
    close: async () => {
      await Promise.all([door.close(), dns.server.close()]);
    },
  };
}

async function openDns(
  options: ProxyUpOptions,
  rest: Omit<DnsServerOptions, 'port' | 'host'>,
): Promise<{ server: DnsServer; host: string }> {
  const place = options.systemDns
    ? systemDnsServer(systemDnsWay(await systemDnsFacts()))
    : { addresses: ['127.0.0.1'], port: 0 };
  let last: unknown;
  for (const host of place.addresses) {
    const open = (port: number) =>
      openDnsServer({ ...rest, host, port }).catch((cause: unknown) => {
        const code = systemCode(cause) === 'EADDRINUSE' ? 'port-taken' : 'not-allowed';
        const why = code === 'port-taken' ? 'is taken by another program' : `can't be opened (${systemCode(cause)})`;
        throw new LpkError(code, `DNS port ${port} on ${host} ${why}`, { cause });
      });
    try {
      const server =
        place.port === 53 ? await open(53).catch(namingHolder(53)) : await firstFree(options.dnsPort, DNS_PORT, open);
      return { server, host };
    } catch (error) {
      last = error;
    }
  }
  throw last;
}

/** `asked`: that port or none. */
async function firstFree<T extends { port: number }>(
  asked: number | undefined,
  usual: number,
  open: (port: number) => Promise<T>,
): Promise<T> {
  if (asked !== undefined) return await open(asked).catch(namingHolder(asked));
  try {
    return await open(usual);
  } catch (error) {
    if (!(error instanceof LpkError) || error.code !== 'port-taken') throw error;
    return await open(0);
  }
}

/** Adds to an LpkError `port-taken` who listens on the port, where that can be told. */
function namingHolder(port: number): (error: unknown) => Promise<never> {
  return async (error) => {
    if (!(error instanceof LpkError) || error.code !== 'port-taken') throw error;
    const known = (await listenersOf(port)).filter(({ pid }) => pid !== undefined);
    throw known.length === 0 ? error : new LpkError(error.code, `${error.message}: ${named(known)}`, { cause: error });
  };
}

/** Stand-in addresses become the names they stand for. */
function unmasked(dial: Dial, fake: FakeAddresses): Dial {
  const standIns = blockList([fake.range]);
  return (flow, first) => {
    if (!isWithin(standIns, flow.host)) return dial(flow, first);
    const host = fake.nameOf(flow.host);
    if (host === undefined) throw new LpkError('unreachable', `${flow.host} stands for no name any more`);
    return dial({ ...flow, host }, first);
  };
}

function endpoint(host: string, port: number): string {
  return net.isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}
