import { type ChildProcess, spawn } from 'node:child_process';
import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import { LpkError } from '../../agent/wire/errors.ts';
import { SO, SOL_SOCKET } from './abi.ts';
import type { Kernel } from './kernel.ts';
import type { Names } from './names.ts';
import { namespaceProgram, PLACES } from './namespace-program.ts';
import { writeAddress } from './sockaddr.ts';

/** Sockets known as being of the namespace; one that is forgotten is replaced once more, which costs a question in flight. */
const MAX_KNOWN = 4_096;
const MAX_NAMESERVERS = 64;
/** What the helper has for a socket; it takes some 20 µs. */
const ANSWER_MS = 500;
/** SOL_IP and IP_FREEBIND, ip(7); IPv6 sockets take them too. */
const FREEBIND = [0, 15] as const;
/** RFC 5737. */
const SOME_ADDRESS = writeAddress({ family: 4, host: '192.0.2.1', port: 53 });

/**
 * A network namespace of lpk's own in which every address is a nameserver of ours. A program's UDP socket that asks DNS without a connect
 * is replaced by one from here: its answers then come from the very address that it asked, which such programs check (musl, c-ares).
 */
export class Namespace {
  #kernel: Kernel;
  #names: Names;
  #helper: ChildProcess;
  #pidfd: number;
  #channel: number;
  #known = new Set<bigint>();
  #servers = new Map<string, dgram.Socket>();
  #closed = false;

  private constructor(kernel: Kernel, names: Names, helper: ChildProcess, channel: number) {
    this.#kernel = kernel;
    this.#names = names;
    this.#helper = helper;
    this.#channel = channel;
    this.#pidfd = kernel.openProcess(helper.pid as number);
  }

  /** Rejects with `laptop-setup` where this user may make no namespace. */
  static async open(kernel: Kernel, names: Names): Promise<Namespace> {
    const program = kernel.program('lpk-namespace', namespaceProgram(process.arch, kernel.abi));
    const [ours, theirs] = kernel.socketPair(ANSWER_MS);
    // In a session of its own: Ctrl-C is not for it. It ends with its channel, and so with lpk.
    const helper = spawn(`/proc/self/fd/${program}`, [], {
      argv0: 'lpk-namespace',
      stdio: [theirs, theirs, 'ignore'],
      detached: true,
      env: {},
      cwd: '/',
    });
    const failed = once(helper, 'exit').then(([code]) => `errno ${code}`, (error: Error) => error.message);
    try {
      const spawned = await Promise.race([once(helper, 'spawn').then(() => undefined, () => undefined), failed]);
      const why = spawned ?? (await Promise.race([kernel.readable(ours), failed]));
      if (why === undefined) {
        const namespace = new Namespace(kernel, names, helper, ours);
        if (namespace.#works()) return namespace;
        namespace.close();
        throw refused('it has no rights in its own');
      }
      throw refused(why);
    } catch (error) {
      kernel.close(ours);
      throw error;
    } finally {
      kernel.close(theirs);
      kernel.close(program);
    }
  }
}
function refused(why: string): LpkError {
  return new LpkError('laptop-setup', `user and network namespaces are refused here (${why})`);
}
