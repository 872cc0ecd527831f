import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import net, { type AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { carryProbe } from '../../../agent/pod/carried-probe.ts';
import type { CarriedProbe } from '../../../agent/wire/readiness.ts';
import { deliverInbound } from '../../../proxy/deliver.ts';
import { TLS_CERTIFICATE, TLS_KEY } from '../proxy/tls-fixture.ts';
import { SessionPair, until } from '../wire/harness.ts';

/** Probes of a pod at programs of the laptop: the container's port 80 is theirs. */

const BY = { podAddress: '10.0.0.9', address: '10.0.0.1', port: 4711, userAgent: 'kube-probe/1.34' };
const GET = { kind: 'httpGet', scheme: 'HTTP', path: '/', headers: [], port: 80, timeoutMs: 5_000 } as const;

type Ask = (probe: Partial<CarriedProbe>) => Promise<string | undefined>;

async function scene(t: TestContext, server: net.Server | number): Promise<{ ask: Ask; pair: SessionPair }> {
  const pair = await SessionPair.open(t);
  let port = server as number;
  if (typeof server !== 'number') {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => server.close());
    port = (server.address() as AddressInfo).port;
  }
  const ports = new Map([[80, port]]);
  deliverInbound(
    pair.laptop,
    (podPort) => ports.get(podPort),
    () => {},
  );
  return { pair, ask: (probe) => carryProbe(pair.agent, { ...GET, ...probe } as CarriedProbe, BY) };
}

type Answer = [status: number, headers?: http.OutgoingHttpHeaders];

function answering(by: (request: http.IncomingMessage) => Answer): http.RequestListener {
  return (request, response) => response.writeHead(...by(request)).end('body');
}

test('httpGet: success is any status from 200 to 399', async (t) => {
  const { ask } = await scene(t, http.createServer(answering(({ url }) => [Number(url?.slice(1))])));
  for (const status of [200, 204, 302, 399]) assert.equal(await ask({ path: `/${status}` }), undefined, `${status}`);
  for (const status of [400, 404, 500, 503]) {
    assert.equal(await ask({ path: `/${status}` }), `GET http://10.0.0.9/${status}: status ${status}`);
  }
});

test('httpGet: path and headers are as in the probe, all else as the kubelet has it', async (t) => {
  const seen: http.IncomingMessage[] = [];
  const { ask } = await scene(t, http.createServer(answering((request) => [seen.push(request) && 200] as Answer)));
  await ask({ path: 'a b?x=ü#no' });
  await ask({
    headers: [
      { name: 'Host', value: 'shop.example' },
      { name: 'X-Probe', value: 'one' },
      { name: 'x-probe', value: 'two' },
      { name: 'Accept', value: '' },
      { name: 'User-Agent', value: 'mine' },
    ],
  });
  await ask({ host: 'named.example' });
  const [plain, given, named] = seen as [http.IncomingMessage, http.IncomingMessage, http.IncomingMessage];
  assert.equal(plain.url, '/a%20b?x=%C3%BC');
  const kubelets = { 'user-agent': 'kube-probe/1.34', accept: '*/*', host: '10.0.0.9', connection: 'close' };
  assert.deepEqual({ ...plain.headers }, kubelets);
  assert.deepEqual(
    { ...given.headers },
    { host: 'shop.example', 'x-probe': 'one, two', 'user-agent': 'mine', connection: 'close' },
  );
  assert.equal(named.headers.host, 'named.example');
});

test('httpGet: redirects within the host are followed, ten requests at most; others are success', async (t) => {
  const targets: Record<string, string> = {
    '/away': 'http://elsewhere.example/',
    '/broken': '/500',
    '/port': 'http://10.0.0.9:81/',
    '/round': '/round',
  };
  let requests = 0;
  const by = ({ url = '' }: http.IncomingMessage): Answer => {
    requests += 1;
    const location = targets[url];
    return location ? [302, { location }] : [Number(url.slice(1)) || 200];
  };
  const { ask } = await scene(t, http.createServer(answering(by)));
  assert.equal(await ask({ path: '/away' }), undefined);
  assert.match((await ask({ path: '/broken' })) ?? '', /\/500: status 500$/);
  assert.match((await ask({ path: '/port' })) ?? '', /port 81 is not served/);
  requests = 0;
  assert.match((await ask({ path: '/round' })) ?? '', /stopped after 10 redirects$/);
  assert.equal(requests, 10);
});

test('httpGet over HTTPS: any certificate will do', async (t) => {
  const server = https.createServer(
    { key: TLS_KEY, cert: TLS_CERTIFICATE },
    answering(() => [200]),
  );
  const { ask, pair } = await scene(t, server);
  assert.equal(await ask({ scheme: 'HTTPS' }), undefined);
  assert.match((await ask({ scheme: 'HTTP' })) ?? '', /^httpGet port 80: /);
  await until(() => pair.laptop.streamCount === 0, 'every connection is closed');
});

test('an answer that does not come in time, one that never ends, one that is too long', async (t) => {
  const server = http.createServer((request, response) => {
    if (request.url === '/endless') response.write('and then');
    if (request.url === '/long') response.write(Buffer.alloc(64 * 1024));
  });
  const { ask, pair } = await scene(t, server);
  for (const path of ['/silent', '/endless'])
    assert.equal(await ask({ path, timeoutMs: 100 }), 'httpGet port 80: no answer within 0.1 s');
  assert.equal(await ask({ path: '/long' }), undefined);
  await until(() => pair.laptop.streamCount === 0, 'every connection is closed');
});

test('tcpSocket: who accepts is ready', async (t) => {
  const closed = Promise.withResolvers<void>();
  const server = net.createServer((socket) => socket.resume().on('close', () => closed.resolve()));
  const { ask } = await scene(t, server);
  assert.equal(await ask({ kind: 'tcpSocket' }), undefined);
  await closed.promise;
  server.close();
  await once(server, 'close');
  assert.match((await ask({ kind: 'tcpSocket' })) ?? '', /^tcpSocket port 80: nothing listens at 127\.0\.0\.1:\d+$/);
  assert.match((await ask({ kind: 'tcpSocket', port: 81 })) ?? '', /^tcpSocket port 81: .*port 81 is not served$/);
});

/** What the kubelet's gRPC probe asks, answered by the letters of the service's name. */
function healthServer(): http2.Http2Server {
  return http2.createServer((request, response) => {
    const pieces: Buffer[] = [];
    request.on('data', (piece: Buffer) => pieces.push(piece));
    request.on('end', () => {
      const { ':path': path, 'content-type': type, te } = request.headers;
      assert.deepEqual([path, type, te], ['/grpc.health.v1.Health/Check', 'application/grpc', 'trailers']);
      const message = Buffer.concat(pieces);
      assert.deepEqual([message[0], message.readUInt32BE(1)], [0, message.length - 5]);
      const body = message.subarray(5);
      assert.ok(body.length === 0 || body[0] === 0x0a, 'field 1, a string');
      const service = String(body.subarray(body[1] && body[1] & 0x80 ? 3 : 2));
      if (service === 'unknown') {
        response.writeHead(200, { 'content-type': 'application/grpc', 'grpc-status': '5' });
        return response.end();
      }
      response.writeHead(200, { 'content-type': 'application/grpc' });
      response.addTrailers({ 'grpc-status': '0' });
      return response.end(Buffer.of(0, 0, 0, 0, 2, 8, service === 'down' ? 2 : 1));
    });
  });
}

test('grpc: the service has to be SERVING', async (t) => {
  const { ask, pair } = await scene(t, healthServer());
  for (const service of ['', 'up', 'u'.repeat(200)]) assert.equal(await ask({ kind: 'grpc', service }), undefined);
  assert.equal(await ask({ kind: 'grpc', service: 'down' }), 'grpc port 80: service "down" is not SERVING');
  assert.equal(await ask({ kind: 'grpc', service: 'unknown' }), 'grpc port 80: status 5');
  await until(() => pair.laptop.streamCount === 0, 'every connection is closed');
});

test('grpc: programs that do not speak it', async (t) => {
  const plain = await scene(t, http.createServer(answering(() => [200])));
  assert.match((await plain.ask({ kind: 'grpc', service: '' })) ?? '', /^grpc port 80: /);
  const other = await scene(
    t,
    http2.createServer((_request, response) => response.writeHead(200).end('hello')),
  );
  assert.match((await other.ask({ kind: 'grpc', service: '' })) ?? '', /does not speak gRPC$/);
  const silent = await scene(
    t,
    net.createServer((socket) => socket.on('error', () => {})),
  );
  assert.match((await silent.ask({ kind: 'grpc', service: '', timeoutMs: 100 })) ?? '', /no answer within 0\.1 s$/);
});

test('a stopped process does not gather connections', async (t) => {
  const program = `require('net').createServer(() => {}).listen(0, '127.0.0.1', function () { console.log(this.address().port) })`;
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const [line] = await once(child.stdout, 'data');
  child.kill('SIGSTOP');
  const { ask, pair } = await scene(t, Number(line));
  assert.match((await ask({ timeoutMs: 100 })) ?? '', /no answer within 0\.1 s$/);
  assert.equal(await ask({ kind: 'tcpSocket' }), undefined, 'as in the pod: the kernel accepts');
  await until(() => pair.laptop.streamCount === 0 && pair.agent.streamCount === 0, 'every connection is closed');
});
