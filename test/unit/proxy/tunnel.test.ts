import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import type net from 'node:net';
import { type TestContext, test } from 'node:test';
import { type ServerOptions, startServer, type TunnelServer } from '../../../agent/pod/server.ts';
import { acceptWebSocket, type Carrier, openWebSocket } from '../../../agent/wire/carrier.ts';
import { LpkError } from '../../../agent/wire/errors.ts';
import { proveAsAgent, type Resume } from '../../../agent/wire/handshake.ts';
import { TIMES } from '../../../agent/wire/protocol.ts';
import { flowError } from '../../../agent/wire/pump.ts';
import type { Session } from '../../../agent/wire/session.ts';
import { Tunnel, type TunnelOptions } from '../../../proxy/tunnel.ts';
import { type Relay, startRelay } from '../../relay.ts';
import { until } from '../wire/harness.ts';

const KEY = Buffer.alloc(32, 9);
const QUICK = { ...TIMES, tickMs: 20, pingMs: 40, deadMs: 200 };

/** An agent whose streams echo. */
async function agentServer(t: TestContext, options: Partial<ServerOptions> = {}): Promise<TunnelServer> {
  const server = await startServer({
    host: '127.0.0.1',
    port: 0,
    key: KEY,
    holdMs: 60_000,
    onSession: (session) =>
      session.on('stream', (stream) => {
        stream.accept();
        stream.pipe(stream);
      }),
    ...options,
  });
  t.after(() => server.close());
  return server;
}

async function relayTo(t: TestContext, port: number, oneWayMs = 0): Promise<Relay> {
  const relay = await startRelay({ target: { host: '127.0.0.1', port }, oneWayMs });
  t.after(() => relay.close());
  return relay;
}

/** Refusals as the API server's become lpk's codes. */
const refused = (status: number, body: string) =>
  new LpkError(status === 403 ? 'forbidden' : status === 404 ? 'not-found' : 'agent-unreachable', body);

/** A tunnel to `port`, and what it told. */
function tunnelTo(t: TestContext, port: number, options: Partial<TunnelOptions> = {}) {
  const tunnel = new Tunnel({
    key: KEY,
    connect: async () => openWebSocket(`ws://127.0.0.1:${port}/`, { refused }),
    explain: flowError,
    ...options,
  });
  t.after(() => tunnel.close());
  const told: { sessions: Session[]; downs: string[]; cuts: string[]; end?: LpkError } = {
    ...{ sessions: [], downs: [], cuts: [] },
  };
  tunnel.on('session', (session) => told.sessions.push(session));
  tunnel.on('down', ({ reason }) => told.downs.push(reason));
  tunnel.on('cut', ({ connections, reason }) => told.cuts.push(`${connections}: ${reason}`));
  tunnel.on('end', (error) => {
    told.end = error;
  });
  return { tunnel, told };
}

test('what is cut are connections, not questions of lpk’s own; without any, nothing is', async (t) => {
  const silent = await agentServer(t, { onSession: () => {} });
  const { tunnel, told } = tunnelTo(t, silent.port);
  await tunnel.start(5_000);
  const asked = tunnel.session.request('environment');
  const streams = [tunnel.session.openTcp('echo', 7), tunnel.session.openUdp('echo', 7)];
  await Promise.all([assert.rejects(asked), ...streams.map((stream) => once(stream, 'error')), tunnel.close('over')]);
  assert.deepEqual(told.cuts, ['2: over']);
  const other = tunnelTo(t, silent.port);
  await other.tunnel.start(5_000);
  other.tunnel.close();
  assert.deepEqual(other.told.cuts, []);
});

async function echo(tunnel: Tunnel, text: string): Promise<string> {
  const stream = tunnel.session.openTcp('echo', 7, Buffer.from(text));
  const [answer] = await once(stream, 'data');
  stream.destroy();
  return String(answer);
}

test('a tunnel starts, knows its round trip, and leaves when it is closed', async (t) => {
  const server = await agentServer(t);
  const { tunnel, told } = tunnelTo(t, server.port);
  assert.throws(() => tunnel.session, { code: 'link-lost' });
  await tunnel.start(5_000);
  assert.equal(tunnel.isUp, true);
  assert.ok(tunnel.session.link.rttMs > 0);
  assert.equal(await echo(tunnel, 'hello'), 'hello');
  const ended = once(server.session() as Session, 'end');
  tunnel.close();
  assert.equal((await ended)[0].code, 'session-ended');
  assert.equal(server.session(), undefined);
  assert.deepEqual([told.sessions.length, told.downs, told.end], [1, [], undefined]);
  assert.throws(() => tunnel.session, { code: 'link-lost' });
});

/** A server that answers every upgrade with a status. */
async function refusing(t: TestContext, status: number): Promise<{ port: number; asked: () => number }> {
  let asked = 0;
  const server = http.createServer();
  server.on('upgrade', (_request, socket) => {
    asked += 1;
    socket.end(`HTTP/1.1 ${status} No\r\nConnection: close\r\n\r\nno`);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return { port: (server.address() as net.AddressInfo).port, asked: () => asked };
}

for (const [status, code] of [
  [403, 'forbidden'],
  [404, 'not-found'],
  [426, 'version-mismatch'],
] as const) {
  test(`start fails at once when trying again is of no use: HTTP ${status}`, async (t) => {
    const { port, asked } = await refusing(t, status);
    const { tunnel, told } = tunnelTo(t, port);
    await assert.rejects(tunnel.start(60_000), { code });
    assert.equal(asked(), 1);
    assert.equal(told.end?.code, code);
  });
}

test('start fails at once with a wrong key', async (t) => {
  const server = await agentServer(t);
  const { tunnel } = tunnelTo(t, server.port, { key: Buffer.alloc(32, 1) });
  await assert.rejects(tunnel.start(60_000), { code: 'key-mismatch' });
  assert.equal(server.session(), undefined);
});

test('start tries on while there is hope, and tells the last reason when time is up', async (t) => {
  const { port, asked } = await refusing(t, 503);
  const { tunnel, told } = tunnelTo(t, port);
  const retries: string[] = [];
  tunnel.on('retry', ({ code }) => retries.push(code));
  await assert.rejects(tunnel.start(1_200), { code: 'agent-unreachable', message: 'no' });
  assert.ok(asked() >= 3, `${asked()} attempts`);
  assert.deepEqual(retries.slice(0, 2), ['agent-unreachable', 'agent-unreachable'], 'each failure is told');
  assert.equal(told.end, undefined);
  await assert.rejects(once(openWebSocket(`ws://127.0.0.1:${port}/`), 'open')); // what was on its way before is there by then
  const before = asked();
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(asked(), before, 'no more attempts');
});

test('a factory of websockets that fails is a failed attempt', async (t) => {
  const server = await agentServer(t);
  let calls = 0;
  const connect = async () => {
    calls += 1;
    if (calls < 3) throw Object.assign(new Error('no token'), { code: 'ENOENT' });
    return openWebSocket(`ws://127.0.0.1:${server.port}/`);
  };
  const { tunnel } = tunnelTo(t, server.port, { connect });
  await tunnel.start(5_000);
  assert.equal(calls, 3);
});

test('attempts that hang forever, even before they have a websocket, do not stop later ones', async (t) => {
  const server = await agentServer(t);
  t.mock.timers.enable({ apis: ['setTimeout'] });
  let calls = 0;
  let open = 0;
  const late: ((carrier: Carrier) => void)[] = [];
  const connect = () => {
    calls += 1;
    return new Promise<Carrier>((resolve) => late.push(resolve));
  };
  const { tunnel } = tunnelTo(t, server.port, { connect });
  const started = tunnel.start(3_600_000);
  started.catch(() => {});
  for (let second = 0; second < 60; second++) {
    t.mock.timers.tick(1_000);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(calls > 20, `${calls} attempts in a minute`);
  // One that comes to life after it was given up is closed, and forgotten.
  const carrier = openWebSocket(`ws://127.0.0.1:${server.port}/`);
  carrier.on('error', () => {});
  carrier.on('open', () => {
    open += 1;
  });
  const closed = once(carrier, 'close');
  late[0]?.(carrier);
  await closed;
  assert.equal(open, 0);
});

test('a cut is mended within 1.5 s; streams lose nothing', async (t) => {
  const server = await agentServer(t);
  const relay = await relayTo(t, server.port);
  const { tunnel, told } = tunnelTo(t, relay.port);
  await tunnel.start(5_000);
  const stream = tunnel.session.openTcp('echo', 7);
  let heard = '';
  stream.on('data', (chunk) => {
    heard += chunk;
  });
  let said = '';
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 50; i++) {
      said += `${round}:${i} `;
      stream.write(`${round}:${i} `);
      if (i === 25) relay.cut();
    }
    const cutAt = performance.now();
    await until(() => heard === said, `all of round ${round}`);
    assert.ok(performance.now() - cutAt < 5_000, `it took ${performance.now() - cutAt} ms`);
  }
  assert.deepEqual([told.sessions.length, told.downs.length >= 4, tunnel.reconnects >= 4], [1, true, true]);
});

test('a black hole: noticed, tried through, and left within moments of its end', async (t) => {
  const server = await agentServer(t, { times: QUICK });
  const relay = await relayTo(t, server.port);
  const { tunnel, told } = tunnelTo(t, relay.port, { times: QUICK });
  await tunnel.start(5_000);
  const stream = tunnel.session.openTcp('echo', 7, Buffer.from('before '));
  let heard = '';
  stream.on('data', (chunk) => {
    heard += chunk;
  });
  await until(() => heard === 'before ', 'the echo');
  relay.blackhole(true);
  stream.write('during ');
  await until(() => told.downs.length === 1, 'noticed');
  await until(() => relay.connections >= 2, 'attempts go into it');
  relay.blackhole(false);
  const backAt = performance.now();
  await until(() => heard === 'before during ', 'the rest');
  assert.ok(performance.now() - backAt < 5_000, `it took ${performance.now() - backAt} ms`);
  assert.equal(told.sessions.length, 1);
});

test('an agent that does not know the session: the streams end, a new session begins', async (t) => {
  const first = await agentServer(t);
  const relay = await relayTo(t, first.port);
  let port = relay.port;
  const connect = async () => openWebSocket(`ws://127.0.0.1:${port}/`);
  const { tunnel, told } = tunnelTo(t, port, { connect });
  await tunnel.start(5_000);
  const stream = tunnel.session.openTcp('echo', 7, Buffer.from('x'));
  await once(stream, 'data');
  const reset = once(stream, 'error');
  const newer = await relayTo(t, (await agentServer(t)).port); // as after a restart
  port = newer.port;
  relay.cut();
  assert.equal((await reset)[0].code, 'link-lost');
  await until(() => tunnel.isUp, 'up again');
  assert.equal(told.sessions.length, 2);
  assert.deepEqual(told.cuts, ['1: the agent no longer has this session']);
  const lasting = tunnel.session.openTcp('echo', 7, Buffer.from('new'));
  assert.equal(String((await once(lasting, 'data'))[0]), 'new');
  newer.cut();
  await until(() => !tunnel.isUp, 'down');
  lasting.write('still');
  assert.equal(String((await once(lasting, 'data'))[0]), 'still');
  assert.equal(told.sessions.length, 2);
});

test('an agent that stops says so: the streams end at once, and the tunnel goes on looking', async (t) => {
  const server = await agentServer(t);
  const { tunnel, told } = tunnelTo(t, server.port);
  await tunnel.start(5_000);
  const stream = tunnel.session.openTcp('echo', 7);
  const reset = once(stream, 'error');
  await server.close();
  assert.equal((await reset)[0].code, 'session-ended');
  assert.deepEqual(told.downs, ['the agent is stopping']);
  assert.deepEqual(told.cuts, ['1: the agent is stopping']);
  assert.throws(() => tunnel.session, { code: 'link-lost' });
  await agentServer(t, { port: server.port });
  await until(() => tunnel.isUp, 'up again');
  assert.equal(await echo(tunnel, 'new'), 'new');
});

test('when the link stays down for longer than the agent holds, streams end on both sides; later, a new session begins', async (t) => {
  const server = await agentServer(t, { holdMs: 1_500, times: QUICK });
  const relay = await relayTo(t, server.port);
  const { tunnel, told } = tunnelTo(t, relay.port, { times: QUICK });
  await tunnel.start(5_000);
  const incoming = once(server.session() as Session, 'stream');
  const stream = tunnel.session.openTcp('echo', 7);
  const [far] = await incoming;
  const resets = Promise.all([once(stream, 'error'), once(far, 'error')]);
  relay.blackhole(true);
  for (const [error] of await resets) assert.equal(error.code, 'link-lost');
  assert.deepEqual(told.cuts, ['1: the link did not come back within 2 s']);
  assert.throws(() => tunnel.session, { code: 'link-lost' });
  assert.equal(told.downs.length, 1);
  relay.blackhole(false);
  await until(() => tunnel.isUp, 'up again');
  const lasting = tunnel.session.openTcp('echo', 7, Buffer.from('new'));
  assert.equal(String((await once(lasting, 'data'))[0]), 'new');
  relay.cut();
  await until(() => !tunnel.isUp, 'down');
  lasting.write('still');
  assert.equal(String((await once(lasting, 'data'))[0]), 'still');
  assert.equal(told.sessions.length, 2);
});

/** An agent that keeps what it is asked, and whose welcomes can be held back. */
async function slowAgent(t: TestContext) {
  const proofs: Resume[] = [];
  const held: (() => void)[] = [];
  const carriers: Carrier[] = [];
  let holding = true;
  const server = http.createServer();
  server.on('upgrade', (request, socket, head) => {
    const carrier = acceptWebSocket(request, socket, head) as Carrier;
    carriers.push(carrier);
    t.after(() => carrier.terminate());
    const send = carrier.send.bind(carrier);
    let sent = 0;
    carrier.send = (...message) => {
      sent += 1;
      if (sent === 2 && holding) held.push(() => send(...message));
      else send(...message);
    };
    carrier.once('open', () => {
      const proven = (resume: Resume) => {
        proofs.push(resume);
        return { peerReceived: 0, resumed: resume.resuming, holdMs: 60_000 };
      };
      proveAsAgent(carrier, KEY, proven, () => {});
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const { port } = server.address() as net.AddressInfo;
  return {
    port,
    proofs,
    carriers,
    held,
    release: () => {
      holding = false;
    },
  };
}

test('a welcome that comes after another attempt has begun its proof is for the session it was asked for', async (t) => {
  const agent = await slowAgent(t);
  const { tunnel } = tunnelTo(t, agent.port);
  const started = tunnel.start(20_000);
  await until(() => agent.held.length === 1, 'the first proof');
  // The first one takes so long that another may begin.
  const now = performance.now.bind(performance);
  t.mock.method(performance, 'now', () => now() + 2_500);
  await until(() => agent.held.length === 2, 'the second proof');
  agent.held[0]?.();
  await started;
  agent.release();
  agent.carriers[0]?.terminate();
  await until(() => agent.proofs.length >= 3, 'it comes back');
  const [first, , third] = agent.proofs;
  assert.equal(third?.resuming, true);
  assert.equal(third?.sessionId.toString('hex'), first?.sessionId.toString('hex'));
});

test('while one attempt waits for its welcome, the others hold back', async (t) => {
  const agent = await slowAgent(t);
  const { tunnel } = tunnelTo(t, agent.port);
  const started = tunnel.start(20_000);
  await until(() => agent.carriers.length >= 2, 'a second attempt');
  await once(agent.carriers[1] as Carrier, 'close');
  assert.equal(agent.proofs.length, 1);
  agent.held[0]?.();
  await started;
});

test('an agent that takes the tunnel and drops it at once is not asked without a pause', async (t) => {
  let asked = 0;
  const server = await agentServer(t);
  let carrier: Carrier | undefined;
  const connect = async () => {
    asked += 1;
    carrier = openWebSocket(`ws://127.0.0.1:${server.port}/`);
    return carrier;
  };
  const { tunnel } = tunnelTo(t, server.port, { connect });
  tunnel.on('up', () => setImmediate(() => carrier?.terminate()));
  const startedAt = performance.now();
  await tunnel.start(5_000);
  await until(() => asked === 5, 'a fifth attempt');
  const tookMs = performance.now() - startedAt; // four pauses, each half as long again as the one before
  assert.ok(tookMs >= 800, `five attempts in ${tookMs} ms`);
});

test('a closed tunnel keeps no process alive', async (t) => {
  const server = await agentServer(t);
  const relay = await relayTo(t, server.port);
  const script = `
    import { Tunnel } from ${JSON.stringify(import.meta.resolve('../../../proxy/tunnel.ts'))};
    import { openWebSocket } from ${JSON.stringify(import.meta.resolve('../../../agent/wire/carrier.ts'))};
    import { flowError } from ${JSON.stringify(import.meta.resolve('../../../agent/wire/pump.ts'))};
    const connect = async () => openWebSocket('ws://127.0.0.1:${relay.port}/');
    const tunnel = new Tunnel({ key: Buffer.alloc(32, 9), connect, explain: flowError });
    await tunnel.start(5000);
    const stream = tunnel.session.openTcp('echo', 7, Buffer.from('x'));
    stream.once('data', () => {
      console.log('up');
      tunnel.once('down', () => tunnel.close());
    });
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const exited = once(child, 'exit');
  const cutAt = performance.now();
  relay.cut();
  assert.deepEqual(await exited, [0, null]);
  assert.ok(performance.now() - cutAt < 8_000, `it took ${performance.now() - cutAt} ms to end`);
});

test('a tunnel that is closed while it starts says so at once', async (t) => {
  const { port } = await refusing(t, 503);
  const { tunnel, told } = tunnelTo(t, port);
  const started = assert.rejects(tunnel.start(60_000), { code: 'cancelled' });
  tunnel.close();
  await started;
  assert.equal(told.end, undefined);
});
