import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { load as parseYaml } from 'js-yaml';
import { resetSocket } from '../agent/wire/reset-socket.ts';

/**
 * A far-away API server on one machine: a TCP relay on loopback that holds every byte back for a time, can cut its connections, and can be a
 * black hole. It limits neither bandwidth nor TCP windows, and the TCP handshake itself takes no time.
 *
 * As a process of its own, so that a test's event loop doesn't blur what it measures: `forkRelay`, or by hand
 * `node test/relay.ts PORT HOST TPORT ONE_WAY_MS` (PORT 0: any free one). It says `{"event":"listening","port":N}`, and a line
 * for every SIGUSR1 (cut) and SIGUSR2 (black hole on, off).
 */
export type Relay = {
  readonly port: number;
  /** Connections through it now. */
  readonly connections: number;
  /** Resets every connection, both sides, and says how many there were. */
  cut(): number;
  /**
   * On: accepts, and delivers nothing either way, neither bytes nor ends; what comes or was on its way is lost. Off: every connection that lost
   * something, or began in the dark, is reset, as a network box without memory of it would; one that was silent goes on.
   */
  blackhole(on: boolean): void;
  /** For what comes from now on; order is kept. */
  setDelay(oneWayMs: number): void;
  close(): Promise<void>;
};

export type RelayOptions = {
  target: { host: string; port: number };
  oneWayMs: number;
  /** 0, the default: any free one. */
  port?: number;
};

/** Bytes on their way in one direction of one connection; beyond it the sender waits. 1.2 GB/s at 25 ms. */
const MAX_HELD_BYTES = 32 * 1024 * 1024;

export async function startRelay({ target, oneWayMs, port = 0 }: RelayOptions): Promise<Relay> {
  const path = { oneWayMs, dark: false };
  const pairs = new Set<Pair>();
  const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (near) => {
    const pair = new Pair(near, target, path, () => pairs.delete(pair));
    pairs.add(pair);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port, host: '127.0.0.1', backlog: 1024 }, resolve);
  });
  const cut = () => {
    const open = [...pairs];
    for (const pair of open) pair.reset();
    return open.length;
  };
  return {
    port: (server.address() as net.AddressInfo).port,
    get connections() {
      return pairs.size;
    },
    cut,
    blackhole(on) {
      path.dark = on;
      for (const pair of [...pairs]) on ? pair.darken() : pair.lighten();
    },
    setDelay(ms) {
      path.oneWayMs = ms;
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        cut();
      }),
  };
}

/** What lies between the two sides; shared by all connections. */
type Path = { oneWayMs: number; dark: boolean };

/** One connection: two sockets and the two directions between them. */
class Pair {
  #near: net.Socket;
  #far: net.Socket;
  #ways: [OneWay, OneWay];
  #path: Path;
  #over: () => void;
  #lost: boolean;

  constructor(near: net.Socket, target: RelayOptions['target'], path: Path, over: () => void) {
    this.#path = path;
    this.#over = over;
    this.#near = near;
    this.#lost = path.dark;
    this.#far = path.dark ? new net.Socket() : net.connect({ ...target, allowHalfOpen: true, noDelay: true });
    const lose = () => {
      this.#lost = true;
    };
    this.#ways = [new OneWay(near, this.#far, path, lose), new OneWay(this.#far, near, path, lose)];
    for (const socket of [near, this.#far]) {
      socket.on('error', () => {});
      socket.on('close', () => this.#closed(socket));
    }
  }

  reset(): void {
    for (const way of this.#ways) way.drop();
    for (const socket of [this.#near, this.#far]) resetSocket(socket);
    this.#over();
  }

  darken(): void {
    for (const way of this.#ways) if (way.drop()) this.#lost = true;
  }

  lighten(): void {
    if (this.#lost) this.reset();
  }

  #closed(socket: net.Socket): void {
    if (this.#path.dark) {
      this.#lost = true; // the other side hears nothing of it
      return;
    }
    if (!(socket.readableEnded && socket.writableFinished)) this.reset();
    else if (this.#near.destroyed && this.#far.destroyed) this.#over();
  }
}

/** One direction: reads, holds every piece until its time, writes. */
class OneWay {
  #from: net.Socket;
  #to: net.Socket;
  #path: Path;
  #queue: { due: number; piece: Buffer | undefined }[] = []; // undefined: the end
  #heldBytes = 0;
  #lastDue = 0;
  #timer: NodeJS.Timeout | undefined;
  #blocked = false;

  constructor(from: net.Socket, to: net.Socket, path: Path, lose: () => void) {
    this.#from = from;
    this.#to = to;
    this.#path = path;
    from.on('data', (piece: Buffer) => (path.dark ? lose() : this.#push(piece)));
    from.on('end', () => (path.dark ? lose() : this.#push(undefined)));
    to.on('drain', () => {
      this.#blocked = false;
      this.#deliver();
    });
  }

  /** Forgets what is held; true if there was anything. */
  drop(): boolean {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const held = this.#queue.length > 0;
    this.#queue = [];
    this.#heldBytes = 0;
    if (this.#from.isPaused()) this.#from.resume();
    return held;
  }

  #push(piece: Buffer | undefined): void {
    this.#lastDue = Math.max(this.#lastDue, performance.now() + this.#path.oneWayMs);
    this.#queue.push({ due: this.#lastDue, piece });
    this.#heldBytes += piece?.length ?? 0;
    if (this.#heldBytes > MAX_HELD_BYTES) this.#from.pause();
    if (this.#path.oneWayMs === 0) this.#deliver();
    else this.#timer ??= setTimeout(() => this.#deliver(), this.#path.oneWayMs);
  }

  #deliver(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const now = performance.now();
    let count = 0;
    this.#to.cork();
    for (const { due, piece } of this.#queue) {
      if (due > now || this.#blocked) break;
      count += 1;
      if (!piece) this.#to.end();
      else {
        this.#heldBytes -= piece.length;
        this.#blocked = !this.#to.write(piece);
      }
    }
    this.#to.uncork();
    this.#queue.splice(0, count);
    if (this.#from.isPaused() && this.#heldBytes < MAX_HELD_BYTES / 2) this.#from.resume();
    const next = this.#queue[0];
    if (next && !this.#blocked)
      this.#timer = setTimeout(() => this.#deliver(), Math.max(1, next.due - performance.now()));
  }
}

/**
 * Writes a copy of a kubeconfig whose current cluster is reached through the relay. TLS still verifies the same server: by its name, where it
 * had one; an address is replaced by 127.0.0.1, for which its certificate must be valid too (the test cluster's is).
 */
export async function relayKubeconfig(kubeconfig: string, relayPort: number, out: string): Promise<void> {
  const config = parseYaml(await readFile(kubeconfig, 'utf8')) as Kubeconfig;
  const context = config.contexts.find(({ name }) => name === config['current-context'])?.context;
  const cluster = config.clusters.find(({ name }) => name === context?.cluster)?.cluster;
  if (!cluster) throw new Error(`${kubeconfig}: no current cluster`);
  const server = new URL(cluster.server);
  if (net.isIP(server.hostname.replace(/^\[|\]$/g, '')) === 0) cluster['tls-server-name'] ??= server.hostname;
  server.hostname = '127.0.0.1';
  server.port = String(relayPort);
  cluster.server = server.href.replace(/\/$/, '');
  await writeFile(out, JSON.stringify(config, undefined, 2), { mode: 0o600 }); // JSON is YAML
}

/** The API server a kubeconfig's current cluster names: what a relay relays to. */
export async function apiServer(kubeconfig: string): Promise<RelayOptions['target']> {
  const config = parseYaml(await readFile(kubeconfig, 'utf8')) as Kubeconfig;
  const context = config.contexts.find(({ name }) => name === config['current-context'])?.context;
  const server = new URL(config.clusters.find(({ name }) => name === context?.cluster)?.cluster.server ?? '');
  return { host: server.hostname.replace(/^\[|\]$/g, ''), port: Number(server.port || 443) };
}

type Kubeconfig = {
  'current-context': string;
  contexts: { name: string; context: { cluster: string } }[];
  clusters: { name: string; cluster: { server: string; 'tls-server-name'?: string } }[];
};

/** A relay in a process of its own, which ends with this one. */
export type RelayProcess = {
  readonly port: number;
  /** How many connections were cut. */
  cut(): Promise<number>;
  /** Turns the black hole on, or off again; says which. */
  toggleBlackhole(): Promise<boolean>;
  close(): Promise<void>;
};

export async function forkRelay({ target, oneWayMs, port = 0 }: RelayOptions): Promise<RelayProcess> {
  const args = [port, target.host, target.port, oneWayMs].map(String);
  // A test runner's own flags are not for the relay.
  const child = fork(import.meta.filename, args, { execArgv: [], stdio: ['ignore', 'pipe', 'inherit', 'ipc'] });
  const lines = createInterface({ input: child.stdout as Readable })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`the relay ended with ${child.exitCode ?? child.signalCode}`);
    return JSON.parse(value);
  };
  const asked = (signal: NodeJS.Signals) => {
    child.kill(signal);
    return next();
  };
  return {
    port: (await next()).port,
    cut: async () => (await asked('SIGUSR1')).connections,
    toggleBlackhole: async () => (await asked('SIGUSR2')).on,
    close: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill();
      await once(child, 'exit');
    },
  };
}

async function main(args: string[]): Promise<void> {
  const [port, host = '', targetPort, oneWayMs] = args;
  const target = { host, port: Number(targetPort) };
  const relay = await startRelay({ target, oneWayMs: Number(oneWayMs), port: Number(port) });
  const say = (event: string, fields: object) => console.log(JSON.stringify({ event, ...fields }));
  let dark = false;
  process.on('SIGUSR1', () => say('cut', { connections: relay.cut() }));
  process.on('SIGUSR2', () => {
    dark = !dark;
    relay.blackhole(dark);
    say('blackhole', { on: dark });
  });
  process.on('disconnect', () => process.exit(0)); // the test that forked it died
  say('listening', { port: relay.port });
}

if (process.argv[1] === import.meta.filename) await main(process.argv.slice(2));
