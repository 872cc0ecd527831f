/**
 * Tiny programs that make system calls in a row, as ELF files (elf(5)) for x86-64 and arm64. What a process has to do to itself
 * alone, with one thread and before anything else, no program that every machine has can do for us, and Node not either.
 */

/** An argument: a number (32 bits), bytes to point at, the result of an earlier call by its name, or the top of the stack. */
export type Operand = number | Buffer | { result: string } | 'stack';

export type Step =
  /** `orExit`: what fails ends the program, with its errno as the exit code; a 0 ends it too when it is `aboveZero` that is wanted. */
  | { call: number; args: Operand[]; keep?: string; orExit?: 'negative' | 'aboveZero' }
  | { label: string }
  | { jump: string };

/** Where the file is in memory; aligned for pages of 64 KiB as well. */
const BASE = 0x400000;
const HEADER_BYTES = 64 + 56;
const MAX_KEPT = 4;

/** A piece of code; `target` is where its last 4 bytes lead to. */
type Piece = { bytes: Buffer; target?: string; kind?: 'always' | 'negative' | 'notAboveZero' };

type Machine = {
  elfMachine: number;
  exitGroup: number;
  load(register: number, value: number | { kept: number } | 'stack'): Buffer;
  /** Registers of the arguments, of the call's number, and for results that are kept. */
  argument: number[];
  number: number;
  kept: number[];
  /** Makes the call; the result is in `result`. */
  call: Buffer;
  result: number;
  move(to: number, from: number): Buffer;
  negate(register: number): Buffer;
  branch(kind: 'always' | 'negative' | 'notAboveZero'): Buffer;
  /** Writes where the branch at `at` leads to, `distance` bytes from its own start. */
  aim(code: Buffer, at: number, kind: 'always' | 'negative' | 'notAboveZero', distance: number): void;
};

/** Intel's manual, volume 2. */
const X64: Machine = {
  elfMachine: 62,
  exitGroup: 231,
  argument: [7, 6, 2, 10, 8, 9], // rdi, rsi, rdx, r10, r8, r9
  number: 0, // rax
  kept: [12, 13, 14, 15],
  call: Buffer.of(0x0f, 0x05),
  result: 0,
  load(register, value) {
    if (value === 'stack') return X64.move(register, 4); // rsp
    if (typeof value === 'object') return X64.move(register, X64.kept[value.kept] as number);
    const code = Buffer.alloc(5);
    code[0] = 0xb8 | (register & 7); // mov r32, imm32
    code.writeUInt32LE(value, 1);
    return register < 8 ? code : Buffer.concat([Buffer.of(0x41), code]);
  },
  move: (to, from) =>
    Buffer.of(0x48 | (from >= 8 ? 4 : 0) | (to >= 8 ? 1 : 0), 0x89, 0xc0 | ((from & 7) << 3) | (to & 7)),
  negate: (register) => Buffer.of(0x48, 0xf7, 0xd8 | register),
  branch(kind) {
    if (kind === 'always') return Buffer.of(0xe9, 0, 0, 0, 0);
    return Buffer.of(0x48, 0x85, 0xc0, 0x0f, kind === 'negative' ? 0x88 : 0x8e, 0, 0, 0, 0); // test rax, rax; js or jle
  },
  aim(code, at, kind, distance) {
    const length = X64.branch(kind).length;
    code.writeInt32LE(distance - length, at + length - 4);
  },
};

/** Arm's manual of the A64 instruction set. */
const ARM64: Machine = {
  elfMachine: 183,
  exitGroup: 94,
  argument: [0, 1, 2, 3, 4, 5],
  number: 8,
  kept: [19, 20, 21, 22],
  call: word(0xd4000001),
  result: 0,
  load(register, value) {
    if (value === 'stack') return word(0x910003e0 | register); // add xN, sp, #0
    if (typeof value === 'object') return ARM64.move(register, ARM64.kept[value.kept] as number);
    const low = word(0xd2800000 | ((value & 0xffff) << 5) | register); // movz
    return Buffer.concat([low, word(0xf2a00000 | ((value >>> 16) << 5) | register)]); // movk, lsl 16
  },
  move: (to, from) => word(0xaa0003e0 | (from << 16) | to),
  negate: (register) => word(0xcb0003e0 | (register << 16) | register),
  branch(kind) {
    if (kind === 'always') return word(0x14000000);
    if (kind === 'negative') return word(0xb7f80000); // tbnz x0, #63
    return Buffer.concat([word(0xf100001f), word(0x5400000d)]); // cmp x0, #0; b.le
  },
  aim(code, at, kind, distance) {
    const last = at + ARM64.branch(kind).length - 4;
    const words = (distance + at - last) / 4;
    const field =
      kind === 'always' ? words & 0x3ffffff : kind === 'negative' ? (words & 0x3fff) << 5 : (words & 0x7ffff) << 5;
    code.writeUInt32LE((code.readUInt32LE(last) | field) >>> 0, last);
  },
};

const MACHINES: { readonly [arch: string]: Machine } = { x64: X64, arm64: ARM64 };

/** @param arch as `process.arch`, x64 or arm64. */
export function assemble(steps: Step[], arch: string): Buffer {
  const machine = MACHINES[arch] as Machine;
  const data: Buffer[] = [];
  const kept: string[] = [];
  // Code's length does not depend on its values, so a first round tells where the data begins.
  const length = Buffer.concat(
    translate(steps, machine, { data: [], kept: [], dataAt: 0 }).map(({ bytes }) => bytes),
  ).length;
  const pieces = translate(steps, machine, { data, kept, dataAt: BASE + HEADER_BYTES + length });
  if (kept.length > MAX_KEPT) throw new RangeError(`only ${MAX_KEPT} results can be kept`);
  const code = Buffer.concat(pieces.map(({ bytes }) => bytes));
  aimAll(code, pieces, machine);
  return elf(Buffer.concat([code, ...data]), machine.elfMachine);
}

const EXIT = 'exit with the result, negated';

function translate(
  steps: Step[],
  machine: Machine,
  { data, kept, dataAt }: { data: Buffer[]; kept: string[]; dataAt: number },
): Piece[] {
  const place = (bytes: Buffer): number => {
    const at = dataAt + data.reduce((sum, piece) => sum + piece.length, 0);
    data.push(bytes);
    return at;
  };
  const value = (operand: Operand) => {
    if (typeof operand !== 'object') return operand;
    return 'result' in operand ? { kept: kept.indexOf(operand.result) } : place(operand);
  };
  const pieces = steps.flatMap((step): Piece[] => {
    if ('label' in step) return [{ bytes: Buffer.alloc(0), target: `:${step.label}` }];
    if ('jump' in step) return [{ bytes: machine.branch('always'), target: step.jump, kind: 'always' }];
    const loads = step.args.map((arg, i) => machine.load(machine.argument[i] as number, value(arg)));
    const bytes = Buffer.concat([...loads, machine.load(machine.number, step.call), machine.call]);
    const kind = step.orExit === 'aboveZero' ? 'notAboveZero' : 'negative';
    const exit: Piece[] = step.orExit ? [{ bytes: machine.branch(kind), target: EXIT, kind }] : [];
    if (step.keep && !kept.includes(step.keep)) kept.push(step.keep);
    const keep = step.keep
      ? machine.move(machine.kept[kept.indexOf(step.keep)] as number, machine.result)
      : Buffer.alloc(0);
    return [{ bytes }, ...exit, { bytes: keep }];
  });
  const exit = [
    machine.negate(machine.result),
    machine.move(machine.argument[0] as number, machine.result),
    machine.load(machine.number, machine.exitGroup),
    machine.call,
  ];
  return [...pieces, { bytes: Buffer.alloc(0), target: `:${EXIT}` }, { bytes: Buffer.concat(exit) }];
}

function aimAll(code: Buffer, pieces: Piece[], machine: Machine): void {
  const starts: number[] = [];
  let at = 0;
  for (const { bytes } of pieces) {
    starts.push(at);
    at += bytes.length;
  }
  for (const [i, { target, kind }] of pieces.entries()) {
    if (!target || !kind) continue;
    const there = pieces.findIndex((piece) => piece.target === `:${target}`);
    machine.aim(code, starts[i] as number, kind, (starts[there] as number) - (starts[i] as number));
  }
}

/** One segment, to be read and executed; the stack is all that can be written. */
function elf(content: Buffer, machine: number): Buffer {
  const file = Buffer.concat([Buffer.alloc(HEADER_BYTES), content]);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // 64-bit, little endian
  file.writeUInt16LE(2, 16); // ET_EXEC
  file.writeUInt16LE(machine, 18);
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(BigInt(BASE + HEADER_BYTES), 24); // entry
  file.writeBigUInt64LE(64n, 32); // program headers
  file.writeUInt16LE(64, 52);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  file.writeUInt32LE(1, 64); // PT_LOAD
  file.writeUInt32LE(5, 68); // read, execute
  file.writeBigUInt64LE(BigInt(BASE), 80);
  file.writeBigUInt64LE(BigInt(BASE), 88);
  file.writeBigUInt64LE(BigInt(file.length), 96);
  file.writeBigUInt64LE(BigInt(file.length), 104);
  file.writeBigUInt64LE(0x10000n, 112);
  return file;
}

function word(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}
