/**
 * `scripts/bench`: lpk by each transport and `kubectl port-forward`, side by side in one run on the test cluster. Rounds are
 * interleaved and medians taken: what disturbs the machine disturbs all of them.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { parseArgs } from 'node:util';
import { kubectl } from '../cluster/cluster.ts';
import type { Order, Result } from './load.ts';
import {
  add,
  DISTANCE_METRICS,
  distanceGoals,
  type Samples,
  summarize,
  THROUGHPUT_METRICS,
  table,
  throughputGoals,
} from './report.ts';
import { openScene, type Scene } from './scene.ts';
import { cpuSeconds, openKubectl, openLpk, type ServerName, type Subject } from './subjects.ts';

const USAGE = `scripts/bench [--rounds N] [--mib N] [--delay MS] [--only WORD] [--out FILE] [--check]
  --rounds N   rounds over all subjects (default 5; their medians count)
  --mib N      size of each timed transfer (default 256)
  --delay MS   put the API server so many ms away, one way, and count in round trips
  --only WORD  only subjects whose name has the word (kubectl, proxy, port-forward)
  --out FILE   where the JSON goes (default bench.json)
  --check      exit code 1 when a goal is missed`;

const OPENERS: { name: string; open: (scene: Scene) => Promise<Subject> }[] = [
  { name: 'kubectl', open: openKubectl },
  { name: 'lpk proxy', open: (scene) => openLpk(scene, 'proxy') },
  { name: 'lpk port-forward', open: (scene) => openLpk(scene, 'port-forward') },
];

/** Load average above which the bench isn't what keeps the machine busy; the idle test cluster makes about 0.5. */
const BUSY_LOAD = 1.5;

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    mib: { type: 'string', default: '256' },
    delay: { type: 'string', default: '0' },
    only: { type: 'string', default: '' },
    out: { type: 'string', default: 'bench.json' },
    check: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (options.help) {
  console.log(USAGE);
  process.exit(0);
}
const [rounds, mib, oneWayMs] = [options.rounds, options.mib, options.delay].map(Number) as [number, number, number];
if (!(rounds >= 1 && mib >= 1 && oneWayMs >= 0)) {
  console.error(USAGE);
  process.exit(2);
}

/** All that is to be closed, last first; on Ctrl-C too, which the children get as well. */
const closing: (() => Promise<void> | void)[] = [];
const interrupted = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => interrupted.abort(new Error(signal)));

const folder = mkdtempSync(path.join(os.tmpdir(), 'lpk-bench-'));
closing.push(() => rmSync(folder, { recursive: true }));
try {
  const missed = await main();
  process.exitCode = options.check && missed ? 1 : 0;
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
} finally {
  for (const close of closing.reverse())
    await Promise.resolve(close()).catch((error) => console.error(`bench: ${error}`));
}

async function main(): Promise<boolean> {
  const [busy = 0] = os.loadavg();
  const scene = await openScene(folder, oneWayMs);
  closing.push(() => scene.close());
  const subjects: Subject[] = [];
  for (const { name, open } of OPENERS.filter(({ name }) => name.includes(options.only))) {
    say(`starting ${name}`);
    const subject = await open(scene);
    closing.push(() => subject.close());
    subjects.push(subject);
  }
  const samples: Samples = new Map();
  const measure = oneWayMs > 0 ? measureDistance : measureThroughput;
  for (let round = 0; round < rounds; round++) {
    // Whoever comes first differs from round to round; the table keeps its order.
    for (let i = 0; i < subjects.length; i++) {
      const subject = subjects[(i + round) % subjects.length] as Subject;
      say(`round ${round + 1} of ${rounds}: ${subject.name}`);
      await measure(subject, samples);
    }
  }
  const ordered = new Map(subjects.map(({ name }) => [name, samples.get(name) ?? new Map()]));
  const summary = summarize(ordered);
  const goals = oneWayMs > 0 ? distanceGoals(summary) : throughputGoals(summary);
  const { serverVersion } = JSON.parse(await kubectl(['version', '-o', 'json']));
  const machine = {
    cpu: os.cpus()[0]?.model,
    cores: os.availableParallelism(),
    kernel: os.release(),
    node: process.version,
    kubernetes: serverVersion.gitVersion,
  };
  console.log(`\n${Object.values(machine).join(', ')}`);
  console.log(`Medians of ${rounds} rounds; ×: the median of the rounds' ratios to ${subjects[0]?.name}.`);
  if (busy > BUSY_LOAD)
    console.log(`The machine was busy (load ${busy.toFixed(1)} at the start): these numbers are worth little.`);
  if (oneWayMs > 0) console.log(`The API server is ${oneWayMs} ms away: a round trip (RTT) takes ${2 * oneWayMs} ms.`);
  console.log(`\n${table(oneWayMs > 0 ? DISTANCE_METRICS : THROUGHPUT_METRICS, summary)}\n`);
  for (const { text, holds } of goals.filter(({ value }) => !Number.isNaN(value)))
    console.log(`${holds ? '✔' : '✖'} ${text}`);
  const written = {
    when: new Date().toISOString(),
    machine,
    loadAtStart: busy,
    rounds,
    mib,
    oneWayMs,
    ...summary,
    goals,
  };
  writeFileSync(options.out, `${JSON.stringify(written, undefined, 2)}\n`);
  console.log(`written to ${options.out}`);
  return goals.some(({ holds }) => !holds);
}

async function measureThroughput(subject: Subject, samples: Samples): Promise<void> {
  const gigabytes = (result: Result) => (result.bytesMoved as number) / 1e9;
  for (const [job, server, at] of [
    ['down', 'source', 'Down'],
    ['up', 'sink', 'Up'],
  ] as const) {
    const before = cpu(subject);
    const result = await load(subject, job, server);
    const after = cpu(subject);
    add(samples, subject.name, {
      [`${job}MBps`]: result.megabytesPerSecond,
      [`laptopCpu${at}`]: (after.laptop - before.laptop) / gigabytes(result),
      [`agentCpu${at}`]:
        after.agent === undefined ? undefined : (after.agent - (before.agent ?? 0)) / gigabytes(result),
    });
  }
  const echo = await load(subject, 'echo', 'echo', { times: 2_000 });
  const connect = await load(subject, 'connect', 'echo', { times: 300 });
  const byAddress =
    subject.pids.agent === undefined ? {} : await load(subject, 'connect', 'echo', { times: 300 }, true);
  add(samples, subject.name, {
    echoP50Us: echo.p50Us,
    echoP99Us: echo.p99Us,
    connectP50Us: connect.p50Us,
    connectP99Us: connect.p99Us,
    connectByAddressP50Us: byAddress.p50Us,
    connectByAddressP99Us: byAddress.p99Us,
  });
}

async function measureDistance(subject: Subject, samples: Samples): Promise<void> {
  const rtts = ({ p50Us }: Result) => (p50Us as number) / 1_000 / (2 * oneWayMs);
  add(samples, subject.name, {
    clientFirstRtts: rtts(await load(subject, 'connect', 'echo', { times: 30 })),
    serverFirstRtts: rtts(await load(subject, 'banner', 'banner', { times: 30 })),
    echoRtts: rtts(await load(subject, 'echo', 'echo', { times: 30 })),
  });
}

function cpu({ pids }: Subject): { laptop: number; agent: number | undefined } {
  return { laptop: cpuSeconds(pids.laptop), agent: pids.agent === undefined ? undefined : cpuSeconds(pids.agent) };
}

async function load(
  subject: Subject,
  job: Order['job'],
  server: ServerName,
  { times = 0 } = {},
  byAddress = false,
): Promise<Result> {
  interrupted.signal.throwIfAborted();
  const order: Order = { job, ...subject.way(server, byAddress), bytes: mib * 1024 * 1024, times };
  const child = spawn(process.execPath, [path.join(import.meta.dirname, 'load.ts'), JSON.stringify(order)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    signal: interrupted.signal,
  });
  const exited = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve));
  const [output, code] = await Promise.all([text(child.stdout), exited]);
  if (code !== 0) throw new Error(`${subject.name}: the load for "${job}" failed`);
  return JSON.parse(output);
}

function say(line: string): void {
  console.error(`bench: ${line}`);
}
