import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { type TestContext, test } from 'node:test';
import type { LpkError } from '../../../agent/wire/errors.ts';
import { deliverInbound } from '../../../proxy/deliver.ts';
import { readAll, SessionPair, until } from '../wire/harness.ts';

/** A laptop that serves the pod's port 80 at `localPort`. */
async function delivering(t: TestContext, localPort: number): Promise<{ pair: SessionPair; refused: number[] }> {
  const pair = await SessionPair.open(t);
  const refused: number[] = [];
  deliverInbound(
    pair.laptop,
    (podPort) => (podPort === 80 ? localPort : undefined),
    (port) => refused.push(port),
  );
  return { pair, refused };
}

async function server(t: TestContext, host: string, serve: (socket: net.Socket) => void): Promise<number> {
  const sockets = new Set<net.Socket>();
  const listener = net.createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    serve(socket);
  });
  listener.listen(0, host);
  await once(listener, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    listener.close();
  });
  return (listener.address() as net.AddressInfo).port;
}

for (const host of ['127.0.0.1', '::1']) {
  test(`a caller of the pod reaches the process that listens on ${host}; each way ends alone`, async (t) => {
    const port = await server(t, host, async (socket) => {
      const question = await readAll(socket);
      socket.end(`you said ${question}`);
    });
    const { pair, refused } = await delivering(t, port);
    const caller = pair.agent.openAccept(80, '10.0.0.7', 40_000);
    await caller.opened;
    caller.end('hello');
    assert.equal(String(await readAll(caller)), 'you said hello');
    await until(() => pair.laptop.streamCount + pair.agent.streamCount === 0, 'nothing is left');
    assert.deepEqual(refused, []);
  });
}

test('while nothing listens the caller is refused, and it is told once', async (t) => {
  const gone = net.createServer().listen(0, '127.0.0.1');
  await once(gone, 'listening');
  const { port } = gone.address() as net.AddressInfo;
  gone.close();
  await once(gone, 'close');
  const { pair, refused } = await delivering(t, port);
  const caller = pair.agent.openAccept(80, '10.0.0.7', 40_000);
  await assert.rejects(caller.opened, { code: 'refused', message: `nothing listens at 127.0.0.1:${port}` });
  assert.deepEqual(refused, [port]);
});

test('a port that is not served, and what is no caller, are refused', async (t) => {
  const { pair, refused } = await delivering(t, 1);
  await assert.rejects(pair.agent.openAccept(81, '10.0.0.7', 40_000).opened, { code: 'refused' });
  await assert.rejects(pair.agent.openTcp('127.0.0.1', 22).opened, { code: 'not-allowed' });
  await assert.rejects(pair.agent.openUdp('127.0.0.1', 53).opened, { code: 'not-allowed' });
  await assert.rejects(pair.agent.request('environment'), { code: 'not-allowed' });
  assert.deepEqual(refused, []);
});

test('a process that resets its connection resets the caller', async (t) => {
  const port = await server(t, '127.0.0.1', (socket) => socket.once('data', () => socket.resetAndDestroy()));
  const { pair } = await delivering(t, port);
  const caller = pair.agent.openAccept(80, '10.0.0.7', 40_000);
  await caller.opened;
  caller.write('x');
  const [error] = (await once(caller.resume(), 'error')) as [LpkError];
  assert.equal(error.code, 'connection-reset');
});

test('a caller that leaves at once leaves no connection behind', async (t) => {
  let open = 0;
  const port = await server(t, '127.0.0.1', (socket) => {
    open += 1;
    socket.resume().on('close', () => {
      open -= 1;
    });
    socket.on('end', () => socket.end());
  });
  const { pair, refused } = await delivering(t, port);
  for (let i = 0; i < 20; i++) pair.agent.openAccept(80, '10.0.0.7', i).destroy();
  await pair.agent.openAccept(80, '10.0.0.7', 99).opened; // the ones before have been heard of
  await until(() => open === 1 && pair.laptop.streamCount === 1, 'only the last one is left');
  assert.deepEqual(refused, []);
});
