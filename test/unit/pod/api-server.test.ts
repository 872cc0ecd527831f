import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { apiServer, type WatchingApi } from '../../../agent/pod/api-server.ts';

/** The folder that the kubelet mounts, and an API server that does what each test says. */
const folder = mkdtempSync(path.join(tmpdir(), 'lpk-account-'));
let server: https.Server;
let api: WatchingApi;
let answer: (request: IncomingMessage, response: ServerResponse, body: string) => void;

before(async () => {
  const [cert, key] = [path.join(folder, 'ca.crt'), path.join(folder, 'key.pem')];
  const subject = ['-subj', '/CN=kubernetes', '-addext', 'subjectAltName=IP:127.0.0.1'];
  const made = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  execFileSync('openssl', ['req', '-x509', ...made, ...subject, '-keyout', key, '-out', cert], { stdio: 'ignore' });
  server = https.createServer({ cert: readFileSync(cert), key: readFileSync(key) }, async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    answer(request, response, body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  api = apiServer('127.0.0.1', `${(server.address() as AddressInfo).port}`, folder);
  writeFileSync(path.join(folder, 'token'), 'first\n');
});

after(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true });
});

test('a request carries the token as it is on disk now, its query and its body', async () => {
  const seen: unknown[] = [];
  answer = ({ method, url, headers }, response, body) => {
    seen.push([method, url, headers.authorization, headers['content-type'], body]);
    response.end('{"kind":"Lease"}');
  };
  assert.deepEqual(await api.request('GET', '/a', { query: { x: 'b c', none: undefined } }), { kind: 'Lease' });
  writeFileSync(path.join(folder, 'token'), 'second\n');
  await api.request('PATCH', '/b', { body: [1], contentType: 'application/json-patch+json' });
  assert.deepEqual(seen, [
    ['GET', '/a?x=b+c', 'Bearer first', undefined, ''],
    ['PATCH', '/b', 'Bearer second', 'application/json-patch+json', '[1]'],
  ]);
});

for (const [status, code] of [
  [401, 'unauthorized'],
  [403, 'forbidden'],
  [404, 'not-found'],
  [409, 'conflict'],
  [410, 'not-found'],
  [422, 'cluster-unreachable'],
  [500, 'cluster-unreachable'],
] as const) {
  test(`HTTP ${status} is ${code}, in the API server's words`, async () => {
    answer = (_request, response) => response.writeHead(status).end('{"kind":"Status","message":"says why"}');
    await assert.rejects(api.request('GET', '/'), { code, message: `HTTP ${status}: says why` });
    answer = (_request, response) => response.writeHead(status).end('<html>');
    const between = { code: 'cluster-unreachable', message: `HTTP ${status}: <html>` };
    await assert.rejects(api.request('GET', '/'), between, 'not the API server’s');
  });
}

test('an API server that breaks off, is silent, or is somebody else’s', async () => {
  answer = (request) => request.socket.destroy();
  await assert.rejects(api.request('GET', '/'), { code: 'cluster-unreachable' });
  answer = () => {};
  await assert.rejects(api.request('GET', '/', { timeoutMs: 20 }), {
    code: 'cluster-unreachable',
    message: 'the API server is silent',
  });
  const other = mkdtempSync(path.join(tmpdir(), 'lpk-account-'));
  writeFileSync(path.join(other, 'token'), 'x');
  writeFileSync(path.join(other, 'ca.crt'), ''); // trusts nobody
  const { port } = server.address() as AddressInfo;
  await assert.rejects(apiServer('127.0.0.1', `${port}`, other).request('GET', '/'), {
    code: 'cluster-unreachable',
    message: /certificate/,
  });
  rmSync(other, { recursive: true });
});

test('an answer has a bound', async () => {
  const piece = Buffer.alloc(1 << 20, 'x');
  answer = (_request, response) => {
    response.on('error', () => {});
    for (let i = 0; i < 10; i++) response.write(piece);
  };
  await assert.rejects(api.request('GET', '/'), { code: 'limit-exceeded' });
  await assert.rejects(
    api.watch('/', {}, () => {}, new AbortController().signal),
    { code: 'limit-exceeded' },
  );
});

test('a watch tells events however they are cut, and ends when the API server ends it, or a version is too old', async () => {
  const lines = ['1', '2', '3'].map((name) => `${JSON.stringify({ type: 'MODIFIED', object: { name } })}\n`).join('');
  let asked = '';
  answer = ({ url }, response) => {
    asked = url ?? '';
    response.write(lines.slice(0, 20));
    response.end(lines.slice(20));
  };
  const seen: string[] = [];
  const see = (type: string, object: { name: string }) => seen.push(`${type} ${object.name}`);
  await api.watch('/leases', { resourceVersion: '7' }, see, new AbortController().signal);
  assert.deepEqual(seen, ['MODIFIED 1', 'MODIFIED 2', 'MODIFIED 3']);
  assert.match(asked, /^\/leases\?resourceVersion=7&watch=true&timeoutSeconds=\d+$/);

  answer = (_request, response) => response.write('{"type":"ERROR","object":{"code":410}}\n');
  await api.watch('/leases', {}, see, new AbortController().signal);
  assert.equal(seen.length, 3);
});

test('a watch rejects when it is aborted, or its connection breaks', async () => {
  answer = (_request, response) => response.write('{"type":"MODIFIED","object":{}}\n');
  const stop = new AbortController();
  await assert.rejects(
    api.watch('/', {}, () => stop.abort(), stop.signal),
    { code: 'cluster-unreachable' },
  );
  await assert.rejects(
    api.watch('/', {}, () => server.closeAllConnections(), new AbortController().signal),
    { code: 'cluster-unreachable' },
  );
});
