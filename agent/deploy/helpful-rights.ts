import { hasHistory, revisionsOf } from '../restore/history.ts';
import type { Cluster } from './kube.ts';
import { describeRights, missingRights, type Right } from './preflight.ts';
import type { WorkloadKind } from './workload.ts';

/** Rights that are not needed, and what it is like without them. */
export type Help = { without: string; rights: Right[] };

/** For `lpk connect`. `command`: one is started with the pod's variables. `restorer`: one is left in the cluster. */
export function helpsToServe(
  target: { kind: WorkloadKind; service?: string },
  given: { command: boolean; restorer: boolean },
): Help[] {
  const exec = { resource: 'pods', subresource: 'exec' };
  return [
    ...(given.command ? [help('the command lacks the variables of its image', ['get', 'create'], exec)] : []),
    ...(target.service
      ? []
      : [help('ports that only Services name are not known', ['list'], { resource: 'services' })]),
    // A Deployment's or Rollout's status says it by itself.
    ...(['deployment', 'rollout', 'pod'].includes(target.kind)
      ? []
      : [help('why pods are refused is not known', ['list'], { resource: 'events' })]),
    ...toForget(target.kind),
    ...(given.restorer ? toLetForget(target.kind) : []),
    // Read when a call through the Service does not arrive (service-path.ts).
    {
      without: 'the self-test may not know which hop fails',
      rights: [
        { verb: 'list', group: 'discovery.k8s.io', resource: 'endpointslices' },
        { verb: 'list', group: 'networking.k8s.io', resource: 'networkpolicies' },
        { verb: 'get', resource: 'services', subresource: 'proxy' },
      ],
    },
  ];
}

/** For `lpk restore` and `lpk release`. */
export function helpsToRestore(kind: WorkloadKind): Help[] {
  const leases = { group: 'coordination.k8s.io', resource: 'leases' };
  return [
    help(
      'its holder is not told who ended it, and its restorer goes when the Lease lapses',
      ['get', 'patch', 'delete'],
      leases,
    ),
    ...toForget(kind),
  ];
}

/** For `lpk proxy` and `lpk run`. */
export function helpsToProxy(): Help[] {
  return [help('Services are reached by name, their addresses are not known', ['list'], { resource: 'services' })];
}

/** For `lpk status`. */
export function helpsToSee(): Help[] {
  const leases = { group: 'coordination.k8s.io', resource: 'leases' };
  return [help('when they were last seen is not known', ['list'], leases)];
}

function toForget(kind: WorkloadKind): Help[] {
  if (!hasHistory(kind)) return [];
  const of = { group: 'apps', resource: revisionsOf(kind) };
  return [help('the agent stays in the workload’s history', ['list', 'delete'], of)];
}

/** What the restorer is granted for it, one must have: to delete revisions, which is asked for above, and to read them. */
function toLetForget(kind: WorkloadKind): Help[] {
  if (!hasHistory(kind)) return [];
  const rights: Right[] = [
    { verb: 'patch', group: 'rbac.authorization.k8s.io', resource: 'roles' },
    { verb: 'get', group: 'apps', resource: revisionsOf(kind) },
  ];
  return [{ without: 'a restorer leaves the agent in the workload’s history, until lpk restore', rights }];
}

function help(without: string, verbs: string[], of: Omit<Right, 'verb'>): Help {
  return { without, rights: verbs.map((verb) => ({ verb, ...of })) };
}

/** A line for each that is missing in the cluster's namespace (`''`: in any). Changes nothing. */
export async function missingHelp(cluster: Cluster, helps: Help[]): Promise<string[]> {
  const missing = await Promise.all(helps.map(({ rights }) => missingRights(cluster, rights)));
  return helps.flatMap(({ without }, i) => {
    const lacking = missing[i] as Right[];
    return lacking.length > 0 ? [`${without}: user "${cluster.user}" may not ${describeRights(lacking)}`] : [];
  });
}
