import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, type TestContext, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { apiServer, forkRelay, type RelayProcess, relayKubeconfig } from '../relay.ts';
import { type Connected, connectSocks, eventAfter, leave, Scene } from './scene.ts';
import { machineMs, type Order, type Result } from './transfers.ts';

/** The way to the API server breaks, again and again: what is under way goes on, whole. */

const ONE_WAY_MS = 5;
const CUTS = 3;
/** Cuts so close to each other that they hit the new connection at every step of its making. */
const STORM = 10;
const STORM_STEP_MS = 20;
const BLACK_HOLE_MS = 20_000;
/** Less than the 8 s after which a silent link counts as dead (protocol.ts, `deadMs`): going on must not wait for that. */
const GO_ON_MS = 7_000;
/** As a rule; a busy machine may hold up one or the other. */
const USUALLY_MS = 3_000;
const SLOWLY = 1_000_000;

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-link-'));
const kubeconfig = path.join(dir, 'kubeconfig');
let scene: Scene;
let relay: RelayProcess;
before(async () => {
  scene = await Scene.open('link');
  await scene.calm();
  relay = await forkRelay({ target: await apiServer(scene.kubeconfig), oneWayMs: ONE_WAY_MS });
  await relayKubeconfig(scene.kubeconfig, relay.port, kubeconfig);
});
after(async () => {
  await scene?.close();
  await relay?.close();
  rmSync(dir, { recursive: true });
});

/** Five out through the SOCKS door, five in; most at a small pace, and one each way as fast as it goes. */
const TRANSFERS: { way: 'out' | 'in'; act: 'up' | 'down'; bytesPerSecond?: number }[] = [
  { way: 'out', act: 'down' },
  { way: 'out', act: 'down', bytesPerSecond: SLOWLY },
  { way: 'out', act: 'down', bytesPerSecond: SLOWLY },
  { way: 'out', act: 'up', bytesPerSecond: SLOWLY },
  { way: 'out', act: 'up', bytesPerSecond: SLOWLY },
  { way: 'in', act: 'up', bytesPerSecond: SLOWLY },
  { way: 'in', act: 'up', bytesPerSecond: SLOWLY },
  { way: 'in', act: 'down' },
  { way: 'in', act: 'down', bytesPerSecond: SLOWLY },
  { way: 'in', act: 'down', bytesPerSecond: SLOWLY },
];

/** A transfer under way, seen from its receiver. */
class Running {
  readonly name: string;
  #id: string;
  #here: boolean;

  private constructor(name: string, id: string, here: boolean) {
    this.name = name;
    this.#id = id;
    this.#here = here;
  }

  static async begin(lpk: Connected, way: 'out' | 'in', order: Order): Promise<Running> {
    if (way === 'in') await scene.beginInbound(order);
    else scene.transfers.begin(await connectSocks(lpk.proxyPort, 'peer', 7000), order);
    return new Running(`${way} ${order.act} ${order.id}`, order.id, (way === 'out') === (order.act === 'down'));
  }

  /** Until it has received something after this time. */
  async received(condition: { since?: number; bytes?: number }): Promise<void> {
    await (this.#here ? scene.transfers.reached(this.#id, condition) : scene.peerReached(this.#id, condition));
  }

  async ends(): Promise<{ sent: Result; received: Result }> {
    const [here, there] = await Promise.all([scene.transfers.result(this.#id), scene.peerResult(this.#id)]);
    return this.#here ? { sent: there, received: here } : { sent: here, received: there };
  }
}

/** The longest time without data between two times, until the first data after the second one. */
function longestPause(arrivals: number[], from: number, to: number): number {
  let longest = 0;
  for (const [index, at] of arrivals.entries()) {
    const previous = arrivals[index - 1] ?? at;
    if (at > from && previous < to) longest = Math.max(longest, at - Math.max(previous, from));
  }
  return Math.round(longest);
}

let runs = 0;

async function begin(lpk: Connected): Promise<Running[]> {
  await scene.reach(); // a pod whose laptop was away is not ready, and the Service knows it no more
  const run = ++runs;
  return await Promise.all(
    TRANSFERS.map(({ way, ...order }, i) => Running.begin(lpk, way, { id: `${run}-${i}`, ...order })),
  );
}

/** Ends the transfers and checks that all arrived; gives when, by transfer. */
async function wholeArrivals(running: Running[]): Promise<Map<string, number[]>> {
  await scene.stop();
  const arrivals = new Map<string, number[]>();
  for (const transfer of running) {
    const { sent, received } = await transfer.ends();
    assert.deepEqual([sent.error, received.error], [undefined, undefined], transfer.name);
    assert.deepEqual([received.bytes, received.sha256], [sent.bytes, sent.sha256], `${transfer.name}: arrived whole`);
    arrivals.set(transfer.name, received.arrivals);
  }
  return arrivals;
}

function checkPauses(t: TestContext, what: string, pauses: Map<string, number>): void {
  const longest = Math.max(...pauses.values());
  t.diagnostic(`${what}: goes on after ${longest} ms at the latest`);
  const all = [...pauses.values()].toSorted((a, b) => a - b);
  const middle = all[all.length >> 1] as number;
  assert.ok(longest <= GO_ON_MS && middle <= USUALLY_MS, `${what}: ${JSON.stringify([...pauses])}`);
}

for (const transport of ['proxy', 'port-forward']) {
  describe(`over ${transport}`, () => {
    let lpk: Connected;
    before(async () => {
      lpk = await scene.connect(['--transport', transport], kubeconfig);
    });
    after(() => lpk && leave(lpk));

    /** Until lpk says that the link is there again, counted from its first `from` events. */
    const linkIsBack = async (from: number) => {
      await eventAfter(lpk, from, 'link-down');
      await eventAfter(lpk, from, 'link-up');
      return machineMs();
    };

    test(`${CUTS} cuts, then ${STORM} in a row, in the middle of ten transfers lose and repeat nothing`, async (t) => {
      const running = await begin(lpk);
      await Promise.all(running.map((transfer) => transfer.received({ bytes: SLOWLY / 2 })));
      const cuts: { at: number; back: number }[] = [];
      for (let count = 0; count < CUTS; count++) {
        const from = lpk.lpk.events.length;
        const at = machineMs();
        assert.notEqual(await relay.cut(), 0);
        const back = await linkIsBack(from);
        await Promise.all(running.map((transfer) => transfer.received({ since: back })));
        cuts.push({ at, back });
      }
      const from = lpk.lpk.events.length;
      let at = 0;
      for (let hits = 0; hits < STORM; ) {
        if ((await relay.cut()) > 0) hits += 1;
        at = machineMs();
        await pause(STORM_STEP_MS);
      }
      const back = await linkIsBack(from);
      await Promise.all(running.map((transfer) => transfer.received({ since: back })));
      cuts.push({ at, back });
      const arrivals = await wholeArrivals(running);
      for (const [index, { at, back }] of cuts.entries()) {
        const pauses = new Map([...arrivals].map(([name, times]) => [name, longestPause(times, at, back)]));
        checkPauses(t, index < CUTS ? `cut ${index + 1}` : 'the last cut in a row', pauses);
      }
    });

    test('a black hole of 20 s loses and repeats nothing', async (t) => {
      const running = await begin(lpk);
      await Promise.all(running.map((transfer) => transfer.received({ bytes: SLOWLY / 2 })));
      const from = lpk.lpk.events.length;
      const began = machineMs();
      assert.equal(await relay.toggleBlackhole(), true);
      await pause(BLACK_HOLE_MS);
      assert.equal(await relay.toggleBlackhole(), false);
      const ended = machineMs();
      const back = await linkIsBack(from);
      await Promise.all(running.map((transfer) => transfer.received({ since: back })));
      const arrivals = await wholeArrivals(running);
      for (const [name, times] of arrivals) {
        const within = times.filter((at) => at > began + BLACK_HOLE_MS / 4 && at < ended);
        assert.equal(within.length, 0, `${name}: it was dark`);
      }
      const pauses = new Map([...arrivals].map(([name, times]) => [name, longestPause(times, ended, back)]));
      checkPauses(t, 'after 20 s of darkness', pauses);
    });
  });

  test(`over ${transport}: an outage longer than --hold ends the connections, and lpk goes on with a new session`, async () => {
    const lpk = await scene.connect(['--transport', transport, '--hold', '3'], kubeconfig);
    const running = await begin(lpk);
    await Promise.all(running.map((transfer) => transfer.received({})));
    const from = lpk.lpk.events.length;
    await relay.toggleBlackhole();
    await relay.cut();
    const { holdMs } = await eventAfter(lpk, from, 'link-down');
    assert.equal(holdMs, 3_000);
    for (const transfer of running) {
      const { sent, received } = await transfer.ends();
      assert.ok(sent.error && received.error, `${transfer.name} ends with an error at both ends`);
    }
    assert.equal(await relay.toggleBlackhole(), false);
    await eventAfter(lpk, from, 'link-up');
    await scene.reach();
    const again = await begin(lpk);
    await Promise.all(again.map((transfer) => transfer.received({ bytes: SLOWLY / 4 })));
    await wholeArrivals(again);
    assert.equal(await leave(lpk), 0);
  });
}
