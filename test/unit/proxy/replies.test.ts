import assert from 'node:assert/strict';
import net from 'node:net';
import test from 'node:test';
import { RESET } from '../../../agent/wire/protocol.ts';
import { door, fakeCluster, listen, serve } from './fakes.ts';
import { RawClient } from './raw-client.ts';
import { socks5Answer, socks5Name, socks5Request, WAYS_IN } from './ways-in.ts';

/** What a client hears of a dial's result, and when a flow has been silent for too long. */

/** RFC 1928 section 6, for everything that an agent can say. */
const SOCKS5_REPLIES: Record<keyof typeof RESET, number> = {
  internal: 1,
  refused: 5,
  unreachable: 4,
  'timed-out': 6,
  'not-allowed': 2,
  'name-not-found': 4,
  'connection-reset': 1,
  cancelled: 1,
  'too-many-streams': 1,
  'address-in-use': 1,
  protocol: 1,
  'limit-exceeded': 1,
  'link-lost': 1,
  'session-ended': 1,
};

for (const code of Object.keys(RESET) as (keyof typeof RESET)[]) {
  test(`SOCKS5 says ${SOCKS5_REPLIES[code]} for ${code}`, async (t) => {
    const { port } = await door(t, fakeCluster({ replyEarly: false }));
    const client = new RawClient(port);
    client.socket.write(socks5Request(1, socks5Name(`${code}.fail`), 80));
    assert.equal(await socks5Answer(client), `reply ${SOCKS5_REPLIES[code]}`);
  });
}

for (const way of WAYS_IN.filter(({ name }) => /by name|SOCKS4a/.test(name))) {
  test(`${way.name}: bytes either way keep a flow, silence ends it with a reset`, async (t) => {
    const port = await serve(t, (socket) => {
      let sent = 0;
      const ticking = setInterval(() => {
        socket.write('.');
        if (++sent === 12) clearInterval(ticking);
      }, 60);
      socket.on('close', () => clearInterval(ticking));
    });
    const cluster = fakeCluster({ replyEarly: false });
    const { port: doorPort } = await door(t, { dial: cluster.dial, flowIdleMs: 500 });
    const client = new RawClient(doorPort);
    client.socket.write(way.request(port));
    assert.equal(await way.answer(client), 'ok');
    await client.take(12); // longer than flowIdleMs
    assert.equal(await client.closed, 'ECONNRESET');
    assert.deepEqual(cluster.resets.includes('timed-out'), true, String(cluster.resets));
  });
}

test('HTTP: an origin that says nothing for too long loses its client', async (t) => {
  const port = await listen(
    t,
    net.createServer(() => {}),
  );
  const cluster = fakeCluster({ replyEarly: false });
  const { port: doorPort } = await door(t, { dial: cluster.dial, flowIdleMs: 30 });
  const client = new RawClient(doorPort);
  client.socket.write(`GET http://web:${port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
  assert.equal(await client.closed, 'ECONNRESET');
});
