import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import type { ClusterNames } from '../../../cli/cluster-names.ts';
import { openDoors } from '../../../cli/proxy-doors.ts';
import type { ProxyUpOptions } from '../../../cli/proxy-options.ts';
import { Route } from '../../../proxy/route.ts';

test('a port that was asked for and is taken is told with who has it', {
  skip: process.platform !== 'linux' && 'reads /proc',
}, async (t) => {
  const holder = net.createServer().listen(0, '127.0.0.1');
  t.after(() => holder.close());
  await once(holder, 'listening');
  const { port } = holder.address() as net.AddressInfo;
  const names = { domain: 'cluster.local', responderOptions: () => ({}) } as unknown as ClusterNames;
  const open = (asked: Partial<ProxyUpOptions>) => {
    const options = { bind: '127.0.0.1', dnsInclude: [], ...asked } as unknown as ProxyUpOptions;
    return openDoors({ options, route: new Route(), names, network: { ranges: [], namespaces: [] } });
  };
  for (const [asked, what] of [
    [{ port }, 'port'],
    [{ port: 0, dnsPort: port }, 'DNS port'],
  ] as const) {
    const taken = `${what} ${port} on 127\\.0\\.0\\.1 is taken by another program`;
    await assert.rejects(open(asked), {
      code: 'port-taken',
      message: new RegExp(`^${taken}: .+ \\(pid ${process.pid}\\)$`),
    });
  }
});
