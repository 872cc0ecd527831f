import { LpkError } from '../wire/errors.ts';
import type { Json } from './api.ts';
import type { Path } from './json-patch.ts';

/** What a session leaves in a workload for whoever takes it back, and how a session is known by its names. */

export const SESSION_ANNOTATION = 'lpk.dev/session';

/** Name of the pod's volume with the agent's files; a container that mounts it is an agent. */
export const AGENT_VOLUME = 'lpk-agent';

/** Name of everything that is a session's own. */
export function objectName(sessionId: string): string {
  return `lpk-${sessionId}`;
}

/** Whose session it is. `since`: ISO 8601. */
export type Holder = { id: string; owner: string; host: string; since: string };

/** Where a change is: the swapped container, its pod's spec, or the workload's own object. */
export type Place = 'container' | 'pod' | 'workload';

/** A field: what it was and what we made it (absent: the field was, or is made, absent). */
export type FieldChange = {
  in: Place;
  field: string[];
  was?: Json;
  now?: Json;
  /** How many of the objects that lead to the field were made with it. */
  made?: number;
};
/** An item of a list, known by its name. */
export type ItemChange = {
  in: Place;
  list: string[];
  name: string;
  was?: Json;
  now: Json;
  /** How many of the list and the objects that lead to it were made with it. */
  made?: number;
};
export type Change = FieldChange | ItemChange;

/** The annotation: everything a restore needs. */
export type SessionRecord = Holder & {
  v: 1;
  container: string;
  /** Of the workload's pods only one is the agent's. */
  one?: true;
  /** Of an Argo Rollout: the hash of the template that was swapped. */
  template?: string;
  /** Of a pod of lpk's own: the workload that it stands beside, `deployment/web`. */
  beside?: string;
  /** How many objects were made for the annotation itself. */
  made?: number;
  changed: Change[];
};

/** On the ConfigMap of a session that holds a pod: a `PodRecord`. The pod may be gone while the session is not. */
export const POD_ANNOTATION = 'lpk.dev/pod';

/** `pod`: its name. */
export type PodRecord = SessionRecord & { pod: string };

/** Of a session that holds a pod, by its ConfigMap's metadata. */
export function podRecordOf({ annotations }: Json): PodRecord | undefined {
  try {
    const record = JSON.parse(annotations?.[POD_ANNOTATION] ?? 'null');
    return record?.v === 1 ? record : undefined;
  } catch {
    return undefined;
  }
}

/** Where the pod's spec is in a workload. */
export const POD: Path = ['spec', 'template', 'spec'];

/**
 * The session that holds a workload, if any. LpkError: `version-mismatch` (a newer lpk's record), `conflict` (a record
 * nobody can read).
 */
export function sessionOf(workload: Json): SessionRecord | undefined {
  const text = workload.metadata.annotations?.[SESSION_ANNOTATION];
  if (text === undefined) return undefined;
  const of = `the annotation ${SESSION_ANNOTATION} of ${nameOf(workload)}`;
  let record: SessionRecord;
  try {
    record = JSON.parse(text);
  } catch (cause) {
    throw new LpkError('conflict', `${of} can't be read; somebody changed it`, { cause });
  }
  if (typeof record?.v === 'number' && record.v !== 1) {
    throw new LpkError('version-mismatch', `${of} is of another version of lpk (record version ${record.v})`);
  }
  if (record?.v !== 1 || typeof record.id !== 'string' || !Array.isArray(record.changed)) {
    throw new LpkError('conflict', `${of} can't be read; somebody changed it`);
  }
  return record;
}

/** `already-held`, saying by whom and since when. */
export function heldError(workload: Json, { owner, host, since, container }: SessionRecord): LpkError {
  const when = since.replace('T', ' ').replace(/(\.\d+)?Z$/, ' UTC');
  return new LpkError(
    'already-held',
    `${nameOf(workload)} is already held by ${owner} on ${host} since ${when} (container ${container})`,
  );
}

/** "deployment/web" from the object itself (items of a list have no kind). */
export function nameOf({ kind, metadata }: Json): string {
  return `${kind ? `${String(kind).toLowerCase()}/` : ''}${metadata.name}`;
}

/** The session whose agent a pod runs, if it runs one; by its volume, as labels are the workload's own business. */
export function sessionOfPod(podSpec: Json): string | undefined {
  const volume = ((podSpec.volumes ?? []) as Json[]).find((each) => each.name === AGENT_VOLUME);
  const secret = ((volume?.projected?.sources ?? []) as Json[]).find((each) => each.secret)?.secret.name;
  return typeof secret === 'string' && secret.startsWith('lpk-') ? secret.slice('lpk-'.length) : undefined;
}

export function containersOf(workload: Json): Json[] {
  return workload.spec.template.spec.containers;
}

export function itemIndex(list: Json, name: string): number {
  return Array.isArray(list) ? list.findIndex((each) => each.name === name) : -1;
}
