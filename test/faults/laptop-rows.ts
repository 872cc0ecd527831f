import { setTimeout as pause } from 'node:timers/promises';
import type { Lane, Session } from './lane.ts';
import { ends, leaves, worksAnew } from './session.ts';
import type { Row } from './table.ts';
import type { Times } from './times.ts';

/** The laptop dies or sleeps, or the way to the cluster is gone. */

const AN_HOUR = 3_600;

export function laptopRows({ sleepMs, shortHoleMs, longHoleMs, restoreAfterS }: Times): Row[] {
  const minutes = (ms: number) => (ms < 60_000 ? `${ms / 1_000} s` : `${ms / 60_000} min`);
  const taken = ['--restore-after', `${restoreAfterS}`];
  const patient = ['--hold', `${AN_HOUR}`];
  return [
    {
      name: 'laptop killed (-9)',
      run: async (lane, nth) => {
        const command = nth % 2 === 0 ? [] : ['--', 'sleep', `${AN_HOUR}`];
        const { lpk } = await lane.connect(['--restore-after', '15', ...command]);
        process.kill(-lpk.pid, 'SIGKILL'); // and all that it started
        await lpk.exit();
        await lane.restored();
        await lane.nothingLeft();
        return { restored: true, nothingLeft: true };
      },
    },
    {
      name: `laptop stopped for ${minutes(sleepMs)}: the cluster puts back, lpk says so`,
      run: (lane) => takenBackMeanwhile(lane, taken, (session) => asleep(session, sleepMs)),
    },
    {
      name: `laptop stopped for ${minutes(sleepMs)}, with --hold`,
      run: async (lane) => {
        const session = await lane.connect(patient);
        await asleep(session, sleepMs);
        return await goesOn(lane, session);
      },
    },
    {
      name: `network black hole of ${minutes(shortHoleMs)}`,
      run: async (lane) => {
        const session = await lane.connect();
        await inTheDark(lane, shortHoleMs);
        return await goesOn(lane, session);
      },
    },
    {
      name: `network black hole of ${minutes(longHoleMs)}: the cluster puts back, lpk says so`,
      run: (lane) => takenBackMeanwhile(lane, taken, () => inTheDark(lane, longHoleMs)),
    },
    {
      name: `network black hole of ${minutes(longHoleMs)}, with --hold`,
      run: async (lane) => {
        const session = await lane.connect(patient);
        await inTheDark(lane, longHoleMs);
        return await goesOn(lane, session);
      },
    },
    {
      name: `network black hole of ${minutes(longHoleMs)}, longer than --hold: lpk attaches anew`,
      run: async (lane) => {
        const session = await lane.connect(['--hold', '5', '--restore-after', `${AN_HOUR}`]);
        const from = session.lpk.events.length;
        await inTheDark(lane, longHoleMs);
        await worksAnew(lane, session, from);
        await leaves(session.lpk);
        await lane.restored();
        await lane.nothingLeft();
        return { restored: true, nothingLeft: true };
      },
    },
  ];
}

async function asleep({ lpk }: Session, ms: number): Promise<void> {
  lpk.signal('SIGSTOP');
  await pause(ms);
  lpk.signal('SIGCONT');
}

async function inTheDark({ relay }: Lane, ms: number): Promise<void> {
  relay.blackhole(true);
  await pause(ms);
  relay.blackhole(false);
}

/** Nothing was lost. */
async function goesOn(lane: Lane, session: Session) {
  await session.streams.whole();
  await leaves(session.lpk);
  await lane.restored();
  await lane.nothingLeft();
  return { restored: true, resumed: true, nothingLeft: true } as const;
}

async function takenBackMeanwhile(lane: Lane, args: string[], away: (session: Session) => Promise<void>) {
  const session = await lane.connect(args);
  const gone = away(session);
  await lane.restored();
  await gone;
  await ends(session.lpk, /was put back by its restorer: this laptop was not heard of for \d+ s/);
  await lane.nothingLeft();
  return { restored: true, nothingLeft: true } as const;
}
