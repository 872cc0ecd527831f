import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import https from 'node:https';
import type net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { throughProxy } from '../../agent/deploy/reach.ts';
import { encodeFrame, encodeOpen, openArg } from '../../agent/wire/frames.ts';
import { proveAsLaptop } from '../../agent/wire/handshake.ts';
import { CLOSE, FRAME, MAX_MESSAGE_BYTES, SESSION_ID_BYTES } from '../../agent/wire/protocol.ts';
import { OPCODE, websocketHeader } from '../../agent/wire/websocket.ts';
import { apiServer, forkRelay, type RelayProcess, relayKubeconfig } from '../relay.ts';
import { type Connected, connectSocks, eventAfter, memoryInWords, peakMemoryMiB, Scene, saidSince } from './scene.ts';
import { inWords, type Visit, visitWebSocket } from './strangers.ts';
import { machineMs, type Order } from './transfers.ts';

/** Strangers at the agent's door, while a session is in progress: they get nothing, and nobody notices them. */

const HALF_OPEN = 10_000;
const AT_ONCE = 1_000;
const MEMORY_MIB = 200;
const TICK_MS = 25;
/** Longer than any pause of a busy machine, shorter than any reconnect after a silence (protocol.ts, `deadMs`). */
const UNDISTURBED_MS = 5_000;

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-guard-'));
const kubeconfig = path.join(dir, 'kubeconfig');
let scene: Scene;
let relay: RelayProcess;
let lpk: Connected;
let agent: { host: string; port: number };
let key: Buffer;
let recorded: Buffer;
let ticker: Ticker;
let quietFrom: number;

before(async () => {
  scene = await Scene.open('guard');
  relay = await forkRelay({ target: await apiServer(scene.kubeconfig), oneWayMs: 0 });
  await relayKubeconfig(scene.kubeconfig, relay.port, kubeconfig);
  lpk = await scene.connect(['--transport', 'proxy'], kubeconfig);
  agent = await agentOf(lpk.pod);
  recorded = await recordHandshake();
  ticker = new Ticker(await connectSocks(lpk.proxyPort, 'peer', 7000));
  await ticker.ticks(1);
  quietFrom = lpk.lpk.events.length;
});
after(async () => {
  ticker?.stop();
  await scene?.close();
  await relay?.close();
  rmSync(dir, { recursive: true });
});

/** Where the agent listens, and its key: what only those who may read the Secret know. */
async function agentOf(pod: string): Promise<{ host: string; port: number }> {
  const { status, spec } = await scene.cluster.request('GET', `/api/v1/namespaces/${scene.namespace}/pods/${pod}`);
  const { sources } = spec.volumes.find(({ name }: { name: string }) => name === 'lpk-agent').projected;
  const { name } = sources.find(({ secret }: { secret?: object }) => secret).secret;
  const { data } = await scene.cluster.request('GET', `/api/v1/namespaces/${scene.namespace}/secrets/${name}`);
  key = Buffer.from(Buffer.from(data.key, 'base64').toString(), 'hex');
  const config = JSON.parse(Buffer.from(data['config.json'], 'base64').toString());
  assert.equal(config.listen, 'pod');
  return { host: status.podIP, port: config.port };
}

/** A true proof, as somebody who sees the traffic would record it. It takes the session, so lpk comes back with a new one. */
async function recordHandshake(): Promise<Buffer> {
  await lpk.lpk.event('self-test', ({ ok }) => ok); // that would fail with the session
  const from = lpk.lpk.events.length;
  const carrier = await throughProxy(scene.cluster, scene.namespace, lpk.pod, agent.port)();
  const send = carrier.send.bind(carrier);
  let proof: Buffer | undefined;
  carrier.send = (message) => {
    proof = message;
    send(message);
  };
  const position = { sessionId: randomBytes(SESSION_ID_BYTES), received: 0, resuming: false };
  await proveAsLaptop(
    carrier,
    key,
    () => position,
    () => carrier.terminate(),
  );
  await eventAfter(lpk, from, 'link-up');
  await scene.reach();
  return proof as Buffer;
}

/** A connection of the session in progress that says a number every few milliseconds and hears it back. */
class Ticker {
  /** The longest wait for an answer, ms. */
  longest = 0;
  count = 0;
  #socket: net.Socket;
  #timer: NodeJS.Timeout;
  #failed: Error | undefined;
  #waiting: (() => void)[] = [];

  constructor(socket: net.Socket) {
    this.#socket = socket;
    const order: Order = { id: 'ticker', act: 'echo' };
    socket.write(`${JSON.stringify(order)}\n`);
    const sent: number[] = [];
    let text = '';
    socket.setEncoding('latin1').on('data', (chunk: string) => {
      const lines = (text + chunk).split('\n');
      text = lines.pop() as string;
      for (const line of lines) {
        if (Number(line) !== this.count) this.#failed = new Error(`tick ${this.count} came back as ${line}`);
        this.longest = Math.max(this.longest, machineMs() - (sent[this.count] as number));
        this.count += 1;
      }
      this.#wake();
    });
    socket.on('error', (error) => {
      this.#failed = error;
    });
    socket.on('close', () => {
      this.#failed ??= new Error('the connection in progress was closed');
      this.#wake();
    });
    this.#timer = setInterval(() => {
      socket.write(`${sent.length}\n`);
      sent.push(machineMs());
    }, TICK_MS);
  }

  /** Until so many more ticks came back. */
  async ticks(more: number): Promise<void> {
    const wanted = this.count + more;
    while (this.count < wanted) {
      if (this.#failed) throw this.#failed;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    if (this.#failed) throw this.#failed;
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#socket.destroy();
  }
}

/** Nothing was said about the link, and the connection in progress goes on at its pace. */
async function undisturbed(): Promise<void> {
  await ticker.ticks(10);
  assert.deepEqual(saidSince(lpk, quietFrom), [], 'lpk noticed nothing');
  assert.ok(ticker.longest < UNDISTURBED_MS, `an answer took ${ticker.longest} ms`);
}

/** A websocket message as a client sends it. */
function message(payload: Buffer, opcode: number = OPCODE.binary): Buffer {
  return Buffer.concat([websocketHeader(opcode, payload.length, true), payload]);
}

/** The proof of somebody with another key, by the very code that lpk proves with. */
async function wrongProof(): Promise<Buffer> {
  const carrier = await throughProxy(scene.cluster, scene.namespace, lpk.pod, agent.port)();
  const send = carrier.send.bind(carrier);
  let proof: Buffer | undefined;
  carrier.send = (sent) => {
    proof = sent;
    send(sent);
  };
  const position = { sessionId: randomBytes(SESSION_ID_BYTES), received: 0, resuming: true };
  const proving = proveAsLaptop(
    carrier,
    randomBytes(key.length),
    () => position,
    () => assert.fail('welcomed'),
  );
  await assert.rejects(proving, { code: 'key-mismatch' });
  return proof as Buffer;
}

/** By name: what is sent after the agent's challenge, and which close code at most answers it. */
async function websocketVisits(): Promise<[name: string, bytes: Buffer, close: number | undefined][]> {
  const open = encodeFrame(FRAME.open, openArg('tcp'), 1, 1, encodeOpen({ kind: 'tcp', host: 'peer', port: 7000 }));
  const headerOnly = (length: bigint) => {
    const header = Buffer.from([0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    header.writeBigUInt64BE(length, 2);
    return header;
  };
  const { proofRefused } = CLOSE;
  return [
    ['no proof at all', Buffer.alloc(0), undefined],
    ['frames without a proof', Buffer.concat([message(open), message(open)]), proofRefused],
    ['a proof with a wrong key', message(await wrongProof()), proofRefused],
    ['a recorded proof', message(recorded), proofRefused],
    ['a recorded proof and frames', Buffer.concat([message(recorded), message(open)]), proofRefused],
    ['half a proof', message(recorded.subarray(0, 50)), proofRefused],
    ['an empty message', message(Buffer.alloc(0)), proofRefused],
    ['text', message(Buffer.from('hello'), 1), 1003],
    ['an unmasked frame', Buffer.concat([websocketHeader(OPCODE.binary, 5, false), Buffer.from('hello')]), 1002],
    ['a continuation of nothing', message(Buffer.from('hello'), OPCODE.continuation), 1002],
    ['an unknown opcode', message(Buffer.from('hello'), 11), 1002],
    ['reserved bits', Buffer.from([0xf2, 0x80, 0, 0, 0, 0]), 1002],
    ['a long ping', Buffer.concat([Buffer.from([0x89, 0xfe, 0xff, 0xff, 0, 0, 0, 0]), Buffer.alloc(65_535)]), 1002],
    ['a message of 64 KiB', message(Buffer.alloc(MAX_MESSAGE_BYTES)), 1009],
    ['a message of 129 bytes', message(Buffer.alloc(129)), 1009],
    ['a message of 16 EiB', Buffer.concat([headerOnly(2n ** 63n), Buffer.alloc(65_536)]), 1009],
  ];
}

test('on a websocket: nothing but the challenge and a close code', async () => {
  const { server } = scene.cluster;
  const through = `${server}/api/v1/namespaces/${scene.namespace}/pods/${lpk.pod}:${agent.port}/proxy/`;
  const { headers: credentials, ...tls } = await scene.cluster.tlsOptions();
  await Promise.all(
    (await websocketVisits()).map(async ([name, bytes, close]) => {
      const visit: Visit = { kind: 'websocket', pieces: [bytes.toString('base64')] };
      const [fromPod, throughApi] = await Promise.all([
        scene.visitFromPod(agent, visit),
        visitWebSocket(
          (headers) => https.request(through, { ...tls, headers: { ...credentials, ...headers } }),
          visit.pieces,
        ),
      ]);
      const expected = close ? `challenge and close ${close}` : 'challenge';
      assert.equal(inWords(fromPod), expected, `${name}, from a pod`);
      assert.equal(inWords(throughApi), expected, `${name}, through pods/proxy`);
    }),
  );
  await undisturbed();
});

test('on a bare connection: nothing but an HTTP error', async () => {
  const lines = (...text: string[]) => Buffer.from(`${text.join('\r\n')}\r\n\r\n`);
  const upgrade = ['GET / HTTP/1.1', 'Host: agent', 'Connection: Upgrade', 'Upgrade: websocket'];
  const visits: [name: string, bytes: Buffer, expected: RegExp][] = [
    ['nothing', Buffer.alloc(0), /^nothing$/],
    // Closed with much of it unread, which makes the kernel send a reset that may overtake the answer.
    ['random bytes', randomBytes(100_000), /^(HTTP 400|nothing)$/],
    ['some random bytes', randomBytes(100), /^HTTP 400$/],
    ['the start of TLS', Buffer.from('16030100f8010000f40303', 'hex'), /^HTTP 400$/],
    ['a SOCKS greeting', Buffer.of(5, 1, 0), /^HTTP 400$/],
    ['an HTTP version of the future', lines('GET / HTTP/9.9'), /^HTTP 400$/],
    ['a header without end', Buffer.from(`GET / HTTP/1.1\r\nx: ${'x'.repeat(200_000)}`), /^(HTTP 431|nothing)$/],
    ['a plain request', lines('GET / HTTP/1.1', 'Host: agent', 'Connection: close'), /^HTTP 404 and 300d0a0d0a$/],
    ['another subprotocol', lines(...upgrade, 'Sec-WebSocket-Key: x', 'Sec-WebSocket-Protocol: lpk.v0'), /^HTTP 426 /],
    ['no subprotocol', lines(...upgrade, 'Sec-WebSocket-Key: x'), /^HTTP 426 /],
  ];
  await Promise.all(
    visits.map(async ([name, bytes, expected]) => {
      const got = await scene.visitFromPod(agent, { kind: 'bare', pieces: [bytes.toString('base64')] });
      assert.match(inWords(got), expected, name);
    }),
  );
  await undisturbed();
});

test(`${HALF_OPEN} half-open handshakes: the session goes on, and its laptop gets back in meanwhile`, async (t) => {
  const pid = await scene.processOf(lpk.pod);
  const counts = await scene.floodFromPod(agent, HALF_OPEN, AT_ONCE);
  // Of a busy agent, whose time for a proof is over before the challenge was sent: no challenge.
  const nothing = Object.entries(counts).filter(([what]) => /^(nothing|HTTP 4\d\d|challenge|no challenge)$/.test(what));
  t.diagnostic(
    `half-open handshakes got: ${JSON.stringify(counts)}; an answer took ${Math.round(ticker.longest)} ms at most`,
  );
  assert.equal(
    nothing.reduce((sum, [, count]) => sum + count, 0),
    HALF_OPEN,
    JSON.stringify(counts),
  );
  await undisturbed();

  const flooding = scene.floodFromPod(agent, HALF_OPEN / 4, AT_ONCE);
  const from = lpk.lpk.events.length;
  await relay.cut();
  await eventAfter(lpk, from, 'link-down');
  await eventAfter(lpk, from, 'link-up');
  await ticker.ticks(10);
  await flooding;
  await scene.reach();
  const memory = peakMemoryMiB(pid);
  t.diagnostic(`agent: ${memory} MiB at the most`);
  assert.ok(memory < MEMORY_MIB, `agent: ${memory} MiB; now ${memoryInWords(pid)}`);
});
