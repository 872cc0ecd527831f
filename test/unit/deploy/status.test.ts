import assert from 'node:assert/strict';
import { test } from 'node:test';
import { networkError, oneLine, parseBody, statusError, upgradeError } from '../../../agent/deploy/status.ts';
import type { ErrorCode } from '../../../agent/wire/errors.ts';

const FROM = { server: 'https://api.test:6443', user: 'dev', doing: 'PATCH /x' };
const status = (code: number, message: string) => ({
  kind: 'Status',
  apiVersion: 'v1',
  status: 'Failure',
  code,
  message,
});

test('what the API server says becomes a code and one line', () => {
  const forbidden =
    'deployments.apps "web" is forbidden: User "dev" cannot patch resource "deployments" in API group "apps" in the namespace "shop"';
  const table: [number, string, ErrorCode, string][] = [
    [401, 'Unauthorized', 'unauthorized', 'https://api.test:6443 does not accept the credentials of user "dev"'],
    [403, forbidden, 'forbidden', forbidden],
    [404, 'services "web" not found', 'not-found', 'services "web" not found'],
    [409, 'Operation cannot be fulfilled', 'conflict', 'Operation cannot be fulfilled'],
    [410, 'too old resource version', 'not-found', 'too old resource version'],
    [
      422,
      'Deployment "web" is invalid:\n spec',
      'internal',
      'PATCH /x: the API server refused it (HTTP 422): Deployment "web" is invalid: spec',
    ],
    [429, 'too many', 'cluster-unreachable', "https://api.test:6443 can't answer now (HTTP 429): too many"],
    [500, 'etcd', 'cluster-unreachable', "https://api.test:6443 can't answer now (HTTP 500): etcd"],
  ];
  for (const [code, said, expected, message] of table) {
    const body = status(code, said);
    const error = statusError(code, body, FROM);
    assert.deepEqual([error.code, error.message, error.cause], [expected, message, body], String(code));
  }
});

test('an answer that is no Status still reads well', () => {
  assert.equal(statusError(403, '<html>\n<b>Blocked</b></html>', FROM).message, '<html> <b>Blocked</b></html>');
  assert.equal(statusError(404, '', FROM).message, 'HTTP 404');
  assert.equal(statusError(403, { kind: 'Other', message: 'no' }, FROM).message, 'HTTP 403');
  assert.equal(parseBody('not json'), 'not json');
  assert.deepEqual(parseBody('{"a":1}'), { a: 1 });
});

test('a 404 of a load balancer is none of the API server’s, but for kinds that this one may not know', () => {
  for (const [path, body, code] of [
    ['/apis/coordination.k8s.io/v1/namespaces/shop/leases/lpk-s1', 'default backend - 404', 'cluster-unreachable'],
    ['/api/v1/namespaces/shop/pods/web', '', 'cluster-unreachable'],
    ['/apis/apps/v1/namespaces/shop/deployments/web', status(404, 'not found'), 'not-found'],
    ['/apis/argoproj.io/v1alpha1/rollouts', '404 page not found', 'not-found'],
  ] as const)
    assert.equal(statusError(404, body, { ...FROM, path }).code, code, path);
});

test('no message is longer than a line of 500', () => {
  assert.equal(oneLine(`a\n\t b${'x'.repeat(600)}`).length, 500);
  assert.equal(oneLine(new Error('a\nb')), 'a b');
  assert.equal(oneLine(new AggregateError([], '')), 'AggregateError');
});

test('no connection: which server, and why', () => {
  const failed = (code: string, message = 'x') =>
    networkError(Object.assign(new Error(message), { code }), FROM.server);
  const refused = failed('ECONNREFUSED');
  assert.equal(refused.code, 'cluster-unreachable');
  assert.equal(
    refused.message,
    "can't reach the cluster at https://api.test:6443: nothing listens there (ECONNREFUSED)",
  );
  const certificate = failed('DEPTH_ZERO_SELF_SIGNED_CERT', 'self-signed certificate');
  assert.match(certificate.message, /self-signed certificate \(DEPTH_ZERO_SELF_SIGNED_CERT\)$/);
  const already = failed('ENOTFOUND');
  assert.equal(networkError(already, 'other'), already);
});

test('a refused upgrade: by the API server, or by what is behind it', () => {
  const said = (code: number, message: string) => JSON.stringify(status(code, message));
  const table: [number, string, ErrorCode][] = [
    [401, said(401, 'Unauthorized'), 'unauthorized'],
    [403, said(403, 'pods "x" is forbidden'), 'forbidden'],
    [404, said(404, 'pods "x" not found'), 'not-found'],
    [403, 'the pod says no', 'agent-unreachable'],
    [404, '{"message":"the pod has no such page"}', 'agent-unreachable'],
    [400, said(400, 'not running'), 'agent-unreachable'],
    [503, said(503, 'connection refused'), 'agent-unreachable'],
    [502, '', 'agent-unreachable'],
  ];
  for (const [code, body, expected] of table)
    assert.equal(upgradeError(code, body, FROM).code, expected, `${code} ${body}`);
  assert.match(upgradeError(503, said(503, 'dial tcp:\nrefused'), FROM).message, /HTTP 503\): dial tcp: refused$/);
});
