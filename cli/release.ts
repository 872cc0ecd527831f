import { createInterface } from 'node:readline/promises';
import { findWorkload, parseTarget } from '../agent/deploy/find.ts';
import { helpsToRestore } from '../agent/deploy/helpful-rights.ts';
import { preflightRestore } from '../agent/deploy/preflight.ts';
import { release } from '../agent/deploy/release.ts';
import { readWorkload, workloadName } from '../agent/deploy/workload.ts';
import { sessionOf } from '../agent/restore/record.ts';
import { LpkError } from '../agent/wire/errors.ts';
import { openCluster } from './cluster.ts';
import { sayGoesWithout } from './goes-without.ts';
import type { Output } from './output.ts';
import { readableTime } from './readable-time.ts';
import type { ReleaseOptions } from './release-options.ts';
import { whoAmI } from './whoami.ts';

/** Ends the session that holds the target, whoever's it is. LpkError `not-found` when none does, and what requests throw. */
export async function releaseSession(options: ReleaseOptions, output: Output): Promise<number> {
  const { kubeconfig, context, namespace } = options;
  const cluster = await openCluster({ kubeconfig, context, namespace }, output);
  try {
    const workload = await findWorkload(cluster, parseTarget(options.target));
    const object = await readWorkload(cluster, workload);
    const record = sessionOf(object);
    const name = workloadName(workload);
    const where = `${name} in namespace ${workload.namespace}`;
    if (!record) throw new LpkError('not-found', `${where} is not held by any session: nothing to release`);
    await preflightRestore(cluster, { ...workload, workload: object }, { wait: false });
    await sayGoesWithout(cluster, helpsToRestore(workload.kind), output);
    const { owner, host, since, id } = record;
    const whose = `the session of ${owner} on ${host} since ${readableTime(since)}`;
    if (!options.yes && !(await agreed(`End ${whose}, which holds ${where}?`))) {
      throw new LpkError('cancelled', `${where} is left to ${owner} on ${host}`);
    }
    const step = output.step(`releasing ${name} from ${owner} on ${host}`, 'release');
    const outcome = await release(cluster, { ...workload, session: id }, whoAmI()).catch((error: unknown) => {
      step.fail();
      throw error;
    });
    step.done(`${name} released from ${owner} on ${host}`);
    const fields = { workload: name, namespace: workload.namespace, owner, host, since, kept: outcome.kept };
    output.result(`ended ${whose}: ${where} is put back`, 'released', fields);
    return 0;
  } finally {
    cluster.close();
  }
}

/** Asks at the terminal. LpkError `usage` where nobody is there to answer. */
async function agreed(question: string): Promise<boolean> {
  if (!process.stdin.isTTY) throw new LpkError('usage', 'nobody is at a terminal to be asked: confirm it with --yes');
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await terminal.question(`${question} [y/N] `)).trim());
  } finally {
    terminal.close();
  }
}
