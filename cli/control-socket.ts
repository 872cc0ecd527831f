import { chmodSync } from 'node:fs';
import http from 'node:http';
import { tmpdir, userInfo } from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { LpkError } from '../agent/wire/errors.ts';

/** HTTP between lpk processes of one user, on a socket that is for this user only. */

const ANSWER_MS = 3_000;
/** unix(7): `sun_path` has 108 bytes on Linux, 104 on macOS, the last a NUL. */
const MAX_SOCKET_PATH = 100;

/** In `folder`, unless its path is too long for a socket; on Windows a pipe. */
export function socketPath(folder: string, id: string): string {
  const user = userInfo().username.replaceAll(/\W/g, '');
  if (process.platform === 'win32') return `\\\\.\\pipe\\lpk-${user}-${id}`;
  const own = path.join(folder, `${id}.sock`);
  return Buffer.byteLength(own) <= MAX_SOCKET_PATH ? own : path.join(tmpdir(), `lpk-${user}-${id}.sock`);
}

/** Rejects with a system error: EADDRINUSE when somebody listens there, or has died there. */
export async function listenOn(server: http.Server, socket: string): Promise<void> {
  server.maxConnections = 64;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(socket, () => {
      server.off('error', reject);
      server.on('error', () => {});
      resolve();
    });
  });
  if (process.platform !== 'win32') chmodSync(socket, 0o600);
}

export function reply(response: http.ServerResponse, body: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json', connection: 'close' }).end(JSON.stringify(body));
}

/** @param timeoutMs 0: however long it takes. LpkError `timed-out`, `internal` with what was answered; a system error. */
export function ask<T>(socket: string, method: string, url: string, timeoutMs = ANSWER_MS): Promise<T> {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath: socket, method, path: url, timeout: timeoutMs || undefined });
    request.on('response', (response) => {
      text(response).then((body) => {
        if (response.statusCode === 200) resolve(JSON.parse(body) as T);
        else reject(new LpkError('internal', `the other lpk answered ${response.statusCode}: ${body}`));
      }, reject);
    });
    request.on('timeout', () => request.destroy(new LpkError('timed-out', 'the other lpk does not answer')));
    request.on('error', reject);
    request.end();
  });
}
