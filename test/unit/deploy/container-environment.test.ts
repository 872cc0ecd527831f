import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import type net from 'node:net';
import { type TestContext, test } from 'node:test';
import { parseEnviron, readContainerEnvironment } from '../../../agent/deploy/container-environment.ts';
import type { Cluster, Json } from '../../../agent/deploy/kube.ts';
import type { LpkError } from '../../../agent/wire/errors.ts';
import { variablesBefore } from '../../../cli/variables-before.ts';

test('a process’s environment: values with =, newlines and nothing in them; junk is passed over', () => {
  const bytes = Buffer.from('A=1\0B=x=y\0C=\0D=two\nlines\0junk\0=C:\\windows\0');
  assert.deepEqual(parseEnviron(bytes), { A: '1', B: 'x=y', C: '', D: 'two\nlines' });
});

const status = { containerStatuses: [{ name: 'app', state: { running: {} } }] };
const of = { namespace: 'shop', podQuery: { labelSelector: 'app=web' }, container: 'app' };

test('process 1 is not asked where it is not the container’s: the pause container, or the node’s init', async () => {
  for (const spec of [{ shareProcessNamespace: true }, { hostPID: true }]) {
    const items = [{ metadata: { name: 'web-1' }, spec, status }];
    const cluster = {
      request: async () => ({ items }),
      server: 'https://127.0.0.1:1',
      tlsOptions: () => assert.fail('it executes nothing'),
    } as unknown as Cluster;
    await assert.rejects(readContainerEnvironment(cluster, of), { code: 'not-found', message: /process 1 is not/ });
  }
});

/** Asked of a kubelet that does not answer; `ended` once nobody waits for it any more. */
async function unanswered(t: TestContext, read: (cluster: Cluster) => Promise<unknown>) {
  const api = http.createServer();
  api.on('upgrade', (_, socket: net.Socket) => t.after(() => socket.destroy()));
  api.listen(0, '127.0.0.1');
  t.after(() => api.close());
  await once(api, 'listening');
  const items: Json[] = [{ metadata: { name: 'web-1' }, spec: {}, status }];
  const cluster = {
    request: async () => ({ items }),
    server: `http://127.0.0.1:${(api.address() as net.AddressInfo).port}`,
    tlsOptions: async () => ({ headers: {} }),
  } as unknown as Cluster;
  const asked = once(api, 'upgrade');
  const reading = { ended: false };
  const result = read(cluster).finally(() => {
    reading.ended = true;
  });
  result.catch(() => {});
  await asked;
  return { reading, result };
}

test('a container on a busy node gets its time to answer; a swap waits for less', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { reading, result } = await unanswered(t, (cluster) => readContainerEnvironment(cluster, of));
  t.mock.timers.tick(15_000);
  await new Promise(setImmediate);
  assert.equal(reading.ended, false);
  t.mock.timers.tick(10_000);
  await assert.rejects(result, { code: 'timed-out', message: 'cat took too long' } satisfies Partial<LpkError>);

  const said: string[] = [];
  const before = await unanswered(t, (cluster) =>
    variablesBefore(cluster, of, { say: (text) => void said.push(text) }),
  );
  t.mock.timers.tick(6_000);
  assert.equal(await before.result, undefined);
  assert.deepEqual(said, ['the command lacks the variables of its image: cat took too long']);
});
