import { unlessGone } from '../restore/api.ts';
import { LpkError } from '../wire/errors.ts';
import {
  AGENT_IMAGE,
  AGENT_MOUNT,
  AGENT_VOLUME,
  type AgentConfig,
  agentObjects,
  agentVolume,
  MANAGED_BY,
  objectName,
  SESSION_LABEL,
  START_SCRIPT,
} from './agent-container.ts';
import type { Cluster, Json } from './kube.ts';
import type { Likeness } from './likeness.ts';
import { agentProbe } from './probes.ts';
import type { Owner } from './restorer.ts';
import { type PodEvent, watchPods } from './rollout.ts';

/** A pod of lpk's own that only runs the agent: the cluster's end of `lpk proxy`. It replaces nothing. */

export type AgentPodSpec = AgentConfig & {
  image?: string;
  /** 64 hex characters. */
  key: string;
  bundle: string;
  /** Who, for others to read: a user's name and the laptop's. */
  owner: string;
  host: string;
  like?: Likeness;
};

/** Whose a proxy is; an annotation of its ConfigMap. */
export type ProxyRecord = { owner: string; host: string; since: string };

const PROXY_ANNOTATION = 'lpk.dev/proxy';

/** Whose proxy a ConfigMap is of; undefined: of none. */
export function proxyRecord(metadata: Json): ProxyRecord | undefined {
  const text = metadata.annotations?.[PROXY_ANNOTATION];
  try {
    return text === undefined ? undefined : (JSON.parse(text) as ProxyRecord);
  } catch {
    return undefined;
  }
}

export const AGENT_CONTAINER = 'agent';

/** A user that no image has: the agent needs none of its own. */
const NOBODY = 65_532;

/**
 * Makes the pod and what it mounts; what is there already stays, so it may be called again when the pod was lost, with what it
 * returned (`made`). All goes with the ConfigMap, which owns the rest. LpkError: what requests throw.
 */
export async function ensureAgentPod(cluster: Cluster, spec: AgentPodSpec, made?: Owner): Promise<Owner> {
  const { image: _, like: __, owner, host, key, bundle, ...config } = spec;
  const base = `/api/v1/namespaces/${cluster.namespace}`;
  const name = objectName(spec.session);
  const record: ProxyRecord = { owner, host, since: new Date().toISOString() };
  const objects = agentObjects({ config, key, bundle });
  objects.configMap.metadata.annotations = { [PROXY_ANNOTATION]: JSON.stringify(record) };
  const configMap = await create(cluster, `${base}/configmaps`, objects.configMap);
  // Only when the answer to the first try was lost must it be read, which not everybody may.
  const uid: string =
    configMap?.metadata.uid ?? made?.uid ?? (await cluster.request('GET', `${base}/configmaps/${name}`)).metadata.uid;
  const owned: Owner = { apiVersion: 'v1', kind: 'ConfigMap', name, uid };
  objects.secret.metadata.ownerReferences = [owned];
  await create(cluster, `${base}/secrets`, objects.secret);
  let refused: LpkError | undefined;
  for (const manner of MANNERS) {
    try {
      await create(cluster, `${base}/pods`, agentPod(spec, owned, manner));
      return owned;
    } catch (error) {
      // `create pods` is allowed (`preflightProxy`), so this is admission.
      if (!(error instanceof LpkError) || error.code !== 'forbidden') throw error;
      refused ??= error;
    }
  }
  throw refused;
}

/** @returns undefined when it is there: the name is ours alone, so it was made before. */
async function create(cluster: Cluster, path: string, body: Json): Promise<Json | undefined> {
  return await cluster.request('POST', path, { body }).catch((error: unknown) => {
    if (!(error instanceof LpkError) || error.code !== 'conflict') throw error;
  });
}

type Manner = { cpuLimit?: string; anyUser?: boolean };

/** What admission may insist on, in the order it is tried: a CPU limit (quotas), its own choice of the user (OpenShift). */
const MANNERS: Manner[] = [{}, { cpuLimit: '1' }, { anyUser: true }, { cpuLimit: '1', anyUser: true }];

/** Deletes a pod that has ended, so that `ensureAgentPod` can make it anew. `uid`: only this one. */
export async function removePod(cluster: Cluster, session: string, uid: string): Promise<void> {
  await deletePod(cluster, cluster.namespace, session, { preconditions: { uid } });
}

/** Removes a proxy's pod, ConfigMap and Secret; that they are gone already is fine. */
export async function removeAgentPod(cluster: Cluster, namespace: string, session: string): Promise<void> {
  const base = `/api/v1/namespaces/${namespace}`;
  // All three by name: a garbage collector that is late must leave nothing behind.
  await Promise.all([
    deletePod(cluster, namespace, session, {}),
    ...['secrets', 'configmaps'].map((resource) =>
      unlessGone(cluster.request('DELETE', `${base}/${resource}/${objectName(session)}`)),
    ),
  ]);
}

/** At once: nothing waits for this pod, nor for its name. */
async function deletePod(cluster: Cluster, namespace: string, session: string, options: object): Promise<void> {
  const body = { apiVersion: 'v1', kind: 'DeleteOptions', gracePeriodSeconds: 0, ...options };
  await unlessGone(cluster.request('DELETE', `/api/v1/namespaces/${namespace}/pods/${objectName(session)}`, { body }));
}

/** The pod as it comes and goes; see `watchPods`. */
export function watchAgentPod(
  cluster: Cluster,
  session: string,
  signal: AbortSignal,
  refused: (error: LpkError) => void,
): AsyncGenerator<PodEvent> {
  const target = {
    namespace: cluster.namespace,
    podQuery: { labelSelector: `${SESSION_LABEL}=${session}` },
    container: AGENT_CONTAINER,
  };
  return watchPods(cluster, target, session, signal, { refused });
}

/**
 * Passes the "restricted" Pod Security Standard. A condition that nobody ever sets keeps it from being ready, so that no
 * Service whose selector fits the labels of `like` sends it traffic; its owner, that no controller adopts it for them.
 */
function agentPod(spec: AgentPodSpec, configMap: Owner, { cpuLimit, anyUser }: Manner): Json {
  const { session, probePort, like } = spec;
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: objectName(session),
      labels: { ...MANAGED_BY, ...like?.labels, [SESSION_LABEL]: session },
      ownerReferences: [{ ...configMap, controller: true }],
    },
    spec: {
      ...like?.pod,
      restartPolicy: 'OnFailure', // ended on purpose (nobody was there for long) stays ended
      terminationGracePeriodSeconds: 1,
      ...(like ? {} : { automountServiceAccountToken: false, enableServiceLinks: false }),
      readinessGates: [{ conditionType: 'lpk.dev/serves-nobody' }],
      securityContext: {
        runAsNonRoot: true,
        ...(anyUser ? {} : { runAsUser: NOBODY, runAsGroup: NOBODY }),
        seccompProfile: { type: 'RuntimeDefault' },
      },
      containers: [
        {
          name: AGENT_CONTAINER,
          image: spec.image ?? AGENT_IMAGE,
          imagePullPolicy: 'IfNotPresent',
          command: ['/bin/sh', '-c', START_SCRIPT],
          livenessProbe: agentProbe('livenessProbe', probePort),
          startupProbe: agentProbe('startupProbe', probePort),
          resources: {
            requests: { cpu: '10m', memory: '64Mi' },
            limits: { memory: '256Mi', ...(cpuLimit ? { cpu: cpuLimit } : {}) },
          },
          securityContext: {
            allowPrivilegeEscalation: false,
            readOnlyRootFilesystem: true,
            capabilities: { drop: ['ALL'] },
          },
          volumeMounts: [{ name: AGENT_VOLUME, mountPath: AGENT_MOUNT, readOnly: true }],
        },
      ],
      volumes: [agentVolume(session)],
    },
  };
}
