import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { type TestContext, test } from 'node:test';
import { serveSession } from '../../../agent/pod/serve.ts';
import type { Stream } from '../../../agent/wire/stream.ts';
import { freePort } from '../../free-port.ts';
import { readAll, SessionPair, until } from '../wire/harness.ts';

async function podPair(t: TestContext): Promise<SessionPair> {
  const pair = await SessionPair.open(t);
  serveSession(pair.agent, {});
  return pair;
}

/** Connects to the pod's port; the error's code, if there is one. */
async function connect(t: TestContext, port: number): Promise<net.Socket | string> {
  const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  t.after(() => socket.destroy());
  return new Promise((resolve) => {
    socket.once('connect', () => resolve(socket));
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
  });
}

test('what connects to a port that is served becomes an accept stream; a port that is not refuses', async (t) => {
  const pair = await podPair(t);
  const port = await freePort();
  assert.equal(await connect(t, port), 'ECONNREFUSED');
  await pair.laptop.request('listen', { port });
  const incoming = pair.incoming('laptop');
  const caller = (await connect(t, port)) as net.Socket;
  const stream = await incoming;
  assert.deepEqual([stream.kind, stream.port, stream.peerPort], ['accept', port, caller.localPort]);
  assert.match(stream.host, /^(::ffff:)?127\.0\.0\.1$/);
  stream.accept();
  caller.end('question');
  assert.equal(String(await readAll(stream)), 'question');
  stream.end('answer');
  assert.equal(String(await readAll(caller)), 'answer');

  const open = (await connect(t, port)) as net.Socket;
  await until(() => pair.laptop.streamCount === 1, 'the second');
  await pair.laptop.request('unlisten', { port });
  assert.equal(await connect(t, port), 'ECONNREFUSED');
  assert.equal(open.destroyed, false, 'a connection under way goes on');
  await pair.laptop.request('listen', { port });
  assert.ok((await connect(t, port)) instanceof net.Socket);
});

test('listen can be asked for twice, also at once; unlisten for what is not served is nothing', async (t) => {
  const pair = await podPair(t);
  const port = await freePort();
  await Promise.all([pair.laptop.request('listen', { port }), pair.laptop.request('listen', { port })]);
  await pair.laptop.request('listen', { port });
  await pair.laptop.request('unlisten', { port });
  await pair.laptop.request('unlisten', { port });
  await Promise.allSettled([pair.laptop.request('listen', { port }), pair.laptop.request('unlisten', { port })]);
  assert.equal(await connect(t, port), 'ECONNREFUSED');
});

test('a port that can’t be had is refused with a reason, to everyone who asks', async (t) => {
  const pair = await podPair(t);
  const taken = net.createServer().listen(0);
  t.after(() => taken.close());
  await once(taken, 'listening');
  const { port } = taken.address() as net.AddressInfo;
  const asked = await Promise.allSettled([
    pair.laptop.request('listen', { port }),
    pair.laptop.request('listen', { port }),
  ]);
  for (const result of asked) {
    assert.equal(result.status, 'rejected');
    assert.equal(result.reason.code, 'address-in-use');
    assert.equal(result.reason.message, `the agent can't listen on the pod's port ${port}`);
  }
  for (const port of [-1, 70_000, 'x', null, undefined]) {
    const asking = pair.laptop.request('listen', { port });
    if (port === null) await asking.then(() => pair.laptop.request('unlisten', { port }));
    else await assert.rejects(asking, { name: 'LpkError' });
  }
});

test('a caller whose connection the laptop refuses is reset', async (t) => {
  const pair = await podPair(t);
  pair.laptop.on('stream', (stream) => stream.reset('refused'));
  const port = await freePort();
  await pair.laptop.request('listen', { port });
  const caller = (await connect(t, port)) as net.Socket;
  if (!caller.destroyed) await once(caller.resume(), 'close').catch(() => {});
  await until(() => caller.destroyed, 'reset');
});

test('callers that come while the link is down are served when it is back', async (t) => {
  const pair = await podPair(t);
  const port = await freePort();
  await pair.laptop.request('listen', { port });
  pair.laptop.on('stream', (stream: Stream) => {
    stream.accept();
    stream.pipe(stream);
  });
  pair.cut();
  await until(() => !pair.laptop.isUp && !pair.agent.isUp, 'down');
  const caller = (await connect(t, port)) as net.Socket;
  caller.write('hello');
  const answer = once(caller, 'data');
  await until(() => pair.agent.streamCount === 1, 'accepted');
  await pair.connect();
  assert.equal(String((await answer)[0]), 'hello');
});

test('when the session ends, nothing is served any more', async (t) => {
  const pair = await podPair(t);
  const port = await freePort();
  await pair.laptop.request('listen', { port });
  pair.agent.close();
  assert.equal(await connect(t, port), 'ECONNREFUSED');
});
