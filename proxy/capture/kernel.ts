import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type Koffi from 'koffi';
import {
  ABIS,
  type Abi,
  AF,
  ERRNO,
  F,
  IP_FREEBIND,
  MFD,
  NOTIF,
  O_CLOEXEC,
  O_NONBLOCK,
  PIDFD_THREAD,
  POLLIN,
  PR_SET_NO_NEW_PRIVS,
  SECCOMP,
  SO,
  SOCK,
  SOL_IP,
  SOL_SOCKET,
} from './abi.ts';

/** What a trapped call was, of `struct seccomp_notif`. */
export type Notification = {
  id: bigint;
  /** Of the thread that called; it waits for the answer. */
  pid: number;
  call: number;
  args: readonly bigint[];
};

const NOTIFICATION_BYTES = 80;
const RESPONSE_BYTES = 24;
/** The longest `sockaddr` there is. */
export const SOCKADDR_BYTES = 128;

export type Kernel = ReturnType<typeof loadKernel>;

/**
 * System calls that Node has no words for, through the C library. Each gives what the call gives, or the errno as a negative
 * number. One for each thread: the buffers in it are used again by the next call. Throws when koffi can't be loaded here.
 */
export function loadKernel() {
  const koffi: typeof Koffi = createRequire(import.meta.url)('koffi');
  const abi = ABIS[process.arch] as Abi;
  const { calls } = abi;
  const c = koffi.load(null);
  const int = (definition: string): ((...args: unknown[]) => number) => {
    const call = c.func(definition);
    return (...args) => {
      const result = Number(call(...args));
      return result < 0 ? -koffi.errno() : result;
    };
  };
  const ioctl = int('int ioctl(int, unsigned long, void*)');
  const libcConnect = int('int connect(int, void*, unsigned int)');
  const libcGetsockname = int('int getsockname(int, void*, void*)');
  const libcGetpeername = int('int getpeername(int, void*, void*)');
  const libcGetsockopt = int('int getsockopt(int, int, int, void*, void*)');
  const libcSetsockopt = int('int setsockopt(int, int, int, void*, unsigned int)');
  const libcSocketpair = int('int socketpair(int, int, int, void*)');
  const libcBind = int('int bind(int, void*, unsigned int)');
  const fcntl = int('int fcntl(int, int, int)');
  const close = int('int close(int)');
  const poll = int('int poll(void*, unsigned long, int)');
  const eventfd = int('int eventfd(unsigned int, int)');
  const libcWrite = int('long write(int, void*, unsigned long)');
  const prctl = int('int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long)');
  const syscall = int('long syscall(long, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t)');
  const vmRead = int('long process_vm_readv(int, void*, unsigned long, void*, unsigned long, unsigned long)');
  const vmWrite = int('long process_vm_writev(int, void*, unsigned long, void*, unsigned long, unsigned long)');

  // Off V8's heap, so that their addresses stay.
  const memory = (bytes: number) => Buffer.from(new ArrayBuffer(bytes));
  const notification = memory(NOTIFICATION_BYTES);
  const notificationBytes = new Uint8Array(notification.buffer);
  const response = memory(RESPONSE_BYTES);
  const addfd = memory(24);
  const polled = memory(16); // struct pollfd, twice
  const word = memory(8);
  const length = memory(4);
  const ours = memory(16);
  const theirs = memory(16);
  const sockaddr = memory(SOCKADDR_BYTES);
  const unspec = memory(16);
  unspec.writeUInt16LE(AF.unspec);

  const vectors = (pid: number, address: bigint, buffer: Buffer, bytes: number) => {
    ours.writeBigUInt64LE(koffi.address(buffer), 0);
    ours.writeBigUInt64LE(BigInt(bytes), 8);
    theirs.writeBigUInt64LE(address, 0);
    theirs.writeBigUInt64LE(BigInt(bytes), 8);
    return [pid, ours, 1, theirs, 1, 0];
  };
  const nameOf = (call: typeof libcGetsockname, fd: number): Buffer | undefined => {
    length.writeUInt32LE(SOCKADDR_BYTES);
    return call(fd, sockaddr, length) < 0 ? undefined : Buffer.from(sockaddr.subarray(0, length.readUInt32LE()));
  };

  const kernel = {
    abi,
    memory,
    close,
    addressOf: (buffer: Buffer) => koffi.address(buffer),
    eventfd: () => eventfd(0, O_CLOEXEC),
    signalEvent(fd: number): void {
      word.writeBigUInt64LE(1n);
      libcWrite(fd, word, 8);
    },

    /** Of this thread alone, for good: what it starts has it too. @returns the listener, closed on exec. */
    installFilter(filter: Buffer): number {
      const program = memory(filter.length);
      filter.copy(program);
      const header = memory(16); // struct sock_fprog
      header.writeUInt16LE(filter.length / 8, 0);
      header.writeBigUInt64LE(koffi.address(program), 8);
      const refused = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
      if (refused < 0) return refused;
      const flags = SECCOMP.flagNewListener | SECCOMP.flagSpecAllow;
      return syscall(calls.seccomp, SECCOMP.setModeFilter, flags, koffi.address(header), 0, 0);
    },

    /** Whether seccomp(2) answers as one that lets us install a filter with a listener: this one is at no address, EFAULT. */
    tryListener(): number {
      return syscall(calls.seccomp, SECCOMP.setModeFilter, SECCOMP.flagNewListener, 0, 0, 0);
    },

    /** Whether the kernel knows user notification. */
    canNotify(): boolean {
      word.writeUInt32LE(SECCOMP.returnNotify);
      return syscall(calls.seccomp, SECCOMP.getActionAvail, 0, koffi.address(word), 0, 0) === 0;
    },

    /** Linux 6.6: the caller runs on at once, on our processor, when answered. Older kernels refuse, and it matters little. */
    wakeUpInSync(listener: number): number {
      word.writeBigUInt64LE(1n);
      return ioctl(listener, NOTIF.setFlags, word);
    },

    /** Waits for a trapped call. False: it is over, by `stop` or because nobody is left who could call. */
    waitFor(listener: number, stop: number): boolean {
      polled.writeInt32LE(listener, 0);
      polled.writeInt32LE(POLLIN, 4);
      polled.writeInt32LE(stop, 8);
      polled.writeInt32LE(POLLIN, 12);
      let found: number;
      do found = poll(polled, 2, -1);
      while (found === -ERRNO.EINTR);
      return found > 0 && polled.readUInt16LE(14) === 0 && polled.readUInt16LE(6) === POLLIN;
    },

    /** Gives the next trapped call, waits when there is none. A negative errno is ENOENT when its caller was killed meanwhile. */
    receive(listener: number): Notification | number {
      notificationBytes.fill(0); // the kernel wants it so
      const failed = ioctl(listener, NOTIF.receive, notification);
      if (failed < 0) return failed;
      return {
        id: notification.readBigUInt64LE(0),
        pid: notification.readUInt32LE(8),
        call: notification.readInt32LE(16),
        args: [32, 40, 48, 56, 64, 72].map((at) => notification.readBigUInt64LE(at)),
      };
    },

    /** Answers with 0 or a negative errno. */
    answer(listener: number, id: bigint, error: number): number {
      response.writeBigUInt64LE(id, 0);
      response.writeBigUInt64LE(0n, 8);
      response.writeInt32LE(error, 16);
      response.writeUInt32LE(0, 20);
      return ioctl(listener, NOTIF.send, response);
    },

    /** Lets the call go on as if it had not been trapped. */
    proceed(listener: number, id: bigint): number {
      response.writeBigUInt64LE(id, 0);
      response.writeBigUInt64LE(0n, 8);
      response.writeInt32LE(0, 16);
      response.writeUInt32LE(SECCOMP.continue, 20);
      return ioctl(listener, NOTIF.send, response);
    },

    /** Whether the caller still waits: then its thread id has not come to mean another. */
    isWaiting(listener: number, id: bigint): boolean {
      word.writeBigUInt64LE(id);
      return ioctl(listener, NOTIF.idValid, word) === 0;
    },

    /** Puts our `fd` in the caller's place of `theirFd`. `flags`: O_CLOEXEC or 0. */
    replace(listener: number, id: bigint, fd: number, theirFd: number, flags: number): number {
      addfd.writeBigUInt64LE(id, 0);
      addfd.writeUInt32LE(SECCOMP.addfdSetfd, 8);
      addfd.writeUInt32LE(fd, 12);
      addfd.writeUInt32LE(theirFd, 16);
      addfd.writeUInt32LE(flags, 20);
      return ioctl(listener, NOTIF.addfd, addfd);
    },

    /** @returns bytes read, fewer than asked for where the memory ends. `into` is from {@link memory}. */
    read: (pid: number, address: bigint, into: Buffer, bytes: number) => vmRead(...vectors(pid, address, into, bytes)),
    write: (pid: number, address: bigint, from: Buffer) => vmWrite(...vectors(pid, address, from, from.length)),

    /**
     * A copy of another process's file descriptor, of any of its threads; to be closed.
     */
    copyFd(pid: number, theirFd: number): number {
      let pidfd = syscall(calls.pidfd_open, pid, 0, 0, 0, 0);
      if (pidfd < 0) pidfd = syscall(calls.pidfd_open, pid, PIDFD_THREAD, 0, 0, 0);
      if (pidfd === -ERRNO.EINVAL) pidfd = syscall(calls.pidfd_open, leaderOf(pid), 0, 0, 0, 0); // before 6.9
      if (pidfd < 0) return pidfd;
      const fd = syscall(calls.pidfd_getfd, pidfd, theirFd, 0, 0, 0);
      close(pidfd);
      return fd;
    },

    /** As {@link copyFd}, of a process's pidfd that is held. */
    copyFdOf: (pidfd: number, theirFd: number) => syscall(calls.pidfd_getfd, pidfd, theirFd, 0, 0, 0),
    openProcess: (pid: number) => syscall(calls.pidfd_open, pid, 0, 0, 0, 0),

    /** A file in memory that may be executed. Throws the errno's name when there is none to be had. */
    memfd(name: string): number {
      const text = memory(name.length + 1);
      text.write(name, 'latin1');
      let fd = syscall(calls.memfd_create, koffi.address(text), MFD.cloexec | MFD.exec, 0, 0, 0);
      if (fd === -ERRNO.EINVAL) fd = syscall(calls.memfd_create, koffi.address(text), MFD.cloexec, 0, 0, 0); // before 6.3
      if (fd < 0) throw new Error(`memfd_create: errno ${-fd}`);
      return fd;
    },

    /** Two ends of a unix socket, closed on exec; the first gives up reading after `patienceMs`. Throws. */
    socketPair(patienceMs: number): [number, number] {
      const failed = libcSocketpair(AF.unix, SOCK.stream | O_CLOEXEC, 0, word);
      if (failed < 0) throw new Error(`socketpair: errno ${-failed}`);
      const pair: [number, number] = [word.readInt32LE(0), word.readInt32LE(4)];
      sockaddr.fill(0, 0, 16);
      sockaddr.writeBigInt64LE(BigInt(patienceMs * 1000), 8); // struct timeval
      libcSetsockopt(pair[0], SOL_SOCKET, SO.rcvtimeo, sockaddr, 16);
      return pair;
    },

    bind: (fd: number, address: Buffer) => libcBind(fd, address, address.length),

    /** Then it may be bound to an address that the machine does not have. */
    allowAnyAddress(fd: number): void {
      word.writeInt32LE(1);
      libcSetsockopt(fd, SOL_IP, IP_FREEBIND, word, 4); // IPv6 sockets have it too
    },

    /** `address` as {@link memory} or any other Buffer. Never waits, whatever the socket's own flags are. */
    connectAtOnce(fd: number, address: Buffer): number {
      const flags = fcntl(fd, F.getfl, 0);
      if (flags < 0) return flags;
      if (flags & O_NONBLOCK) return libcConnect(fd, address, address.length);
      fcntl(fd, F.setfl, flags | O_NONBLOCK);
      const result = libcConnect(fd, address, address.length);
      // Once more: only then is a blocking socket connected for itself as well, and says EISCONN from now on.
      if (result === -ERRNO.EINPROGRESS) libcConnect(fd, address, address.length);
      fcntl(fd, F.setfl, flags);
      return result;
    },

    /** Takes a socket back to what it was before its connect, its error forgotten (connect(2), AF_UNSPEC). */
    disconnect(fd: number): void {
      libcConnect(fd, unspec, unspec.length);
      kernel.option(fd, SOL_SOCKET, SO.error);
    },

    isNonBlocking: (fd: number) => (fcntl(fd, F.getfl, 0) & O_NONBLOCK) !== 0,
    nonBlocking: (fd: number) => fcntl(fd, F.setfl, O_NONBLOCK),
    ownName: (fd: number) => nameOf(libcGetsockname, fd),
    peerName: (fd: number) => nameOf(libcGetpeername, fd),

    /** An option of at most 32 bits; -1 when the socket has none such. */
    option(fd: number, level: number, name: number): number {
      length.writeUInt32LE(4);
      return libcGetsockopt(fd, level, name, word, length) < 0 ? -1 : word.readInt32LE();
    },

    /** What a receive waits at most. */
    copyReceiveTimeout(from: number, to: number): void {
      length.writeUInt32LE(16);
      if (libcGetsockopt(from, SOL_SOCKET, SO.rcvtimeo, sockaddr, length) === 0) {
        libcSetsockopt(to, SOL_SOCKET, SO.rcvtimeo, sockaddr, 16);
      }
    },

    cookie(fd: number): bigint | undefined {
      length.writeUInt32LE(8);
      return libcGetsockopt(fd, SOL_SOCKET, SO.cookie, word, length) < 0 ? undefined : word.readBigUInt64LE();
    },

    /** SO_SNDTIMEO, ms; 0: none. */
    sendTimeoutMs(fd: number): number {
      length.writeUInt32LE(16);
      const failed = libcGetsockopt(fd, SOL_SOCKET, SO.sndtimeo, sockaddr, length);
      if (failed < 0) return 0;
      return Number(sockaddr.readBigInt64LE(0)) * 1000 + Number(sockaddr.readBigInt64LE(8)) / 1000;
    },
  };
  return kernel;
}

function leaderOf(thread: number): number {
  return Number(/^Tgid:\s+(\d+)/m.exec(readFileSync(`/proc/${thread}/status`, 'latin1'))?.[1]);
}
