import path from 'node:path';
import type { Lpk } from '../e2e/lpk.ts';
import type { Lane } from './lane.ts';
import { leaves } from './session.ts';
import type { Found, Row } from './table.ts';

/** lpk is killed, or an answer is lost, at each request in turn that changes something. */

const MODES = ['answered', 'sent', 'lost'] as const;
const RECOVERIES = ['lpk restore', 'restorer'] as const;
const TAKEN = ['--restore-after', '15'];

/** Secret, ConfigMap, Lease, ServiceAccount, Role, RoleBinding, the restorer's Deployment; the workload's patch is the last. */
const SWAP_STEPS = 8;
/** The workload's patch and its `managedFields`; the above in reverse; the agent's ReplicaSet. */
const RESTORE_STEPS = 10;

type Case = { step: number; mode: (typeof MODES)[number]; recovery: (typeof RECOVERIES)[number] };

/** Every step in every way; in a single round every step once, the ways taken in turn. */
function casesOf(steps: number, rounds: number): Case[] {
  const all = MODES.flatMap((mode) => RECOVERIES.map((recovery) => ({ mode, recovery })));
  // An answer that is lost leaves lpk to put back by itself.
  const ways = all.filter(({ mode, recovery }) => mode !== 'lost' || recovery === 'lpk restore');
  return Array.from({ length: steps }, (_, i) => i + 1).flatMap((step) =>
    rounds > 1
      ? ways.map((way) => ({ step, ...way }))
      : [{ step, ...(ways[step % ways.length] as (typeof ways)[number]) }],
  );
}

export function stepRows(): Row[] {
  const row = (name: string, steps: number, run: (lane: Lane, at: Case) => Promise<Found>): Row => ({
    name,
    cases: (rounds) => casesOf(steps, rounds).length,
    run: (lane, nth, rounds) => {
      const at = casesOf(steps, rounds)[nth] as Case;
      return run(lane, at).catch((cause: Error) => {
        throw new Error(`step ${at.step}, ${at.mode}, then ${at.recovery}: ${cause.message}`, { cause });
      });
    },
  });
  return [
    row('laptop dies during the swap, at each step of it', SWAP_STEPS, async (lane, at) => {
      const lpk = lane.begin(TAKEN, failing(`${at.mode}:${at.step}`));
      if (at.mode !== 'lost') return await recovers(lane, lpk, at);
      const ready = await lpk.until('an end, or a session', () => lpk.events.find(isReadyOrError));
      if (ready.event === 'ready') await leaves(lpk);
      await lpk.exit();
      return await putBack(lane);
    }),
    row('laptop dies during the restore, at each step of it', RESTORE_STEPS, async (lane, at) => {
      const lpk = lane.begin(TAKEN, failing(`${at.mode}:${at.step}:leaving`));
      await lpk.event('ready');
      lpk.signal('SIGINT');
      if (at.mode !== 'lost') return await recovers(lane, lpk, at);
      await lpk.exit();
      // What it could not do it says; then there is the command that it names.
      if (lpk.events.some(({ event }) => event === 'undo-failed')) await lane.lpk(['restore', 'deployment/web']).exit();
      return await putBack(lane);
    }),
  ];
}

function isReadyOrError({ event }: { event: string }): boolean {
  return event === 'ready' || event === 'error';
}

function failing(point: string) {
  const preload = path.join(import.meta.dirname, 'fail-point.ts');
  return ([node = '', ...rest]: string[]) => ['env', `LPK_FAIL_POINT=${point}`, node, '--import', preload, ...rest];
}

async function recovers(lane: Lane, lpk: Lpk, { recovery }: Case): Promise<Found> {
  const { signal } = await lpk.exit();
  if (signal !== 'SIGKILL') throw new Error(`expected that it dies; ${lpk}`);
  if (recovery === 'lpk restore' || !(await lane.hasRestorer())) {
    const restore = lane.lpk(['restore', '--all']);
    const { code } = await restore.exit();
    if (code !== 0) throw new Error(`${restore}; after ${lpk}`);
  }
  return await putBack(lane);
}

async function putBack(lane: Lane): Promise<Found> {
  await lane.restored();
  await lane.nothingLeft();
  return { restored: true, nothingLeft: true };
}
