import { setTimeout as pause } from 'node:timers/promises';
import { eventually } from '../e2e/shop.ts';
import type { Lane } from './lane.ts';
import { blockNetwork, outOfMemory } from './pod-faults.ts';
import { leaves, worksAnew } from './session.ts';
import type { Row } from './table.ts';
import type { Times } from './times.ts';

/** A pod of the session's is lost, or cut off. */

export function podRows({ noApiMs }: Times): Row[] {
  const taken = ['--restore-after', '15'];
  return [
    {
      name: 'agent’s pod deleted: lpk attaches anew',
      run: async (lane) => {
        const session = await lane.connect();
        const from = session.lpk.events.length;
        await lane.deletePod(session.pod);
        await worksAnew(lane, session, from);
        await leaves(session.lpk);
        return await putBack(lane);
      },
    },
    {
      name: 'agent’s container killed for its memory: lpk attaches anew',
      run: async (lane) => {
        const session = await lane.connect();
        const from = session.lpk.events.length;
        await outOfMemory(lane, session);
        await worksAnew(lane, session, from);
        await leaves(session.lpk);
        return await putBack(lane);
      },
    },
    {
      name: 'restorer’s pod deleted, then laptop killed',
      run: async (lane) => {
        const { lpk, id, streams } = await lane.connect(taken);
        const [pod] = await lane.podsOf(id);
        await lane.deletePod(pod.metadata.name);
        await eventually('another restorer runs', async () => {
          const others = (await lane.podsOf(id)).filter(({ metadata }) => metadata.uid !== pod.metadata.uid);
          return others.some(({ status }) => status.phase === 'Running');
        });
        await streams.whole();
        lpk.signal('SIGKILL');
        await lpk.exit();
        return { ...(await putBack(lane)), resumed: true };
      },
    },
    {
      name: `restorer without the API server for ${noApiMs / 60_000} min: it leaves a living session alone`,
      run: async (lane) => {
        const session = await lane.connect(taken);
        const [pod] = await lane.podsOf(session.id);
        const mend = await blockNetwork(lane, pod.metadata.name);
        await pause(noApiMs);
        await mend();
        await pause(AFTERWARDS_MS); // more than what a Lease gets that was not seen
        await session.streams.whole();
        session.lpk.signal('SIGKILL'); // and it still watches
        await session.lpk.exit();
        return { ...(await putBack(lane)), resumed: true };
      },
    },
    {
      name: `restorer without the API server for ${noApiMs / 60_000} min while the laptop is killed`,
      run: async (lane) => {
        const { lpk, id } = await lane.connect(taken);
        const [pod] = await lane.podsOf(id);
        const mend = await blockNetwork(lane, pod.metadata.name);
        lpk.signal('SIGKILL');
        await lpk.exit();
        await pause(noApiMs);
        await mend();
        return await putBack(lane);
      },
    },
  ];
}

const AFTERWARDS_MS = 25_000;

async function putBack(lane: Lane) {
  await lane.restored();
  await lane.nothingLeft();
  return { restored: true, nothingLeft: true } as const;
}
