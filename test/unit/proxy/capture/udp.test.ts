import assert from 'node:assert/strict';
import dgram from 'node:dgram';
import { once } from 'node:events';
import test, { type TestContext } from 'node:test';
import { LearnedAddresses } from '../../../../proxy/capture/learned.ts';
import { Names } from '../../../../proxy/capture/names.ts';
import { type Address, readAddress, writeAddress } from '../../../../proxy/capture/sockaddr.ts';
import { UdpEnds, type UdpLimits } from '../../../../proxy/capture/udp.ts';
import { fakeCluster } from '../fakes.ts';

const PLACE: Address = { family: 4, host: '10.0.0.1', port: 0 };

async function open(t: TestContext, limits: Partial<UdpLimits>) {
  const cluster = fakeCluster({ replyEarly: false });
  const server = dgram.createSocket('udp4');
  server.on('message', (datagram, { address, port }) => server.send(datagram, port, address));
  server.bind(0, '127.0.0.1');
  await once(server, 'listening');
  const names = new Names({ askDns: async (message) => message }, new LearnedAddresses());
  const ends = new UdpEnds(cluster.dial, names, limits);
  await ends.open();
  t.after(() => {
    ends.close();
    server.close();
  });
  const wanted = { ...PLACE, port: server.address().port };

  /** As a caught program's socket, connected to the relay. */
  const client = async () => {
    const socket = dgram.createSocket('udp4');
    t.after(() => socket.close());
    const relay = readAddress(ends.addressFor(wanted, 'relay')) as Address;
    socket.connect(relay.port, relay.host);
    await once(socket, 'connect');
    const { address, port } = socket.address();
    const ownName = writeAddress({ family: 4, host: address, port });
    ends.add(ownName, writeAddress(wanted), wanted);
    const ask = async () => {
      socket.send('ping');
      await once(socket, 'message');
    };
    return { socket, ownName, ask };
  };
  return { ends, cluster, client };
}

test('of more flows than there may be, the one that was silent longest ends, and begins anew when it speaks', async (t) => {
  const { ends, cluster, client } = await open(t, { maxFlows: 2 });
  const [one, two, three] = [await client(), await client(), await client()];
  await one.ask();
  await two.ask();
  await one.ask();
  await three.ask();
  assert.equal(ends.flows, 2);
  assert.deepEqual(cluster.resets, ['cancelled']);
  await one.ask(); // it was not the one
  assert.equal(cluster.flows.length, 3);
  await two.ask();
  assert.equal(cluster.flows.length, 4);
});

test('of more sockets than are remembered, the one unused longest is forgotten', async (t) => {
  const { ends, client } = await open(t, { maxSockets: 2 });
  const [one, two, three] = [await client(), await client(), await client()];
  assert.deepEqual(
    [one, two, three].map(({ ownName }) => ends.find(ownName) !== undefined),
    [false, true, true],
  );
});

test('a silent flow ends', async (t) => {
  const { ends, cluster, client } = await open(t, { udpIdleMs: 500 });
  const { ask } = await client();
  await ask();
  while (ends.flows > 0) await new Promise((resolve) => setTimeout(resolve, 2));
  assert.deepEqual(cluster.resets, ['cancelled']);
});
