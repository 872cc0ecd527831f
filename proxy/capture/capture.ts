import { EventEmitter, once } from 'node:events';
import { stat } from 'node:fs/promises';
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { LpkError } from '../../agent/wire/errors.ts';
import type { Dial } from '../flow.ts';
import { Answers, type Stats } from './answers.ts';
import { Destinations } from './destinations.ts';
import { loadKernel } from './kernel.ts';
import { LearnedAddresses } from './learned.ts';
import type { Caught, LauncherNews, LauncherOrder, SupervisorData } from './messages.ts';
import { Names, type NamesOptions } from './names.ts';
import { Nameservers } from './nameservers.ts';
import { Namespace } from './namespace.ts';
import { TcpEnds } from './tcp.ts';
import { UdpEnds, type UdpLimits } from './udp.ts';

export { type CaptureSupport, captureSupport } from './support.ts';

export type CaptureOptions = NamesOptions & {
  /** The road of every caught TCP connection and connected UDP socket. */
  dial: Dial;
  /** Addresses that lead into the cluster, `10.96.0.0/12`; and those that never do, not even learned from an answer. */
  ranges: string[];
  noRanges?: string[];
  /** Where the nameservers are read from. */
  resolvConf?: string;
  udp?: Partial<UdpLimits>;
};

export type SpawnOptions = { env: NodeJS.ProcessEnv; cwd?: string | undefined; stdio?: 'inherit' };

/** As a ChildProcess: 'spawn', 'error' (with `code`), 'exit' (code, signal), in that order and with the same meaning. */
export type CapturedChild = EventEmitter<{
  spawn: [];
  error: [NodeJS.ErrnoException];
  exit: [number | null, NodeJS.Signals | null];
}> & {
  /** From 'spawn' on. */
  readonly pid: number | undefined;
  kill(signal: NodeJS.Signals): void;
};

export type Capture = {
  /** Starts a program on lpk's own terminal, as child_process.spawn does with `stdio: 'inherit'`; it and all it starts is caught. */
  spawn(command: string, args: string[], options: SpawnOptions): CapturedChild;
  readonly stats: Stats & { connections: number; questions: number };
  /** Why DNS questions on unconnected sockets are not caught; undefined: they are. */
  readonly missing: string | undefined;
  /** Takes everything down. Programs that still run hear ENOSYS from the calls that are trapped. */
  close(): Promise<void>;
};

/**
 * Catches the TCP connects and DNS questions of the programs that it starts, and of theirs, by seccomp user notification
 * (seccomp_unotify(2)), on Linux 5.9 or newer, x86-64 and arm64, as any user. What is not for the cluster goes on in the kernel as if
 * nobody had looked. The programs have no_new_privs: setuid ones keep their user's rights.
 *
 * A blocking connect hears how the dial ended, with the kernel's own errno. One that does not block is answered at once and
 * reset when the dial fails, unless it is known at once: without a tunnel both hear ENETUNREACH, and where the last attempt failed lately
 * both wait for the truth, the second one briefly. When lpk is killed, what waits and what comes later fails with ENOSYS.
 *
 * Not caught: io_uring, which is refused; programs that forbid to be looked at (PR_SET_DUMPABLE 0); daemons that have left the
 * tree, where Yama is on; UDP without connect, except for DNS.
 *
 * Rejects with `laptop-setup` where the kernel refuses; see `captureSupport`.
 */
export async function startCapture(options: CaptureOptions): Promise<Capture> {
  const { dial, ranges, noRanges = [], resolvConf, udp: limits } = options;
  const learned = new LearnedAddresses();
  const destinations = new Destinations(ranges, noRanges, learned);
  // Node starts its pool of threads when first needed; were that in the launcher, they would all be under the filter.
  const pool = stat('/');
  // They take longer to start than all the rest here.
  const [launcher, supervisor] = [worker('launcher'), worker('supervisor')];
  const kernel = loadKernel();
  await pool;
  const names = new Names(options, learned);
  const tcp = new TcpEnds();
  const udp = new UdpEnds(dial, names, limits);
  let missing: string | undefined;
  const namespacing = Namespace.open(kernel, names).catch((error: LpkError) => {
    missing = error.message;
    return undefined;
  });
  const [listener] = await Promise.all([listenerOf(launcher), tcp.open(), udp.open()]).catch(async (error) => {
    (await namespacing)?.close();
    tcp.close();
    udp.close();
    await Promise.all([launcher.terminate(), supervisor.terminate()]);
    throw error;
  });
  const namespace = await namespacing;
  const stop = kernel.eventfd();
  const data: SupervisorData = { listener, stop, ports: [...tcp.ports, ...udp.ports] };
  supervisor.postMessage(data);
  const answers = new Answers({
    kernel,
    listener,
    dial,
    destinations,
    nameservers: new Nameservers(resolvConf),
    names,
    tcp,
    udp,
    namespace,
  });
  supervisor.on('message', (caught: Caught) => answers.handle(caught));
  // Whoever waits for an answer must not do so for ever.
  const ended = once(supervisor, 'exit').then(() => {
    answers.close();
    kernel.close(listener);
    kernel.close(stop);
  });
  supervisor.on('error', () => {}); // 'exit' follows
  // Node waits for its threads when it exits, and this one waits for the kernel.
  const stopSupervisor = () => kernel.signalEvent(stop);
  process.on('exit', stopSupervisor);
  const children = new Children(launcher);

  return {
    spawn: (command, args, spawnOptions) => children.spawn(command, args, spawnOptions),
    missing,
    get stats() {
      return { ...answers.stats, connections: tcp.size, questions: names.answered };
    },
    async close() {
      process.off('exit', stopSupervisor);
      stopSupervisor();
      await ended;
      await launcher.terminate();
      namespace?.close();
      tcp.close();
      udp.close();
    },
  };
}

class Children {
  #launcher: Worker;
  #children = new Map<number, Child>();
  #last = 0;

  constructor(launcher: Worker) {
    this.#launcher = launcher;
    launcher.on('message', (news: LauncherNews) => this.#hear(news));
  }

  spawn(command: string, args: string[], { env, cwd }: SpawnOptions): CapturedChild {
    const key = ++this.#last;
    const child = new Child((signal) => this.#order({ kill: { key, signal } }));
    this.#children.set(key, child);
    this.#order({ spawn: { key, command, args, env: { ...env }, cwd } });
    return child;
  }

  #order(order: LauncherOrder): void {
    this.#launcher.postMessage(order);
  }

  #hear(news: LauncherNews): void {
    if ('spawned' in news) {
      const child = this.#children.get(news.spawned.key);
      if (!child) return;
      child.pid = news.spawned.pid;
      child.emit('spawn');
    } else if ('error' in news) {
      const { key, message, code } = news.error;
      const child = this.#children.get(key);
      if (child?.pid === undefined) this.#children.delete(key); // it has not started, and no 'exit' comes
      child?.emit('error', Object.assign(new Error(message), { code }));
    } else if ('exited' in news) {
      const { key, code, signal } = news.exited;
      const child = this.#children.get(key);
      this.#children.delete(key);
      child?.emit('exit', code, signal);
    }
  }
}

class Child extends EventEmitter<{
  spawn: [];
  error: [NodeJS.ErrnoException];
  exit: [number | null, NodeJS.Signals | null];
}> {
  pid: number | undefined = undefined;
  readonly kill: (signal: NodeJS.Signals) => void;

  constructor(kill: (signal: NodeJS.Signals) => void) {
    super();
    this.kill = kill;
  }
}

/** Its file is this one's neighbour: TypeScript in the checkout, JavaScript in the package. */
function worker(name: string): Worker {
  return new Worker(new URL(`./${name}${extname(import.meta.filename)}`, import.meta.url), { execArgv: [] });
}

async function listenerOf(launcher: Worker): Promise<number> {
  const news = await new Promise<LauncherNews>((resolve, reject) => {
    launcher.once('message', resolve);
    launcher.once('error', reject);
  }).catch((cause) => ({ failed: String(cause) }) as LauncherNews);
  if ('ready' in news) return news.ready.listener;
  const why = 'failed' in news ? news.failed : 'the launcher said nothing';
  throw new LpkError('laptop-setup', `connections can't be caught: ${why}`);
}
