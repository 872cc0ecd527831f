import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { LpkError } from '../agent/wire/errors.ts';
import { type Cidr, cidrText, merge, overlaps, parseCidr, subtract } from './cidr.ts';

/** A route of the laptop that is not there for all addresses. */
export type LaptopRoute = { range: Cidr; device: string };

/**
 * The ranges to route: `wanted` without `unwanted` (--no-route) and without the addresses that must go on as they do (the
 * API server's, the host's nameservers'; what is no IP address is passed over). Throws `usage` for a range that is none.
 */
export function routedRanges(
  wanted: string[],
  { unwanted, keepOut }: { unwanted: string[]; keepOut: string[] },
): Cidr[] {
  const kept = keepOut.flatMap((address) => {
    try {
      return [parseCidr(address)];
    } catch {
      return [];
    }
  });
  return subtract(merge(wanted.map(parseCidr)), [...unwanted.map(parseCidr), ...kept]);
}

/**
 * Throws `route-overlap` when a range shares addresses with a route that the laptop has: whichever is the narrower would take
 * them from the other.
 */
export function assertFree(ranges: Cidr[], routes: LaptopRoute[]): void {
  for (const range of ranges) {
    const route = routes.find((route) => overlaps(range, route.range));
    if (route) {
      throw new LpkError(
        'route-overlap',
        `the cluster's ${cidrText(range)} overlaps ${cidrText(route.range)}, which this computer has a route for (${route.device})`,
      );
    }
  }
}

/** The laptop's own routes. On platforms other than Linux, macOS and Windows there are none to be known. */
export async function readRoutes(platform = process.platform): Promise<LaptopRoute[]> {
  switch (platform) {
    case 'linux': {
      const families = await Promise.all(
        ['-4', '-6'].map((family) => output('ip', ['-j', family, 'route', 'show', 'table', 'all'])),
      );
      return families.flatMap(linuxRoutes);
    }
    case 'darwin':
      return macosRoutes(await output('netstat', ['-rn']));
    case 'win32':
      return windowsRoutes(
        await output('powershell.exe', [
          '-NoProfile',
          '-NonInteractive',
          '-Command',
          'Get-NetRoute | Select-Object DestinationPrefix,InterfaceAlias | ConvertTo-Json -Compress',
        ]),
      );
    default:
      return [];
  }
}

/** Of `ip -j route show table all`. The table `local` only repeats what the links' own routes say. */
export function linuxRoutes(json: string): LaptopRoute[] {
  type Entry = { type?: string; dst: string; dev?: string };
  const entries: Entry[] = JSON.parse(json || '[]');
  return entries.flatMap(({ type = 'unicast', dst, dev }) => {
    if (['local', 'broadcast', 'multicast', 'anycast'].includes(type)) return [];
    return route(dst, dev ?? type);
  });
}

/** Of `netstat -rn`: `10.96/12` is short for 10.96.0.0/12, and an address without a prefix is a host, or a class of old. */
export function macosRoutes(text: string): LaptopRoute[] {
  return text.split('\n').flatMap((line) => {
    const [destination = '', , flags = '', device = ''] = line.trim().split(/\s+/);
    const [, address = '', prefix] = /^([0-9a-f.:]+)(?:%\w+)?(?:\/(\d+))?$/.exec(destination) ?? [];
    if (!address || !flags.startsWith('U')) return [];
    if (address.includes(':')) return route(prefix ? `${address}/${prefix}` : address, device);
    const bytes = address.split('.');
    const bits = prefix ?? (flags.includes('H') ? 32 : 8 * bytes.length);
    return route(`${[...bytes, 0, 0, 0].slice(0, 4).join('.')}/${bits}`, device);
  });
}

/** Of `Get-NetRoute`, as JSON: a list, or the only one. */
export function windowsRoutes(json: string): LaptopRoute[] {
  type Entry = { DestinationPrefix: string; InterfaceAlias: string };
  const entries: Entry[] = [JSON.parse(json || '[]')].flat();
  return entries.flatMap(({ DestinationPrefix, InterfaceAlias }) => route(DestinationPrefix, InterfaceAlias));
}

/** None for a default route, also not for one in two halves, as VPNs make it, nor for what is the laptop's own business. */
function route(destination: string, device: string): LaptopRoute[] {
  if (destination === 'default') return [];
  const range = parseCidr(destination);
  return range.bits <= 1 || EVERYWHERE.some((each) => overlaps(each, range)) ? [] : [{ range, device }];
}

/** On every computer: loopback, multicast and broadcast, link-local IPv6. */
const EVERYWHERE = ['127.0.0.0/8', '224.0.0.0/4', '255.255.255.255', '::1', 'fe80::/10', 'ff00::/8'].map(parseCidr);

async function output(program: string, args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(program, args, { maxBuffer: 64 * 1024 * 1024 }).catch((cause) => {
    throw new LpkError('laptop-setup', `could not read this computer's routes: ${cause.message.split('\n')[0]}`, {
      cause,
    });
  });
  return stdout;
}
