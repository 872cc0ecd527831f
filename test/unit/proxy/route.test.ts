import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type TestContext, test } from 'node:test';
import type { ErrorCode } from '../../../agent/wire/errors.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import type { Stream } from '../../../agent/wire/stream.ts';
import { Route } from '../../../proxy/route.ts';
import type { Tunnel } from '../../../proxy/tunnel.ts';
import { SessionPair, until } from '../wire/harness.ts';

const FLOW = { protocol: 'tcp', host: 'web', port: 80 } as const;

/** What a route needs of a tunnel, over a real pair of sessions. */
function tunnelOver(pair: SessionPair): Tunnel {
  return {
    get session() {
      if (pair.laptop.ended) throw new LpkError('link-lost', 'the link to the cluster is down');
      return pair.laptop;
    },
    get isUp() {
      return pair.laptop.isUp;
    },
    get isHeld() {
      return !pair.laptop.ended;
    },
  } as Tunnel;
}

async function routed(t: TestContext, failed?: ConstructorParameters<typeof Route>[0]) {
  const pair = await SessionPair.open(t);
  const route = new Route(failed);
  route.add(tunnelOver(pair));
  const dialled: Stream[] = [];
  pair.agent.on('stream', (stream) => dialled.push(stream));
  return { route, pair, dialled };
}

test('a flow becomes a stream, its first bytes with it', async (t) => {
  const { route, dialled } = await routed(t);
  const { stream, opened } = route.dial(FLOW, Buffer.from('GET'));
  route.dial({ protocol: 'udp', host: '10.0.0.10', port: 53 });
  await until(() => dialled.length === 2, 'both');
  assert.deepEqual(
    dialled.map(({ kind, host, port }) => [kind, host, port]),
    [
      ['tcp', 'web', 80],
      ['udp', '10.0.0.10', 53],
    ],
  );
  assert.equal(String((await once(dialled[0] as Stream, 'data'))[0]), 'GET');
  dialled[0]?.accept();
  await opened;
  stream.destroy();
});

test('without a tunnel, or without a session, a flow is refused', async (t) => {
  const { route, pair } = await routed(t);
  assert.throws(() => new Route().dial(FLOW), { code: 'link-lost' });
  pair.laptop.close();
  assert.throws(() => route.dial(FLOW), { code: 'link-lost' });
});

test('a tunnel that is up is taken before one that is down, and one that is down before one that has no session', async (t) => {
  const [ended, down, up] = [await routed(t), await routed(t), await routed(t)];
  ended.pair.laptop.close();
  down.pair.cut();
  await until(() => !down.pair.laptop.isUp, 'down');
  const route = new Route();
  const tunnels = [ended, down, up].map(({ pair }) => tunnelOver(pair));
  for (const tunnel of tunnels) route.add(tunnel);
  route.dial(FLOW);
  await until(() => up.dialled.length === 1, 'taken');
  route.remove(tunnels[2] as Tunnel);
  route.dial(FLOW);
  assert.equal(down.pair.laptop.streamCount, 1);
  route.remove(tunnels[1] as Tunnel);
  assert.throws(() => route.dial(FLOW), { code: 'link-lost' });
});

test('clients far away are answered early, unless the destination failed lately', async (t) => {
  const { route, pair, dialled } = await routed(t);
  await until(() => pair.laptop.link.rttMs > 0, 'the round trip is known');
  pair.laptop.link.noteRtt(9);
  assert.equal(route.dial(FLOW).replyEarly, false);
  pair.laptop.link.noteRtt(50);
  const failing = route.dial(FLOW);
  assert.equal(failing.replyEarly, true);
  await until(() => dialled.length === 2, 'dialled');
  dialled[1]?.reset('refused');
  await assert.rejects(failing.opened);
  pair.laptop.link.noteRtt(50);
  const next = route.dial(FLOW);
  assert.equal(next.replyEarly, false);
  assert.equal(route.dial({ ...FLOW, port: 81 }).replyEarly, true);
  await until(() => dialled.length === 4, 'dialled');
  dialled[2]?.accept();
  await next.opened;
  pair.laptop.link.noteRtt(50);
  assert.equal(route.dial(FLOW).replyEarly, true);
});

test('a client that leaves, or a link that is lost, says nothing about the destination', async (t) => {
  const { route, pair, dialled } = await routed(t);
  for (const code of ['cancelled', 'link-lost', 'session-ended'] as ErrorCode[]) {
    const { stream, opened } = route.dial(FLOW);
    const before = dialled.length;
    await until(() => dialled.length > before, 'dialled');
    stream.reset(code);
    await assert.rejects(opened);
    pair.laptop.link.noteRtt(50);
    assert.equal(route.dial(FLOW).replyEarly, true, code);
    await until(() => dialled.length > before + 1, 'dialled');
  }
});

test('who wants to hears of what failed, not of what was open or given up', async (t) => {
  const heard: string[] = [];
  const { route, dialled } = await routed(t, (code, { host, port }) => heard.push(`${host}:${port} ${code}`));
  const [refused, given, open] = [1, 2, 3].map((port) => route.dial({ ...FLOW, port }));
  await until(() => dialled.length === 3, 'all dialled');
  dialled[0]?.reset('refused');
  await assert.rejects(refused?.opened as Promise<void>);
  given?.stream.destroy();
  await assert.rejects(given?.opened as Promise<void>);
  dialled[2]?.accept();
  await open?.opened;
  const closed = new Promise((resolve) => open?.stream.once('close', resolve));
  dialled[2]?.reset('connection-reset');
  await closed;
  assert.deepEqual(heard, [`${FLOW.host}:1 refused`]);
});
