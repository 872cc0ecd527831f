import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import test, { type TestContext } from 'node:test';
import { door, fakeCluster, listen, received, serve } from './fakes.ts';
import { RawClient } from './raw-client.ts';

/** The HTTP door's requests in absolute form. CONNECT is in every-door.test.ts, real clients in curl.test.ts. */

async function setUp(t: TestContext, handle: http.RequestListener, options: http.ServerOptions = {}) {
  const server = http.createServer(options, handle);
  const port = await listen(t, server);
  const cluster = fakeCluster({ replyEarly: false });
  const { port: doorPort } = await door(t, cluster);
  return { server, port, doorPort, cluster };
}

/** What the origin sees of a request, as JSON. */
const mirror: http.RequestListener = async (request, response) => {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  const { method, url, rawHeaders, rawTrailers } = request;
  response.end(JSON.stringify({ method, url, rawHeaders, rawTrailers, body: Buffer.concat(chunks).toString() }));
};

/** Sends raw text; gives the answer's head and, for a mirror, what the origin saw. */
async function ask(client: RawClient, text: string) {
  client.socket.write(text, 'latin1');
  return answer(client);
}

async function answer(client: RawClient) {
  const head = await client.takeUntil('\r\n\r\n');
  const length = /^content-length: (\d+)/im.exec(head)?.[1];
  let body = '';
  if (length) body = (await client.take(Number(length))).toString('latin1');
  else if (/^transfer-encoding: chunked/im.test(head)) body = await chunked(client);
  return { status: Number(head.slice(9, 12)), head, body };
}

async function chunked(client: RawClient): Promise<string> {
  let body = '';
  for (;;) {
    const size = Number.parseInt(await client.takeUntil('\r\n'), 16);
    body += (await client.take(size)).toString('latin1');
    if (size === 0) {
      for (let line = ''; line !== '\r\n'; body += line === '\r\n' ? '' : `[${line.trim()}]`) {
        line = await client.takeUntil('\r\n');
      }
      return body;
    }
    await client.take(2);
  }
}

test('the origin gets origin form, its own Host, and no hop-by-hop header', async (t) => {
  const { port, doorPort, cluster } = await setUp(t, mirror);
  const client = new RawClient(doorPort);
  const { status, body } = await ask(
    client,
    `GET http://me:secret@web.shop:${port}/a/../b%20c?q=1&q=2 HTTP/1.1\r\nHost: other\r\nX-Mine: 1\r\nx-mine: 2\r\n` +
      'Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nConnection: keep-alive, X-Hop\r\nX-Hop: gone\r\n' +
      'Keep-Alive: timeout=5\r\nTE: trailers\r\nAccept: */*\r\n\r\n',
  );
  assert.equal(status, 200);
  assert.deepEqual(JSON.parse(body), {
    method: 'GET',
    url: '/a/../b%20c?q=1&q=2',
    rawHeaders: [
      ...['Host', `web.shop:${port}`, 'X-Mine', '1', 'x-mine', '2', 'Accept', '*/*'],
      ...['Connection', 'close'],
    ],
    rawTrailers: [],
    body: '',
  });
  assert.deepEqual(cluster.flows, [{ protocol: 'tcp', host: 'web.shop', port }]);
});

for (const [target, seen] of Object.entries({
  'http://web:PORT': '/',
  'http://web:PORT?x': '/?x',
  'HTTP://web:PORT/#part': '/',
  'ws://web:PORT/chat': '/chat',
})) {
  test(`${target} asks for ${seen}`, async (t) => {
    const { port, doorPort } = await setUp(t, mirror);
    const { body } = await ask(
      new RawClient(doorPort),
      `GET ${target.replace('PORT', `${port}`)} HTTP/1.1\r\nHost: x\r\n\r\n`,
    );
    assert.equal(JSON.parse(body).url, seen);
  });
}

test('a missing port is 80, an IPv6 literal has no brackets', async (t) => {
  const cluster = fakeCluster({ replyEarly: false });
  const { port } = await door(t, cluster);
  await ask(new RawClient(port), 'GET http://refused.fail/ HTTP/1.1\r\nHost: x\r\n\r\n');
  await ask(new RawClient(port), 'GET http://[fd00::1]:1/ HTTP/1.1\r\nHost: x\r\n\r\n');
  assert.deepEqual(
    cluster.flows.map(({ host, port }) => `${host} ${port}`),
    ['refused.fail 80', 'fd00::1 1'],
  );
});

for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND', 'PURGE']) {
  test(`${method} arrives as ${method}, bodies and none`, async (t) => {
    const { port, doorPort } = await setUp(t, mirror);
    const client = new RawClient(doorPort);
    const start = `${method} http://web:${port}/ HTTP/1.1\r\nHost: x\r\n`;
    client.socket.write(`${start}\r\n`);
    if (method === 'HEAD') {
      assert.match(await client.takeUntil('\r\n\r\n'), /^HTTP\/1\.1 200 OK\r\n/);
      const next = await ask(client, `${start}\r\n`);
      assert.equal(next.status, 200, 'no body is between the two answers');
      return;
    }
    const none = JSON.parse((await answer(client)).body);
    assert.equal(none.method, method);
    assert.equal(none.body, '');
    assert.doesNotMatch(none.rawHeaders.join(), /chunked/);
    if (method === 'TRACE') return; // may not have one
    const sized = JSON.parse((await ask(client, `${start}Content-Length: 5\r\n\r\nsized`)).body);
    assert.equal(sized.body, 'sized');
    const inChunks = await ask(
      client,
      `${start}Transfer-Encoding: chunked\r\n\r\n3\r\nin-\r\n6\r\nchunks\r\n0\r\nX-Sum: 9\r\n\r\n`,
    );
    const seen = JSON.parse(inChunks.body);
    assert.equal(seen.body, 'in-chunks');
    assert.deepEqual(seen.rawTrailers, ['X-Sum', '9']);
  });
}

test('OPTIONS without a path asks for the server as a whole', async (t) => {
  const { port, doorPort } = await setUp(t, mirror);
  const { body } = await ask(new RawClient(doorPort), `OPTIONS http://web:${port} HTTP/1.1\r\nHost: x\r\n\r\n`);
  assert.equal(JSON.parse(body).url, '*');
});

test("the answer comes as the origin gave it, without the origin's hop-by-hop headers", async (t) => {
  const { port, doorPort } = await setUp(t, (_request, response) => {
    response.sendDate = false;
    response.writeHead(299, 'Peculiar', [
      ...['Set-Cookie', 'a=1', 'set-cookie', 'b=2', 'X-Odd-Case', 'y'],
      ...['Connection', 'X-Hop', 'X-Hop', 'gone', 'Content-Length', '2'],
    ]);
    response.end('ok');
  });
  const { head } = await ask(new RawClient(doorPort), `GET http://web:${port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
  assert.equal(
    head,
    'HTTP/1.1 299 Peculiar\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-Odd-Case: y\r\nContent-Length: 2\r\n' +
      'Connection: keep-alive\r\n\r\n',
  );
});

test('trailers of the answer are passed on', async (t) => {
  const { port, doorPort } = await setUp(t, (_request, response) => {
    response.writeHead(200, { Trailer: 'X-Sum' });
    response.write('part');
    response.addTrailers({ 'X-Sum': '4' });
    response.end();
  });
  const { body } = await ask(new RawClient(doorPort), `GET http://web:${port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
  assert.equal(body, 'part[X-Sum: 4]');
});

test('an answer is streamed: its head before any of its body, each piece as it comes', async (t) => {
  const go = Promise.withResolvers<http.ServerResponse>();
  const { port, doorPort } = await setUp(t, (_request, response) => {
    response.flushHeaders();
    go.resolve(response);
  });
  const client = new RawClient(doorPort);
  client.socket.write(`GET http://web:${port}/events HTTP/1.1\r\nHost: x\r\n\r\n`);
  const response = await go.promise;
  assert.match(await client.takeUntil('\r\n\r\n'), /^HTTP\/1\.1 200/);
  for (const piece of ['data: 1\n\n', 'data: 2\n\n']) {
    response.write(piece);
    await client.takeUntil(piece);
  }
});

test('a request is streamed: its head before any of its body', async (t) => {
  const { port, doorPort } = await setUp(t, (request, response) => {
    response.flushHeaders();
    request.on('data', (chunk) => response.write(chunk));
    request.on('end', () => response.end());
  });
  const client = new RawClient(doorPort);
  client.socket.write(`POST http://web:${port}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n`);
  await client.takeUntil('\r\n\r\n');
  client.socket.write('4\r\nping\r\n');
  await client.takeUntil('ping');
});

test('a client keeps its connection for several requests, to several origins', async (t) => {
  const { port, doorPort, cluster } = await setUp(t, mirror);
  const other = await listen(t, http.createServer(mirror));
  const client = new RawClient(doorPort);
  for (const target of [port, other, port]) {
    const { body } = await ask(client, `POST http://web:${target}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi`);
    assert.equal(JSON.parse(body).body, 'hi');
  }
  assert.deepEqual(
    cluster.flows.map((flow) => flow.port),
    [port, other, port],
  );
});

test('pipelined requests are answered in order', async (t) => {
  const { port, doorPort } = await setUp(t, (request, response) => {
    const delay = request.url === '/1' ? 30 : 0; // the first is answered last
    setTimeout(() => response.end(request.url), delay);
  });
  const client = new RawClient(doorPort);
  const get = (path: string) => `GET http://web:${port}${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
  client.socket.write(get('/1') + get('/2') + get('/3'));
  const bodies = [await answer(client), await answer(client), await answer(client)].map(({ body }) => body);
  assert.deepEqual(bodies, ['/1', '/2', '/3']);
});

test('an idle connection is closed when its time is up, one with a request under way is not', async (t) => {
  const held = Promise.withResolvers<http.ServerResponse>();
  const server = http.createServer((request, response) => {
    if (request.url === '/hold') held.resolve(response);
    else response.end('quick');
  });
  const port = await listen(t, server);
  const { port: doorPort } = await door(t, { ...fakeCluster({ replyEarly: false }), idleMs: 500 });
  const get = (path: string) => `GET http://web:${port}${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
  const [idle, busy] = [new RawClient(doorPort), new RawClient(doorPort)];
  assert.equal((await ask(busy, get('/quick'))).body, 'quick');
  busy.socket.write(get('/quick') + get('/hold')); // the first ends while the second is under way
  assert.equal((await answer(busy)).body, 'quick');
  const response = await held.promise;
  assert.equal((await ask(idle, get('/quick'))).body, 'quick');
  await idle.rest();
  response.end('held');
  assert.equal((await answer(busy)).body, 'held');
});

test('HTTP/1.0 clients get an answer they understand', async (t) => {
  const { port, doorPort } = await setUp(t, (_request, response) => {
    response.write('in ');
    response.end('chunks');
  });
  const client = new RawClient(doorPort);
  client.socket.write(`GET http://web:${port}/ HTTP/1.0\r\n\r\n`);
  const all = (await client.rest()).toString();
  assert.doesNotMatch(all, /chunked/i);
  assert.match(all, /\r\n\r\nin chunks$/);
});

test('Expect: 100-continue is decided by the origin', async (t) => {
  const { server, port, doorPort } = await setUp(t, mirror);
  const client = new RawClient(doorPort);
  const put = (path: string) =>
    `PUT http://web:${port}${path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n`;
  server.on('checkContinue', (request, response) => {
    if (request.url === '/no') {
      response.writeHead(417, { 'Content-Length': '0' });
      response.end();
      return;
    }
    response.writeContinue();
    mirror(request, response);
  });
  client.socket.write(put('/yes'));
  assert.equal(await client.takeUntil('\r\n\r\n'), 'HTTP/1.1 100 Continue\r\n\r\n');
  const { body } = await ask(client, 'body');
  assert.equal(JSON.parse(body).body, 'body');
  assert.equal((await ask(client, put('/no'))).status, 417);
});

test('informational answers are passed on', async (t) => {
  const { port, doorPort } = await setUp(t, (_request, response) => {
    response.writeEarlyHints({ link: '</a.css>; rel=preload' }, () => response.end('page'));
  });
  const client = new RawClient(doorPort);
  client.socket.write(`GET http://web:${port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
  assert.match(
    await client.takeUntil('\r\n\r\n'),
    /^HTTP\/1\.1 103 Early Hints\r\nLink: <\/a\.css>; rel=preload\r\n\r\n$/i,
  );
  assert.equal((await answer(client)).body, 'page');
});

const NOT_FOR_A_PROXY: Record<string, { start: string; status: number; line: RegExp }> = {
  'origin form': { start: 'GET / HTTP/1.1', status: 400, line: /^lpk: this is a proxy/ },
  'https in absolute form': {
    start: 'GET https://web/ HTTP/1.1',
    status: 501,
    line: /^lpk: https:\/\/ goes through CONNECT/,
  },
  'ftp in absolute form': { start: 'GET ftp://web/ HTTP/1.1', status: 501, line: /CONNECT/ },
  'no host': { start: 'GET http://:80/ HTTP/1.1', status: 400, line: /no host and port in http:\/\/:80/ },
  'port 0': { start: 'GET http://web:0/ HTTP/1.1', status: 400, line: /no host and port/ },
  'port 65536': { start: 'GET http://web:65536/ HTTP/1.1', status: 400, line: /no host and port/ },
  'CONNECT without a port': { start: 'CONNECT web HTTP/1.1', status: 400, line: /CONNECT wants host:port, not web/ },
};

for (const [name, { start, status, line }] of Object.entries(NOT_FOR_A_PROXY)) {
  test(`refuses ${name} with one line`, async (t) => {
    const cluster = fakeCluster({ replyEarly: false });
    const { port } = await door(t, cluster);
    const got = await ask(new RawClient(port), `${start}\r\nHost: x\r\n\r\n`);
    assert.equal(got.status, status);
    assert.match(got.body, line);
    assert.match(got.body, /^[^\n]+\n$/);
    assert.deepEqual(cluster.flows, []);
  });
}

for (const [what, sent] of Object.entries({
  'a request line that is none': 'hello there\r\n\r\n',
  'HTTP/2': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'two lengths': 'POST http://web/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n',
  'length and chunks':
    'POST http://web/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n',
})) {
  test(`refuses ${what}`, async (t) => {
    const cluster = fakeCluster({ replyEarly: false });
    const { port } = await door(t, cluster);
    const client = new RawClient(port);
    client.socket.write(sent);
    assert.match((await client.rest()).toString(), /^HTTP\/1\.1 400 /);
    assert.deepEqual(cluster.flows, []);
  });
}

test('a header beyond the bound is refused', async (t) => {
  const { port } = await door(t, fakeCluster({ replyEarly: false }));
  const client = new RawClient(port);
  client.socket.write(`GET http://web/ HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(80 * 1024)}`);
  assert.match((await client.rest()).toString(), /^HTTP\/1\.1 431 /);
});

for (const [code, status] of Object.entries({
  refused: 502,
  unreachable: 502,
  'name-not-found': 502,
  'no-tunnel': 502,
  'timed-out': 504,
  'not-allowed': 403,
})) {
  test(`a dial that fails: ${code} is ${status} and one line; the connection stays`, async (t) => {
    const { port, doorPort } = await setUp(t, mirror);
    const client = new RawClient(doorPort);
    const failed = await ask(client, `POST http://${code}.fail/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody`);
    assert.equal(failed.status, status);
    assert.match(failed.body, new RegExp(`^lpk: ${code}\\.fail: [^\n]+\n$`));
    assert.equal((await ask(client, `GET http://web:${port}/ HTTP/1.1\r\nHost: x\r\n\r\n`)).status, 200);
  });
}

test('an origin that answers nonsense, or nothing, is 502', async (t) => {
  const { port: doorPort } = await door(t, fakeCluster({ replyEarly: false }));
  const nonsense = await serve(t, (socket) => socket.end('SSH-2.0-OpenSSH\r\n'));
  const nothing = await serve(t, (socket) => socket.end());
  for (const port of [nonsense, nothing]) {
    const { status, body } = await ask(new RawClient(doorPort), `GET http://web:${port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
    assert.equal(status, 502);
    assert.match(body, /^lpk: [^\n]+\n$/);
  }
});

test('a status that Node reads but does not write ends the client, not the process', async (t) => {
  const { port: doorPort } = await door(t, fakeCluster({ replyEarly: false }));
  const port = await serve(t, (socket) => socket.write('HTTP/1.1 042 Odd\r\nContent-Length: 0\r\n\r\n'));
  const client = new RawClient(doorPort);
  client.socket.write(`GET http://web:${port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
  assert.equal((await client.rest()).length, 0);
});

test('half an answer does not look whole', async (t) => {
  const { port: doorPort } = await door(t, fakeCluster({ replyEarly: false }));
  const sized = await serve(t, (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf'));
  const inChunks = await serve(t, (socket) =>
    socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n'),
  );
  for (const port of [sized, inChunks]) {
    const client = new RawClient(doorPort);
    client.socket.write(`GET http://web:${port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
    await client.takeUntil('\r\n\r\n');
    assert.doesNotMatch((await client.rest()).toString(), /\r\n0\r\n/, 'no last chunk');
  }
});

test('an origin is left in peace after its answer, and let go when it does not close', async (t) => {
  const cluster = fakeCluster({ replyEarly: false });
  const closed: Promise<unknown>[] = [];
  const { port: doorPort } = await door(t, {
    dial: (flow, first) => {
      const outbound = cluster.dial(flow, first);
      closed.push(once(outbound.stream, 'close'));
      return outbound;
    },
  });
  const origin = (closes: boolean) =>
    serve(t, (socket) => {
      socket.once('data', () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
      socket.on('end', () => (closes ? socket.end() : undefined));
    });
  for (const [closes, resets] of [
    [true, []],
    [false, ['cancelled']],
  ] as const) {
    const start = `GET http://web:${await origin(closes)}/ HTTP/1.1\r\nHost: x\r\n\r\n`;
    assert.equal((await ask(new RawClient(doorPort), start)).body, 'ok');
    await closed.at(-1);
    assert.deepEqual(cluster.resets, resets);
  }
});

test('a client that leaves takes its request with it', async (t) => {
  const arrived = Promise.withResolvers<http.IncomingMessage>();
  const { port, doorPort } = await setUp(t, (request) => arrived.resolve(request));
  const client = new RawClient(doorPort);
  client.socket.write(`GET http://web:${port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
  const request = await arrived.promise;
  const gone = once(request, 'error');
  client.socket.destroy();
  assert.equal((await gone)[0].code, 'ECONNRESET');
});

test('an answer before the whole request was read leaves the connection usable', async (t) => {
  const { port, doorPort } = await setUp(t, (request, response) => {
    if (request.url === '/small') return mirror(request, response);
    response.writeHead(413, { Connection: 'close', 'Content-Length': '0' });
    response.end();
    return undefined;
  });
  const client = new RawClient(doorPort);
  const size = 8 * 1024 * 1024;
  client.socket.write(`POST http://web:${port}/big HTTP/1.1\r\nHost: x\r\nContent-Length: ${size}\r\n\r\n`);
  assert.equal((await answer(client)).status, 413);
  client.socket.write(Buffer.alloc(size));
  const { body } = await ask(client, `GET http://web:${port}/small HTTP/1.1\r\nHost: x\r\n\r\n`);
  assert.equal(JSON.parse(body).url, '/small');
});

test('64 MiB each way at once, whole', async (t) => {
  const size = 64 * 1024 * 1024;
  const { port, doorPort } = await setUp(t, (request, response) => {
    response.writeHead(200, { 'Content-Length': size });
    request.pipe(response);
  });
  const hashes = [createHash('sha256'), createHash('sha256')] as const;
  const request = http.request({ host: '127.0.0.1', port: doorPort, method: 'POST', path: `http://web:${port}/` });
  const piece = Buffer.from(Array.from({ length: 65_536 }, (_, i) => (i * 31) & 0xff));
  const sending = (async () => {
    for (let left = size; left > 0; left -= piece.length) {
      hashes[0].update(piece);
      if (!request.write(piece)) await once(request, 'drain');
    }
    request.end();
  })();
  const [response] = await once(request, 'response');
  for await (const chunk of response) hashes[1].update(chunk);
  await sending;
  assert.equal(hashes[1].digest('hex'), hashes[0].digest('hex'));
});

test('backpressure: a client that does not read stops the origin', async (t) => {
  let sent = 0;
  const blocked = Promise.withResolvers<void>();
  const { port, doorPort } = await setUp(t, async (_request, response) => {
    const piece = Buffer.alloc(1024 * 1024);
    response.on('drain', () => {
      while (sent < 256 && response.write(piece)) sent++;
      blocked.resolve();
    });
    response.write(piece);
  });
  const client = new RawClient(doorPort);
  client.socket.write(`GET http://web:${port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
  client.socket.pause();
  await blocked.promise;
  let last = -1;
  for (let still = 0; still < 500; still++) {
    await new Promise(setImmediate);
    if (sent !== last) still = 0;
    last = sent;
  }
  assert.ok(sent < 64, `the origin could send ${sent} MiB to a client that reads nothing`);
});

test('an upgrade joins client and origin, early bytes of both included', async (t) => {
  const { server, port, doorPort } = await setUp(t, mirror);
  const seen = Promise.withResolvers<string[]>();
  server.on('upgrade', async (request, socket, head) => {
    seen.resolve(request.rawHeaders);
    socket.write('HTTP/1.1 101 Go Ahead\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-X: 1\r\n\r\nfirst');
    socket.unshift(head);
    socket.end(`got ${await received(socket as never)}`);
  });
  const client = new RawClient(doorPort);
  client.socket.end(
    `GET http://web:${port}/chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-Key: k\r\n\r\nearly`,
  );
  assert.equal(
    await client.takeUntil('\r\n\r\n'),
    'HTTP/1.1 101 Go Ahead\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-X: 1\r\n\r\n',
  );
  assert.equal((await client.rest()).toString(), 'firstgot early');
  assert.deepEqual(await seen.promise, [
    ...['Host', `web:${port}`, 'Sec-Key', 'k', 'Connection', 'Upgrade', 'Upgrade', 'WebSocket'],
  ]);
});

test('an upgrade the origin declines is an ordinary answer', async (t) => {
  const { port, doorPort } = await setUp(t, (_request, response) => {
    response.writeHead(426);
    response.end('no websocket here');
  });
  const client = new RawClient(doorPort);
  client.socket.write(
    `GET http://web:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`,
  );
  const { status, body } = await answer(client);
  assert.deepEqual([status, body], [426, 'no websocket here']);
  assert.equal((await client.rest()).length, 0);
});

test('an upgrade whose dial fails is 502', async (t) => {
  const { port } = await door(t, fakeCluster({ replyEarly: false }));
  const start = 'GET http://refused.fail/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n';
  const { status, body } = await ask(new RawClient(port), start);
  assert.deepEqual([status, body], [502, 'lpk: refused.fail: the dial failed\n']);
});

test('a wish for h2c is not passed on, the request and its body are', async (t) => {
  const { port, doorPort } = await setUp(t, mirror);
  const client = new RawClient(doorPort);
  const wish = 'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n';
  for (const framing of ['Content-Length: 4\r\n\r\nbody', 'Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n']) {
    const { body } = await ask(client, `POST http://web:${port}/ HTTP/1.1\r\nHost: x\r\n${wish}${framing}`);
    const seen = JSON.parse(body);
    assert.equal(seen.body, 'body');
    assert.doesNotMatch(seen.rawHeaders.join(), /upgrade|http2/i);
  }
});
