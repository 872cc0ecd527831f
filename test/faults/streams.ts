import { setTimeout as pause } from 'node:timers/promises';
import { connectSocks, type Scene } from '../e2e/scene.ts';
import type { Order, Result } from '../e2e/transfers.ts';
import { machineMs } from '../e2e/transfers.ts';

/** Connections in both directions, with data both ways, while something is done to the session they go through. */

const PATIENCE_MS = 60_000;
const BYTES_PER_SECOND = 200_000;

type Transfer = { id: string; way: 'out' | 'in'; act: 'up' | 'down' };
const TRANSFERS = [
  { way: 'out', act: 'down' },
  { way: 'out', act: 'up' },
  { way: 'in', act: 'down' },
  { way: 'in', act: 'up' },
] as const;

let begun = 0;

export class Streams {
  #scene: Scene;
  #transfers: Transfer[];

  private constructor(scene: Scene, transfers: Transfer[]) {
    this.#scene = scene;
    this.#transfers = transfers;
  }

  /** Begins them, and waits until each has brought something. */
  static async begin(scene: Scene, proxyPort: number): Promise<Streams> {
    const transfers = TRANSFERS.map((each) => ({ ...each, id: `fault-${++begun}` }));
    for (const { id, way, act } of transfers) {
      const order: Order = { id, act, bytesPerSecond: BYTES_PER_SECOND };
      if (way === 'in') await scene.beginInbound(order);
      else scene.transfers.begin(await connectSocks(proxyPort, 'peer', 7000), order);
    }
    const streams = new Streams(scene, transfers);
    await streams.goOn(0);
    return streams;
  }

  /** One more, as fast as it goes. Nobody waits for its end. */
  async hurry(proxyPort: number): Promise<void> {
    const order: Order = { id: `fault-${++begun}`, act: 'down' };
    this.#scene.transfers.begin(await connectSocks(proxyPort, 'peer', 7000), order);
  }

  /** Until each has received something after this time (`machineMs`). */
  async goOn(since = machineMs()): Promise<void> {
    await Promise.all(
      this.#transfers.map(async ({ id, way, act }) => {
        const here = (way === 'out') === (act === 'down');
        const moves = here ? this.#scene.transfers.reached(id, { since }) : this.#scene.peerReached(id, { since });
        const stop = new AbortController();
        const late = pause(PATIENCE_MS, 'late' as const, stop);
        if ((await Promise.race([moves, late])) === 'late') throw new Error(`the stream ${way}, ${act} does not go on`);
        stop.abort();
        await late.catch(() => {});
      }),
    );
  }

  /** Ends them: each goes on until then, and has arrived whole. */
  async whole(): Promise<void> {
    await this.goOn();
    await this.#scene.stop();
    for (const { way, act, here, there } of await this.#results()) {
      const name = `the stream ${way}, ${act}`;
      if (here.error || there.error) throw new Error(`${name}: ${here.error ?? there.error}`);
      if (here.sha256 !== there.sha256) throw new Error(`${name} did not arrive whole: ${here.bytes}, ${there.bytes}`);
    }
  }

  async #results(): Promise<(Transfer & { here: Result; there: Result })[]> {
    return await Promise.all(
      this.#transfers.map(async (each) => {
        const [here, there] = await Promise.all([
          this.#scene.transfers.result(each.id),
          this.#scene.peerResult(each.id),
        ]);
        return { ...each, here, there };
      }),
    );
  }
}
