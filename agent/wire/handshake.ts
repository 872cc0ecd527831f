import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Carrier } from './carrier.ts';
import { LpkError } from './errors.ts';
import { CLOSE, MAC_BYTES, NONCE_BYTES, SESSION_ID_BYTES, SUBPROTOCOL, TIMES } from './protocol.ts';

/**
 * Mutual proof of the session's key before any frame is read; SPEC.md, "Handshake". The agent speaks first and gives away
 * nothing but a fresh nonce; a proof made for one nonce is worth nothing for another, so nothing can be replayed.
 */

const CHALLENGE = 0xc1;
const PROOF = 0xc2;
const WELCOME = 0xc3;
const CHALLENGE_BYTES = 1 + NONCE_BYTES;
const PROOF_FIELDS = 1 + NONCE_BYTES + SESSION_ID_BYTES + 6 + 1;
const WELCOME_FIELDS = 1 + 6 + 1 + 4;

/** Where a laptop left off. `sessionId`: 16 random bytes, one per session. */
export type Resume = { sessionId: Buffer; received: number; resuming: boolean };

export type Welcome = {
  /** Numbered frames the agent has. */
  peerReceived: number;
  /** False: the agent doesn't have this session (any more); the laptop starts anew. */
  resumed: boolean;
  /** How long the agent keeps the session without a websocket, ms. */
  holdMs: number;
  /** Round trip of the proof, ms. */
  rttMs: number;
};

function mac(key: Buffer, side: 'laptop' | 'agent', nonces: Buffer[], fields: Buffer): Buffer {
  const hmac = createHmac('sha256', key).update(`${SUBPROTOCOL} ${side}\0`);
  for (const nonce of nonces) hmac.update(nonce);
  return hmac.update(fields).digest();
}

/**
 * The laptop's side, on a websocket that is open or opening. `welcomed` runs in the same turn as the agent's WELCOME, so that no frame is missed.
 * `sample` is asked for the position when the proof is sent; what it throws ends the attempt. The promise rejects with LpkError: `key-mismatch`,
 * `protocol`, `timed-out`, `link-lost`.
 */
export function proveAsLaptop(
  carrier: Carrier,
  key: Buffer,
  sample: () => Resume,
  welcomed: (welcome: Welcome) => void,
  handshakeMs: number = TIMES.handshakeMs,
): Promise<void> {
  return new Promise((resolve, reject) => {
    let expected: Buffer | undefined;
    let nonces: Buffer[] = [];
    let sentAt = 0;
    const timer = setTimeout(
      () => fail(new LpkError('timed-out', 'the agent did not prove its key in time')),
      handshakeMs,
    );
    const stop = () => {
      clearTimeout(timer);
      carrier.off('message', onMessage);
      carrier.off('close', onClose);
    };
    const fail = (error: LpkError) => {
      stop();
      carrier.terminate();
      reject(error);
    };
    const onClose = (code: number, reason: string) => {
      const refused = code === CLOSE.proofRefused;
      fail(
        refused
          ? new LpkError('key-mismatch', "the agent does not accept this session's key")
          : new LpkError('link-lost', `the agent closed the connection (${code}${reason ? ` ${reason}` : ''})`),
      );
    };
    const onMessage = (message: Buffer) => {
      if (!expected) {
        if (message.length !== CHALLENGE_BYTES || message[0] !== CHALLENGE) {
          return fail(new LpkError('protocol', 'what answered is no lpk agent'));
        }
        const nonce = randomBytes(NONCE_BYTES);
        nonces = [Buffer.from(message.subarray(1)), nonce];
        let position: Resume;
        try {
          position = sample();
        } catch (error) {
          return fail(error as LpkError);
        }
        const { sessionId, received, resuming } = position;
        const fields = Buffer.alloc(PROOF_FIELDS);
        fields[0] = PROOF;
        nonce.copy(fields, 1);
        sessionId.copy(fields, 1 + NONCE_BYTES);
        fields.writeUIntBE(received, 1 + NONCE_BYTES + SESSION_ID_BYTES, 6);
        fields[PROOF_FIELDS - 1] = resuming ? 1 : 0;
        expected = mac(key, 'laptop', nonces, fields);
        sentAt = performance.now();
        carrier.send(Buffer.concat([fields, expected]));
        return;
      }
      const fields = message.subarray(0, WELCOME_FIELDS);
      if (message.length !== WELCOME_FIELDS + MAC_BYTES || message[0] !== WELCOME) {
        return fail(new LpkError('protocol', 'the agent answered the proof with something else'));
      }
      if (!timingSafeEqual(mac(key, 'agent', nonces, fields), message.subarray(WELCOME_FIELDS))) {
        return fail(new LpkError('key-mismatch', "what answered can't prove this session's key"));
      }
      stop();
      welcomed({
        peerReceived: fields.readUIntBE(1, 6),
        resumed: fields[7] === 1,
        holdMs: fields.readUInt32BE(8),
        rttMs: performance.now() - sentAt,
      });
      resolve();
    };
    carrier.on('message', onMessage);
    carrier.on('close', onClose);
  });
}

/**
 * The agent's side, on an open websocket. `proven` runs in the same turn as a valid proof and returns what WELCOME says,
 * or undefined to decline; `attach` then may read frames. Anything else ends the websocket, with nothing said but a close code.
 */
export function proveAsAgent(
  carrier: Carrier,
  key: Buffer,
  proven: (resume: Resume) => Omit<Welcome, 'rttMs'> | undefined,
  attach: (resume: Resume) => void,
  handshakeMs: number = TIMES.handshakeMs,
): void {
  const nonce = randomBytes(NONCE_BYTES);
  const timer = setTimeout(() => carrier.terminate(), handshakeMs);
  carrier.once('close', () => clearTimeout(timer));
  carrier.once('message', (message) => {
    clearTimeout(timer);
    const fields = message.subarray(0, PROOF_FIELDS);
    const valid =
      message.length === PROOF_FIELDS + MAC_BYTES &&
      message[0] === PROOF &&
      timingSafeEqual(
        mac(key, 'laptop', [nonce, fields.subarray(1, 1 + NONCE_BYTES)], fields),
        message.subarray(PROOF_FIELDS),
      );
    if (!valid) {
      carrier.close(CLOSE.proofRefused);
      return;
    }
    const at = 1 + NONCE_BYTES;
    const resume: Resume = {
      sessionId: Buffer.from(fields.subarray(at, at + SESSION_ID_BYTES)),
      received: fields.readUIntBE(at + SESSION_ID_BYTES, 6),
      resuming: fields[PROOF_FIELDS - 1] === 1,
    };
    const welcome = proven(resume);
    if (!welcome) return carrier.close(CLOSE.replaced);
    const answer = Buffer.alloc(WELCOME_FIELDS);
    answer[0] = WELCOME;
    answer.writeUIntBE(welcome.peerReceived, 1, 6);
    answer[7] = welcome.resumed ? 1 : 0;
    answer.writeUInt32BE(welcome.holdMs, 8);
    const laptopNonce = fields.subarray(1, 1 + NONCE_BYTES);
    carrier.send(Buffer.concat([answer, mac(key, 'agent', [nonce, laptopNonce], answer)]));
    attach(resume);
  });
  carrier.on('error', () => {});
  carrier.send(Buffer.concat([Buffer.of(CHALLENGE), nonce]));
}
