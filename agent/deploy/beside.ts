import type { Holder, SessionRecord } from '../restore/record.ts';
import { objectName, SESSION_ANNOTATION } from '../restore/record.ts';
import { SESSION_LABEL } from './agent-container.ts';
import type { Target } from './find.ts';
import type { Json } from './kube.ts';
import { type AgentSpec, planSwap } from './swap.ts';
import { workloadName, workloadRef } from './workload.ts';

/**
 * One of a Deployment's pods can't be taken: it would make another at once, and scaling it down for that would be a quarrel
 * with its autoscaler. So the one is added: a pod of the same make, with the agent in it, and the Deployment is not touched.
 */

/** The target that a session on `target` is about: that one pod, where only one of a Deployment's is asked for; else itself. */
export function heldTarget(target: Target, session: string): Target {
  if (!target.one || target.kind !== 'deployment') return target;
  const { kind, namespace, name, apiPath } = target;
  return {
    ...target,
    ...workloadRef('pod', namespace, objectName(session)),
    beside: { kind, namespace, name, apiPath },
    podQuery: { fieldSelector: `metadata.name=${objectName(session)}` },
  };
}

/**
 * The pod. With the labels of the Deployment's it is among the Services' endpoints. The Deployment is its controller, by which a
 * PodDisruptionBudget and `kubectl drain` know it for one of its pods; it adopts none by itself, as its ReplicaSets ask for their own
 * label. LpkError as `planSwap`.
 */
export function besidePod(deployment: Json, container: string, agent: AgentSpec, holder: Holder): Json {
  const { record, swapped } = planSwap(deployment, container, agent, holder);
  const { name, uid } = deployment.metadata;
  const { metadata = {}, spec } = swapped.spec.template;
  const beside = workloadName({ kind: 'deployment', name });
  const own: SessionRecord = { ...record, changed: [], beside };
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: objectName(agent.session),
      labels: { ...metadata.labels, [SESSION_LABEL]: agent.session },
      annotations: { ...metadata.annotations, [SESSION_ANNOTATION]: JSON.stringify(own) },
      ownerReferences: [{ apiVersion: 'apps/v1', kind: 'Deployment', name, uid, controller: true }],
    },
    spec,
  };
}
