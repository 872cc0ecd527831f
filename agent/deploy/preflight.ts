import { following } from '../restore/follow.ts';
import { sessionOf } from '../restore/record.ts';
import { LpkError } from '../wire/errors.ts';
import type { Cluster, Json } from './kube.ts';
import { groupOf, type WorkloadRef, workloadName } from './workload.ts';

/** What lpk may do in a namespace, asked before anything is changed. */

/** What is to be served: a `Target`, or as much of one. */
export type Servable = WorkloadRef & { workload: Json; one?: boolean; beside?: WorkloadRef };

/** One right, as `kubectl auth can-i` and RBAC state it. */
export type Right = { verb: string; group?: string; resource: string; subresource?: string; name?: string };

export type Transport = 'proxy' | 'port-forward';

/**
 * What swap, rollout and restore do. Everything needs an unrestricted `create`, as names can't be known before; the rest of
 * ConfigMaps and Secrets is only of the session's own.
 */
export function rightsToServe(target: Servable): Right[] {
  return [
    ...rightsOnWorkload(target),
    ...['configmaps', 'secrets'].flatMap((resource) => ['create', 'delete'].map((verb) => ({ verb, resource }))),
  ];
}

function rightsOnWorkload(target: Servable): Right[] {
  const { kind, beside } = target;
  const pods = { resource: 'pods' };
  if (beside) {
    return [
      ...on(['get'], itself(beside)),
      ...on(['create', 'get', 'list', 'watch', 'delete'], pods),
      { verb: 'get', resource: 'configmaps' }, // whether the session goes on, when its pod is lost
    ];
  }
  if (kind === 'pod') {
    const all = on(['create', 'get', 'list', 'watch', 'patch', 'delete'], pods);
    return [...all, { verb: 'get', resource: 'configmaps' }]; // what the pod was
  }
  return [
    ...on(['get', 'list', 'watch', 'patch'], itself(target)),
    ...rightsToPromote(target),
    ...on(deletesPods(target) ? ['list', 'watch', 'delete'] : ['list', 'watch'], pods),
  ];
}

function itself({ kind, name }: WorkloadRef): Omit<Right, 'verb'> {
  return { group: groupOf(kind), resource: `${kind}s`, name };
}

/** Without it a Rollout would wait at its first pause, in both directions. */
function rightsToPromote(rollout: WorkloadRef): Right[] {
  return rollout.kind === 'rollout' ? on(['patch'], { ...itself(rollout), subresource: 'status' }) : [];
}

function on(verbs: string[], what: Omit<Right, 'verb'>): Right[] {
  return verbs.map((verb) => ({ verb, ...what }));
}

/** Are there pods that do not come to a changed template by themselves? */
function deletesPods({ kind, workload, one }: Servable): boolean {
  return following(kind, workload) !== 'by-itself' || (one === true && kind === 'daemonset');
}

/**
 * What a transport asks for. A websocket's upgrade is a GET, so its verb is `get`; for port-forward API servers since 1.35
 * ask for `create` too (feature gate AuthorizePodWebsocketUpgradeCreatePermission).
 */
export function rightsToReach(transport: Transport): Right[] {
  if (transport === 'proxy') return [{ verb: 'get', resource: 'pods', subresource: 'proxy' }];
  return ['get', 'create'].map((verb) => ({ verb, resource: 'pods', subresource: 'portforward' }));
}

/** What takes a session out of a workload; `wait`: and follows its rollout. */
export function rightsToRestore(target: Servable, { wait }: { wait: boolean }): Right[] {
  return [
    ...rightsToPutBack(target, wait),
    ...['configmaps', 'secrets'].map((resource) => ({ verb: 'delete', resource })),
  ];
}

function rightsToPutBack(held: Servable, wait: boolean): Right[] {
  const { kind, workload } = held;
  const follow = wait ? ['list', 'watch'] : [];
  const pods = { resource: 'pods' };
  if (kind === 'pod' && sessionOf(workload)?.beside) return on(['get', 'delete'], pods);
  if (kind === 'pod') {
    return [...on(['create', 'get', ...follow, 'patch', 'delete'], pods), { verb: 'get', resource: 'configmaps' }];
  }
  return [
    ...on(['get', ...follow, 'patch'], itself(held)),
    ...rightsToPromote(held),
    ...(following(kind, workload) === 'by-itself' ? [] : on(['list', 'delete'], pods)),
  ];
}

/** What reads the variables of a container that runs. */
export function rightsToReadVariables(): Right[] {
  // As for port-forward, `create` since 1.35.
  const exec = ['get', 'create'].map((verb) => ({ verb, resource: 'pods', subresource: 'exec' }));
  return [{ verb: 'list', resource: 'pods' }, ...exec];
}

/** Those of `rights` that the user doesn't have in the cluster's namespace, by SelfSubjectAccessReview. */
export async function missingRights(cluster: Cluster, rights: Right[]): Promise<Right[]> {
  const allowed = await Promise.all(rights.map((right) => isAllowed(cluster, right)));
  return rights.filter((_, i) => !allowed[i]);
}

async function isAllowed(cluster: Cluster, { verb, group = '', resource, subresource, name }: Right): Promise<boolean> {
  const resourceAttributes = { namespace: cluster.namespace, verb, group, resource, subresource, name };
  const body = {
    apiVersion: 'authorization.k8s.io/v1',
    kind: 'SelfSubjectAccessReview',
    spec: { resourceAttributes },
  };
  const path = '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews';
  const review = await cluster.request('POST', path, { body }).catch((error: unknown) => {
    // Who may not even ask (which everybody may, unless it was taken from them) finds out by trying.
    if (error instanceof LpkError && error.code === 'forbidden') return { status: { allowed: true } };
    throw error;
  });
  return review.status?.allowed === true;
}

/** The transports the user may use, the fastest first. */
export async function transportsAllowed(cluster: Cluster): Promise<Transport[]> {
  const all: Transport[] = ['proxy', 'port-forward'];
  const missing = await Promise.all(all.map((each) => missingRights(cluster, rightsToReach(each))));
  return all.filter((_, i) => missing[i]?.length === 0);
}

/** What `lpk proxy` makes in a namespace, watches and removes. */
export function rightsToProxy(): Right[] {
  return [
    ...['create', 'get', 'list', 'watch', 'delete'].map((verb) => ({ verb, resource: 'pods' })),
    ...['configmaps', 'secrets'].flatMap((resource) => ['create', 'delete'].map((verb) => ({ verb, resource }))),
  ];
}

/**
 * Throws one `forbidden` that names every verb and resource the user lacks to serve `target` over `transport`; for `auto`
 * one of the transports is enough. Changes nothing.
 */
export async function preflight(
  cluster: Cluster,
  target: Servable,
  transport: Transport | 'auto',
): Promise<{ transports: Transport[] }> {
  return await assertRights(cluster, rightsToServe(target), transport, `serve ${workloadName(target)}`);
}

/** The same for `lpk proxy`. */
export async function preflightProxy(
  cluster: Cluster,
  transport: Transport | 'auto',
): Promise<{ transports: Transport[] }> {
  return await assertRights(cluster, rightsToProxy(), transport, 'run a proxy');
}

/** The same for `lpk restore` and `lpk release`. */
export async function preflightRestore(cluster: Cluster, held: Servable, options: { wait: boolean }): Promise<void> {
  const missing = await missingRights(cluster, rightsToRestore(held, options));
  if (missing.length > 0) throw forbidden(cluster, `restore ${workloadName(held)}`, missing);
}

/** The same for `lpk env`. */
export async function preflightVariables(cluster: Cluster, target: WorkloadRef): Promise<void> {
  const missing = await missingRights(cluster, rightsToReadVariables());
  if (missing.length > 0) throw forbidden(cluster, `read the variables of ${workloadName(target)}`, missing);
}

async function assertRights(cluster: Cluster, rights: Right[], transport: Transport | 'auto', doing: string) {
  const [missing, transports] = await Promise.all([missingRights(cluster, rights), transportsAllowed(cluster)]);
  const reachable = transport === 'auto' ? transports.length > 0 : transports.includes(transport);
  if (!reachable)
    missing.push(...(await missingRights(cluster, rightsToReach(transport === 'auto' ? 'proxy' : transport))));
  if (missing.length > 0) throw forbidden(cluster, doing, missing);
  return { transports };
}

/** `create, delete roles.rbac.authorization.k8s.io; get pods "web-0"`. */
export function describeRights(rights: Right[]): string {
  const byResource = new Map<string, string[]>();
  for (const { verb, group, resource, subresource, name } of rights) {
    const what = `${resource}${group ? `.${group}` : ''}${subresource ? `/${subresource}` : ''}${name ? ` "${name}"` : ''}`;
    byResource.set(what, [...(byResource.get(what) ?? []), verb]);
  }
  return [...byResource].map(([what, verbs]) => `${verbs.join(', ')} ${what}`).join('; ');
}

function forbidden(cluster: Cluster, doing: string, missing: Right[]): LpkError {
  return new LpkError(
    'forbidden',
    `user "${cluster.user}" lacks rights in namespace ${cluster.namespace} to ${doing}: ${describeRights(missing)}`,
    { cause: missing },
  );
}
