import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { door, fakeCluster } from './fakes.ts';
import { RawClient } from './raw-client.ts';

/** Pages of the door's own, and what a web page in a browser on this laptop can't do with them. */

const PAGES = { '/proxy.pac': () => ({ type: 'application/x-ns-proxy-autoconfig', body: 'the file' }) };

async function ask(t: TestContext, text: (port: number) => string, options = {}) {
  const cluster = fakeCluster({ replyEarly: false });
  const { port } = await door(t, { dial: cluster.dial, pages: PAGES, ...options });
  const client = new RawClient(port);
  client.socket.end(text(port));
  return { answer: (await client.rest()).toString(), flows: cluster.flows, port };
}

for (const [name, host] of Object.entries<(port: number) => string>({
  '127.0.0.1': (port) => `127.0.0.1:${port}`,
  localhost: (port) => `localhost:${port}`,
  LOCALHOST: (port) => `LocalHost:${port}`,
  '[::1]': (port) => `[::1]:${port}`,
})) {
  test(`a page is there for ${name}`, async (t) => {
    const { answer, flows } = await ask(t, (port) => `GET /proxy.pac HTTP/1.1\r\nHost: ${host(port)}\r\n\r\n`);
    assert.match(answer, /^HTTP\/1\.1 200 OK\r\n/);
    assert.match(answer, /\r\nContent-Type: application\/x-ns-proxy-autoconfig\r\n/);
    assert.match(answer, /\r\n\r\nthe file$/);
    assert.match(answer, /X-Content-Type-Options: nosniff/);
    assert.match(answer, /Cross-Origin-Resource-Policy: same-origin/);
    assert.doesNotMatch(answer, /access-control/i);
    assert.deepEqual(flows, []);
  });
}

test('a page is there for the address that the door is bound to', async (t) => {
  const { port } = await door(t, { dial: fakeCluster({ replyEarly: false }).dial, pages: PAGES, host: '127.0.0.2' });
  const client = new RawClient(port, '127.0.0.2');
  client.socket.end(`GET /proxy.pac HTTP/1.1\r\nHost: 127.0.0.2:${port}\r\n\r\n`);
  assert.match((await client.rest()).toString(), /^HTTP\/1\.1 200 OK\r\n/);
});

const REFUSED: Record<string, { text: (port: number) => string; status: number }> = {
  'a rebound name': { text: (port) => `GET /proxy.pac HTTP/1.1\r\nHost: evil.example:${port}\r\n\r\n`, status: 421 },
  'a rebound name without its port': {
    text: () => 'GET /proxy.pac HTTP/1.1\r\nHost: evil.example\r\n\r\n',
    status: 421,
  },
  'another port': { text: (port) => `GET /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1:${port ^ 1}\r\n\r\n`, status: 421 },
  'no port': { text: () => 'GET /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n', status: 421 },
  'a name that begins well': {
    text: (port) => `GET /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1:${port}.evil.example\r\n\r\n`,
    status: 421,
  },
  'no Host': { text: () => 'GET /proxy.pac HTTP/1.0\r\n\r\n', status: 421 },
  'another path': { text: (port) => `GET / HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`, status: 404 },
  "a path of JavaScript's": {
    text: (port) => `GET /toString HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`,
    status: 404,
  },
  POST: {
    text: (port) => `POST /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Length: 1\r\n\r\nx`,
    status: 405,
  },
  'a CORS preflight': {
    text: (port) => `OPTIONS /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nOrigin: http://evil.example\r\n\r\n`,
    status: 405,
  },
};

for (const [name, { text, status }] of Object.entries(REFUSED)) {
  test(`no page for ${name}`, async (t) => {
    const { answer, flows } = await ask(t, text);
    assert.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `));
    assert.doesNotMatch(answer, /the file|access-control/i);
    assert.match(answer, /\r\nlpk: [^\n]+\n(\r\n|$)/);
    assert.deepEqual(flows, []);
  });
}

test('without pages, origin form is no proxy request', async (t) => {
  const text = (port: number) => `GET /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`;
  const { answer } = await ask(t, text, { pages: undefined });
  assert.match(answer, /^HTTP\/1\.1 400 /);
  assert.match(answer, /this is a proxy/);
});

for (const [name, text] of Object.entries<(port: number) => string>({
  'absolute form': (port) => `GET http://127.0.0.1:${port}/proxy.pac HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`,
  CONNECT: (port) => `CONNECT 127.0.0.1:${port} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`,
})) {
  test(`127.0.0.1 in ${name} is the pod's, also at the door's own port: nothing of the laptop is reached`, async (t) => {
    const { dial, flows } = fakeCluster({ replyEarly: false });
    const refusing: typeof dial = (flow) => {
      flows.push(flow);
      return dial({ ...flow, host: 'refused.fail' });
    };
    const { answer, port } = await ask(t, text, { dial: refusing });
    assert.match(answer, /^HTTP\/1\.1 502 /);
    assert.deepEqual(flows[0], { protocol: 'tcp', host: '127.0.0.1', port });
  });
}
