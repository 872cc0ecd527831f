import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { mock, type TestContext, test } from 'node:test';
import type { Cluster } from '../../../agent/deploy/kube.ts';
import { startServer } from '../../../agent/pod/server.ts';
import type { LpkError } from '../../../agent/wire/errors.ts';
import { AgentDialer } from '../../../cli/agent-dialer.ts';
import { until } from '../wire/harness.ts';

/** A stand-in of the API server says what it is told to; the agent behind its `pods/proxy` is a real one. */

const KEY = Buffer.alloc(32, 7);
const PORT = 47601;
const REFUSED = `error dialing backend: dial tcp 10.0.0.5:${PORT}: connect: connection refused`;
/** More than one transport is tried for while there is another. */
const TRY_MS = 10_000;
/** So often an agent that does not listen is tried before the other transport is. */
const TRIES = 4;

mock.timers.enable({ apis: ['setTimeout'] });

async function dialing(t: TestContext) {
  const agent = await startServer({ host: '127.0.0.1', port: 0, key: KEY, holdMs: 60_000, onSession: () => {} });
  t.after(() => agent.close());
  const scene = {
    saysProxy: REFUSED as string | undefined,
    forwards: 0,
    retries: [] as string[],
    isUp: false,
  };
  const api = http.createServer();
  api.on('upgrade', ({ url = '', rawHeaders }: http.IncomingMessage, near: net.Socket) => {
    near.on('error', () => {});
    const isForward = url.includes('/portforward');
    if (isForward) scene.forwards += 1;
    const said = isForward ? 'no' : scene.saysProxy;
    if (said) {
      const body = JSON.stringify({ kind: 'Status', code: 500, message: said });
      return void near.end(`HTTP/1.1 500 No\r\nConnection: close\r\n\r\n${body}`);
    }
    const far = net.connect(agent.port, '127.0.0.1');
    far.on('error', () => near.destroy());
    const lines = rawHeaders.map((text, i) => (i % 2 === 0 ? `${text}: ` : `${text}\r\n`)).join('');
    far.write(`GET ${url} HTTP/1.1\r\n${lines}\r\n`);
    near.pipe(far).pipe(near);
  });
  api.listen(0, '127.0.0.1');
  await once(api, 'listening');
  t.after(() => {
    api.close();
    api.closeAllConnections();
  });
  const server = `http://127.0.0.1:${(api.address() as net.AddressInfo).port}`;
  const cluster = { server, user: 'me', tlsOptions: async () => ({ headers: {} }) } as unknown as Cluster;
  const dialer = new AgentDialer({
    ...{ cluster, namespace: 'shop', key: KEY, agentPort: PORT, transports: ['proxy', 'port-forward'] },
  });
  const opened = dialer.open('web-1', (tunnel) => {
    t.after(() => tunnel.close());
    tunnel.on('retry', ({ code }: LpkError) => scene.retries.push(code));
    return () => true;
  });
  opened.then(
    () => {
      scene.isUp = true;
    },
    () => {},
  );
  /** Lets the next attempt fail, and that much time pass. */
  const pass = async (ms: number) => {
    const { length } = scene.retries;
    await until(() => scene.retries.length > length, 'an attempt that fails');
    mock.timers.tick(ms);
  };
  return { scene, dialer, pass };
}

test('who refuses was reached: an agent that does not listen yet does not change the transport', async (t) => {
  const { scene, dialer, pass } = await dialing(t);
  await pass(TRY_MS);
  await pass(TRY_MS);
  scene.saysProxy = undefined;
  mock.timers.tick(TRY_MS / 10);
  await until(() => scene.isUp, 'the tunnel');
  assert.equal(dialer.transport, 'proxy');
  assert.equal(scene.forwards, 0);
  assert.deepEqual([...new Set(scene.retries)], ['agent-not-listening']);
});

test('one that never listens there may yet be reached by the other transport: a policy may refuse, too', async (t) => {
  const { scene, pass } = await dialing(t);
  for (let i = 0; i < TRIES; i++) {
    assert.equal(scene.forwards, 0);
    await pass(TRY_MS);
  }
  await until(() => scene.forwards > 0, 'the port-forward');
});

for (const said of ['dial tcp 10.0.0.5:47601: i/o timeout', 'dial tcp 10.0.0.1:8131: connect: connection refused'])
  test(`a transport that does not get to the pod is left after a few seconds: ${said}`, async (t) => {
    const { scene, pass } = await dialing(t);
    scene.saysProxy = said;
    await pass(TRY_MS);
    await until(() => scene.forwards > 0, 'the port-forward');
    assert.equal(scene.retries[0], 'agent-unreachable');
  });
