import { existsSync, writeFileSync } from 'node:fs';
import type http from 'node:http';
import https from 'node:https';

/*
 * Loaded into lpk or the restorer before it starts (`node --import`): at its Nth request that changes something in the cluster,
 * the process dies, or the answer is lost. LPK_FAIL_POINT is `MODE:N`, or `MODE:N:leaving` to count from Ctrl-C on; what is
 * written to a Lease is not counted, as renewals come when they like. LPK_FAILED is a file that is there once it has
 * happened, for a process that is started again.
 */

const [mode, count, when] = (process.env.LPK_FAIL_POINT ?? '').split(':');
let left = Number(count);
let counting = when !== 'leaving';
const failed = process.env.LPK_FAILED;
if (failed && existsSync(failed)) left = 0;
process.on('SIGINT', () => {
  counting = true;
});

function die(): void {
  if (failed) writeFileSync(failed, '');
  // The first process of a container can't be killed from within.
  if (process.pid === 1) process.exit(137);
  process.kill(process.pid, 'SIGKILL');
}

function changes({ method = 'GET', path }: http.RequestOptions): boolean {
  if (!path) return false;
  const renewal = method === 'PATCH' && path.includes('/leases/');
  return method !== 'GET' && !renewal && !path.startsWith('/apis/authorization.k8s.io/');
}

const send = https.request;
Object.assign(https, {
  request(options: https.RequestOptions, onResponse?: (response: http.IncomingMessage) => void): http.ClientRequest {
    const request = send(options, onResponse);
    if (!counting || !changes(options) || --left !== 0) return request;
    if (mode === 'answered') request.prependListener('response', (response) => response.on('end', die));
    else if (mode === 'sent') request.on('finish', die);
    else if (mode === 'lost') loseAnswer(request);
    return request;
  },
});

/** As a connection that breaks when the API server has done what it was asked. */
function loseAnswer(request: http.ClientRequest): void {
  const emit = request.emit.bind(request);
  request.emit = (event: string | symbol, ...args: unknown[]) => {
    if (event !== 'response') return emit(event, ...args);
    request.destroy(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }));
    return true;
  };
}
