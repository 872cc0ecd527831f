import { type Cidr, cidrText } from './cidr.ts';

/** What makes a TUN device of tun2socks the way to some ranges, on each platform. Pure: `cli/laptop-changes.ts` carries the steps out. */

export type TunAction = { run: string[]; input?: string } | { end: { pid: number } };

export type TunStep = { what: string; do: TunAction[]; undo: TunAction[] };

export type TunPlan = {
  device: string;
  /** tun2socks' own settings (YAML, of which JSON is a part). Not on its command line, which everybody can read. */
  config: string;
  /** A command that ends well when the device is there. */
  ready: string[];
  /** To be done when it is. */
  steps: TunStep[];
};

export type TunWanted = {
  socks: { port: number; user?: string; password?: string };
  ranges: Cidr[];
};

/**
 * The device's own addresses, which programs send from. IPv4: the dummy address of RFC 7600 section 3.1, which is in nobody's
 * network. IPv6: one of a unique local prefix (RFC 4193).
 */
const ADDRESS = { 4: '192.0.0.8', 6: 'fd6c:706b:7475::8' } as const;

/**
 * Both ends of the device are this computer, so the path has no say in it. curl through tun2socks 2.6.0 on two cores: 50 MB/s with
 * 1,500, 100 with 9,000, 110 with 32,000.
 */
const MTU = 9000;

const DEVICES = { linux: 'lpk', darwin: 'utun', win32: 'lpk' } as const;
/** macOS has some utun of its own. */
const FIRST = { linux: 0, darwin: 40, win32: 0 } as const;
const MOST_DEVICES = 10;

export type TunPlatform = keyof typeof DEVICES;

export function isTunPlatform(platform: NodeJS.Platform): platform is TunPlatform {
  return platform in DEVICES;
}

/** The first device name that is free; undefined when all that lpk takes are in use. */
export function freeDevice(platform: TunPlatform, taken: string[]): string | undefined {
  return Array.from({ length: MOST_DEVICES }, (_, i) => `${DEVICES[platform]}${FIRST[platform] + i}`).find(
    (name) => !taken.includes(name),
  );
}

export function planTun(platform: TunPlatform, device: string, wanted: TunWanted): TunPlan {
  const { ranges } = wanted;
  const texts = ranges.map(cidrText);
  const what = `the device ${device}, and routes to it: ${texts.join(', ')}`;
  const plan = PLANS[platform](device, ranges);
  // The device and its routes end with tun2socks.
  return { device, config: config(device, wanted), ready: plan.ready, steps: [{ what, do: plan.do, undo: [] }] };
}

type Plan = { ready: TunPlan['ready']; do: TunAction[] };

const PLANS: Record<TunPlatform, (device: string, ranges: Cidr[]) => Plan> = {
  /** ip-address(8), ip-route(8). Without multicast, mDNS and the like leave the device alone. */
  linux: (device, ranges) => {
    const lines = versionsOf(ranges).map(
      (version) =>
        `addr add ${ADDRESS[version]}/${version === 4 ? 32 : 128} dev ${device}${version === 6 ? ' nodad' : ''}`,
    );
    lines.push(`link set dev ${device} mtu ${MTU} multicast off up`);
    for (const range of ranges) lines.push(`route add ${cidrText(range)} dev ${device}`);
    return {
      ready: ['ip', 'link', 'show', 'dev', device],
      do: [{ run: ['ip', '-batch', '-'], input: `${lines.join('\n')}\n` }],
    };
  },
  /** ifconfig(8), route(8). */
  darwin: (device, ranges) => {
    const address = {
      4: ['ifconfig', device, 'inet', ADDRESS[4], ADDRESS[4], 'up'],
      6: ['ifconfig', device, 'inet6', ADDRESS[6], 'prefixlen', '128', 'up'],
    };
    return {
      ready: ['ifconfig', device],
      do: [
        ...versionsOf(ranges).map((version) => ({ run: address[version] })),
        ...ranges.map((range) => ({
          run: [
            'route',
            '-q',
            '-n',
            'add',
            range.version === 4 ? '-inet' : '-inet6',
            cidrText(range),
            '-interface',
            device,
          ],
        })),
      ],
    };
  },
  /** netsh's interface contexts; `store=active`: nothing outlives a reboot. */
  win32: (device, ranges) => {
    const address = {
      4: ['netsh', 'interface', 'ipv4', 'add', 'address', device, ADDRESS[4], '255.255.255.255', 'store=active'],
      6: ['netsh', 'interface', 'ipv6', 'add', 'address', device, ADDRESS[6], 'store=active'],
    };
    return {
      ready: ['netsh', 'interface', 'show', 'interface', `name=${device}`],
      do: [
        ...versionsOf(ranges).map((version) => ({ run: address[version] })),
        ...ranges.map((range) => ({
          run: [
            'netsh',
            'interface',
            `ipv${range.version}`,
            'add',
            'route',
            cidrText(range),
            device,
            'metric=1',
            'store=active',
          ],
        })),
      ],
    };
  },
};

function config(device: string, { socks: { port, user, password } }: TunWanted): string {
  const login = user === undefined ? '' : `${encodeURIComponent(user)}:${encodeURIComponent(password ?? '')}@`;
  const proxy = `socks5://${login}127.0.0.1:${port}`;
  return `${JSON.stringify({ device: `tun://${device}`, proxy, mtu: MTU, loglevel: 'warn' })}\n`;
}

function versionsOf(ranges: Cidr[]): (4 | 6)[] {
  return ([4, 6] as const).filter((version) => ranges.some((range) => range.version === version));
}
