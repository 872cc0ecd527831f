import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { type Cluster, type ClusterObserver, openCluster } from '../../../agent/deploy/kube.ts';
import { retryOnConflict } from '../../../agent/restore/api.ts';
import { LpkError } from '../../../agent/wire/errors.ts';

/** HTTP as it can go wrong. The peer plays one script each; what a real API server means is test/e2e's to show. */

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-kube-'));
after(() => rmSync(dir, { recursive: true }));

async function clusterAt(server: string, user: object = { token: 't' }, observer?: ClusterObserver): Promise<Cluster> {
  const kubeconfig = path.join(dir, 'config');
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      clusters: [{ name: 'c', cluster: { server } }],
      users: [{ name: 'u', user }],
      contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
      'current-context': 'x',
    }),
  );
  return await openCluster({ kubeconfig }, observer);
}

type Answer = (request: http.IncomingMessage, response: http.ServerResponse) => void;

/** Answers the first request with the first answer, and so on; the last one stays. */
async function scripted(t: TestContext, answers: Answer[], user?: object, observer?: ClusterObserver) {
  const requests: { method?: string; url?: string; headers: http.IncomingHttpHeaders; body: string }[] = [];
  const server = http.createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    requests.push({ method: request.method, url: request.url, headers: request.headers, body });
    (answers[Math.min(requests.length, answers.length) - 1] as Answer)(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const cluster = await clusterAt(
    `http://127.0.0.1:${(server.address() as net.AddressInfo).port}/gateway/`,
    user,
    observer,
  );
  t.after(() => {
    cluster.close();
    server.close();
    server.closeAllConnections();
  });
  return { cluster, requests };
}

const json =
  (status: number, body: object, headers: http.OutgoingHttpHeaders = {}): Answer =>
  (_, response) => {
    response.writeHead(status, headers).end(JSON.stringify(body));
  };
const hangUp: Answer = (request) => request.socket.destroy();
const failure = (code: number, message = 'no') => ({ kind: 'Status', code, message });

test('its clock is the one of the latest answer that has one', async (t) => {
  const { cluster } = await scripted(t, [
    json(200, {}, { date: 'Tue, 24 Nov 2020 12:00:00 GMT' }),
    (_, response) => {
      response.sendDate = false;
      response.end('{}');
    },
  ]);
  assert.ok(Math.abs(cluster.nowMs() - Date.now()) < 1_000);
  for (let n = 0; n < 2; n++) {
    await cluster.request('GET', '/version');
    const sinceMs = cluster.nowMs() - Date.parse('2020-11-24T12:00:00Z');
    assert.ok(sinceMs >= 0 && sinceMs < 10_000, `${sinceMs} ms`);
  }
});

test('a request carries the path of the server, the query, the body and who we are', async (t) => {
  const { cluster, requests } = await scripted(t, [json(200, { ok: 1 })]);
  const options = { body: [1], contentType: 'application/json-patch+json', query: { a: 'b c', none: undefined } };
  assert.deepEqual(await cluster.request('PATCH', '/api/v1/x', options), { ok: 1 });
  const [request] = requests;
  assert.deepEqual([request?.method, request?.url, request?.body], ['PATCH', '/gateway/api/v1/x?a=b+c', '[1]']);
  assert.equal(request?.headers.authorization, 'Bearer t');
  assert.equal(request?.headers['content-type'], 'application/json-patch+json');
});

test('an observer sees each request and how it went, and who we say we are; no query and no body', async (t) => {
  const seen: object[] = [];
  const said = new Set<unknown>();
  const { cluster } = await scripted(t, [json(401, failure(401)), json(201, { secret: 1 }), hangUp], undefined, {
    answered: ({ ms, ...rest }) => seen.push({ ...rest, timed: ms >= 0 }),
    credentials: ({ headers }) => said.add(headers.Authorization),
  });
  await cluster.request('POST', '/api/v1/x', { body: { secret: 1 }, query: { a: 1 } });
  await assert.rejects(cluster.request('GET', '/y'));
  await cluster.tlsOptions();
  assert.deepEqual(seen.slice(0, 2), [
    { method: 'POST', path: '/api/v1/x', timed: true, status: 401 },
    { method: 'POST', path: '/api/v1/x', timed: true, status: 201 },
  ]);
  assert.deepEqual(seen.at(-1), { method: 'GET', path: '/y', timed: true, failure: 'ECONNRESET' });
  assert.deepEqual([...said], ['Bearer t']);
});

test('a 401 is asked once more with new credentials', async (t) => {
  const count = path.join(dir, 'count');
  writeFileSync(count, '');
  const script = `echo >> '${count}'; echo "{\\"status\\":{\\"token\\":\\"t$(wc -l < '${count}' | tr -d ' ')\\"}}"`;
  const exec = { command: 'sh', args: ['-c', script] };
  const { cluster, requests } = await scripted(t, [json(401, failure(401)), json(200, {}), json(401, failure(401))], {
    exec,
  });
  await cluster.request('GET', '/x');
  assert.deepEqual(
    requests.map(({ headers }) => headers.authorization),
    ['Bearer t1', 'Bearer t2'],
  );
  await assert.rejects(cluster.request('GET', '/x'), { code: 'unauthorized' });
  assert.equal(requests.length, 4);
});

test('a 429 or 503 that says when is asked again then, not for ever', async (t) => {
  const later = json(429, failure(429), { 'retry-after': '0' });
  const { cluster, requests } = await scripted(t, [
    later,
    json(503, failure(503), { 'retry-after': '0' }),
    json(200, {}),
    later,
  ]);
  await cluster.request('GET', '/x');
  assert.equal(requests.length, 3);
  await assert.rejects(cluster.request('GET', '/x'), { code: 'cluster-unreachable' });
  assert.equal(requests.length, 9);
});

test('a creation that a quota counted at the same moment as another is asked again; what is there already is a conflict', async (t) => {
  const raced = json(409, { ...failure(409), reason: 'Conflict' });
  const there = json(409, { ...failure(409), reason: 'AlreadyExists' });
  const { cluster, requests } = await scripted(t, [raced, raced, json(201, { n: 1 }), there, raced]);
  assert.deepEqual(await cluster.request('POST', '/x', { body: {} }), { n: 1 });
  await assert.rejects(cluster.request('POST', '/x', { body: {} }), { code: 'conflict' });
  await assert.rejects(cluster.request('PATCH', '/x', { body: {} }), { code: 'conflict' });
  assert.equal(requests.length, 5);
  await assert.rejects(cluster.request('POST', '/x', { body: {} }), { code: 'conflict' });
  assert.equal(requests.length, 11);
});

test('a kept connection that the API server closes is no failure', async (t) => {
  const hangUp: Answer = (request) => request.socket.resetAndDestroy();
  const { cluster, requests } = await scripted(t, [json(200, { n: 1 }), hangUp, json(200, { n: 2 }), hangUp]);
  await cluster.request('GET', '/x');
  assert.deepEqual(await cluster.request('GET', '/x'), { n: 2 });
  assert.equal(requests.length, 3);
  await assert.rejects(cluster.request('GET', '/x'), { code: 'cluster-unreachable', message: /broke off/ });
});

test('no API server: nothing there, nothing said, not JSON, not TLS', async (t) => {
  const closed = net.createServer().listen(0, '127.0.0.1');
  await once(closed, 'listening');
  const { port } = closed.address() as net.AddressInfo;
  closed.close();
  await once(closed, 'close');
  const nobody = await clusterAt(`https://127.0.0.1:${port}`);
  const refused = {
    code: 'cluster-unreachable',
    message: new RegExp(`127.0.0.1:${port}: nothing listens there \\(ECONNREFUSED\\)`),
  };
  await assert.rejects(nobody.request('GET', '/x'), refused);
  const { cluster, requests } = await scripted(t, [
    ({ url }, response) => {
      if (!url?.endsWith('/silent')) response.end('<html>');
    },
  ]);
  const silent = { code: 'cluster-unreachable', message: /no answer within 0.05 s/ };
  await assert.rejects(cluster.request('GET', '/silent', { timeoutMs: 50 }), silent);
  await assert.rejects(cluster.request('GET', '/x'), { code: 'cluster-unreachable', message: /no JSON/ });
  // Neither is asked again. A slow machine may have given up the first before it was sent.
  const urls = requests.map(({ url }) => url?.split('/').at(-1));
  assert.deepEqual(
    urls.filter((url, i) => url !== 'silent' || i > 0),
    ['x'],
  );
  const plain = await clusterAt(cluster.server.replace('http:', 'https:'));
  await assert.rejects(plain.request('GET', '/x'), { code: 'cluster-unreachable' });
});

test('a request that is given up is cancelled, also while it waits to be asked again', async (t) => {
  const { cluster } = await scripted(t, [json(429, failure(429), { 'retry-after': '9' })]);
  const stop = new AbortController();
  const asked = cluster.request('GET', '/x', { signal: stop.signal });
  setImmediate(() => stop.abort());
  await assert.rejects(asked, { code: 'cancelled' });
});

const item = (uid: string, resourceVersion: string) => ({ metadata: { uid, resourceVersion } });
const list = (resourceVersion: string, ...items: object[]) => json(200, { metadata: { resourceVersion }, items });
const events =
  (...all: object[]): Answer =>
  (_, response) => {
    for (const event of all) response.write(`${JSON.stringify(event)}\n`);
  };
const uids = (now: Map<string, unknown> | undefined) => [...(now?.keys() ?? [])].join(' ');

test('a list is followed through additions, removals and an expired version', async (t) => {
  const watching = Promise.withResolvers<http.ServerResponse>();
  const { cluster, requests } = await scripted(t, [
    list('5', item('a', '4')),
    (request, response) => {
      events({ type: 'ADDED', object: item('b', '6') })(request, response);
      watching.resolve(response);
    },
    events({ type: 'ERROR', object: failure(410, 'too old') }),
    list('20', item('c', '19')),
    () => {},
  ]);
  const stop = new AbortController();
  const seen: string[] = [];
  for await (const now of cluster.follow('/pods', { query: { labelSelector: 'a=b' }, signal: stop.signal })) {
    seen.push(uids(now));
    if (uids(now) === 'a b') {
      // In pieces, as a network may deliver it.
      const more = [
        { type: 'DELETED', object: item('a', '7') },
        { type: 'BOOKMARK', object: item('', '9') },
      ];
      const text = more.map((event) => `${JSON.stringify(event)}\n`).join('');
      const response = await watching.promise;
      response.write(text.slice(0, 20), () => response.end(text.slice(20)));
    }
    if (seen.length === 4) stop.abort();
  }
  assert.deepEqual(seen, ['a', 'a b', 'b', 'c']);
  const asked = requests.map(({ url }) => new URL(url as string, 'http://x').searchParams);
  assert.deepEqual(
    asked.map((query) => query.get('resourceVersion')),
    [null, '5', '9', null],
  );
  assert.deepEqual(
    asked.map((query) => query.get('watch')),
    [null, 'true', 'true', null],
  );
  assert.ok(asked.every((query) => query.get('labelSelector') === 'a=b'));
});

test('what the first list or watch is refused for is thrown', async (t) => {
  const none = await scripted(t, [json(403, failure(403, 'cannot list'))]);
  const { signal } = new AbortController();
  await assert.rejects(none.cluster.follow('/pods', { signal }).next(), { code: 'forbidden', message: 'cannot list' });
  const listed = await scripted(t, [list('1'), json(403, failure(403, 'cannot watch'))]);
  const followed = listed.cluster.follow('/pods', { signal });
  await followed.next();
  await assert.rejects(followed.next(), { code: 'forbidden', message: 'cannot watch' });
});

/** From now on what waits is told the time by `t.mock.timers` alone. @returns lets `next` come, and counts the ms that passed. */
function fastTime(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  syncBuiltinESMExports(); // `node:timers/promises` is imported by name
  t.after(() => {
    t.mock.timers.reset();
    syncBuiltinESMExports();
  });
  return async <T>(next: Promise<T>): Promise<number> => {
    let over = false;
    let ms = 0;
    const done = () => {
      over = true;
    };
    next.then(done, done);
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      if (over) return ms;
      t.mock.timers.tick(50);
      ms += 50;
    }
  };
}

const ended: Answer = (_, response) => {
  response.write('\n', () => response.destroy());
};
const refusals = (count: number, status: number) => Array<Answer>(count).fill(json(status, failure(status)));

test('a list that could be watched is watched again after refusals that do not last', async (t) => {
  const { cluster } = await scripted(t, [
    ...[list('1'), ended, ...refusals(5, 403)],
    ...[list('2', item('a', '2')), ended, ...refusals(12, 401), json(500, failure(500))],
    ...[list('3', item('b', '3')), () => {}],
  ]);
  const refused: string[] = [];
  const { signal } = new AbortController();
  const followed = cluster.follow('/pods', { signal, refused: ({ code }) => refused.push(code) });
  await followed.next();
  const pass = fastTime(t);
  for (const expected of ['a', 'b']) {
    const next = followed.next();
    await pass(next);
    assert.equal(uids((await next).value), expected);
  }
  assert.deepEqual(refused, ['forbidden', 'unauthorized'], 'each is told once');
});

test('refusals that last are thrown, as is that nothing is there', async (t) => {
  const { cluster, requests } = await scripted(t, [list('1'), ended, ...refusals(1, 403)]);
  const { signal } = new AbortController();
  const followed = cluster.follow('/pods', { signal });
  await followed.next();
  const pass = fastTime(t);
  const next = followed.next();
  const ms = await pass(next);
  await assert.rejects(next, { code: 'forbidden' });
  assert.ok(ms >= 90_000, `after ${ms} ms`);
  assert.ok(requests.length > 5 && requests.length < 40, `${requests.length} requests`);
  const gone = await scripted(t, [list('1'), ended, json(404, failure(404))]);
  const deleted = gone.cluster.follow('/pods', { signal });
  await deleted.next();
  const failed = deleted.next();
  await pass(failed);
  await assert.rejects(failed, { code: 'not-found' });
});

test('only a conflict is tried again', async () => {
  let tries = 0;
  const conflicting = async () => {
    tries += 1;
    if (tries < 3) throw new LpkError('conflict', 'x');
    return tries;
  };
  assert.equal(await retryOnConflict(conflicting), 3);
  const failing = () => Promise.reject(new LpkError('forbidden', 'x'));
  await assert.rejects(retryOnConflict(failing), { code: 'forbidden' });
});
