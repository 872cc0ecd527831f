import { setTimeout as sleep } from 'node:timers/promises';
import { unlessGone } from '../restore/api.ts';
import { following } from '../restore/follow.ts';
import { revisionsOf } from '../restore/history.ts';
import {
  leasePath,
  leasesPath,
  microTime,
  PODS_ANNOTATION,
  RESTORER_VARIABLE,
  REVISIONS_ANNOTATION,
  type RestorerConfig,
  WATCHING_ANNOTATION,
} from '../restore/lease.ts';
import { templateHash } from '../restore/promote.ts';
import { LpkError } from '../wire/errors.ts';
import { AGENT_IMAGE, AGENT_MOUNT, MANAGED_BY, objectName, SESSION_LABEL } from './agent-container.ts';
import type { Cluster, Json } from './kube.ts';
import type { Right } from './preflight.ts';
import { rolloutState } from './rollout.ts';
import { oneLine } from './status.ts';
import { groupOf, type WorkloadRef } from './workload.ts';

/**
 * What puts a workload back when its laptop died: the session's Lease, which the laptop renews, and a small Deployment that
 * watches it (`agent/pod/restorer.ts`). The workload owns the Lease, and the Lease all else of the session.
 */

const COORDINATION = 'coordination.k8s.io';
const RBAC = 'rbac.authorization.k8s.io';
const ROLE_TRIES = 50;
const ROLE_RETRY_MS = 100;

/** An entry of `ownerReferences`. */
export type Owner = { apiVersion: string; kind: string; name: string; uid: string };

const LEASE_VERBS = ['get', 'list', 'watch', 'patch', 'delete'];

/** What it takes to keep a Lease: the session is then seen to live, by colleagues and by the restorer. */
export function rightsToLease(): Right[] {
  return ['create', ...LEASE_VERBS].map((verb) => ({ verb, group: COORDINATION, resource: 'leases' }));
}

/** What it takes to leave a restorer beside that. Nobody can grant what they lack, so what it may do is among them. */
export function rightsToRestorer(of: { kind: string; workload: Json; beside?: WorkloadRef }): Right[] {
  const made: [group: string, resource: string][] = [
    ['', 'serviceaccounts'],
    [RBAC, 'roles'],
    [RBAC, 'rolebindings'],
    ['apps', 'deployments'],
  ];
  return [
    ...made.flatMap(([group, resource]) => ['create', 'delete'].map((verb) => ({ verb, group, resource }))),
    ...rightsOnPods(of),
  ];
}

function rightsOnPods({ kind, workload, beside }: { kind: string; workload: Json; beside?: WorkloadRef }): Right[] {
  const on = (resource: string, verbs: string[]) => verbs.map((verb) => ({ verb, resource }));
  if (beside) return on('pods', ['get', 'delete']);
  if (kind === 'pod')
    return [...on('pods', ['create', 'get', 'patch', 'delete']), ...on('configmaps', ['get', 'delete'])];
  return following(kind, workload) === 'by-itself' ? [] : on('pods', ['get', 'delete']);
}

/** What it takes to name pods to it that could not be named before; see `nameToRestorer`. Without them it leaves such pods. */
export function rightsToNamePods({ kind, workload }: { kind: string; workload: Json }): Right[] {
  if (following(kind, workload) !== 'when-deleted' || kind === 'statefulset') return [];
  return [{ verb: 'patch', group: RBAC, resource: 'roles' }];
}

export type LeaseSpec = {
  /** How long the laptop may be silent, ms. */
  silenceMs: number;
  restorer: boolean;
};

/** A person as a Lease names its holder. */
export function leaseHolder({ owner, host }: { owner: string; host: string }): string {
  return `${owner}@${host}`;
}

/** Makes the session's Lease; what is there already stays. LpkError: what requests throw. */
export async function createLease(
  cluster: Cluster,
  given: { namespace: string; session: string; silenceMs: number; person: string; host: string; owner: Owner },
): Promise<Owner> {
  const { namespace } = given;
  const now = microTime(new Date());
  const lease = {
    apiVersion: `${COORDINATION}/v1`,
    kind: 'Lease',
    metadata: metadata(given.session, given.owner),
    spec: {
      holderIdentity: leaseHolder({ owner: given.person, host: given.host }),
      leaseDurationSeconds: Math.round(given.silenceMs / 1_000),
      acquireTime: now,
      renewTime: now,
    },
  };
  const path = leasesPath(namespace);
  const made = await cluster.request('POST', path, { body: lease }).catch((error: unknown) => {
    // The name is ours alone: it is there because an earlier try's answer was lost.
    if (!(error instanceof LpkError) || error.code !== 'conflict') throw error;
    return cluster.request('GET', leasePath(namespace, given.session));
  });
  return { apiVersion: lease.apiVersion, kind: lease.kind, name: lease.metadata.name, uid: made.metadata.uid };
}

/**
 * Makes the restorer, its rights first. What is there already stays. `user`: as whom the workload runs, where admission allows
 * no other (OpenShift). LpkError: what requests throw.
 */
export async function createRestorer(
  cluster: Cluster,
  workload: Json,
  given: { ref: WorkloadRef; session: string; image?: string; lease: Owner; user: number | undefined },
): Promise<void> {
  const { ref, session, lease } = given;
  const meta = metadata(session, lease);
  const { name } = meta;
  const template = templateHash(ref.kind, workload);
  const config: RestorerConfig = {
    session,
    namespace: ref.namespace,
    kind: ref.kind,
    apiPath: ref.apiPath,
    pods: podsFromTheStart(ref.kind, workload),
    ...(template ? { template } : {}),
  };
  const create = (path: string, body: Json) =>
    cluster.request('POST', path, { body: { ...body, metadata: meta } }).catch((error: unknown) => {
      if (!(error instanceof LpkError) || error.code !== 'conflict') throw error;
    });
  const rbac = `/apis/${RBAC}/v1/namespaces/${ref.namespace}`;
  const subject = { kind: 'ServiceAccount', name, namespace: ref.namespace };
  const roleRef = { apiGroup: RBAC, kind: 'Role', name };
  const bind = async () => {
    await create(`${rbac}/roles`, { apiVersion: `${RBAC}/v1`, kind: 'Role', rules: restorerRules(ref, config) });
    const binding = { apiVersion: `${RBAC}/v1`, kind: 'RoleBinding', subjects: [subject], roleRef };
    await onceKnown(() => create(`${rbac}/rolebindings`, binding));
  };
  const rights = await Promise.allSettled([
    create(`/api/v1/namespaces/${ref.namespace}/serviceaccounts`, { apiVersion: 'v1', kind: 'ServiceAccount' }),
    bind(),
  ]);
  for (const each of rights) if (each.status === 'rejected') throw each.reason;
  const image = given.image ?? AGENT_IMAGE;
  await create(
    `/apis/apps/v1/namespaces/${ref.namespace}/deployments`,
    deployment(workload, config, image, given.user ?? NOBODY),
  );
}

/** Whoever binds a Role must have its rights; to see that, the API server looks it up where a new one arrives a moment later. */
async function onceKnown<T>(bind: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await bind();
    } catch (error) {
      if (!(error instanceof LpkError) || error.code !== 'not-found' || tries === ROLE_TRIES) throw error;
      await sleep(ROLE_RETRY_MS);
    }
  }
}

/** Removes Lease and restorer; that they are gone, or were never made, is fine. What one may not delete goes with the Lease. */
export async function removeRestorer(cluster: Cluster, namespace: string, session: string): Promise<void> {
  const name = objectName(session);
  const remove = (path: string) => {
    const body = { apiVersion: 'v1', kind: 'DeleteOptions', propagationPolicy: 'Background' };
    return unlessGone(cluster.request('DELETE', path, { body })).catch((error: unknown) => {
      if (!(error instanceof LpkError) || error.code !== 'forbidden') throw error;
    });
  };
  // First what owns the rest: if this is as far as we get, nothing stays.
  await remove(leasePath(namespace, session));
  const rbac = `/apis/${RBAC}/v1/namespaces/${namespace}`;
  await Promise.all([
    remove(`/apis/apps/v1/namespaces/${namespace}/deployments/${name}`),
    remove(`${rbac}/rolebindings/${name}`),
    remove(`${rbac}/roles/${name}`),
    remove(`/api/v1/namespaces/${namespace}/serviceaccounts/${name}`),
  ]);
}

/** What had no name before the swap: a ReplicaSet's or DaemonSet's pods, and the workload's revisions that are the agent's. */
export type Named = { pods: string[]; revisions: string[] };

/**
 * Tells the restorer what is `named` now, and lets it delete that. `before`: what it was told last. LpkError: what requests throw;
 * `forbidden` for who may not patch Roles, or delete such objects themselves.
 */
export async function nameToRestorer(
  cluster: Cluster,
  of: WorkloadRef & { workload: Json },
  session: string,
  { named, before }: { named: Named; before: Named },
): Promise<void> {
  const contentType = 'application/merge-patch+json';
  const { namespace, kind } = of;
  // First the rights, so that it never knows of what it may not delete; to what it was told before, until it is told anew.
  const all = (part: keyof Named) => [...new Set([...before[part], ...named[part]])];
  const may = (group: string, resource: string, resourceNames: string[]) =>
    resourceNames.length > 0 ? [mayDelete(group, resource, resourceNames)] : [];
  const rules = [
    ...restorerRules(of, { session, pods: podsFromTheStart(kind, of.workload) }),
    ...may('', 'pods', all('pods')),
    ...may('apps', revisionsOf(kind), all('revisions')),
  ];
  const role = `/apis/${RBAC}/v1/namespaces/${namespace}/roles/${objectName(session)}`;
  if ([...all('pods'), ...all('revisions')].length > before.pods.length + before.revisions.length)
    await cluster.request('PATCH', role, { body: { rules }, contentType });
  const annotations = {
    [PODS_ANNOTATION]: named.pods.join(',') || null,
    [REVISIONS_ANNOTATION]: named.revisions.length > 0 ? JSON.stringify(named.revisions) : null,
  };
  await cluster.request('PATCH', leasePath(namespace, session), { body: { metadata: { annotations } }, contentType });
}

/** Renews the Lease: the laptop is there. The Lease as it is then; LpkError: what requests throw, `not-found` when it is gone. */
export async function renewLease(
  cluster: Cluster,
  at: { namespace: string; session: string },
  options: { signal?: AbortSignal; timeoutMs?: number } = {},
): Promise<Json> {
  const contentType = 'application/merge-patch+json';
  const body = { spec: { renewTime: microTime(new Date()) } };
  return await cluster.request('PATCH', leasePath(at.namespace, at.session), { body, contentType, ...options });
}

/** Why the restorer's pod may not be made (a quota, admission), in the API server's words; undefined where nothing says so. */
export async function restorerRefusal(
  cluster: Cluster,
  at: { namespace: string; session: string },
): Promise<string | undefined> {
  const path = `/apis/apps/v1/namespaces/${at.namespace}/deployments/${objectName(at.session)}`;
  const deployment = await cluster.request('GET', path).catch(() => undefined); // not everybody may look
  const refusal = deployment && rolloutState('deployment', deployment).refusal;
  return refusal && oneLine(refusal);
}

/** Removes the restorer's pod and leaves the rest. @returns whether there was one: not when it was refused itself. */
export async function removeRestorerPod(
  cluster: Cluster,
  at: { namespace: string; session: string },
): Promise<boolean> {
  if (await restorerRefusal(cluster, at)) return false;
  const path = `/apis/apps/v1/namespaces/${at.namespace}/deployments/${objectName(at.session)}`;
  const body = { apiVersion: 'v1', kind: 'DeleteOptions', propagationPolicy: 'Background' };
  return await cluster.request('DELETE', path, { body }).then(
    () => true,
    () => false,
  );
}

/** Does somebody watch over it? */
export function isWatched(lease: Json): boolean {
  return lease.metadata.annotations?.[WATCHING_ANNOTATION] !== undefined;
}

function metadata(session: string, owner: Owner): Json {
  return {
    name: objectName(session),
    labels: { ...MANAGED_BY, [SESSION_LABEL]: session },
    ownerReferences: [owner],
  };
}

/** Exactly the session's objects, by name. */
export function restorerRules(
  { kind, name }: WorkloadRef,
  { session, pods }: Pick<RestorerConfig, 'session' | 'pods'>,
): Json[] {
  const lease = {
    apiGroups: [COORDINATION],
    resources: ['leases'],
    resourceNames: [objectName(session)],
    verbs: LEASE_VERBS,
  };
  const onPods = (names: string[]) => mayDelete('', 'pods', names);
  if (kind === 'pod')
    return name === objectName(session) ? [onPods([name]), lease] : [...barePodRules(name, session), lease];
  const itself = { apiGroups: [groupOf(kind)], resourceNames: [name] };
  return [
    { ...itself, resources: [`${kind}s`], verbs: ['get', 'patch'] },
    ...(kind === 'rollout' ? [{ ...itself, resources: ['rollouts/status'], verbs: ['patch'] }] : []),
    lease,
    ...(pods.length > 0 ? [onPods(pods)] : []),
  ];
}

function mayDelete(group: string, resource: string, resourceNames: string[]): Json {
  return { apiGroups: [group], resources: [resource], resourceNames, verbs: ['get', 'delete'] };
}

/** To make a pod again. Who may make one of a name can't be said (Kubernetes: RBAC, "Referring to resources"). */
function barePodRules(name: string, session: string): Json[] {
  return [
    { apiGroups: [''], resources: ['pods'], resourceNames: [name], verbs: ['get', 'patch', 'delete'] },
    { apiGroups: [''], resources: ['pods'], verbs: ['create'] },
    { apiGroups: [''], resources: ['configmaps'], resourceNames: [objectName(session)], verbs: ['get', 'delete'] },
  ];
}

/** Those that the restorer may have to delete: a StatefulSet's, and those it would have if it grew meanwhile. */
function podsFromTheStart(kind: string, workload: Json): string[] {
  if (kind !== 'statefulset' || following(kind, workload) === 'by-itself') return [];
  const { metadata, spec } = workload;
  const { start = 0 } = spec.ordinals ?? {};
  const replicas = spec.replicas ?? 1;
  return Array.from({ length: Math.max(2 * replicas, replicas + 10) }, (_, i) => `${metadata.name}-${start + i}`);
}

/** A user that no image has: the restorer needs none of its own. */
const NOBODY = 65_532;
/** Small, and what a loop that waits needs. */
const NODE = ['node', '--max-semi-space-size=1', '--max-old-space-size=24'];
const BUNDLE_VOLUME = 'lpk-restorer';
/** It must not wait five minutes, as pods do, for a node that is gone. */
const LEAVES_DEAD_NODES = ['not-ready', 'unreachable'].map((state) => ({
  key: `node.kubernetes.io/${state}`,
  operator: 'Exists',
  effect: 'NoExecute',
  tolerationSeconds: 30,
}));

/** Passes the "restricted" Pod Security Standard. One replica: a bare pod would end with its node. */
function deployment(workload: Json, config: RestorerConfig, image: string, user: number): Json {
  const name = objectName(config.session);
  const labels = { ...MANAGED_BY, [SESSION_LABEL]: config.session, 'app.kubernetes.io/component': 'restorer' };
  const { imagePullSecrets, tolerations = [] } = workload.spec.template.spec;
  const memory = '64Mi';
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    spec: {
      replicas: 1,
      revisionHistoryLimit: 0,
      strategy: { type: 'Recreate' },
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          serviceAccountName: name,
          automountServiceAccountToken: true,
          enableServiceLinks: false,
          terminationGracePeriodSeconds: 1,
          nodeSelector: { 'kubernetes.io/os': 'linux' },
          tolerations: [...tolerations, ...LEAVES_DEAD_NODES],
          ...(imagePullSecrets ? { imagePullSecrets } : {}),
          securityContext: {
            runAsNonRoot: true,
            runAsUser: user,
            runAsGroup: NOBODY,
            seccompProfile: { type: 'RuntimeDefault' },
          },
          containers: [
            {
              name: 'restorer',
              image,
              imagePullPolicy: 'IfNotPresent',
              command: [...NODE, `${AGENT_MOUNT}/agent.mjs`, 'restorer'],
              env: [{ name: RESTORER_VARIABLE, value: JSON.stringify(config) }],
              // A quota may ask for all four.
              resources: { requests: { cpu: '5m', memory }, limits: { cpu: '200m', memory } },
              securityContext: {
                allowPrivilegeEscalation: false,
                readOnlyRootFilesystem: true,
                capabilities: { drop: ['ALL'] },
              },
              volumeMounts: [{ name: BUNDLE_VOLUME, mountPath: AGENT_MOUNT, readOnly: true }],
            },
          ],
          volumes: [{ name: BUNDLE_VOLUME, configMap: { name, items: [{ key: 'agent.mjs', path: 'agent.mjs' }] } }],
        },
      },
    },
  };
}
