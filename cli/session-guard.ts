import type { EventEmitter } from 'node:events';
import { isDeepStrictEqual } from 'node:util';
import type { Target } from '../agent/deploy/find.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import { describeRights, missingRights } from '../agent/deploy/preflight.ts';
import {
  type LeaseSpec,
  type Named,
  nameToRestorer,
  removeRestorerPod,
  renewLease,
  restorerRefusal,
  rightsToLease,
  rightsToNamePods,
  rightsToRestorer,
} from '../agent/deploy/restorer.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import { hasHistory } from '../agent/restore/history.ts';
import { leasePath } from '../agent/restore/lease.ts';
import { objectName } from '../agent/restore/record.ts';
import type { LpkError } from '../agent/wire/errors.ts';
import type { AttachmentEvents } from './attachment.ts';
import { endedBy, LeaseKeeper } from './lease-keeper.ts';
import type { Output } from './output.ts';

/** What a session of `lpk connect` leaves in the cluster against this laptop's death, and what it says of it. */

const RENEWAL_TIMEOUT_MS = 5_000;

export type GuardOptions = {
  /** How long this laptop may be silent before the workload is put back, ms. */
  restoreAfterMs: number;
  restorer: boolean;
};

/** `missing`: the rights there would have to be for more, in words. */
export type GuardPlan = { lease: LeaseSpec | undefined; missing: string | undefined };

/** What the user's rights allow; changes nothing. LpkError: what requests throw. */
export async function planGuard(cluster: Cluster, target: Target, options: GuardOptions): Promise<GuardPlan> {
  const wanted = [...rightsToLease(), ...(options.restorer ? rightsToRestorer(target) : [])];
  const missing = await missingRights(cluster, wanted);
  const words = missing.length > 0 ? `user "${cluster.user}" may not ${describeRights(missing)}` : undefined;
  if (missing.some(({ resource }) => resource === 'leases')) return { lease: undefined, missing: words };
  const restorer = options.restorer && missing.length === 0;
  return { lease: { silenceMs: options.restoreAfterMs, restorer }, missing: words };
}

export type Guarded = {
  cluster: Cluster;
  target: Target;
  session: string;
  silenceMs: number;
  restorer: boolean;
  remedy: string;
  output: Output;
  /** The session may be over: look. @returns whether it goes on. */
  check: () => Promise<boolean>;
};

/** Renews the Lease from now on. */
export function keepLease(given: Guarded): LeaseKeeper {
  const { cluster, target, session, silenceMs, restorer, remedy, output, check } = given;
  const at = { namespace: target.namespace, session };
  const keeper = new LeaseKeeper({
    silenceMs,
    restorer,
    renew: () => renewLease(cluster, at, { timeoutMs: RENEWAL_TIMEOUT_MS }),
    ended: async (by) => {
      if ((await check()) && !by && restorer)
        sayWithout(output, 'somebody deleted its Lease, and so the restorer', remedy);
    },
    unwatched: async (late) => {
      const refusal = await restorerRefusal(cluster, at);
      const look = `kubectl describe deployment ${objectName(session)} -n ${target.namespace}`;
      if (refusal) sayWithout(output, `its pod is refused: ${refusal}`, remedy);
      else if (late) sayWithout(output, `its pod does not run (${look})`, remedy);
      return refusal !== undefined || late;
    },
  });
  keeper.start();
  return keeper;
}

/** The restorer's pod may have the room that a quota has for the agent's: then the session goes without. @returns whether it had. */
export async function giveUpRestorer(given: Omit<Guarded, 'check'>, keeper: LeaseKeeper | undefined): Promise<boolean> {
  const { cluster, target, session, restorer, output, remedy } = given;
  if (!restorer || !(await removeRestorerPod(cluster, { namespace: target.namespace, session }))) return false;
  keeper?.goAlone();
  sayWithout(output, 'its pod had the room that there is for the agent', remedy);
  return true;
}

/**
 * Names to the restorer what it may delete, as it comes: the workload's revisions that turn out to be the agent's and, where pods
 * follow only when they are deleted, the pods. Who may not let it delete revisions has `lpk restore` do it later.
 */
export function tellRestorer(given: Omit<Guarded, 'check'>, pods: EventEmitter<AttachmentEvents>): void {
  const { cluster, target, session, remedy, output } = given;
  const wanted: Named = { pods: [], revisions: [] };
  let named: Named = { pods: [], revisions: [] };
  let last = Promise.resolve();
  // One after the other, so that the last names are those that stay.
  const tell = (part: keyof Named, failed: (error: LpkError) => void) => {
    last = last
      .then(async () => {
        const next = { ...named, [part]: [...wanted[part]] };
        if (isDeepStrictEqual(next, named)) return;
        await nameToRestorer(cluster, target, session, { named: next, before: named });
        named = next;
      })
      .catch(failed); // and is told again with the next
  };
  let mayNot = false;
  const tellRevision = (revision: string) => {
    if (mayNot) return;
    if (!wanted.revisions.includes(revision)) wanted.revisions.push(revision);
    tell('revisions', ({ code }) => {
      mayNot ||= code === 'forbidden';
    });
  };
  let warned = false;
  const tellPods = (names: string[]) => {
    wanted.pods = names;
    tell('pods', ({ code, message }) => {
      if (warned || code === 'not-found') return; // the session is over
      warned = true;
      const what = `the restorer would put ${workloadName(target)} back, but not delete its agents' pods`;
      output.warn(`${what} (${message}); \`${remedy}\` does both`, 'no-pod-names');
    });
  };
  if (hasHistory(target.kind)) pods.on('revision', tellRevision);
  if (rightsToNamePods(target).length > 0) pods.on('named', tellPods);
}

/** One line: there is no restorer, and what that means. */
export function sayWithout(output: Output, why: string, remedy: string): void {
  output.say(`no restorer: ${why}; \`${remedy}\` puts it back if this laptop dies`, 'no-restorer');
}

/** Why a session is over that its holder did not end: `was taken back by bob on host-b`, …; `otherwise` when nothing tells. */
export async function whyEnded(
  given: Omit<Guarded, 'check'>,
  keeper: LeaseKeeper | undefined,
  otherwise: string,
): Promise<string> {
  const { cluster, target, session, silenceMs, restorer } = given;
  const lease = await cluster
    .request('GET', leasePath(target.namespace, session), { timeoutMs: RENEWAL_TIMEOUT_MS })
    .catch((_: LpkError) => undefined); // gone already, or not to be read: then nobody signed
  const by = lease && endedBy(lease);
  if (by) return `${workloadName(target)} was taken back by ${by.owner} on ${by.host}`;
  const silentMs = keeper?.silentMs ?? 0;
  if (restorer && silentMs >= silenceMs) {
    const seconds = Math.round(silentMs / 1_000);
    return `${workloadName(target)} was put back by its restorer: this laptop was not heard of for ${seconds} s (--restore-after ${silenceMs / 1_000})`;
  }
  return otherwise;
}
