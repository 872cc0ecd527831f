import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseEnviron, readContainerEnvironment } from '../../../agent/deploy/container-environment.ts';
import type { Cluster } from '../../../agent/deploy/kube.ts';

test('a process’s environment: values with =, newlines and nothing in them; junk is passed over', () => {
  const bytes = Buffer.from('A=1\0B=x=y\0C=\0D=two\nlines\0junk\0=C:\\windows\0');
  assert.deepEqual(parseEnviron(bytes), { A: '1', B: 'x=y', C: '', D: 'two\nlines' });
});

test('process 1 is not asked where it is not the container’s: the pause container, or the node’s init', async () => {
  const status = { containerStatuses: [{ name: 'app', state: { running: {} } }] };
  const of = { namespace: 'shop', podQuery: { labelSelector: 'app=web' }, container: 'app' };
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
