import { symlinkSync } from 'node:fs';
import path from 'node:path';
import { run } from '../cluster/run.ts';
import { Lpk } from '../e2e/lpk.ts';
import type { Result } from './load.ts';
import type { Mode, Setting } from './mode.ts';
import { inTurn, paired, type Values } from './pairs.ts';
import { processInPod } from './processes.ts';
import { CAPTURE_METRICS, CROWD, captureGoals, median } from './report.ts';
import { type Scene, SEATS } from './scene.ts';
import { PORTS } from './servers.ts';
import type { Subject } from './subjects.ts';
import { asking, transfer } from './tunnels.ts';

/**
 * One `lpk connect … -- COMMAND`: the load as a program that it captures, beside the same load outside, by the same lpk's SOCKS
 * door. What is told are the differences.
 */

const CONNECTS = { loopback: 1_000, cluster: 500 };
const CROWD_PROCESSES = 16;
const START_UPS = 5;

const HERE = import.meta.dirname;
const ROOT = path.join(HERE, '../..');
const WITHIN = [process.execPath, path.join(HERE, 'within.ts')];

/** `mib`: size of each timed transfer. */
export async function capture(scene: Scene, setting: Setting, mib: number): Promise<Mode> {
  const connects = path.join(setting.folder, 'connects');
  await run('gcc', ['-O2', '-pthread', '-o', connects, path.join(HERE, 'connects.c')]);
  const built = await build(setting.folder);
  const sides = await open(scene, setting);

  const steps: ((subject: Subject) => Promise<Values>)[] = [
    (subject) => transfer(subject, asking(subject, mib, setting), 'down'),
    (subject) => transfer(subject, asking(subject, mib, setting), 'up'),
    async (subject) => {
      const { p50Us, p99Us } = await connecting(connects, subject, ['own', CONNECTS.loopback]);
      return { loopbackP50Us: p50Us, loopbackP99Us: p99Us };
    },
    async (subject) => {
      const { p50Us, p99Us } = await connecting(connects, subject, ['time', ...server(subject), CONNECTS.cluster]);
      return { clusterP50Us: p50Us, clusterP99Us: p99Us };
    },
    async (subject) => {
      const { answered } = await connecting(connects, subject, ['crowd', ...server(subject), CROWD, CROWD_PROCESSES]);
      return { crowdAnswered: answered };
    },
  ];
  const server = (subject: Subject) => {
    const { port, socks } = subject.way('echo');
    return [scene.service.address, PORTS.echo, socks ? port : 0];
  };
  const round = async () => {
    const values: [Values, Values] = [{}, { startUpMs: await startUp(built) }];
    for (const step of steps) {
      setting.interrupted.throwIfAborted();
      for (const [side, more] of (await inTurn(sides, step)).entries()) Object.assign(values[side] as Values, more);
    }
    return values;
  };
  return {
    notes: [
      'Both sides are measured in turn; connects: blocking ones of a C program, one a ms, by the SOCKS door with its handshake.',
      'Start-up: from a built lpk until /bin/true has run, less the same without capture.',
    ],
    metrics: CAPTURE_METRICS,
    subjects: paired([sides[0].name, sides[1].name], round).map((side) => ({
      name: side.name,
      open: async () => side,
    })),
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

async function open({ namespace, kubeconfig, service }: Scene, { closing }: Setting): Promise<[Subject, Subject]> {
  const lpk = new Lpk([
    ...['connect', `deployment/${SEATS.proxy}`, '-n', namespace, '--kubeconfig', kubeconfig],
    ...['--transport', 'proxy', '--no-wait', '--capture', 'seccomp', '--', ...WITHIN, 'serve'],
  ]);
  const close = async () => {
    lpk.signal('SIGINT');
    await lpk.exit();
  };
  closing.push(close);
  const { proxyPort, pods } = await lpk.event('ready');
  const [, within = ''] = /^within: (\d+)$/.exec(await lpk.line(/^within: /)) ?? [];
  const pids = { laptop: [lpk.pid], agent: await processInPod(namespace, pods[0], 'agent.mjs') };
  const door: Subject = {
    name: 'SOCKS door',
    way: (server) => ({ port: proxyPort, socks: { host: service.address, port: PORTS[server] } }),
    ...{ pids, close },
  };
  const captured: Subject = {
    name: 'captured',
    way: (server) => ({ host: service.address, port: PORTS[server] }),
    on: (command) => [...WITHIN, 'run', within, ...command],
    ...{ pids, close },
  };
  return [door, captured];
}

async function connecting(
  connects: string,
  { on = (command) => command }: Subject,
  words: (string | number)[],
): Promise<Result & { answered?: number }> {
  const [program, ...args] = on([connects, ...words.map(String)]) as [string, ...string[]];
  return JSON.parse(await run(program, args));
}

/** What capture adds to the start of a program, ms: the median of a few differences. */
async function startUp(built: string): Promise<number> {
  const ms = async (way: string) => Number(await run(process.execPath, [path.join(HERE, 'start-up.ts'), built, way]));
  const added: number[] = [];
  for (let i = 0; i < START_UPS; i++) added.push((await ms('captured')) - (await ms('plain')));
  return median(added);
}
