import path from 'node:path';
import type { Lpk } from '../e2e/lpk.ts';
import type { Lane } from './lane.ts';
import { leaves } from './session.ts';
import type { Found, Row } from './table.ts';

/** lpk or the restorer is killed, or an answer is lost, at each request in turn that changes something. */

/** Dies when the answer has come, or when the request is on its way; or lives on without the answer. */
const MODES = ['answered', 'sent', 'lost'] as const;
const TAKEN = ['--restore-after', '15'];

/** Lease, Secret, ConfigMap, ServiceAccount, Role, RoleBinding, the restorer's Deployment; the workload's patch is the last. */
const SWAP_STEPS = 8;
/** The workload's patch and its `managedFields`; the above in reverse; the agent's ReplicaSet. A StatefulSet's pod besides. */
const RESTORE_STEPS = { deployment: 10, statefulset: 11 };
/** The workload's patch and its `managedFields`, the agent's ReplicaSet, the Lease. A StatefulSet's pod besides. */
const RESTORER_STEPS = { deployment: 4, statefulset: 5 };
/** ConfigMap, Secret, Pod; and in reverse. */
const PROXY_STEPS = 3;

type Case = { step: number; mode: (typeof MODES)[number]; recovery: string };

/** Every step once in each round, the ways taken in turn until each step had them all. */
function casesOf(steps: number, rounds: number, recoveries: string[]): Case[] {
  const all = recoveries.flatMap((recovery) => MODES.map((mode) => ({ mode, recovery })));
  // An answer that is lost leaves it to put back by itself.
  const ways = all.filter(({ mode, recovery }) => mode !== 'lost' || recovery === recoveries[0]);
  return Array.from({ length: Math.min(rounds, ways.length) }, (_, round) => round).flatMap((round) =>
    Array.from({ length: steps }, (_, i) => ({
      step: i + 1,
      ...(ways[(i + round) % ways.length] as (typeof ways)[number]),
    })),
  );
}

export function stepRows(): Row[] {
  const row = (
    name: string,
    steps: number,
    recoveries: string[],
    run: (lane: Lane, at: Case) => Promise<Found>,
  ): Row => ({
    name: `${name}, at each step of it`,
    cases: (rounds) => casesOf(steps, rounds, recoveries).length,
    run: (lane, nth, rounds) => {
      const at = casesOf(steps, rounds, recoveries)[nth] as Case;
      return run(lane, at).catch((cause: Error) => {
        throw new Error(`step ${at.step}, ${at.mode}, then ${at.recovery}: ${cause.message}`, { cause });
      });
    },
  });
  const recoveries = ['restorer', 'lpk restore'];
  const proxyRecoveries = ['lpk restore', 'lpk proxy up'];
  return [
    row('laptop dies during the swap', SWAP_STEPS, recoveries, async (lane, at) => {
      const lpk = lane.begin(TAKEN, failing(`${at.mode}:${at.step}`));
      if (at.mode === 'lost') await livesOn(lpk);
      else await recovers(lane, lpk, at);
      await lane.restored();
      // It died before the agent's ReplicaSet had a name.
      await (at.recovery === 'restorer' ? lane.nothingLeftButHistory() : lane.nothingLeft());
      return { restored: true, nothingLeft: true };
    }),
    ...(['deployment', 'statefulset'] as const).flatMap((kind) => {
      const of = kind === 'deployment' ? '' : ' of a StatefulSet';
      return [
        row(`laptop dies during the restore${of}`, RESTORE_STEPS[kind], recoveries, dyingInRestore),
        row(`restorer dies during the restore${of}`, RESTORER_STEPS[kind], ['restorer'], restorerDying),
      ].map((each) => ({ ...each, kind }));
    }),
    ...['starting', 'leaving'].map((when) =>
      row(`laptop dies while lpk proxy is ${when}`, PROXY_STEPS, proxyRecoveries, async (lane, at) => {
        const leaving = when === 'leaving';
        const lpk = lane.lpk(['proxy', 'up'], failing(`${at.mode}:${at.step}${leaving ? ':leaving' : ''}`));
        if (leaving) {
          await lpk.event('ready');
          lpk.signal('SIGINT');
        }
        if (at.mode === 'lost') await livesOn(lpk);
        else await dies(lpk);
        if (at.recovery === 'lpk proxy up') {
          const next = lane.lpk(['proxy', 'up']);
          await next.event('ready');
          await leaves(next);
        } else if (at.mode !== 'lost' || lpk.events.some(({ event }) => event === 'undo-failed')) {
          await lane.lpk(['restore', '--all']).exit();
        }
        await lane.nothingLeft();
        return { nothingLeft: true };
      }),
    ),
  ];
}

async function dyingInRestore(lane: Lane, at: Case): Promise<Found> {
  const lpk = lane.begin(TAKEN, failing(`${at.mode}:${at.step}:leaving`));
  await lpk.event('ready');
  lpk.signal('SIGINT');
  if (at.mode === 'lost') await lpk.exit();
  // What it could not do it says; then there is the command that it names.
  if (at.mode !== 'lost' || lpk.events.some(({ event }) => event === 'undo-failed')) await recovers(lane, lpk, at);
  await lane.restored();
  // It died between the end of the Lease, and with it of the restorer, and that of the agent's ReplicaSet.
  await (at.recovery === 'restorer' ? lane.nothingLeftButHistory() : lane.nothingLeft());
  return { restored: true, nothingLeft: true };
}

async function restorerDying(lane: Lane, at: Case): Promise<Found> {
  const lpk = lane.begin(TAKEN);
  await lpk.event('ready');
  const { session } = await lpk.event('swap', ({ state }) => state === 'done');
  await lane.failRestorer(session, FAIL_POINT, `${at.mode}:${at.step}`);
  lpk.signal('SIGKILL');
  await lpk.exit();
  await lane.restored();
  await lane.nothingLeft();
  return { restored: true, nothingLeft: true };
}

const FAIL_POINT = path.join(import.meta.dirname, 'fail-point.ts');

function failing(point: string) {
  return ([node = '', ...rest]: string[]) => ['env', `LPK_FAIL_POINT=${point}`, node, '--import', FAIL_POINT, ...rest];
}

/** Without that answer it starts all the same, or ends; and puts back whatever it did. */
async function livesOn(lpk: Lpk): Promise<void> {
  const said = await lpk.until('an end, or a session', () =>
    lpk.events.find(({ event }) => event === 'ready' || event === 'error'),
  );
  if (said.event === 'ready') await leaves(lpk);
  else await lpk.exit();
}

async function dies(lpk: Lpk): Promise<void> {
  const { signal } = await lpk.exit();
  if (signal !== 'SIGKILL') throw new Error(`expected that it dies; ${lpk}`);
}

/** By its restorer, where it got as far as having one. */
async function recovers(lane: Lane, lpk: Lpk, { mode, recovery }: Case): Promise<void> {
  if (mode !== 'lost') await dies(lpk);
  if (recovery === 'restorer' && (await lane.hasRestorer())) return;
  const restore = lane.lpk(['restore', '--all']);
  const { code } = await restore.exit();
  if (code !== 0) throw new Error(`${restore}; after ${lpk}`);
}
