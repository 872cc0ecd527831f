import assert from 'node:assert/strict';
import http from 'node:http';
import net, { type AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { startProbes } from '../../../agent/pod/probes.ts';
import { Judge, type Served } from '../../../agent/pod/readiness.ts';
import { serveSession } from '../../../agent/pod/serve.ts';
import type { Readiness } from '../../../agent/wire/readiness.ts';
import { freePort } from '../../free-port.ts';
import { SessionPair, until } from '../wire/harness.ts';

/** What the kubelet is answered, by path. */
async function kubelet(t: TestContext, judge: Judge) {
  const server = await startProbes(0, judge);
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  return (path: string) =>
    new Promise<[number | undefined, string]>((resolve, reject) => {
      const request = http.get({ host: '127.0.0.1', port, path, agent: false }, async (response) => {
        let text = '';
        for await (const chunk of response.setEncoding('utf8')) text += chunk;
        resolve([response.statusCode, text]);
      });
      request.on('error', reject);
    });
}

async function scene(t: TestContext, readiness: Readiness) {
  let served: Served | undefined;
  const probe = await kubelet(t, new Judge(readiness, () => served));
  const connect = async () => {
    const pair = await SessionPair.open(t);
    served = { session: pair.agent, listeners: serveSession(pair.agent, {}) };
    await until(() => pair.agent.isUp, 'the link');
    return pair;
  };
  return { probe, connect };
}

const NOBODY = [503, 'no laptop is connected\n'];
const SILENT = [503, 'nothing listens on the laptop\n'];
const OK = [200, 'ok\n'];

test('listening: ready while the laptop is connected and has the agent listen at any port', async (t) => {
  const { probe, connect } = await scene(t, 'listening');
  assert.deepEqual(await probe('/ready'), NOBODY);
  const pair = await connect();
  assert.deepEqual(await probe('/ready'), SILENT);
  const [one, two] = [await freePort(), await freePort()];
  for (const port of [one, two]) await pair.laptop.request('listen', { port });
  assert.deepEqual(await probe('/ready'), OK);
  await pair.laptop.request('unlisten', { port: one });
  assert.deepEqual(await probe('/ready'), OK);
  pair.cut();
  await until(() => !pair.agent.isUp, 'the link is down');
  assert.deepEqual(await probe('/ready'), NOBODY, 'its connections are kept, but new ones would wait');
  await pair.connect();
  assert.deepEqual(await probe('/ready'), OK);
  await pair.laptop.request('unlisten', { port: two });
  assert.deepEqual(await probe('/ready'), SILENT);
});

test('listening: a port that another program of the pod has does not count', async (t) => {
  const { probe, connect } = await scene(t, 'listening');
  const other = net.createServer();
  await new Promise<void>((resolve) => other.listen(0, resolve));
  t.after(() => other.close());
  const pair = await connect();
  const { port } = other.address() as AddressInfo;
  await assert.rejects(pair.laptop.request('listen', { port }), { code: 'address-in-use' });
  assert.deepEqual(await probe('/ready'), SILENT);
});

test('connected: ready as soon as a laptop is', async (t) => {
  const { probe, connect } = await scene(t, 'connected');
  assert.deepEqual(await probe('/ready'), NOBODY);
  const pair = await connect();
  assert.deepEqual(await probe('/ready'), OK);
  pair.laptop.close();
  await until(() => pair.agent.ended !== undefined, 'the end');
  assert.deepEqual(await probe('/ready'), NOBODY);
});

test('alive whatever the laptop does; other paths are nobody’s', async (t) => {
  const { probe } = await scene(t, 'listening');
  assert.deepEqual(await probe('/live'), OK);
  assert.deepEqual(await probe('/'), [404, 'not found\n']);
});
