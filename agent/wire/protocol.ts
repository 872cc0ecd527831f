import type { ErrorCode } from './errors.ts';

/** The numbers both ends agree on. `SPEC.md` says what they mean; `test/unit/wire/protocol.test.ts` pins them. */

export const VERSION = 1;

/** Websocket subprotocol. It carries the version: a peer of another version is refused before anything else is said. */
export const SUBPROTOCOL = `lpk.v${VERSION}`;

/** Frame types. Those below 16 are numbered, kept until acknowledged, and sent again on resume. */
export const FRAME = {
  open: 1,
  opened: 2,
  data: 3,
  fin: 4,
  reset: 5,
  credit: 6,
  ack: 16,
  ping: 17,
  pong: 18,
  bye: 19,
} as const;

export type FrameType = (typeof FRAME)[keyof typeof FRAME];

/** Frame types at and above this one are neither numbered nor kept. */
export const FIRST_UNNUMBERED = 16;

export const KIND = { tcp: 1, udp: 2, dns: 3, accept: 4, control: 5, files: 6 } as const;

export type StreamKind = keyof typeof KIND;

const KIND_NAMES = new Map<number, StreamKind>(
  Object.entries(KIND).map(([name, value]) => [value, name as StreamKind]),
);

export function kindName(value: number): StreamKind | undefined {
  return KIND_NAMES.get(value);
}

/** What a RESET or BYE can say. Codes an end doesn't know read as `internal`. */
export const RESET = {
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
} as const satisfies Partial<Record<ErrorCode, number>>;

const RESET_NAMES = new Map<number, keyof typeof RESET>(
  Object.entries(RESET).map(([name, value]) => [value, name as keyof typeof RESET]),
);

export function resetValue(code: ErrorCode): number {
  return code in RESET ? RESET[code as keyof typeof RESET] : RESET.internal;
}

export function resetName(value: number): keyof typeof RESET {
  return RESET_NAMES.get(value) ?? 'internal';
}

/** Websocket close codes of our own (RFC 6455 7.4.2: 4000–4999 are private). */
export const CLOSE = { proofRefused: 4001, protocol: 4002, replaced: 4003, dead: 4004, ended: 4005 } as const;

export const HEADER_BYTES = 12;
export const NONCE_BYTES = 32;
export const KEY_BYTES = 32;
export const MAC_BYTES = 32;
export const SESSION_ID_BYTES = 16;

/** Most payload of one frame. A TCP read of Node is at most this long; a UDP datagram is shorter. */
export const MAX_PAYLOAD_BYTES = 64 * 1024;
/** Most bytes of one websocket message: header, the longest OPEN fields, payload. */
export const MAX_MESSAGE_BYTES = HEADER_BYTES + 5 + 255 + MAX_PAYLOAD_BYTES;
/** The same before the handshake is over: its messages are shorter. */
export const MAX_UNPROVEN_BYTES = 128;
/** Longest text in a RESET or BYE. */
export const MAX_REASON_BYTES = 512;

/**
 * Bounds of one session. Received and unread: `maxStreams × initialWindowBytes + windowPoolBytes` (96 MiB) at the very
 * worst; sent and not acknowledged: `retainBytes`.
 */
export const LIMITS = {
  /** Streams open at once, each way counted together. */
  maxStreams: 1024,
  /** What a stream may send before the first CREDIT. Both ends know it, so OPEN can carry data. */
  initialWindowBytes: 64 * 1024,
  /** What one stream's window can grow to: 160 MB/s at 50 ms. */
  maxWindowBytes: 8 * 1024 * 1024,
  /** Growth that all streams of a session share. */
  windowPoolBytes: 32 * 1024 * 1024,
  /** Sent but unacknowledged, header and bookkeeping counted; streams wait beyond it. */
  retainBytes: 16 * 1024 * 1024,
  /** Handed to the websocket but not yet to the kernel; small enough that a small stream's bytes don't queue long. */
  carrierBufferBytes: 256 * 1024,
  /** Most bytes of a control or DNS answer. */
  answerBytes: 4 * 1024 * 1024,
} as const;

export const TIMES = {
  /** An ACK is sent after this many bytes or, at the latest, this long after a frame. */
  ackBytes: 256 * 1024,
  ackMs: 20,
  pingMs: 2_500,
  /** How often the keepalive looks at its clock. */
  tickMs: 1_000,
  /** Silence after which the websocket is given up. */
  deadMs: 8_000,
  /** From the TCP connection to the proven session. */
  handshakeMs: 5_000,
  /** How long the agent keeps a session without a websocket, unless told otherwise. */
  holdMs: 60_000,
} as const;

/** What a test may shorten. */
export type Times = Record<keyof typeof TIMES, number>;
