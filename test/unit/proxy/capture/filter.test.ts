import assert from 'node:assert/strict';
import test from 'node:test';
import { ABIS, type Abi, ERRNO, SECCOMP } from '../../../../proxy/capture/abi.ts';
import { buildFilter } from '../../../../proxy/capture/filter.ts';

/** As the kernel runs it (seccomp(2), linux/bpf_common.h); throws for what is none of its instructions. */
function decide(filter: Buffer, call: number, auditArch: number, args: bigint[] = []): number {
  const data = Buffer.alloc(64);
  data.writeInt32LE(call | 0, 0);
  data.writeUInt32LE(auditArch, 4);
  for (const [i, arg] of args.entries()) data.writeBigUInt64LE(arg, 16 + 8 * i);
  let word = 0;
  for (let at = 0; at < filter.length; at += 8) {
    const [code, yes, no, k] = [
      filter.readUInt16LE(at),
      filter.readUInt8(at + 2),
      filter.readUInt8(at + 3),
      filter.readUInt32LE(at + 4),
    ];
    if (code === 0x20) word = data.readUInt32LE(k);
    else if (code === 0x15) at += 8 * (word === k ? yes : no);
    else if (code === 0x35) at += 8 * (word >= k ? yes : no);
    else if (code === 0x06) return k;
    else throw new Error(`instruction ${code.toString(16)}`);
  }
  throw new Error('it ran out of the program');
}

const NOTIFY = SECCOMP.returnNotify;
const ALLOW = SECCOMP.returnAllow;

/** Of the kernel's tables, once more. */
const NUMBERS = {
  x64: { connect: 42, getpeername: 52, sendmsg: 46, sendmmsg: 307, sendto: 44, write: 1, read: 0, execve: 59 },
  arm64: { connect: 203, getpeername: 205, sendmsg: 211, sendmmsg: 269, sendto: 206, write: 64, read: 63, execve: 221 },
};

for (const [arch, numbers] of Object.entries(NUMBERS)) {
  const abi = ABIS[arch] as Abi;
  const filter = buildFilter(abi);
  const verdict = (call: number, args?: bigint[]) => decide(filter, call, abi.auditArch, args);

  test(`${arch}: asks about what connects and what may carry a question, and about nothing else`, () => {
    for (const call of [numbers.connect, numbers.getpeername, numbers.sendmsg, numbers.sendmmsg]) {
      assert.equal(verdict(call), NOTIFY, String(call));
    }
    for (const call of [numbers.read, numbers.write, numbers.execve]) assert.equal(verdict(call), ALLOW, String(call));
    const asked = Array.from({ length: 600 }, (_, call) => call).filter((call) => verdict(call) === NOTIFY);
    assert.equal(asked.length, 4);
  });

  test(`${arch}: sendto is asked about when it has an address, wherever in memory that is`, () => {
    const sendto = (address: bigint) => verdict(numbers.sendto, [3n, 1n, 1n, 0n, address, 16n]);
    assert.equal(sendto(0n), ALLOW);
    for (const address of [1n, 0x7fff_0000_0000n, 0xffff_ffffn, 0x1_0000_0000n]) assert.equal(sendto(address), NOTIFY);
  });

  test(`${arch}: io_uring is not there`, () => {
    assert.equal(verdict(425), SECCOMP.returnErrno | ERRNO.ENOSYS);
  });

  test(`${arch}: another architecture's calls go through`, () => {
    assert.equal(decide(filter, numbers.connect, 0x40000003), ALLOW); // i386
  });
}

test('x32 calls go through', () => {
  assert.equal(decide(buildFilter(ABIS.x64 as Abi), 0x40000000 | 42, 0xc000003e), ALLOW);
});
