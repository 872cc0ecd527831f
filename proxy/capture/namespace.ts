import { type ChildProcess, spawn } from 'node:child_process';
import dgram from 'node:dgram';
import { once } from 'node:events';
import { read, readSync, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { LpkError } from '../../agent/wire/errors.ts';
import type { Kernel } from './kernel.ts';
import type { Names } from './names.ts';
import { namespaceProgram, PLACES } from './namespace-program.ts';
import { type Address, writeAddress } from './sockaddr.ts';

/** Sockets known as being of the namespace; one that is forgotten is replaced once more, which costs a question in flight. */
const MAX_KNOWN = 4_096;
const MAX_NAMESERVERS = 64;
/** What the helper has for a socket; it takes some 20 µs. */
const ANSWER_MS = 500;
/** What it has for its namespace: the kernel makes, and takes down, containers' ones at the same time. */
const START_MS = 5_000;
/** RFC 5737. */
const SOME_ADDRESS: Address = { family: 4, host: '192.0.2.1', port: 53 };

/**
 * A network namespace of lpk's own in which every address is a nameserver of ours. A program's UDP socket that asks DNS without a connect
 * is replaced by one from here: its answers then come from the very address that it asked, which such programs check (musl, c-ares).
 */
export class Namespace {
  #kernel: Kernel;
  #names: Names;
  #pidfd: number;
  #channel: number;
  /** Whether what is at the places is nobody's yet; else the helper's byte that says so is to be heard first. */
  #isFresh = true;
  #known = new Set<bigint>();
  #servers = new Map<string, dgram.Socket>();
  #closed = false;

  private constructor(kernel: Kernel, names: Names, helper: ChildProcess, channel: number) {
    this.#kernel = kernel;
    this.#names = names;
    this.#channel = channel;
    this.#pidfd = kernel.openProcess(helper.pid as number);
  }

  /** Rejects with `laptop-setup` where this user may make no namespace. */
  static async open(kernel: Kernel, names: Names): Promise<Namespace> {
    const [ours, theirs] = kernel.socketPair(ANSWER_MS);
    let namespace: Namespace | undefined;
    try {
      namespace = new Namespace(kernel, names, await startHelper(kernel, theirs), ours);
      if ((await hearFirst(ours)) && namespace.#works()) return namespace;
      throw new Error('the kernel or the sandbox gives no rights in them');
    } catch (cause) {
      if (namespace) namespace.close();
      else kernel.close(ours);
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new LpkError('laptop-setup', `user and network namespaces are refused here: ${why}`, { cause });
    }
  }

  /** A new UDP socket, to be closed; negative: there is none to be had. A question to `nameserver` is answered from then on. */
  socketFor(nameserver: Address): number {
    if (!this.#serve(nameserver)) return -1;
    return this.#take(nameserver.family);
  }

  /** Whether a socket, by its SO_COOKIE, is one of the namespace's. */
  has(cookie: bigint | undefined): boolean {
    return cookie !== undefined && this.#known.has(cookie);
  }

  add(cookie: bigint | undefined): void {
    if (cookie === undefined) return;
    this.#known.add(cookie);
    const [oldest] = this.#known;
    if (oldest !== undefined && this.#known.size > MAX_KNOWN) this.#known.delete(oldest);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const server of this.#servers.values()) server.close();
    this.#kernel.close(this.#channel);
    this.#kernel.close(this.#pidfd);
  }

  /** Whether its addresses can be reached: a helper may have been given a namespace but no rights in it (AppArmor). */
  #works(): boolean {
    const socket = this.#take(4);
    if (socket < 0) return false;
    const connected = this.#kernel.connectAtOnce(socket, writeAddress(SOME_ADDRESS)) === 0;
    this.#kernel.close(socket);
    return connected;
  }

  #take(family: 4 | 6): number {
    try {
      this.#isFresh ||= hear(this.#channel);
      if (!this.#isFresh) return -1;
      const socket = this.#kernel.copyFdOf(this.#pidfd, PLACES[family]);
      if (socket < 0) return socket;
      this.#isFresh = false;
      try {
        writeSync(this.#channel, '.');
      } catch {
        // it has ended, which the next one hears
      }
      return socket;
    } catch {
      return -1; // it takes too long: the next one hears it
    }
  }

  #serve({ family, host, port }: Address): boolean {
    const key = `${family} ${host}`;
    if (this.#servers.has(key)) return true;
    if (this.#servers.size >= MAX_NAMESERVERS) return false;
    const fd = this.#take(family);
    if (fd < 0) return false;
    this.#kernel.allowAnyAddress(fd);
    if (this.#kernel.bind(fd, writeAddress({ family, host, port })) < 0) {
      this.#kernel.close(fd);
      return false;
    }
    const server = dgram.createSocket({ type: family === 4 ? 'udp4' : 'udp6', lookup: literal });
    this.#names.serveUdp(server);
    server.bind({ fd });
    this.#servers.set(key, server);
    return true;
  }
}

/** @param channel its standard input and output; closed here. */
async function startHelper(kernel: Kernel, channel: number): Promise<ChildProcess> {
  let program: number | undefined;
  try {
    program = kernel.memfd('lpk-namespace');
    writeSync(program, namespaceProgram(process.arch, kernel.abi));
    // In a session of its own: Ctrl-C is not for it. It ends with its channel, and so with lpk.
    const helper = spawn(`/proc/self/fd/${program}`, [], {
      argv0: 'lpk-namespace',
      stdio: [channel, channel, 'ignore'],
      detached: true,
      env: {},
      cwd: '/',
    });
    await once(helper, 'spawn');
    helper.on('error', () => {}); // of a kill that came late
    return helper;
  } finally {
    kernel.close(channel);
    if (program !== undefined) kernel.close(program);
  }
}

/** The helper's first byte; false when it has ended. Rejects when there is none in time. */
async function hearFirst(channel: number): Promise<boolean> {
  const latest = performance.now() + START_MS;
  for (;;) {
    try {
      return (await promisify(read)(channel, Buffer.alloc(1), 0, 1, null)).bytesRead === 1;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN' || performance.now() > latest) throw error;
    }
  }
}

/** The helper's byte; false when it has ended. Throws when it takes longer than {@link ANSWER_MS}. */
function hear(channel: number): boolean {
  return readSync(channel, Buffer.alloc(1)) === 1;
}

function literal(host: string, _: unknown, done: (error: null, address: string, family: number) => void): void {
  done(null, host, 0);
}
