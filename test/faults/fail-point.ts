import { existsSync, writeFileSync } from 'node:fs';
import type http from 'node:http';
import https from 'node:https';

/*
 * Loaded into lpk or the restorer before it starts (`node --import`): at its Nth request that changes something in the cluster,
 * the process dies, or the answer is lost. LPK_FAIL_POINT is `MODE:N`, or `MODE:N:leaving` to count from Ctrl-C on; that a Lease is
 * renewed or watched is not counted, as that comes when it likes. LPK_FAILED is a file that is there once it has happened, for
 * who wants to know, and for a process that is started again; stderr has it too.
 */

const [mode, count, when] = (process.env.LPK_FAIL_POINT ?? '').split(':');
let left = Number(count);
let counting = when !== 'leaving';
const { LPK_FAILED: failed = '' } = process.env;
if (existsSync(failed)) left = 0;
process.on('SIGINT', () => {
  counting = true;
});

function happened(): void {
  if (failed) writeFileSync(failed, '');
  process.stderr.write('fail point\n');
}

function die(): void {
  happened();
  // The first process of a container can't be killed from within.
  if (process.pid === 1) process.exit(137);
  process.kill(process.pid, 'SIGKILL');
}

function changes(options: https.RequestOptions, body: unknown): boolean {
  const { method = 'GET' } = options;
  const path = options.path ?? '';
  if (method === 'GET' || path.startsWith('/apis/authorization.k8s.io/')) return false;
  return !(method === 'PATCH' && path.includes('/leases/') && /renewTime|watching-since/.test(String(body)));
}

/** Somebody else wrote meanwhile; or the API server does not know yet what it was told a moment before. */
function isSentAgain({ method }: https.RequestOptions, status: number): boolean {
  return status === 409 || status === 422 || (status === 404 && method === 'POST');
}

const send = https.request;
Object.assign(https, {
  request(options: https.RequestOptions, onResponse?: (response: http.IncomingMessage) => void): http.ClientRequest {
    const request = send(options, onResponse);
    const end = request.end.bind(request) as (body?: unknown) => http.ClientRequest;
    return Object.assign(request, {
      end(body?: unknown) {
        if (!counting || !changes(options, body)) return end(body);
        request.prependListener('response', ({ statusCode = 0 }) => {
          if (isSentAgain(options, statusCode)) left++; // once more is not one more
        });
        if (--left === 0) {
          if (mode === 'answered') request.prependListener('response', (response) => response.on('end', die));
          else if (mode === 'sent') request.on('finish', die);
          else if (mode === 'lost') loseAnswer(request);
        }
        return end(body);
      },
    });
  },
});

/** As a connection that breaks when the API server has done what it was asked. */
function loseAnswer(request: http.ClientRequest): void {
  const emit = request.emit.bind(request);
  request.emit = (event: string | symbol, ...args: unknown[]) => {
    if (event !== 'response') return emit(event, ...args);
    happened();
    request.destroy(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }));
    return true;
  };
}
