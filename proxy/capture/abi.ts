/**
 * The kernel's numbers that capture needs: syscalls by architecture (arch/x86/entry/syscalls/syscall_64.tbl,
 * include/uapi/asm-generic/unistd.h), and of linux/seccomp.h, linux/audit.h and the socket headers what is the same on both.
 */

export type Abi = {
  /** AUDIT_ARCH_* of linux/audit.h, in `seccomp_data.arch`. */
  auditArch: number;
  /** Of x32's calls, which share x86-64's `arch`. */
  foreignBit: number | undefined;
  calls: typeof X64;
};

const X64 = {
  read: 0,
  write: 1,
  close: 3,
  socket: 41,
  connect: 42,
  sendto: 44,
  sendmsg: 46,
  getpeername: 52,
  unshare: 272,
  dup3: 292,
  sendmmsg: 307,
  seccomp: 317,
  memfd_create: 319,
  io_uring_setup: 425,
  pidfd_open: 434,
  pidfd_getfd: 438,
};

const ARM64: typeof X64 = {
  dup3: 24,
  close: 57,
  read: 63,
  write: 64,
  unshare: 97,
  socket: 198,
  connect: 203,
  getpeername: 205,
  sendto: 206,
  sendmsg: 211,
  sendmmsg: 269,
  seccomp: 277,
  memfd_create: 279,
  io_uring_setup: 425,
  pidfd_open: 434,
  pidfd_getfd: 438,
};

export const ABIS: { readonly [arch: string]: Abi } = {
  x64: { auditArch: 0xc000003e, foreignBit: 0x40000000, calls: X64 },
  arm64: { auditArch: 0xc00000b7, foreignBit: undefined, calls: ARM64 },
};

export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EBADF: 9,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EINVAL: 22,
  ENOSYS: 38,
  ENETUNREACH: 101,
  ECONNRESET: 104,
  ENOBUFS: 105,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EHOSTUNREACH: 113,
  EINPROGRESS: 115,
} as const;

export const SECCOMP = {
  setModeFilter: 1,
  getActionAvail: 2,
  /** SPEC_ALLOW: without it, before Linux 5.16, a filtered program would be slowed by the mitigation of Spectre 4. */
  flagSpecAllow: 1 << 2,
  flagNewListener: 1 << 3,
  returnAllow: 0x7fff0000,
  returnErrno: 0x00050000,
  returnNotify: 0x7fc00000,
  /** Of `seccomp_notif_resp.flags`: the call goes on in the kernel as if nobody had looked. */
  continue: 1,
  addfdSetfd: 1,
} as const;

/** ioctl(2) requests of a seccomp listener: `_IOC(dir, '!', nr, size)`, linux/seccomp.h. */
export const NOTIF = {
  receive: 0xc0502100,
  send: 0xc0182101,
  idValid: 0x40082102,
  addfd: 0x40182103,
  setFlags: 0x40082104,
} as const;

export const PR_SET_NO_NEW_PRIVS = 38;
/** Linux 6.9: pidfd_open(2) of any thread, not only of a process's first. */
export const PIDFD_THREAD = 0o200;

export const AF = { unspec: 0, unix: 1, inet: 2, inet6: 10 } as const;
export const SOCK = { stream: 1, dgram: 2 } as const;
export const SOL_IP = 0;
export const IP_FREEBIND = 15;
export const SOL_SOCKET = 1;
export const SO = { type: 3, error: 4, rcvtimeo: 20, sndtimeo: 21, protocol: 38, cookie: 57 } as const;
export const IPPROTO = { tcp: 6, udp: 17, mptcp: 262 } as const;
export const F = { getfl: 3, setfl: 4 } as const;
export const O_NONBLOCK = 0o4000;
export const O_CLOEXEC = 0o2000000;
export const POLLIN = 1;
export const MFD = { cloexec: 1, exec: 0x10 } as const;
