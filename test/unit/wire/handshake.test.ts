import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type TestContext, test } from 'node:test';
import type { Carrier } from '../../../agent/wire/carrier.ts';
import { proveAsAgent, proveAsLaptop, type Resume, type Welcome } from '../../../agent/wire/handshake.ts';
import { carrierServer, seeded, until } from './harness.ts';

const KEY = Buffer.alloc(32, 0x4b);
const RESUME: Resume = { sessionId: Buffer.alloc(16, 0x5e), received: 0x0102_0304_0506, resuming: true };
const WELCOME = { peerReceived: 0x0a0b_0c0d_0e0f, resumed: true, holdMs: 60_000 };

/** The agent's side with `key`; what it was told. */
function agentWith(carrier: Carrier, key: Buffer, handshakeMs?: number) {
  const told: { proven: Resume[]; attached: number; closed: boolean } = { proven: [], attached: 0, closed: false };
  carrier.on('close', () => {
    told.closed = true;
  });
  const proven = (resume: Resume) => {
    told.proven.push(resume);
    return WELCOME;
  };
  const attach = () => {
    told.attached += 1;
  };
  proveAsAgent(carrier, key, proven, attach, handshakeMs);
  return told;
}

function laptopWith(carrier: Carrier, key: Buffer, handshakeMs?: number): Promise<Welcome> {
  return new Promise((resolve, reject) => {
    proveAsLaptop(carrier, key, () => RESUME, resolve, handshakeMs).catch(reject);
  });
}

/** Everything that went over a carrier towards this end. */
function record(carrier: Carrier): Buffer[] {
  const messages: Buffer[] = [];
  carrier.on('message', (message) => messages.push(Buffer.from(message)));
  return messages;
}

const mac = (side: string, ...parts: Buffer[]) =>
  createHmac('sha256', KEY).update(`lpk.v1 ${side}\0`).update(Buffer.concat(parts)).digest();

test('both prove the key; the messages are laid out, and signed, as SPEC.md says', async (t) => {
  const [laptop, agent] = await (await carrierServer(t)).connect();
  const toLaptop = record(laptop);
  const toAgent = record(agent);
  const told = agentWith(agent, KEY);
  const { rttMs, ...welcome } = await laptopWith(laptop, KEY);
  assert.deepEqual(welcome, WELCOME);
  assert.ok(rttMs > 0 && rttMs < 5_000);
  assert.deepEqual(told.proven, [RESUME]);
  assert.equal(told.attached, 1);

  const [challenge, answer] = toLaptop as [Buffer, Buffer];
  const [proof] = toAgent as [Buffer];
  assert.deepEqual([toLaptop.length, toAgent.length], [2, 1]);
  assert.equal(challenge.length, 33);
  assert.equal(challenge[0], 0xc1);
  const agentNonce = challenge.subarray(1);
  const laptopNonce = proof.subarray(1, 33);
  const proofFields = proof.subarray(0, 56);
  assert.equal(
    proof.toString('hex'),
    `c2${laptopNonce.toString('hex')}${'5e'.repeat(16)}010203040506` +
      `01${mac('laptop', agentNonce, laptopNonce, proofFields).toString('hex')}`,
  );
  const answerFields = Buffer.from('c30a0b0c0d0e0f010000ea60', 'hex');
  assert.equal(
    answer.toString('hex'),
    Buffer.concat([answerFields, mac('agent', agentNonce, laptopNonce, answerFields)]).toString('hex'),
  );
});

test('nonces are fresh each time', async (t) => {
  const server = await carrierServer(t);
  const seen = new Set<string>();
  for (let i = 0; i < 5; i++) {
    const [laptop, agent] = await server.connect();
    const toLaptop = record(laptop);
    const toAgent = record(agent);
    agentWith(agent, KEY);
    await laptopWith(laptop, KEY);
    seen.add((toLaptop[0] as Buffer).toString('hex', 1)).add((toAgent[0] as Buffer).toString('hex', 1, 33));
  }
  assert.equal(seen.size, 10);
});

test('a laptop with another key gets a close code and nothing else', async (t) => {
  const [laptop, agent] = await (await carrierServer(t)).connect();
  const toLaptop = record(laptop);
  const told = agentWith(agent, KEY);
  await assert.rejects(laptopWith(laptop, Buffer.alloc(32, 1)), { code: 'key-mismatch' });
  await until(() => told.closed, 'closed');
  assert.equal(toLaptop.length, 1);
  assert.deepEqual(told, { proven: [], attached: 0, closed: true });
});

test('a laptop finds out an agent that takes its proof without having the key', async (t) => {
  for (const forge of [() => randomBytes(32), () => Buffer.alloc(32)]) {
    const [laptop, agent] = await (await carrierServer(t)).connect();
    agent.once('message', () => agent.send(Buffer.concat([Buffer.from('c3000000000000010000ea60', 'hex'), forge()])));
    agent.send(Buffer.concat([Buffer.of(0xc1), randomBytes(32)]));
    await assert.rejects(laptopWith(laptop, KEY), { code: 'key-mismatch' });
  }
});

test('an impostor that gives the laptop its own proof back is found out', async (t) => {
  const [laptop, agent] = await (await carrierServer(t)).connect();
  agent.once('message', (proof) => {
    const fields = Buffer.from('c3000000000000010000ea60', 'hex');
    agent.send(Buffer.concat([fields, proof.subarray(-32)]));
  });
  agent.send(Buffer.concat([Buffer.of(0xc1), randomBytes(32)]));
  await assert.rejects(laptopWith(laptop, KEY), { code: 'key-mismatch' });
});

test('a recorded proof is worth nothing on another connection, and neither is a recorded welcome', async (t) => {
  const server = await carrierServer(t);
  const [laptop, agent] = await server.connect();
  const toLaptop = record(laptop);
  const toAgent = record(agent);
  agentWith(agent, KEY);
  await laptopWith(laptop, KEY);

  const [thief, second] = await server.connect();
  const told = agentWith(second, KEY);
  const closed = once(thief, 'close');
  thief.send(toAgent[0] as Buffer);
  assert.equal((await closed)[0], 4001);
  assert.deepEqual(told.proven, []);

  const [third, impostor] = await server.connect();
  impostor.once('message', () => impostor.send(toLaptop[1] as Buffer));
  impostor.send(toLaptop[0] as Buffer);
  await assert.rejects(laptopWith(third, KEY), { code: 'key-mismatch' });
});

test('a proof with any bit changed is refused', async (t) => {
  const server = await carrierServer(t);
  for (const at of [0, 1, 32, 33, 48, 49, 54, 55, 56, 87]) {
    const [laptop, agent] = await server.connect();
    const told = agentWith(agent, KEY);
    const send = laptop.send.bind(laptop);
    laptop.send = (message) => {
      message[at] = (message[at] as number) ^ 1;
      send(message);
    };
    await assert.rejects(laptopWith(laptop, KEY), { code: 'key-mismatch' }, `byte ${at}`);
    assert.deepEqual(told.proven, [], `byte ${at}`);
  }
});

test('garbage of any length instead of a proof is refused', async (t) => {
  const server = await carrierServer(t);
  const random = seeded(4);
  for (let length = 0; length <= 128; length += 8) {
    const [stranger, agent] = await server.connect();
    const told = agentWith(agent, KEY);
    const closed = once(stranger, 'close');
    stranger.send(Buffer.from(Array.from({ length }, () => Math.floor(random() * 256))));
    assert.equal((await closed)[0], 4001, `${length} bytes`);
    assert.deepEqual(told.proven, []);
  }
});

test('garbage instead of a challenge or a welcome is refused by the laptop', async (t) => {
  const server = await carrierServer(t);
  for (const challenge of [Buffer.alloc(0), Buffer.alloc(33), Buffer.alloc(32, 0xc1), Buffer.alloc(100, 0xc1)]) {
    const [laptop, agent] = await server.connect();
    agent.send(challenge);
    await assert.rejects(laptopWith(laptop, KEY), { code: 'protocol' });
  }
  for (const welcome of [Buffer.alloc(0), Buffer.alloc(44), Buffer.alloc(43, 0xc3), Buffer.alloc(128, 0xc3)]) {
    const [laptop, agent] = await server.connect();
    agent.once('message', () => agent.send(welcome));
    agent.send(Buffer.alloc(33, 0xc1));
    await assert.rejects(laptopWith(laptop, KEY), { code: 'protocol' });
  }
});

test('a side that says nothing is given up in time', async (t) => {
  const server = await carrierServer(t);
  const [laptop] = await server.connect();
  await assert.rejects(laptopWith(laptop, KEY, 20), { code: 'timed-out' });

  const [second, silent] = await server.connect();
  silent.send(Buffer.alloc(33, 0xc1));
  await assert.rejects(laptopWith(second, KEY, 20), { code: 'timed-out' });

  const [stranger, agent] = await server.connect();
  const told = agentWith(agent, KEY, 20);
  await once(stranger, 'close');
  await until(() => told.closed, 'closed');
});

test('a connection that ends meanwhile is a lost link', async (t) => {
  const [laptop, agent] = await (await carrierServer(t)).connect();
  const proof = laptopWith(laptop, KEY);
  agent.close(4003, 'replaced');
  await assert.rejects(proof, { code: 'link-lost', message: /4003 replaced/ });
});

test('an attempt that is called off when its turn comes sends no proof', async (t) => {
  const [laptop, agent] = await (await carrierServer(t)).connect();
  const toAgent = record(agent);
  const told = agentWith(agent, KEY);
  const sample = () => {
    throw new Error('another one is ahead');
  };
  await assert.rejects(
    proveAsLaptop(laptop, KEY, sample, () => assert.fail('welcomed')),
    /another one is ahead/,
  );
  await until(() => told.closed, 'closed');
  assert.deepEqual([toAgent, told.proven], [[], []]);
});

test('what the agent sends right behind its welcome is not missed', async (t: TestContext) => {
  const [laptop, agent] = await (await carrierServer(t)).connect();
  proveAsAgent(
    agent,
    KEY,
    () => WELCOME,
    () => agent.send(Buffer.from('first frame')),
  );
  const frames: string[] = [];
  await proveAsLaptop(
    laptop,
    KEY,
    () => RESUME,
    () => laptop.on('message', (frame) => frames.push(String(frame))),
  );
  await until(() => frames.length > 0, 'the frame');
  assert.deepEqual(frames, ['first frame']);
});

test('an agent that declines a proof says why by a close code, and gives no welcome', async (t) => {
  const [laptop, agent] = await (await carrierServer(t)).connect();
  const toLaptop = record(laptop);
  proveAsAgent(
    agent,
    KEY,
    () => undefined,
    () => assert.fail('attached'),
  );
  await assert.rejects(laptopWith(laptop, KEY), { code: 'link-lost', message: /4003/ });
  assert.equal(toLaptop.length, 1);
});
