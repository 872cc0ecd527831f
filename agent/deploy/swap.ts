import { isDeepStrictEqual } from 'node:util';
import { following, partitionOf } from '../restore/follow.ts';
import { Edit, type PatchOp, type Path, sameVersion } from '../restore/json-patch.ts';
import { templateHash } from '../restore/promote.ts';
import {
  type Change,
  containersOf,
  type Holder,
  heldError,
  itemIndex,
  nameOf,
  POD,
  SESSION_ANNOTATION,
  type SessionRecord,
  sessionOf,
} from '../restore/record.ts';
import { LpkError } from '../wire/errors.ts';
import type { Readiness } from '../wire/readiness.ts';
import { AGENT_MOUNT, AGENT_VOLUME, agentVolume, START_SCRIPT } from './agent-container.ts';
import type { Json } from './kube.ts';
import { type RaisedLimit, raisedLimits } from './limits.ts';
import { agentProbe, PROBE_FIELDS } from './probes.ts';

/**
 * A swap as a pure function of a workload's JSON. It replaces the fields it must and writes each old value into one
 * annotation; a restore (`agent/restore/plan.ts`) needs nothing but that annotation, and leaves alone whatever somebody else
 * changed meanwhile.
 */

/** What the swap needs to know of the agent. */
export type AgentSpec = {
  session: string;
  image: string;
  probePort: number;
  /** Container ports that the agent is to listen on in the process's stead. */
  servedPorts: number[];
  readiness?: Readiness;
  /** The spec of a pod of the workload: with what admission filled in (a LimitRange's limits, OpenShift's user). */
  admitted?: Json;
  /** Of the workload's pods only one is to be the agent's; see `limitToOne`. */
  one?: boolean;
};

const PRIVILEGED_BELOW = 1024;
const UNPRIVILEGED_PORTS = 'net.ipv4.ip_unprivileged_port_start';
/** The stock image's `node` user. */
const AGENT_UID = 1000;

/**
 * What to patch so that `containerName` becomes the agent, and what the workload is then. LpkError: `already-held`, `not-found` (the container is gone),
 * `conflict` (an agent without its record).
 */
export function planSwap(
  workload: Json,
  containerName: string,
  agent: AgentSpec,
  holder: Holder,
): { ops: PatchOp[]; record: SessionRecord; swapped: Json; raised: RaisedLimit[] } {
  const held = sessionOf(workload);
  if (held) throw heldError(workload, held);
  const edit = new Edit(workload);
  const index = containersOf(edit.document).findIndex((each) => each.name === containerName);
  if (index < 0) throw new LpkError('not-found', `${nameOf(workload)} has no container "${containerName}" any more`);
  const at = { workload: [], pod: POD, container: [...POD, 'containers', index] };
  if (itemIndex(edit.get([...POD, 'volumes']), AGENT_VOLUME) >= 0) {
    const message = `${nameOf(workload)} runs an lpk agent, but the record of what it was is gone; roll it back by hand`;
    throw new LpkError('conflict', message);
  }
  const changed: Change[] = [];

  const field = (where: Change['in'], path: string[], now: Json) => {
    const full = [...at[where], ...path];
    const was = edit.get(full);
    if (isDeepStrictEqual(was, now)) return;
    let made = 0;
    if (now === undefined) edit.remove(full);
    else made = edit.set(full, now);
    changed.push({
      in: where,
      field: path,
      ...present('was', was),
      ...present('now', now),
      ...(made > 0 ? { made } : {}),
    });
  };
  const item = (where: Change['in'], path: string[], now: Json) => {
    const full = [...at[where], ...path];
    const list = edit.get(full);
    const found = itemIndex(list, now.name);
    const was = found < 0 ? undefined : list[found];
    if (isDeepStrictEqual(was, now)) return;
    let made = 0;
    if (found >= 0) edit.set([...full, found], now);
    else if (Array.isArray(list)) edit.append(full, now);
    else made = edit.set(full, [now]) + 1;
    changed.push({ in: where, list: path, name: now.name, ...present('was', was), now, ...(made > 0 ? { made } : {}) });
  };

  const container = structuredClone(edit.get(at.container));
  const pod = structuredClone(edit.get(POD));
  field('container', ['image'], agent.image);
  field('container', ['imagePullPolicy'], 'IfNotPresent');
  field('container', ['command'], ['/bin/sh', '-c', START_SCRIPT]);
  for (const gone of ['args', 'workingDir', 'lifecycle']) field('container', [gone], undefined);
  const carried = typeof agent.readiness === 'object';
  for (const probe of PROBE_FIELDS) {
    // Readiness always: without a probe of its own too, a pod must not be called while no laptop is there to answer.
    const own = container[probe];
    if (own || probe === 'readinessProbe')
      field('container', [probe], agentProbe(probe, agent.probePort, { own, carried }));
  }
  item('container', ['volumeMounts'], { name: AGENT_VOLUME, readOnly: true, mountPath: AGENT_MOUNT });
  item('pod', ['volumes'], agentVolume(agent.session));
  if (agent.servedPorts.some((port) => port < PRIVILEGED_BELOW) && !pod.hostNetwork) {
    item('pod', ['securityContext', 'sysctls'], { name: UNPRIVILEGED_PORTS, value: '0' });
  }
  const nonRoot = container.securityContext?.runAsNonRoot ?? pod.securityContext?.runAsNonRoot;
  const user = ownUser(pod, container) ?? assignedUser(workload, containerName, agent.admitted);
  if (nonRoot && user === undefined) field('container', ['securityContext', 'runAsUser'], AGENT_UID);
  const filledIn = containerOf(agent.admitted, containerName)?.resources?.limits;
  const raised = raisedLimits({ ...filledIn, ...container.resources?.limits });
  for (const { resource, now } of raised) field('container', ['resources', 'limits', resource], now);
  for (const { resource, now } of raisedLimits(pod.resources?.limits))
    field('pod', ['resources', 'limits', resource], now);

  const record: SessionRecord = { v: 1, ...holder, container: containerName, changed };
  const template = templateHash(String(workload.kind).toLowerCase(), workload);
  if (template) record.template = template;
  if (agent.one) {
    record.one = true;
    limitToOne(workload, (path, now) => field('workload', path, now));
  }
  const annotation: Path = ['metadata', 'annotations', SESSION_ANNOTATION];
  if (edit.get(annotation.slice(0, -1)) === undefined) record.made = 1;
  edit.set(annotation, JSON.stringify(record));
  return { ops: [...sameVersion(workload.metadata), ...edit.ops], record, swapped: edit.document, raised };
}

function containerOf(pod: Json, name: string): Json {
  return ((pod?.containers ?? []) as Json[]).find((each) => each.name === name);
}

function ownUser(pod: Json, container: Json): number | undefined {
  return container?.securityContext?.runAsUser ?? pod?.securityContext?.runAsUser;
}

/** As whom admission lets a container run, when the workload leaves that to it. */
export function assignedUser(workload: Json, containerName: string, admitted: Json): number | undefined {
  const pod = workload.spec.template.spec;
  if (ownUser(pod, containerOf(pod, containerName)) !== undefined) return undefined;
  return ownUser(admitted, containerOf(admitted, containerName));
}

/**
 * Keeps all pods but one as they are although the template changes: a StatefulSet's last follows alone; a DaemonSet's and a
 * ReplicaSet's follow when they are deleted, and only one is.
 */
function limitToOne(workload: Json, field: (path: string[], now: Json) => void): void {
  const kind = String(workload.kind).toLowerCase();
  if (following(kind, workload) === 'when-deleted') return;
  if (kind === 'daemonset') field(['spec', 'updateStrategy'], { type: 'OnDelete' });
  if (kind !== 'statefulset') return;
  const all = (workload.spec.replicas ?? 1) - 1;
  field(['spec', 'updateStrategy', 'rollingUpdate', 'partition'], Math.max(all, partitionOf(workload)));
}

function present(key: 'was' | 'now', value: Json): object {
  return value === undefined ? {} : { [key]: value };
}
