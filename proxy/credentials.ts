import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { LpkError } from '../agent/wire/errors.ts';

/** What a client of the door must know. */
export type Credentials = { user: string; password: string };

/** RFC 1929: one byte says how long each is. */
const MAX_BYTES = 255;
const KEY = randomBytes(32);

/** Throws `usage` for what SOCKS5 (RFC 1929) or HTTP (RFC 7617: no colon in the user) can't carry. */
export function checkCredentials({ user, password }: Credentials): void {
  for (const [what, text] of Object.entries({ user, password })) {
    const bytes = Buffer.byteLength(text);
    if (bytes === 0 || bytes > MAX_BYTES) throw new LpkError('usage', `the proxy's ${what} must have 1 to 255 bytes`);
  }
  if (user.includes(':')) throw new LpkError('usage', "the proxy's user can't have a colon in it");
}

/** Takes as long whatever differs, and however much of it. */
export function matches({ user, password }: Credentials, given: { user: Buffer; password: Buffer }): boolean {
  return timingSafeEqual(digest(Buffer.from(user), Buffer.from(password)), digest(given.user, given.password));
}

function digest(user: Buffer, password: Buffer): Buffer {
  return createHmac('sha256', KEY).update(`${user.length}:`).update(user).update(password).digest();
}
