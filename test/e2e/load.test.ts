import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type Connected, connectSocks, leave, memoryInWords, peakMemoryMiB, Scene, saidSince } from './scene.ts';
import { meet } from './transfers.ts';

/** Much at once: bulk both ways and hundreds of connections, in bounded memory. */

const GIB = 1024 ** 3;
const CONNECTIONS = 200;
const MEMORY_MIB = 200;

let scene: Scene;
before(async () => {
  scene = await Scene.open('load');
  await scene.calm();
});
after(() => scene?.close());

for (const transport of ['proxy', 'port-forward']) {
  describe(`over ${transport}`, () => {
    let connected: Connected;
    before(async () => {
      connected = await scene.connect(['--transport', transport]);
    });
    after(() => connected && leave(connected));

    test('1 GiB each way at once, and 200 connections at once each way meanwhile, in 200 MiB', async (t) => {
      const { lpk, proxyPort, pod } = connected;
      const from = lpk.events.length;
      const agent = await scene.processOf(pod);
      const id = (name: string) => `${transport}-${name}`;
      for (const act of ['up', 'down'] as const) {
        const socket = await connectSocks(proxyPort, 'peer', 7000);
        scene.transfers.begin(socket, { id: id(act), act, bytes: GIB });
      }
      await Promise.all([
        scene.transfers.reached(id('down'), { bytes: GIB / 16 }),
        scene.peerReached(id('up'), { bytes: GIB / 16 }),
      ]);

      const outbound = Array.from({ length: CONNECTIONS }, async () =>
        meet(await connectSocks(proxyPort, 'peer', 7000), id('out'), CONNECTIONS),
      );
      const [places, inbound] = await Promise.all([Promise.all(outbound), scene.gatherInbound(id('in'), CONNECTIONS)]);
      assert.equal(new Set(places).size, CONNECTIONS, 'outbound connections answered, each its own');
      assert.equal(inbound, CONNECTIONS, 'inbound connections answered, each its own');

      for (const act of ['up', 'down'] as const) {
        const [here, there] = await Promise.all([scene.transfers.result(id(act)), scene.peerResult(id(act))]);
        const [sent, received] = act === 'up' ? [here, there] : [there, here];
        assert.deepEqual([sent.error, received.error], [undefined, undefined], act);
        assert.deepEqual([received.bytes, received.sha256], [GIB, sent.sha256], `${act}: arrived whole`);
      }
      assert.deepEqual(saidSince(connected, from), [], 'the link held');
      const memory = { laptop: peakMemoryMiB(lpk.pid), agent: peakMemoryMiB(agent) };
      t.diagnostic(`at the most: laptop ${memory.laptop} MiB, agent ${memory.agent} MiB`);
      const now = `now laptop: ${memoryInWords(lpk.pid)}; agent: ${memoryInWords(agent)}`;
      assert.ok(
        memory.laptop < MEMORY_MIB && memory.agent < MEMORY_MIB,
        `MiB at the most: ${JSON.stringify(memory)}; ${now}`,
      );
    });
  });
}
