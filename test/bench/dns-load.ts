import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { run } from '../cluster/run.ts';
import { NOTHING, parseDnsperf, plus, type Tally } from './dnsperf.ts';
import type { BenchLaptop } from './laptop.ts';
import type { Setting } from './mode.ts';
import { cpuSeconds } from './processes.ts';

/** A DNS server on the laptop's 127.0.0.1. */
export type Asked = { name: string; port: number; pid: number };

/** Of a run over names that are asked for again and again. */
const SECONDS = 3;

/** Runs dnsperf, and keeps count of what went wrong. */
export class DnsLoad {
  readonly tallies = new Map<string, Tally>();
  readonly #laptop: BenchLaptop;
  readonly #setting: Setting;
  readonly #file: string;
  #names = 0;

  constructor(laptop: BenchLaptop, setting: Setting) {
    this.#laptop = laptop;
    this.#setting = setting;
    this.#file = path.join(setting.folder, 'names');
  }

  /** Names that were never asked for. */
  newNames(count: number): string[] {
    const first = this.#names;
    this.#names += count;
    return Array.from({ length: count }, (_, i) => `new${first + i}.outside.test`);
  }

  /** Each name once. */
  once(server: Asked, names: string[]): ReturnType<DnsLoad['over']> {
    return this.#run(server, names, ['-n', '1']);
  }

  /** The names, over and over. `cpuUs`: the server's CPU time for each query, µs. */
  over(server: Asked, names: string[]): Promise<{ queriesPerSecond: number; cpuUs: number }> {
    return this.#run(server, names, ['-l', String(SECONDS)]);
  }

  async #run({ name, port, pid }: Asked, names: string[], extent: string[]): ReturnType<DnsLoad['over']> {
    this.#setting.interrupted.throwIfAborted();
    writeFileSync(this.#file, `${names.join(' A\n')} A\n`);
    const command = ['dnsperf', '-s', '127.0.0.1', '-p', String(port), '-d', this.#file, ...extent];
    const [program, ...words] = this.#laptop.on([...command, '-c', '1', '-T', '1']) as [string, ...string[]];
    const before = cpuSeconds([pid]);
    const result = parseDnsperf(await run(program, words));
    const cpuUs = ((cpuSeconds([pid]) - before) / result.sent) * 1e6;
    this.tallies.set(name, plus(this.tallies.get(name) ?? NOTHING, result));
    return { queriesPerSecond: result.queriesPerSecond, cpuUs };
  }
}
