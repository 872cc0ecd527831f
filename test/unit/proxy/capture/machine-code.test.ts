import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { ABIS, type Abi } from '../../../../proxy/capture/abi.ts';
import { assemble, type Step } from '../../../../proxy/capture/machine-code.ts';

const CODE_AT = 120;
const { calls } = ABIS[process.arch] as Abi;

function run(t: TestContext, steps: Step[], input = '') {
  const folder = mkdtempSync(join(tmpdir(), 'lpk-code-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, 'program');
  writeFileSync(file, assemble(steps, process.arch), { mode: 0o755 });
  const { status, stdout, signal } = spawnSync(file, { input });
  return { status, signal, output: stdout.toString() };
}

test('it writes what it reads, until its input ends', (t) => {
  const echo: Step[] = [
    { label: 'again' },
    { call: calls.read, args: [0, 'stack', 1], orExit: 'aboveZero' },
    { call: calls.write, args: [1, 'stack', 1], orExit: 'negative' },
    { jump: 'again' },
  ];
  assert.deepEqual(run(t, echo, 'seventeen letters'), { status: 0, signal: null, output: 'seventeen letters' });
});

test('results are kept, and bytes have their place', (t) => {
  const steps: Step[] = [
    { call: calls.dup3, args: [1, 9, 0], keep: 'copy', orExit: 'negative' },
    { call: calls.write, args: [{ result: 'copy' }, Buffer.from('one '), 4] },
    { call: calls.write, args: [{ result: 'copy' }, Buffer.from('two'), 3] },
    { call: calls.read, args: [99, 'stack', 1], orExit: 'negative' },
  ];
  assert.deepEqual(run(t, steps), { status: 9, signal: null, output: 'one two' }); // EBADF
});

test('no more results than there are registers for', () => {
  const steps = [1, 2, 3, 4, 5].map((i): Step => ({ call: 1, args: [], keep: String(i) }));
  assert.throws(() => assemble(steps, 'x64'), RangeError);
});

test('x86-64, as objdump reads it', () => {
  const code = assemble([{ call: 272, args: [0x10000000, 'stack'], keep: 'r', orExit: 'negative' }], 'x64');
  const expected = [
    'bf00000010', // mov edi, 0x10000000
    '4889e6', // mov rsi, rsp
    'b810010000', // mov eax, 272
    '0f05', // syscall
    '4885c0', // test rax, rax
    '0f8803000000', // js to the exit
    '4989c4', // mov r12, rax
    '48f7d8', // neg rax
    '4889c7', // mov rdi, rax
    'b8e7000000', // mov eax, 231
    '0f05',
  ];
  assert.equal(code.toString('hex', CODE_AT), expected.join(''));
});

test('arm64, as objdump reads it', () => {
  const code = assemble(
    [{ call: 97, args: [0x10000000, 'stack'], keep: 'r', orExit: 'aboveZero' }, { jump: 'x' }, { label: 'x' }],
    'arm64',
  );
  const expected = [
    0xd2800000, // movz x0, #0
    0xf2a20000, // movk x0, #0x1000, lsl #16
    0x910003e1, // mov x1, sp
    0xd2800c28, // movz x8, #97
    0xf2a00008, // movk x8, #0, lsl #16
    0xd4000001, // svc #0
    0xf100001f, // cmp x0, #0
    0x5400006d, // b.le, 3 on
    0xaa0003f3, // mov x19, x0
    0x14000001, // b, 1 on
    0xcb0003e0, // neg x0, x0
    0xaa0003e0, // mov x0, x0
    0xd2800bc8, // movz x8, #94
    0xf2a00008,
    0xd4000001,
  ];
  const words = Array.from({ length: (code.length - CODE_AT) / 4 }, (_, i) => code.readUInt32LE(CODE_AT + 4 * i));
  assert.deepEqual(
    words.map((word) => word.toString(16)),
    expected.map((word) => word.toString(16)),
  );
});
