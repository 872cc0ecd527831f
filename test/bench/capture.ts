import { symlinkSync } from 'node:fs';
import path from 'node:path';
import { run } from '../cluster/run.ts';
import { Lpk } from '../e2e/lpk.ts';
import type { Result } from './load.ts';
import type { Measured, Mode, Setting } from './mode.ts';
import { processInPod } from './processes.ts';
import { CAPTURE_METRICS, CROWD, captureGoals, median } from './report.ts';
import { type Scene, SEATS } from './scene.ts';
import { PORTS } from './servers.ts';
import type { Subject } from './subjects.ts';
import { asking, transfers } from './tunnels.ts';

/**
 * One `lpk connect … -- COMMAND`: the load as a program that it captures, beside the same load outside, by the same lpk's SOCKS
 * door. What is told are the differences.
 */

const CONNECTS = { loopback: 2_000, cluster: 500 };
const CROWD_PROCESSES = 16;
const START_UPS = 5;

const HERE = import.meta.dirname;
const ROOT = path.join(HERE, '../..');
const WITHIN = [process.execPath, path.join(HERE, 'within.ts')];

type Sides = { outside: Subject; inside: Subject; close(): Promise<void> };

/** `mib`: size of each timed transfer. */
export async function capture(scene: Scene, setting: Setting, mib: number): Promise<Mode> {
  const connects = path.join(setting.folder, 'connects');
  await run('gcc', ['-O2', '-pthread', '-o', connects, path.join(HERE, 'connects.c')]);
  const built = await build(setting.folder);
  const sides = await open(scene);
  setting.closing.push(() => sides.close());

  const measured = (subject: Subject, more: () => Promise<Record<string, number>>): Measured => ({
    name: subject.name,
    close: async () => {},
    measure: async () => ({
      ...(await transfers(subject, asking(subject, mib, setting))),
      ...(await connecting(connects, subject, scene)),
      ...(await more()),
    }),
  });
  const subjects = [
    measured(sides.outside, async () => ({})),
    measured(sides.inside, async () => ({ startUpMs: await startUp(built) })),
  ];
  return {
    notes: [
      'Connects: blocking ones of a C program, one a ms; by the SOCKS door: with its handshake. To the cluster: by address.',
      'Start-up: from a built lpk until /bin/true has run, less the same without capture.',
    ],
    metrics: CAPTURE_METRICS,
    subjects: subjects.map((subject) => ({ name: subject.name, open: async () => subject })),
    goals: captureGoals,
  };
}

/** The JavaScript of lpk's package. */
async function build(folder: string): Promise<string> {
  const built = path.join(folder, 'built');
  const tsc = path.join(ROOT, 'node_modules/typescript/bin/tsc');
  await run(process.execPath, [tsc, '-p', path.join(ROOT, 'tsconfig.build.json'), '--outDir', built]);
  symlinkSync(path.join(ROOT, 'node_modules'), path.join(built, 'node_modules'));
  return built;
}

async function open({ namespace, kubeconfig, service }: Scene): Promise<Sides> {
  const lpk = new Lpk([
    ...['connect', `deployment/${SEATS.proxy}`, '-n', namespace, '--kubeconfig', kubeconfig],
    ...['--transport', 'proxy', '--no-wait', '--capture', 'seccomp', '--', ...WITHIN, 'serve'],
  ]);
  const { proxyPort, pods } = await lpk.event('ready');
  const [, within] = /^within: (\d+)$/.exec(await lpk.line(/^within: /)) ?? [];
  const pids = { laptop: [lpk.pid], agent: await processInPod(namespace, pods[0], 'agent.mjs') };
  return {
    outside: {
      name: 'SOCKS door',
      way: (server) => ({ port: proxyPort, socks: { host: service.address, port: PORTS[server] } }),
      pids,
      close: async () => {},
    },
    inside: {
      name: 'captured',
      way: (server) => ({ host: service.address, port: PORTS[server] }),
      on: (command) => [...WITHIN, 'run', within as string, ...command],
      pids,
      close: async () => {},
    },
    close: async () => {
      lpk.signal('SIGINT');
      await lpk.exit();
    },
  };
}

async function connecting(connects: string, subject: Subject, scene: Scene): Promise<Record<string, number>> {
  const { on = (command) => command } = subject;
  const ask = async (...words: (string | number)[]): Promise<Result & { answered?: number }> => {
    const [program, ...args] = on([connects, ...words.map(String)]) as [string, ...string[]];
    return JSON.parse(await run(program, args));
  };
  const { socks, port } = subject.way('echo');
  const server = [scene.service.address, PORTS.echo, socks ? port : 0] as const;
  const loopback = await ask('own', CONNECTS.loopback);
  const cluster = await ask('time', ...server, CONNECTS.cluster);
  const { answered } = await ask('crowd', ...server, CROWD, CROWD_PROCESSES);
  return {
    loopbackP50Us: loopback.p50Us as number,
    loopbackP99Us: loopback.p99Us as number,
    clusterP50Us: cluster.p50Us as number,
    clusterP99Us: cluster.p99Us as number,
    crowdAnswered: answered as number,
  };
}

/** What capture adds to the start of a program, ms: the median of a few differences. */
async function startUp(built: string): Promise<number> {
  const ms = async (way: string) => Number(await run(process.execPath, [path.join(HERE, 'start-up.ts'), built, way]));
  const added: number[] = [];
  for (let i = 0; i < START_UPS; i++) added.push((await ms('captured')) - (await ms('plain')));
  return median(added);
}
