import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Lpk } from '../e2e/lpk.ts';
import type { Lane } from './lane.ts';
import { leaves } from './session.ts';
import type { Found, Row } from './table.ts';

/** lpk or the restorer is killed, or an answer is lost, at each request in turn that changes something. */

/** Dies when the answer has come, or when the request is on its way; or lives on without the answer. */
const MODES = ['answered', 'sent', 'lost'] as const;
const TAKEN = ['--restore-after', '15'];

/**
 * Lease, Secret, ConfigMap, ServiceAccount, Role, RoleBinding, the restorer's Deployment, the workload's patch; then the Role and the
 * Lease again, for the agent's ReplicaSet.
 */
const SWAP_STEPS = 10;
/** The workload's patch and its `managedFields`; what the swap made, in reverse; the agent's ReplicaSet. A StatefulSet's pod besides. */
const RESTORE_STEPS = { deployment: 10, statefulset: 11 };
/** The workload's patch and its `managedFields`, the agent's ReplicaSet, the Lease. A StatefulSet's pod besides. */
const RESTORER_STEPS = { deployment: 4, statefulset: 5 };
/** ConfigMap, Secret, and the pod twice, as the quota insists on a CPU limit; and in reverse. */
const PROXY_STEPS = { starting: 4, leaving: 3 };

/** `last`: this is one more than there are, so nothing happens; else there are steps that nobody tries. */
type Case = { step: number; mode: (typeof MODES)[number]; recovery: string; last?: true };

/** Every step once in each round, the ways taken in turn until each step had them all. */
function casesOf(steps: number, rounds: number, recoveries: string[]): Case[] {
  const all = recoveries.flatMap((recovery) => MODES.map((mode) => ({ mode, recovery })));
  // An answer that is lost leaves it to put back by itself.
  const ways = all.filter(({ mode, recovery }) => mode !== 'lost' || recovery === recoveries[0]);
  const cases = Array.from({ length: Math.min(rounds, ways.length) }, (_, round) => round).flatMap((round) =>
    Array.from(
      { length: steps },
      (_, i): Case => ({ step: i + 1, ...(ways[(i + round) % ways.length] as (typeof ways)[number]) }),
    ),
  );
  return [...cases, { step: steps + 1, mode: 'answered', recovery: recoveries[0] as string, last: true }];
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
    row('laptop dies during the swap', SWAP_STEPS, recoveries, dyingInSwap),
    ...(['deployment', 'statefulset'] as const).flatMap((kind) => {
      const of = kind === 'deployment' ? '' : ' of a StatefulSet';
      return [
        row(`laptop dies during the restore${of}`, RESTORE_STEPS[kind], recoveries, dyingInRestore),
        row(`restorer dies during the restore${of}`, RESTORER_STEPS[kind], ['restorer'], restorerDying),
      ].map((each) => ({ ...each, kind }));
    }),
    row('laptop dies while lpk proxy is starting', PROXY_STEPS.starting, proxyRecoveries, (lane, at) =>
      dyingProxy(lane, at),
    ),
    row('laptop dies while lpk proxy is leaving', PROXY_STEPS.leaving, proxyRecoveries, (lane, at) =>
      dyingProxy(lane, at, ':leaving'),
    ),
  ];
}

async function dyingInSwap(lane: Lane, at: Case): Promise<Found> {
  const { around, happened } = failing(lane, at);
  const lpk = lane.begin(TAKEN, around);
  if (at.last) {
    await lpk.event('ready');
    const { session } = await lpk.event('swap', ({ state }) => state === 'done');
    await lane.restorerKnows(session, 1);
    assertLast(happened(), lpk);
    lpk.signal('SIGINT'); // where it goes on counting
  }
  if (at.mode === 'lost') {
    await lpk.until('the fail point', () => happened() || undefined);
    await livesOn(lpk);
  } else await recovers(lane, lpk, at);
  await lane.restored();
  // It died before the agent's ReplicaSet had a name.
  await (at.recovery === 'restorer' ? lane.nothingLeftButHistory() : lane.nothingLeft());
  return { restored: true, nothingLeft: true };
}

async function dyingInRestore(lane: Lane, at: Case): Promise<Found> {
  const { around, happened } = failing(lane, at, ':leaving');
  // Nothing listens: the agent's pod is not ready, and so no controller is quicker than lpk to delete it.
  const lpk = lane.begin(TAKEN, around, NOBODYS_PORT);
  await lpk.event('ready');
  const { session } = await lpk.event('swap', ({ state }) => state === 'done');
  await lane.restorerKnows(session, 1);
  lpk.signal('SIGINT');
  await lpk.exit();
  if (at.last) assertLast(happened(), lpk);
  else if (!happened()) throw new Error(`expected that it fails; ${lpk}`);
  // What it could not do it says; then there is the command that it names.
  if (at.mode === 'lost' ? lpk.events.some(({ event }) => event === 'undo-failed') : !at.last)
    await recovers(lane, lpk, at);
  await lane.restored();
  // It died between the end of the Lease, and with it of the restorer, and that of the agent's ReplicaSet.
  await (at.recovery === 'restorer' ? lane.nothingLeftButHistory() : lane.nothingLeft());
  return { restored: true, nothingLeft: true };
}

async function restorerDying(lane: Lane, at: Case): Promise<Found> {
  const lpk = lane.begin(TAKEN, undefined, NOBODYS_PORT);
  await lpk.event('ready');
  const { session } = await lpk.event('swap', ({ state }) => state === 'done');
  await lane.restorerKnows(session, 1);
  const { said } = await lane.failRestorer(session, FAIL_POINT, `${at.mode}:${at.step}`);
  lpk.signal('SIGKILL');
  await lpk.exit();
  await lane.restored();
  await lane.nothingLeft();
  const happened = (await said).includes('fail point');
  if (at.last) assertLast(happened, lpk);
  else if (!happened) throw new Error(`expected that the restorer fails; it said ${await said}`);
  return { restored: true, nothingLeft: true };
}

async function dyingProxy(lane: Lane, at: Case, leaving: '' | ':leaving' = ''): Promise<Found> {
  const { around, happened } = failing(lane, at, leaving);
  const lpk = lane.lpk(['proxy', 'up'], around);
  if (leaving || at.last) {
    await lpk.event('ready');
    if (!leaving) assertLast(happened(), lpk);
    lpk.signal('SIGINT');
  }
  if (leaving && at.last) {
    await lpk.exit();
    assertLast(happened(), lpk);
  } else if (at.mode === 'lost') {
    await lpk.until('the fail point', () => happened() || undefined);
    await livesOn(lpk);
  } else await dies(lpk);
  if (at.recovery === 'lpk proxy up') {
    const next = lane.lpk(['proxy', 'up']);
    await next.event('ready');
    await leaves(next);
  } else if (lpk.events.some(({ event }) => event === 'undo-failed') || at.mode !== 'lost') {
    await lane.lpk(['restore', '--all']).exit();
  }
  await lane.nothingLeft();
  return { nothingLeft: true };
}

function assertLast(happened: boolean, lpk: Lpk): void {
  if (happened) throw new Error(`there are more steps than are tried; ${lpk}`);
}

/** Below the ports that an ordinary user's processes listen on; tests don't use it. */
const NOBODYS_PORT = 1;
const FAIL_POINT = path.join(import.meta.dirname, 'fail-point.ts');

/** Around lpk: it fails at that step, and whether it did by now. */
function failing(lane: Lane, { mode, step }: Case, when: '' | ':leaving' = '') {
  const file = lane.mark();
  const env = [`LPK_FAIL_POINT=${mode}:${step}${when}`, `LPK_FAILED=${file}`];
  return {
    around: ([node = '', ...rest]: string[]) => ['env', ...env, node, '--import', FAIL_POINT, ...rest],
    happened: () => existsSync(file),
  };
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
