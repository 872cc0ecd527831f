import { spawn } from 'node:child_process';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { openChisel } from './chisel.ts';
import type { Order, Result } from './load.ts';
import type { Measured, Mode, Setting } from './mode.ts';
import { cpuSeconds } from './processes.ts';
import { DISTANCE_METRICS, distanceGoals, THROUGHPUT_METRICS, throughputGoals } from './report.ts';
import type { Scene } from './scene.ts';
import { openKubectl, openLpk, type ServerName, type Subject } from './subjects.ts';
import { openTun } from './tun.ts';

/** TCP through each program: throughput, latency and CPU, or, when the API server is far away, round trips. */

export type Ask = (
  job: Order['job'],
  server: ServerName,
  extent?: { times?: number; byAddress?: boolean },
) => Promise<Result>;

/** `mib`: size of each timed transfer. */
export function throughput(scene: Scene, setting: Setting, mib: number): Mode {
  const openers = [
    ...everywhere(scene, setting),
    { name: 'lpk proxy, TUN', open: () => openTun(scene, setting.folder) },
  ];
  return {
    notes: [],
    metrics: THROUGHPUT_METRICS,
    subjects: measuredBy(openers, setting, mib, measureThroughput),
    goals: throughputGoals,
  };
}

/** `oneWayMs`: how far away the API server is. A computer of its own can't reach the relay that does it, so TUN is left out. */
export function distance(scene: Scene, setting: Setting, oneWayMs: number): Mode {
  return {
    notes: [`The API server is ${oneWayMs} ms away: a round trip (RTT) takes ${2 * oneWayMs} ms.`],
    metrics: DISTANCE_METRICS,
    subjects: measuredBy(everywhere(scene, setting), setting, 0, (_, ask) => measureDistance(ask, oneWayMs)),
    goals: distanceGoals,
  };
}

type Opener = { name: string; open(): Promise<Subject> };

function everywhere(scene: Scene, setting: Setting): Opener[] {
  return [
    { name: 'kubectl', open: () => openKubectl(scene) },
    { name: 'lpk proxy', open: () => openLpk(scene, 'proxy') },
    { name: 'lpk port-forward', open: () => openLpk(scene, 'port-forward') },
    { name: 'chisel', open: () => openChisel(scene, setting) },
  ];
}

function measuredBy(
  openers: Opener[],
  setting: Setting,
  mib: number,
  measure: (subject: Subject, ask: Ask) => ReturnType<Measured['measure']>,
): Mode['subjects'] {
  return openers.map(({ name, open }) => ({
    name,
    open: async () => {
      const subject = await open();
      const ask = asking(subject, mib, setting);
      return { name: subject.name, measure: () => measure(subject, ask), close: () => subject.close() };
    },
  }));
}

/** `mib`: size of a transfer. */
export function asking(subject: Subject, mib: number, { interrupted }: Setting): Ask {
  return (job, server, { times = 0, byAddress = false } = {}) => {
    const order: Order = { job, ...subject.way(server, byAddress), bytes: mib * 1024 * 1024, times };
    return load(subject, order, interrupted);
  };
}

/** Throughput one way, and what it costs in CPU time. */
export async function transfer(subject: Subject, ask: Ask, job: 'down' | 'up'): ReturnType<Measured['measure']> {
  const at = job === 'down' ? 'Down' : 'Up';
  const before = cpu(subject);
  const { megabytesPerSecond, bytesMoved } = await ask(job, job === 'down' ? 'source' : 'sink');
  const after = cpu(subject);
  const gigabytes = (bytesMoved as number) / 1e9;
  return {
    [`${job}MBps`]: megabytesPerSecond,
    [`laptopCpu${at}`]: (after.laptop - before.laptop) / gigabytes,
    [`agentCpu${at}`]: after.agent === undefined ? undefined : (after.agent - (before.agent ?? 0)) / gigabytes,
  };
}

async function measureThroughput(subject: Subject, ask: Ask): ReturnType<Measured['measure']> {
  const values = { ...(await transfer(subject, ask, 'down')), ...(await transfer(subject, ask, 'up')) };
  const echo = await ask('echo', 'echo', { times: 2_000 });
  const connect = await ask('connect', 'echo', { times: 300 });
  const byAddress =
    subject.pids.agent === undefined ? {} : await ask('connect', 'echo', { times: 300, byAddress: true });
  return {
    ...values,
    echoP50Us: echo.p50Us,
    echoP99Us: echo.p99Us,
    connectP50Us: connect.p50Us,
    connectP99Us: connect.p99Us,
    connectByAddressP50Us: byAddress.p50Us,
    connectByAddressP99Us: byAddress.p99Us,
  };
}

async function measureDistance(ask: Ask, oneWayMs: number): ReturnType<Measured['measure']> {
  const rtts = ({ p50Us }: Result) => (p50Us as number) / 1_000 / (2 * oneWayMs);
  return {
    clientFirstRtts: rtts(await ask('connect', 'echo', { times: 30 })),
    serverFirstRtts: rtts(await ask('banner', 'banner', { times: 30 })),
    echoRtts: rtts(await ask('echo', 'echo', { times: 30 })),
  };
}

function cpu({ pids }: Subject): { laptop: number; agent: number | undefined } {
  return { laptop: cpuSeconds(pids.laptop), agent: pids.agent === undefined ? undefined : cpuSeconds([pids.agent]) };
}

async function load({ name, on = (command) => command }: Subject, order: Order, signal: AbortSignal): Promise<Result> {
  signal.throwIfAborted();
  const [program, ...words] = on([
    ...[process.execPath, path.join(import.meta.dirname, 'load.ts'), JSON.stringify(order)],
  ]) as [string, ...string[]];
  const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'inherit'], signal });
  const exited = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve));
  const [output, code] = await Promise.all([text(child.stdout), exited]);
  if (code !== 0) throw new Error(`${name}: the load for "${order.job}" failed`);
  return JSON.parse(output);
}
