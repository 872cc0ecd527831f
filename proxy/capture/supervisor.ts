import { parentPort } from 'node:worker_threads';
import { AF, ERRNO } from './abi.ts';
import { type Kernel, loadKernel, type Notification, SOCKADDR_BYTES } from './kernel.ts';
import type { Caught, SupervisorData } from './messages.ts';
import { isNameService, isUntouched, portOf } from './sockaddr.ts';

/**
 * A thread that waits for trapped calls. What is none of capture's business it lets go on at once, after one look at the caller's
 * memory; the rest it hands to the main thread, which answers. Whatever fails here, the call goes on as if it had not been
 * trapped: a caller whose memory may not be read (PR_SET_DUMPABLE 0; under Yama a daemon that has left the tree) is not caught.
 */

/** Of `struct msghdr`, with which `struct mmsghdr` begins: the name, and its length. */
const MESSAGE_NAME_BYTES = 16;
const DNS_PORT = 53;

/** Set once, by the first and only message. */
let { listener, stop, ports }: SupervisorData = { listener: -1, stop: -1, ports: [] };
const kernel: Kernel = loadKernel();
const { calls } = kernel.abi;
const sockaddr = kernel.memory(SOCKADDR_BYTES);
const header = kernel.memory(MESSAGE_NAME_BYTES);

function run(): void {
  kernel.wakeUpInSync(listener);
  while (kernel.waitFor(listener, stop)) {
    const note = kernel.receive(listener);
    if (typeof note !== 'number') serve(note);
    else if (note !== -ERRNO.EINTR && note !== -ERRNO.ENOENT) return; // those: its caller was killed before we saw it
  }
}

function serve(note: Notification): void {
  let error = 0;
  try {
    const verdict = judge(note);
    if (typeof verdict === 'object') {
      parentPort?.postMessage(verdict);
      return;
    }
    error = verdict;
  } catch {
    // goes on
  }
  if (error < 0) kernel.answer(listener, note.id, error);
  else kernel.proceed(listener, note.id);
}

/** 0: goes on; a negative errno: fails with it; else it is the main thread's. */
function judge(note: Notification): Caught | number {
  const { pid, args } = note;
  switch (note.call) {
    case calls.connect: {
      const length = read(pid, args[1] as bigint, unsigned32(args[2]));
      if (isNameService(sockaddr, length)) return -ERRNO.ENOENT;
      return isUntouched(sockaddr, length) ? 0 : caught('connect', note, length);
    }
    case calls.getpeername:
      return isOurs(note) ? caught('getpeername', note, 0) : 0;
    case calls.sendto:
      return sent(note, args[4] as bigint, unsigned32(args[5]));
    case calls.sendmsg:
    case calls.sendmmsg: {
      if (kernel.read(pid, args[1] as bigint, header, MESSAGE_NAME_BYTES) < MESSAGE_NAME_BYTES) return 0;
      const name = header.readBigUInt64LE(0);
      return name === 0n ? 0 : sent(note, name, header.readUInt32LE(8));
    }
    default:
      return 0;
  }
}

function sent(note: Notification, address: bigint, length: number): Caught | number {
  const bytes = read(note.pid, address, length);
  return portOf(sockaddr, bytes) === DNS_PORT ? caught('send', note, bytes) : 0;
}

function isOurs({ id, pid, args }: Notification): boolean {
  const fd = kernel.copyFd(pid, unsigned32(args[0]));
  if (fd < 0) return false;
  const peer = kernel.isWaiting(listener, id) ? kernel.peerName(fd) : undefined;
  kernel.close(fd);
  return peer !== undefined && ports.includes(portOf(peer, peer.length));
}

function caught(call: Caught['call'], { id, pid, args }: Notification, length: number): Caught {
  const [fd, addressAt = 0n, lengthAt = 0n] = args;
  return { call, id, pid, fd: unsigned32(fd), address: sockaddr.subarray(0, length), addressAt, lengthAt };
}

/** @returns how many bytes of `sockaddr` are the caller's now. */
function read(pid: number, address: bigint, length: number): number {
  sockaddr.writeUInt16LE(AF.unspec);
  return Math.max(0, kernel.read(pid, address, sockaddr, Math.min(length, SOCKADDR_BYTES)));
}

/** Of an argument the half that an `int` has. */
function unsigned32(argument: bigint | undefined): number {
  return Number((argument ?? 0n) & 0xffffffffn);
}

parentPort?.once('message', (data: SupervisorData) => {
  ({ listener, stop, ports } = data);
  run();
});
