import { type Abi, ERRNO, SECCOMP } from './abi.ts';

/** Of linux/bpf_common.h: load a word, jump if equal / if greater or equal, return. */
const LOAD = 0x20;
const JUMP_EQUAL = 0x15;
const JUMP_AT_LEAST = 0x35;
const RETURN = 0x06;

/** Offsets in `struct seccomp_data`; arguments are 64-bit, little endian. */
const NUMBER = 0;
const ARCH = 4;
const argument = (index: number, half: 0 | 1) => 16 + 8 * index + 4 * half;

type Verdict = 'allow' | 'notify' | 'no-such-call';
/** Where a jump leads: on to the next line, or out with a verdict. */
type Line = { code: number; k: number; yes?: Verdict; no?: Verdict };

/** In the order in which they end the program. */
const VERDICTS: [Verdict, number][] = [
  ['allow', SECCOMP.returnAllow],
  ['notify', SECCOMP.returnNotify],
  ['no-such-call', SECCOMP.returnErrno | ERRNO.ENOSYS],
];

/**
 * The seccomp filter (seccomp(2), `struct sock_filter` each 8 bytes) of the launched program and its children: asks the
 * supervisor about `connect`, `getpeername`, `sendmsg`, `sendmmsg`, and `sendto` with an address.
 *
 * `io_uring_setup` fails with ENOSYS, as on a kernel without it: a connect by io_uring can't be caught, and programs that have
 * it know how to do without (Docker's default profile refuses it too). Calls of another architecture (i386 by int 0x80, x32)
 * go through untouched.
 */
export function buildFilter({ auditArch, foreignBit, calls }: Abi): Buffer {
  const lines: Line[] = [
    { code: LOAD, k: ARCH },
    { code: JUMP_EQUAL, k: auditArch, no: 'allow' },
    { code: LOAD, k: NUMBER },
    ...(foreignBit === undefined ? [] : [{ code: JUMP_AT_LEAST, k: foreignBit, yes: 'allow' } as const]),
    ...[calls.connect, calls.sendmsg, calls.getpeername, calls.sendmmsg].map(
      (k): Line => ({ code: JUMP_EQUAL, k, yes: 'notify' }),
    ),
    { code: JUMP_EQUAL, k: calls.io_uring_setup, yes: 'no-such-call' },
    { code: JUMP_EQUAL, k: calls.sendto, no: 'allow' },
    { code: LOAD, k: argument(4, 0) },
    { code: JUMP_EQUAL, k: 0, no: 'notify' },
    { code: LOAD, k: argument(4, 1) },
    { code: JUMP_EQUAL, k: 0, yes: 'allow', no: 'notify' },
  ];
  const distance = (from: number, verdict: Verdict | undefined) =>
    verdict ? lines.length + VERDICTS.findIndex(([name]) => name === verdict) - from - 1 : 0;
  return Buffer.concat([
    ...lines.map(({ code, k, yes, no }, at) => instruction(code, k, distance(at, yes), distance(at, no))),
    ...VERDICTS.map(([, k]) => instruction(RETURN, k, 0, 0)),
  ]);
}

function instruction(code: number, k: number, yes: number, no: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt16LE(code, 0);
  bytes.writeUInt8(yes, 2);
  bytes.writeUInt8(no, 3);
  bytes.writeUInt32LE(k, 4);
  return bytes;
}
