import { readFileSync } from 'node:fs';
import { resetSocket } from '../../agent/wire/reset-socket.ts';
import { join } from '../carry.ts';
import type { Dial, Outbound } from '../flow.ts';
import { isLoopback } from '../loopback.ts';
import { ERRNO, IPPROTO, O_CLOEXEC, SO, SOCK, SOL_SOCKET } from './abi.ts';
import type { Destinations } from './destinations.ts';
import { connectErrno, Failures, isFailure } from './failures.ts';
import type { Kernel } from './kernel.ts';
import type { Caught } from './messages.ts';
import type { Names } from './names.ts';
import type { Nameservers } from './nameservers.ts';
import type { Namespace } from './namespace.ts';
import { type Address, readAddress } from './sockaddr.ts';
import type { Client, TcpEnds } from './tcp.ts';
import type { UdpEnds } from './udp.ts';

export type Stats = {
  /** TCP connects caught, and UDP ones (DNS apart). */
  tcp: number;
  udp: number;
  /** Sockets that ask DNS. */
  dns: number;
  /** Calls that the main thread looked at and let go on. */
  untouched: number;
};

/** What answers a caught call is made of. */
export type Means = {
  kernel: Kernel;
  listener: number;
  dial: Dial;
  destinations: Destinations;
  nameservers: Nameservers;
  names: Names;
  tcp: TcpEnds;
  udp: UdpEnds;
  /** Undefined where this user may make none: then DNS on unconnected sockets is not caught. */
  namespace: Namespace | undefined;
};

/** A connect that is not answered yet. */
type Waiting = {
  caught: Caught;
  /** `struct sockaddr` of the socket's own end, by which to know that it is still the same socket. */
  ownName: Buffer;
  timer: NodeJS.Timeout | undefined;
};

const DNS_PORT = 53;
/** A program that does not want to wait is held up this long for the truth, and only where the last attempt failed. */
const PATIENCE_MS = 25;

/** Answers the calls that the supervisor hands over. */
export class Answers {
  readonly stats: Stats = { tcp: 0, udp: 0, dns: 0, untouched: 0 };
  #means: Means;
  #failures = new Failures();
  /** A connect's result that its caller, interrupted by a signal, did not get; the kernel makes the call again (signal(7)). */
  #undelivered = new WeakMap<Client, number>();
  #waiting = new Map<Client, Waiting>();
  #closed = false;

  constructor(means: Means) {
    this.#means = means;
  }

  /** Never throws: what can't be answered goes on as if it had not been trapped. */
  handle(caught: Caught): void {
    if (this.#closed) return;
    try {
      if (this.#isAnswered(caught)) return;
    } catch {
      // goes on
    }
    this.stats.untouched += 1;
    this.#means.kernel.proceed(this.#means.listener, caught.id);
  }

  close(): void {
    this.#closed = true;
    for (const { timer } of this.#waiting.values()) clearTimeout(timer);
    this.#waiting.clear();
  }

  #isAnswered(caught: Caught): boolean {
    if (caught.call === 'getpeername') return this.#withSocket(caught, (fd) => this.#tellPeer(caught, fd));
    const asked = Buffer.from(caught.address);
    const wanted = readAddress(asked);
    if (!wanted) return false;
    const isQuestion = wanted.port === DNS_PORT && this.#mayBeNameserver(wanted.host);
    if (caught.call === 'send')
      return isQuestion && this.#withSocket(caught, (fd) => this.#moveToNamespace(caught, fd, wanted));
    const isRouted = this.#means.destinations.has(wanted.host);
    if (!isQuestion && !isRouted) return false;
    return this.#withSocket(caught, (fd) => {
      const protocol = this.#means.kernel.option(fd, SOL_SOCKET, SO.protocol);
      if (protocol === IPPROTO.udp) return this.#connectUdp(caught, fd, { asked, wanted, isQuestion });
      if (protocol !== IPPROTO.tcp && protocol !== IPPROTO.mptcp) return false;
      const isDns = isQuestion && this.#means.nameservers.has(wanted.host);
      return (isDns || isRouted) && this.#connectTcp(caught, fd, { asked, wanted, isDns });
    });
  }

  /** Any address but loopback's may be one that a program has got from elsewhere. */
  #mayBeNameserver(host: string): boolean {
    return !isLoopback(host) || this.#means.nameservers.has(host);
  }

  /** Gives `use` a copy of the caller's socket, of this very caller's. */
  #withSocket(caught: Caught, use: (fd: number) => boolean): boolean {
    const { kernel } = this.#means;
    const fd = kernel.copyFd(caught.pid, caught.fd);
    if (fd < 0) return false;
    try {
      return this.#isWaiting(caught) && use(fd);
    } finally {
      kernel.close(fd);
    }
  }

  #isWaiting({ id }: Caught): boolean {
    return !this.#closed && this.#means.kernel.isWaiting(this.#means.listener, id);
  }

  #answer(caught: Caught, result: number): boolean {
    return this.#means.kernel.answer(this.#means.listener, caught.id, Math.min(result, 0)) >= 0;
  }

  #connectUdp(
    caught: Caught,
    fd: number,
    { asked, wanted, isQuestion }: { asked: Buffer; wanted: Address; isQuestion: boolean },
  ): boolean {
    const { kernel, udp } = this.#means;
    if (isQuestion && this.#moveToNamespace(caught, fd, wanted)) return true;
    const result = kernel.connectAtOnce(fd, udp.addressFor(wanted, isQuestion ? 'dns' : 'relay'));
    const ownName = kernel.ownName(fd);
    if (result >= 0 && ownName) udp.add(ownName, asked, isQuestion ? undefined : wanted);
    this.stats[isQuestion ? 'dns' : 'udp'] += 1;
    this.#answer(caught, result);
    return true;
  }

  /** Puts a socket of the namespace, where every address is a nameserver of ours, in place of the program's own. */
  #moveToNamespace(caught: Caught, fd: number, nameserver: Address): boolean {
    const { kernel, listener, namespace } = this.#means;
    if (!namespace || kernel.option(fd, SOL_SOCKET, SO.type) !== SOCK.dgram) return false;
    if (namespace.has(kernel.cookie(fd))) return false;
    const socket = namespace.socketFor(nameserver);
    if (socket < 0) return false;
    try {
      if (kernel.isNonBlocking(fd)) kernel.nonBlocking(socket);
      kernel.copyReceiveTimeout(fd, socket);
      const flags = isClosedOnExec(caught) ? O_CLOEXEC : 0;
      if (kernel.replace(listener, caught.id, socket, caught.fd, flags) < 0) return false;
      namespace.add(kernel.cookie(socket));
    } finally {
      kernel.close(socket);
    }
    this.stats.dns += 1;
    kernel.proceed(listener, caught.id);
    return true;
  }

  #connectTcp(
    caught: Caught,
    fd: number,
    { asked, wanted, isDns }: { asked: Buffer; wanted: Address; isDns: boolean },
  ): boolean {
    const { kernel, tcp, names, dial } = this.#means;
    const before = kernel.ownName(fd);
    const known = before && tcp.find(before);
    if (known) return this.#connectAgain(caught, known);
    const { host, port } = wanted;
    let outbound: Outbound | undefined;
    if (!isDns) {
      try {
        outbound = dial({ protocol: 'tcp', host, port });
      } catch (error) {
        this.#answer(caught, connectErrno(error));
        return true;
      }
    }
    const result = kernel.connectAtOnce(fd, tcp.addressFor(wanted));
    const ownName = kernel.ownName(fd);
    if (!ownName || (result < 0 && result !== -ERRNO.EINPROGRESS)) {
      outbound?.opened.catch(() => {});
      outbound?.stream.on('error', () => {}).reset('cancelled');
      this.#answer(caught, result);
      return true;
    }
    const client = tcp.expect(ownName, asked);
    const nonBlocking = kernel.isNonBlocking(fd);
    if (outbound) {
      this.stats.tcp += 1;
      this.#carry(client, outbound, `${host} ${port}`);
    } else {
      this.stats.dns += 1;
      void client.accepted.then((socket) => {
        if (!socket) return;
        names.serveTcp(socket);
        this.#settle(client, 0);
      });
    }
    if (nonBlocking && !this.#failures.has(`${host} ${port}`)) {
      this.#answer(caught, result);
      return true;
    }
    const patienceMs = nonBlocking ? PATIENCE_MS : kernel.sendTimeoutMs(fd);
    const timer = patienceMs > 0 ? setTimeout(() => this.#settle(client, -ERRNO.EINPROGRESS), patienceMs) : undefined;
    this.#waiting.set(client, { caught, ownName, timer });
    return true;
  }

  /** Joins the two ends as soon as they are there; who waits for the dial is told how it ended. */
  #carry(client: Client, { stream, opened }: Outbound, destination: string): void {
    stream.on('error', () => {}); // `opened` tells, or the pump
    opened.catch(() => {});
    void client.accepted.then((socket) => {
      if (!socket) stream.reset('cancelled', 'the client left');
      else if (stream.destroyed) resetSocket(socket);
      else join(socket, stream, { flowIdleMs: 0 });
      // Nobody ends a connection that it waits for: its program was killed, or has given up.
      socket?.once('end', () => {
        const waiting = this.#waiting.get(client);
        if (waiting && !this.#isWaiting(waiting.caught)) stream.reset('cancelled', 'the client left');
      });
      opened.then(
        () => {
          this.#failures.delete(destination);
          this.#settle(client, 0);
        },
        (error) => {
          if (isFailure(error)) this.#failures.add(destination);
          this.#settle(client, connectErrno(error));
          if (socket) resetSocket(socket);
        },
      );
    });
  }

  /** A connect of a socket that we have connected: begun again after a signal, or asking whether it is connected now. */
  #connectAgain(caught: Caught, client: Client): boolean {
    const waiting = this.#waiting.get(client);
    if (waiting) {
      waiting.caught = caught;
      return true;
    }
    const result = this.#undelivered.get(client);
    if (result === undefined) return false;
    this.#undelivered.delete(client);
    this.#answer(caught, result);
    return true;
  }

  #settle(client: Client, result: number): void {
    const waiting = this.#waiting.get(client);
    if (!waiting) return;
    this.#waiting.delete(client);
    clearTimeout(waiting.timer);
    const { caught, ownName } = waiting;
    if (result < 0 && result !== -ERRNO.EINPROGRESS) this.#takeBack(caught, ownName);
    if (!this.#answer(caught, result)) this.#undelivered.set(client, result);
  }

  /** Its connect failed: the program gets its socket back as it was. */
  #takeBack(caught: Caught, ownName: Buffer): void {
    const { kernel } = this.#means;
    this.#withSocket(caught, (fd) => {
      const now = kernel.ownName(fd);
      if (now?.equals(ownName)) kernel.disconnect(fd);
      return true;
    });
  }

  #tellPeer(caught: Caught, fd: number): boolean {
    const { kernel, tcp, udp } = this.#means;
    const ownName = kernel.ownName(fd);
    const asked = ownName && (tcp.find(ownName)?.asked ?? udp.find(ownName));
    if (!asked) return false;
    const length = kernel.memory(4);
    if (kernel.read(caught.pid, caught.lengthAt, length, 4) < 4) return false;
    const room = length.readInt32LE();
    if (room < 0) return false;
    length.writeInt32LE(asked.length);
    const told = kernel.memory(Math.min(room, asked.length));
    asked.copy(told);
    if (told.length > 0 && kernel.write(caught.pid, caught.addressAt, told) < told.length) return false;
    if (kernel.write(caught.pid, caught.lengthAt, length) < 4) return false;
    this.#answer(caught, 0);
    return true;
  }
}

/** proc(5), fdinfo: the flags, in octal. */
function isClosedOnExec({ pid, fd }: Caught): boolean {
  const flags = /^flags:\s+([0-7]+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'))?.[1] ?? '0';
  return (Number.parseInt(flags, 8) & O_CLOEXEC) !== 0;
}
