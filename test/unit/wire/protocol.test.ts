import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ERROR_CODES } from '../../../agent/wire/errors.ts';
import {
  decodeCount,
  decodeFrame,
  decodeOpen,
  decodeUint32,
  encodeCount,
  encodeFrame,
  encodeOpen,
  encodeReason,
  encodeUint32,
  openArg,
  payloadBytes,
} from '../../../agent/wire/frames.ts';
import * as protocol from '../../../agent/wire/protocol.ts';

/**
 * The numbers of the wire, written out. A change here is a change of the protocol: SPEC.md changes with it, and VERSION if
 * an end that doesn't know of it would misunderstand.
 */
const TABLE = {
  VERSION: 1,
  SUBPROTOCOL: 'lpk.v1',
  FRAME: { open: 1, opened: 2, data: 3, fin: 4, reset: 5, credit: 6, ack: 16, ping: 17, pong: 18, bye: 19 },
  FIRST_UNNUMBERED: 16,
  KIND: { tcp: 1, udp: 2, dns: 3, accept: 4, control: 5, files: 6 },
  RESET: {
    internal: 0,
    refused: 1,
    unreachable: 2,
    'timed-out': 3,
    'not-allowed': 4,
    'name-not-found': 5,
    'connection-reset': 6,
    cancelled: 7,
    'too-many-streams': 8,
    'address-in-use': 9,
    protocol: 10,
    'limit-exceeded': 11,
    'link-lost': 12,
    'session-ended': 13,
  },
  CLOSE: { proofRefused: 4001, protocol: 4002, replaced: 4003, dead: 4004, ended: 4005 },
  HEADER_BYTES: 12,
  NONCE_BYTES: 32,
  KEY_BYTES: 32,
  MAC_BYTES: 32,
  SESSION_ID_BYTES: 16,
  MAX_PAYLOAD_BYTES: 65_536,
  MAX_MESSAGE_BYTES: 65_808,
  MAX_UNPROVEN_BYTES: 128,
  MAX_REASON_BYTES: 512,
  LIMITS: {
    maxStreams: 1_024,
    initialWindowBytes: 65_536,
    maxWindowBytes: 8_388_608,
    windowPoolBytes: 33_554_432,
    retainBytes: 16_777_216,
    carrierBufferBytes: 262_144,
    answerBytes: 4_194_304,
  },
  TIMES: {
    ackBytes: 262_144,
    ackMs: 20,
    pingMs: 2_500,
    tickMs: 1_000,
    deadMs: 8_000,
    handshakeMs: 5_000,
    holdMs: 60_000,
  },
};

test('every number of the wire is as SPEC.md says', () => {
  const actual = Object.fromEntries(Object.entries(protocol).filter(([, value]) => typeof value !== 'function'));
  assert.deepEqual(actual, TABLE);
});

test('every RESET code is one of the error codes, and both directions agree', () => {
  for (const [name, value] of Object.entries(protocol.RESET)) {
    assert.ok((ERROR_CODES as readonly string[]).includes(name), name);
    assert.equal(protocol.resetName(value), name);
    assert.equal(protocol.resetValue(name as keyof typeof protocol.RESET), value);
  }
  assert.equal(protocol.resetName(200), 'internal');
  assert.equal(protocol.resetValue('kubeconfig-invalid'), 0);
});

/** Frames as they lie on the wire: type, argument, two zero bytes, stream, number, fields. */
const DUMPS: [name: string, message: Buffer, hex: string][] = [
  [
    'OPEN tcp web:80',
    encodeFrame(protocol.FRAME.open, openArg('tcp'), 1, 1, encodeOpen({ kind: 'tcp', host: 'web', port: 80 })),
    '01 01 0000 00000001 00000001 0050 0000 03 776562',
  ],
  [
    'OPEN accept from 10.0.0.7:40000 to port 8080',
    encodeFrame(
      protocol.FRAME.open,
      openArg('accept'),
      2,
      1,
      encodeOpen({ kind: 'accept', host: '10.0.0.7', port: 8080, peerPort: 40_000 }),
    ),
    '01 04 0000 00000002 00000001 1f90 9c40 08 31302e302e302e37',
  ],
  [
    'OPEN udp ::1:53',
    encodeFrame(protocol.FRAME.open, openArg('udp'), 3, 2, encodeOpen({ kind: 'udp', host: '::1', port: 53 })),
    '01 02 0000 00000003 00000002 0035 0000 03 3a3a31',
  ],
  [
    'OPEN dns',
    encodeFrame(protocol.FRAME.open, openArg('dns'), 5, 3, encodeOpen({ kind: 'dns', host: '', port: 0 })),
    '01 03 0000 00000005 00000003 0000 0000 00',
  ],
  [
    'OPEN control environment',
    encodeFrame(
      protocol.FRAME.open,
      openArg('control'),
      7,
      4,
      encodeOpen({ kind: 'control', host: 'environment', port: 0 }),
    ),
    '01 05 0000 00000007 00000004 0000 0000 0b 656e7669726f6e6d656e74',
  ],
  [
    'OPEN files',
    encodeFrame(protocol.FRAME.open, openArg('files'), 9, 5, encodeOpen({ kind: 'files', host: '', port: 0 })),
    '01 06 0000 00000009 00000005 0000 0000 00',
  ],
  ['OPENED', encodeFrame(protocol.FRAME.opened, 0, 1, 1), '02 00 0000 00000001 00000001'],
  [
    'DATA',
    encodeFrame(protocol.FRAME.data, 0, 1, 0x1_0000_0002, Buffer.from('hi')),
    '03 00 0000 00000001 00000002 6869',
  ],
  ['FIN', encodeFrame(protocol.FRAME.fin, 0, 0xffff_ffff, 3), '04 00 0000 ffffffff 00000003'],
  [
    'RESET refused',
    encodeFrame(protocol.FRAME.reset, protocol.resetValue('refused'), 1, 9, encodeReason('no')),
    '05 01 0000 00000001 00000009 6e6f',
  ],
  [
    'CREDIT 32768',
    encodeFrame(protocol.FRAME.credit, 0, 1, 10, encodeUint32(32_768)),
    '06 00 0000 00000001 0000000a 00008000',
  ],
  ['ACK 258', encodeFrame(protocol.FRAME.ack, 0, 0, 0, encodeCount(258)), '10 00 0000 00000000 00000000 000000000102'],
  ['PING 7', encodeFrame(protocol.FRAME.ping, 0, 0, 0, encodeUint32(7)), '11 00 0000 00000000 00000000 00000007'],
  ['PONG 7', encodeFrame(protocol.FRAME.pong, 0, 0, 0, encodeUint32(7)), '12 00 0000 00000000 00000000 00000007'],
  [
    'BYE session-ended',
    encodeFrame(protocol.FRAME.bye, protocol.resetValue('session-ended'), 0, 0, encodeReason('bye')),
    '13 0d 0000 00000000 00000000 627965',
  ],
];

for (const [name, message, hex] of DUMPS) {
  test(`frame: ${name}`, () => {
    const expected = hex.replaceAll(' ', '');
    assert.equal(message.toString('hex'), expected);
    const frame = decodeFrame(Buffer.from(expected, 'hex'));
    const again = encodeFrame(frame.type, frame.arg, frame.stream, frame.seq, frame.body);
    assert.equal(again.toString('hex'), expected);
  });
}

test('an OPEN gives back what was put in, its first bytes apart', () => {
  const fields = { kind: 'accept', host: 'fe80::1%eth0', port: 65_535, peerPort: 1 } as const;
  const message = Buffer.concat([
    encodeFrame(protocol.FRAME.open, openArg('accept'), 4, 1, encodeOpen(fields)),
    Buffer.from('first'),
  ]);
  const opened = decodeOpen(decodeFrame(message, [Buffer.from(' bytes')]));
  assert.deepEqual(opened.fields, fields);
  assert.equal(Buffer.concat(opened.first).toString(), 'first bytes');
});

test('a name of 255 bytes fits, one of 256 is refused before it is sent', () => {
  const longest = 'a'.repeat(255);
  const message = encodeFrame(
    protocol.FRAME.open,
    openArg('tcp'),
    1,
    1,
    encodeOpen({ kind: 'tcp', host: longest, port: 1 }),
  );
  assert.equal(decodeOpen(decodeFrame(message)).fields.host, longest);
  assert.equal(message.length + protocol.MAX_PAYLOAD_BYTES, protocol.MAX_MESSAGE_BYTES);
  assert.throws(() => encodeOpen({ kind: 'tcp', host: 'ü'.repeat(128), port: 1 }), { code: 'name-not-found' });
});

test('a reason is cut to its limit', () => {
  assert.equal(encodeReason('x'.repeat(10_000)).length, protocol.MAX_REASON_BYTES);
});

const MALFORMED: [name: string, decode: () => unknown, code?: string][] = [
  ['an empty message', () => decodeFrame(Buffer.alloc(0))],
  ['11 bytes', () => decodeFrame(Buffer.alloc(11, 1))],
  ['type 0', () => decodeFrame(Buffer.alloc(12, 0))],
  ['type 7', () => decodeFrame(Buffer.from('070000000000000100000001', 'hex'))],
  ['type 20', () => decodeFrame(Buffer.from('140000000000000000000000', 'hex'))],
  [
    'OPEN of an unknown kind',
    () => decodeOpen(decodeFrame(Buffer.from('010900000000000100000001005000000161', 'hex'))),
  ],
  ['OPEN without fields', () => decodeOpen(decodeFrame(Buffer.from('010100000000000100000001', 'hex')))],
  [
    'OPEN with 4 bytes of fields',
    () => decodeOpen(decodeFrame(Buffer.from('01010000000000010000000100500000', 'hex'))),
  ],
  [
    'OPEN whose name is cut off',
    () => decodeOpen(decodeFrame(Buffer.from('0101000000000001000000010050000003777', 'hex'))),
  ],
  ['ACK of 5 bytes', () => decodeCount(Buffer.alloc(5))],
  ['ACK of 7 bytes', () => decodeCount(Buffer.alloc(7))],
  ['CREDIT of 3 bytes', () => decodeUint32(Buffer.alloc(3))],
  ['CREDIT of 5 bytes', () => decodeUint32(Buffer.alloc(5))],
  ['a payload of 64 KiB and a byte', () => payloadBytes([Buffer.alloc(1), Buffer.alloc(65_536)]), 'limit-exceeded'],
];

for (const [name, decode, code = 'protocol'] of MALFORMED) {
  test(`refused: ${name}`, () => assert.throws(decode, { name: 'LpkError', code }));
}
