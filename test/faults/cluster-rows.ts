import { setTimeout as pause } from 'node:timers/promises';
import { crash, reboot } from '../cluster/restart.ts';
import type { Lane } from './lane.ts';
import { leaves, worksAnew } from './session.ts';
import type { Row } from './table.ts';

/** Pieces of the cluster crash, or all of it. */

const API_AWAY_MS = 5_000;
/** A busy machine's API server takes its time to start, and nobody is reached meanwhile. */
const LONG_HOLD = ['--hold', '120'];

export function clusterRows(): Row[] {
  const piece = (name: string, fault: () => Promise<void>, args: string[] = []): Row => ({
    name,
    alone: true,
    run: async (lane, nth, _, one) => {
      const session = await lane.connect(['--transport', nth % 2 === 0 ? 'proxy' : 'port-forward', ...args]);
      await one.happens(fault);
      await session.streams.whole();
      await leaves(session.lpk);
      return { ...(await putBack(lane)), resumed: true };
    },
  });
  return [
    piece('API server killed and started again', () => crash(['kube-apiserver'], () => pause(API_AWAY_MS)), LONG_HOLD),
    piece('etcd killed and started again', () => crash(['etcd'])),
    piece('kubelet and containerd killed and started again', () => crash(['kubelet', 'containerd'])),
    {
      name: 'node rebooted: lpk attaches anew',
      alone: true,
      run: async (lane, _, __, one) => {
        const session = await lane.connect();
        const from = session.lpk.events.length;
        await one.happens(reboot);
        await worksAnew(lane, session, from);
        await leaves(session.lpk);
        return await putBack(lane);
      },
    },
    {
      name: 'node rebooted and laptop killed',
      alone: true,
      run: async (lane, _, __, one) => {
        const { lpk } = await lane.connect(['--restore-after', '15']);
        lpk.signal('SIGKILL');
        await lpk.exit();
        await one.happens(reboot);
        return await putBack(lane);
      },
    },
  ];
}

async function putBack(lane: Lane) {
  await lane.restored();
  await lane.nothingLeft();
  return { restored: true, nothingLeft: true } as const;
}
