/**
 * `scripts/bench`: lpk beside other programs in one run on the test cluster. Rounds are interleaved and medians taken: what
 * disturbs the machine disturbs all of them.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { kubectl } from '../cluster/cluster.ts';
import { capture } from './capture.ts';
import { dns } from './dns.ts';
import type { Measured, Mode, Setting } from './mode.ts';
import { add, type Samples, summarize, table } from './report.ts';
import { openScene } from './scene.ts';
import { distance, throughput } from './tunnels.ts';

const USAGE = `scripts/bench [--rounds N] [--mib N] [--delay MS | --capture | --dns [--names N]] [--only WORD] [--out FILE] [--check]
  Throughput and latency of lpk's SOCKS door and TUN device, of kubectl port-forward and of chisel; or
  --delay MS   put the API server so many ms away, one way, and count in round trips (without TUN)
  --capture    the same program captured and by the SOCKS door: connects, throughput, start-up
  --dns        the DNS server of lpk proxy, beside dnsmasq

  --rounds N   rounds over all subjects (default 5; their medians count)
  --mib N      size of each timed transfer (default 256)
  --names N    how many distinct names must not make the DNS server grow (default 1000000)
  --only WORD  only subjects whose name has the word (kubectl, proxy, port-forward, TUN, chisel; dnsmasq, lpk; SOCKS, captured)
  --out FILE   where the JSON goes (default bench.json)
  --check      exit code 1 when a goal is missed`;

/** Load average above which the bench isn't what keeps the machine busy; the idle test cluster makes about 0.5. */
const BUSY_LOAD = 1.5;

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    mib: { type: 'string', default: '256' },
    delay: { type: 'string', default: '0' },
    capture: { type: 'boolean', default: false },
    dns: { type: 'boolean', default: false },
    names: { type: 'string', default: '1000000' },
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
const [rounds, mib, oneWayMs, names] = [options.rounds, options.mib, options.delay, options.names].map(Number) as [
  number,
  number,
  number,
  number,
];
const modes = [options.dns, options.capture, oneWayMs > 0].filter(Boolean).length;
if (!(rounds >= 1 && mib >= 1 && oneWayMs >= 0 && names >= 100) || modes > 1) {
  console.error(USAGE);
  process.exit(2);
}

/** All that is to be closed, last first; on Ctrl-C too, which the children get as well. */
const closing: Setting['closing'] = [];
const interrupted = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => interrupted.abort(new Error(signal)));

const folder = mkdtempSync(path.join(os.tmpdir(), 'lpk-bench-'));
closing.push(() => rmSync(folder, { recursive: true }));
try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
} finally {
  for (const close of closing.reverse()) {
    try {
      await close();
    } catch (error) {
      console.error(`bench: ${error}`);
    }
  }
}

/** False: what must hold does not. */
async function main(): Promise<boolean> {
  const [busy = 0] = os.loadavg();
  const mode = await chosenMode({ folder, interrupted: interrupted.signal, say, closing });
  const samples = await measureAll(mode);
  const finish = await mode.finish?.();
  const summary = summarize(samples);
  const goals = [...mode.goals(summary), ...(finish?.goals ?? [])];
  const { serverVersion } = JSON.parse(await kubectl(['version', '-o', 'json']));
  const machine = {
    cpu: os.cpus()[0]?.model,
    cores: os.availableParallelism(),
    kernel: os.release(),
    node: process.version,
    kubernetes: serverVersion.gitVersion,
  };
  const [base] = samples.keys();
  console.log(`\n${Object.values(machine).join(', ')}`);
  console.log(`Medians of ${rounds} rounds; ×: the median of the rounds' ratios to ${base}.`);
  if (busy > BUSY_LOAD)
    console.log(`The machine was busy (load ${busy.toFixed(1)} at the start): these numbers are worth little.`);
  for (const note of mode.notes) console.log(note);
  console.log(`\n${table(mode.metrics, summary)}\n`);
  for (const line of finish?.lines ?? []) console.log(line);
  for (const { text, holds } of goals.filter(({ value }) => !Number.isNaN(value)))
    console.log(`${holds ? '✔' : '✖'} ${text}`);
  const written = {
    when: new Date().toISOString(),
    machine,
    loadAtStart: busy,
    rounds,
    ...(options.dns ? finish?.values : { mib, oneWayMs }),
    ...summary,
    goals,
  };
  writeFileSync(options.out, `${JSON.stringify(written, undefined, 2)}\n`);
  console.log(`written to ${options.out}`);
  return goals.every(({ holds, vital }) => holds || !(vital || options.check));
}

async function chosenMode(setting: Setting): Promise<Mode> {
  const scene = await openScene(folder, oneWayMs);
  closing.push(() => scene.close());
  if (options.dns) return dns(scene, setting, names);
  if (options.capture) return capture(scene, setting, mib);
  return oneWayMs > 0 ? distance(scene, setting, oneWayMs) : throughput(scene, setting, mib);
}

async function measureAll(mode: Mode): Promise<Samples> {
  const subjects: Measured[] = [];
  for (const { name, open } of mode.subjects.filter(({ name }) => name.includes(options.only))) {
    say(`starting ${name}`);
    const subject = await open();
    closing.push(() => subject.close());
    subjects.push(subject);
  }
  // In the table's order: who comes first differs from round to round.
  const samples: Samples = new Map(subjects.map(({ name }) => [name, new Map()]));
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < subjects.length; i++) {
      const subject = subjects[(i + round) % subjects.length] as Measured;
      say(`round ${round + 1} of ${rounds}: ${subject.name}`);
      add(samples, subject.name, await subject.measure());
    }
  }
  return samples;
}

function say(line: string): void {
  console.error(`bench: ${line}`);
}
