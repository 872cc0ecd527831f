import type { ChildProcess } from 'node:child_process';
import path from 'node:path';
import { installPackages } from '../cluster/packages.ts';
import { Lpk } from '../e2e/lpk.ts';
import { type Asked, DnsLoad } from './dns-load.ts';
import type { Tally } from './dnsperf.ts';
import { type BenchLaptop, makeLaptop } from './laptop.ts';
import type { Measured, Mode, Setting } from './mode.ts';
import { end, residentMiB, startUntil } from './processes.ts';
import { answeredGoal, DNS_METRICS, dnsGoals, type Memory, memoryGoal } from './report.ts';
import type { Scene } from './scene.ts';

/**
 * The DNS server of `lpk proxy up` beside dnsmasq, both in front of one upstream (a dnsmasq, too) on the same computer, under the
 * load of one dnsperf with one thread.
 */

const CACHED_NAMES = 1_000;
/** Of a round. */
const NEW_NAMES = 30_000;
const PEER_CACHE = 10_000;
const PEER_PORT = 5_300;
/** As good as for good: answers must not go out of date while they are counted. */
const TTL_S = 3_600;
/** More than dnsperf ever has outstanding (100). */
const AT_ONCE = 1_000;
/** The share of the names after which memory must not grow any more: caches are full by then. */
const WARM_SHARE = 0.1;

type Server = Asked & { close(): Promise<void> };

/** `names`: how many distinct ones lpk is asked for at the end. */
export async function dns(scene: Scene, setting: Setting, names: number): Promise<Mode> {
  await installPackages({ dnsperf: '/usr/bin/dnsperf', 'dnsmasq-base': '/usr/sbin/dnsmasq' });
  const laptop = await makeLaptop(setting.folder);
  setting.closing.push(() => laptop.remove());
  const upstream = await startDnsmasq(laptop, setting, 53, [
    ...['--address=/outside.test/192.0.2.1', `--local-ttl=${TTL_S}`, '--cache-size=0'],
  ]);
  setting.closing.push(() => end(upstream.child));

  const load = new DnsLoad(laptop, setting);
  const { namespace, service } = scene;
  let lpk: Server | undefined;
  const openLpkToo = async () => {
    lpk = await openLpk(scene, setting, laptop);
    return measured(load, lpk, `${service.name}.${namespace}.svc.cluster.local`);
  };
  return {
    notes: [`dnsperf with one thread; upstream on the same computer: dnsmasq ${upstream.version}.`],
    metrics: DNS_METRICS,
    subjects: [
      { name: 'dnsmasq', open: async () => measured(load, await openPeer(setting, laptop)) },
      { name: 'lpk proxy', open: openLpkToo },
    ],
    goals: dnsGoals,
    finish: async () => {
      const memory = lpk && (await memoryOver(load, lpk, names, setting));
      const tallies = [...load.tallies];
      return {
        lines: [...(memory ? [memoryLine(memory)] : []), ...tallies.map(tallyLine)],
        goals: [
          ...(memory ? [memoryGoal(memory)] : []),
          ...tallies.map(([server, tally]) => answeredGoal(server, tally)),
        ],
        values: { memory, tallies: Object.fromEntries(tallies) },
      };
    },
  };
}

function measured(load: DnsLoad, server: Server, clusterName?: string): Measured {
  const cached = Array.from({ length: CACHED_NAMES }, (_, i) => `cached${i}.outside.test`);
  return {
    name: server.name,
    close: () => server.close(),
    measure: async () => {
      await load.once(server, cached);
      const again = await load.over(server, cached);
      const fresh = await load.once(server, load.newNames(NEW_NAMES));
      const own = clusterName === undefined ? undefined : await load.over(server, [clusterName]);
      return {
        cachedQps: again.queriesPerSecond,
        cachedCpuUs: again.cpuUs,
        uncachedQps: fresh.queriesPerSecond,
        uncachedCpuUs: fresh.cpuUs,
        clusterQps: own?.queriesPerSecond,
      };
    },
  };
}

async function memoryOver(load: DnsLoad, lpk: Server, names: number, { say }: Setting): Promise<Memory> {
  const first = Math.round(names * WARM_SHARE);
  const beforeMiB = residentMiB(lpk.pid);
  say(`memory: ${first} of ${names} distinct names`);
  await load.once(lpk, load.newNames(first));
  const warmMiB = residentMiB(lpk.pid);
  say(`memory: the rest of ${names} distinct names`);
  await load.once(lpk, load.newNames(names - first));
  return { names, first, beforeMiB, warmMiB, afterMiB: residentMiB(lpk.pid) };
}

function memoryLine({ names, first, beforeMiB, warmMiB, afterMiB }: Memory): string {
  const values = [
    `before ${beforeMiB.toFixed(1)}`,
    `after ${first} new names ${warmMiB.toFixed(1)}`,
    `after ${names} ${afterMiB.toFixed(1)}`,
  ];
  return `lpk proxy, resident memory, MiB: ${values.join(', ')}`;
}

function tallyLine([server, { sent, lost, servfail, otherErrors }]: [string, Tally]): string {
  return `${server}: ${sent} queries, ${lost} lost, ${servfail} SERVFAIL, ${otherErrors} other errors`;
}

async function openPeer(setting: Setting, laptop: BenchLaptop): Promise<Server> {
  const { child, version } = await startDnsmasq(laptop, setting, PEER_PORT, [
    ...['--server=127.0.0.1#53', `--cache-size=${PEER_CACHE}`, `--dns-forward-max=${AT_ONCE}`],
  ]);
  return { name: `dnsmasq ${version}`, port: PEER_PORT, pid: child.pid as number, close: () => end(child) };
}

async function startDnsmasq(
  laptop: BenchLaptop,
  { interrupted }: Setting,
  port: number,
  settings: string[],
): Promise<{ child: ChildProcess; version: string }> {
  const { child, found } = await startUntil(
    laptop.on([
      ...['dnsmasq', '--keep-in-foreground', '--log-facility=-', '--conf-file=/dev/null', '--pid-file', '--user=root'],
      ...[
        '--no-resolv',
        '--no-hosts',
        '--listen-address=127.0.0.1',
        '--bind-interfaces',
        `--port=${port}`,
        ...settings,
      ],
    ]),
    /started, version (\S+) /,
    interrupted,
  );
  return { child, version: found[1] as string };
}

async function openLpk(scene: Scene, { folder }: Setting, laptop: BenchLaptop): Promise<Server> {
  const lpk = new Lpk(['proxy', 'up', '-n', scene.namespace, '--kubeconfig', scene.kubeconfig], {
    env: { XDG_STATE_HOME: path.join(folder, 'state') },
    around: laptop.on,
  });
  const { doors, pid } = await lpk.event('ready');
  return {
    name: 'lpk proxy',
    port: Number(doors.dns.split(':').at(-1)),
    pid,
    close: async () => {
      lpk.signal('SIGINT');
      await lpk.exit();
    },
  };
}
