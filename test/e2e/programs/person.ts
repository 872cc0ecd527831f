import { type ChildProcess, execFile } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  cpSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Laptop } from '../laptop.ts';
import { Lpk } from '../lpk.ts';
import type { Shop } from '../shop.ts';
import { builtPrograms } from './build.ts';

/** `nobody`, whom every Debian knows. */
export const USER = 65_534;
/** The laptop's own address: a nameserver there is an ordinary one, which no rule about loopback concerns. */
const NAMESERVER = '198.19.2.2';

export const OUTSIDE = { name: 'outside.example', address: '192.0.2.7' };

/** A command's end; `code` is the signal's name when one ended it. */
export type Told = { code: number | string; stdout: string; stderr: string };

/**
 * An ordinary user of a laptop: no rights, a home, a kubeconfig, and a resolv.conf that names a nameserver which knows nothing of
 * the cluster. Node and lpk are where this user can read them, in a mount namespace of each command's own.
 */
export class Person {
  readonly folder: string;
  readonly node: string;
  readonly lpk: string;
  /** Programs of test/e2e/programs. */
  readonly programs: string;
  readonly kubeconfig: string;
  readonly resolvConf: string;
  readonly #laptop: Laptop;
  readonly #shop: Shop;
  #nameserver: Lpk | undefined;

  private constructor(laptop: Laptop, shop: Shop) {
    this.#laptop = laptop;
    this.#shop = shop;
    this.folder = mkdtempSync(path.join(tmpdir(), 'lpk-person-'));
    this.node = path.join(this.folder, 'bin/node');
    this.lpk = path.join(this.folder, 'lpk');
    this.programs = path.join(this.folder, 'programs');
    this.kubeconfig = path.join(this.folder, 'home/kubeconfig');
    this.resolvConf = path.join(this.folder, 'etc/resolv.conf');
  }

  static async on(laptop: Laptop, shop: Shop): Promise<Person> {
    const person = new Person(laptop, shop);
    try {
      await person.#settle();
      return person;
    } catch (error) {
      person.leave();
      throw error;
    }
  }

  async #settle(): Promise<void> {
    for (const name of ['home', 'bin', 'lpk', 'etc']) mkdirSync(path.join(this.folder, name));
    writeFileSync(this.node, '');
    writeFileSync(this.resolvConf, `nameserver ${NAMESERVER}\n`);
    copyFileSync(this.#shop.kubeconfig, this.kubeconfig);
    chmodSync(this.folder, 0o711);
    this.give(path.join(this.folder, 'home'));
    this.give(this.kubeconfig);
    cpSync(await builtPrograms(), this.programs, { recursive: true });
    const around = () =>
      this.#laptop.on([
        process.execPath,
        path.join(import.meta.dirname, '../tiny-dns.ts'),
        NAMESERVER,
        `${OUTSIDE.name}=${OUTSIDE.address}`,
      ]);
    this.#nameserver = new Lpk([], { json: false, around });
    await this.#nameserver.line(/^ready/);
  }

  /** Makes a file this user's. */
  give(file: string): void {
    chownSync(file, USER, USER);
  }

  leave(): void {
    this.#nameserver?.signal('SIGKILL');
    rmSync(this.folder, { recursive: true });
  }

  /** The command lines of all that runs for this user. */
  processes(): string[] {
    return globSync('/proc/[0-9]*').flatMap((process) => {
      const read = (name: string) => {
        try {
          return readFileSync(path.join(process, name), 'latin1').replaceAll('\0', ' ');
        } catch {
          return ''; // it has ended
        }
      };
      return `${read('environ')} ${read('cmdline')}`.includes(this.folder) ? [read('cmdline')] : [];
    });
  }

  /** The command line that runs `command` as this user, without a proxy variable. */
  on(command: string[]): string[] {
    const { folder } = this;
    const mounts = [
      [this.resolvConf, '/etc/resolv.conf'],
      [process.execPath, 'bin/node'],
      [path.join(import.meta.dirname, '../../..'), 'lpk'],
    ].map(([from, to]) => `mount --bind ${path.resolve(folder, from as string)} ${path.resolve(folder, to as string)}`);
    const home = path.join(folder, 'home');
    const env = [
      ...[`HOME=${home}`, `XDG_STATE_HOME=${home}/state`, `XDG_CACHE_HOME=${home}/cache`, `TMPDIR=${home}`],
      ...[`PATH=${folder}/bin:/usr/bin:/bin:/usr/sbin`, 'LANG=C.UTF-8', 'TERM=xterm', `KUBECONFIG=${this.kubeconfig}`],
    ];
    const asUser = ['setpriv', `--reuid=${USER}`, `--regid=${USER}`, '--clear-groups', 'env', '-i', '-C', home, ...env];
    const script = `${mounts.join(' && ')} && exec "$@"`;
    return this.#laptop.on([
      ...['unshare', '--mount', '--propagation', 'private'],
      'sh',
      '-c',
      script,
      'sh',
      ...asUser,
      ...command,
    ]);
  }

  /** To its end; a test that hangs is ended after 3 minutes, with `SIGKILL` as its code. */
  run(command: string[], started: (child: ChildProcess) => void = () => {}): Promise<Told> {
    const [program, ...words] = this.on(command) as [string, ...string[]];
    return new Promise((resolve) => {
      const options = { timeout: 180_000, killSignal: 'SIGKILL', maxBuffer: 64 * 1024 * 1024 } as const;
      started(
        execFile(program, words, options, (error, stdout, stderr) =>
          resolve({ code: error ? (error.signal ?? error.code ?? 'unknown') : 0, stdout, stderr }),
        ),
      );
    });
  }

  /** `lpk …` as words. */
  words(...args: string[]): string[] {
    return [this.node, path.join(this.lpk, 'cli/main.ts'), ...args];
  }

  /** `lpk run -- COMMAND` to its end, into the shop's namespace. */
  lpkRun(command: string[], ...options: string[]): Promise<Told> {
    return this.run(this.words('run', '-n', this.#shop.namespace, ...options, '--', ...command));
  }

  /** lpk, watched by its events. */
  start(...args: string[]): Lpk {
    // What Lpk makes of the arguments, with this user's Node and lpk in place of the test's.
    return new Lpk(args, { around: ([, , ...words]) => this.on(this.words(...words)) });
  }
}
