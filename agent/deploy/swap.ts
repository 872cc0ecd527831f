import { isDeepStrictEqual } from 'node:util';
import { LpkError } from '../wire/errors.ts';
import { AGENT_MOUNT, AGENT_VOLUME, agentProbe, agentVolume, START_SCRIPT } from './agent-container.ts';
import { contains, Edit, type PatchOp, type Path, sameVersion } from './json-patch.ts';
import type { Json } from './kube.ts';

/**
 * Swap and restore as pure functions of a workload's JSON. A swap replaces the fields it must and writes each old value into
 * one annotation; a restore needs nothing but that annotation, and leaves alone whatever somebody else changed meanwhile.
 */

export const SESSION_ANNOTATION = 'lpk.dev/session';

/** What the swap needs to know of the agent. */
export type AgentSpec = {
  session: string;
  image: string;
  probePort: number;
  /** Container ports that the agent is to listen on in the process's stead. */
  servedPorts: number[];
};

/** Whose session it is. `since`: ISO 8601. */
export type Holder = { id: string; owner: string; host: string; since: string };

/** A field: what it was and what we made it (absent: the field was, or is made, absent). */
type FieldChange = {
  in: 'container' | 'pod';
  field: string[];
  was?: Json;
  now?: Json;
  /** How many of the objects that lead to the field were made with it. */
  made?: number;
};
/** An item of a list, known by its name. */
type ItemChange = {
  in: 'container' | 'pod';
  list: string[];
  name: string;
  was?: Json;
  now: Json;
  /** How many of the list and the objects that lead to it were made with it. */
  made?: number;
};
type Change = FieldChange | ItemChange;

/** The annotation: everything a restore needs. */
export type SessionRecord = Holder & {
  v: 1;
  container: string;
  /** How many objects were made for the annotation itself. */
  made?: number;
  changed: Change[];
};

const POD: Path = ['spec', 'template', 'spec'];
const PRIVILEGED_BELOW = 1024;
const UNPRIVILEGED_PORTS = 'net.ipv4.ip_unprivileged_port_start';
/** The stock image's `node` user. */
const AGENT_UID = 1000;

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
function nameOf({ kind, metadata }: Json): string {
  return `${kind ? `${String(kind).toLowerCase()}/` : ''}${metadata.name}`;
}

/**
 * What to patch so that `containerName` becomes the agent. LpkError: `already-held`, `not-found` (the container is gone),
 * `conflict` (an agent without its record).
 */
export function planSwap(
  workload: Json,
  containerName: string,
  agent: AgentSpec,
  holder: Holder,
): { ops: PatchOp[]; record: SessionRecord } {
  const held = sessionOf(workload);
  if (held) throw heldError(workload, held);
  const edit = new Edit(workload);
  const index = containersOf(edit.document).findIndex((each) => each.name === containerName);
  if (index < 0) throw new LpkError('not-found', `${nameOf(workload)} has no container "${containerName}" any more`);
  const at = { pod: POD, container: [...POD, 'containers', index] };
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
  for (const probe of ['livenessProbe', 'startupProbe', 'readinessProbe'] as const) {
    // Readiness always: without a probe of its own too, a pod must not be called while no laptop is there to answer.
    if (container[probe] || probe === 'readinessProbe') field('container', [probe], agentProbe(probe, agent.probePort));
  }
  item('container', ['volumeMounts'], { name: AGENT_VOLUME, readOnly: true, mountPath: AGENT_MOUNT });
  item('pod', ['volumes'], agentVolume(agent.session));
  if (agent.servedPorts.some((port) => port < PRIVILEGED_BELOW) && !pod.hostNetwork) {
    item('pod', ['securityContext', 'sysctls'], { name: UNPRIVILEGED_PORTS, value: '0' });
  }
  const setting = (name: string) => container.securityContext?.[name] ?? pod.securityContext?.[name];
  if (setting('runAsNonRoot') && setting('runAsUser') === undefined) {
    field('container', ['securityContext', 'runAsUser'], AGENT_UID);
  }

  const record: SessionRecord = { v: 1, ...holder, container: containerName, changed };
  const annotation: Path = ['metadata', 'annotations', SESSION_ANNOTATION];
  if (edit.get(annotation.slice(0, -1)) === undefined) record.made = 1;
  edit.set(annotation, JSON.stringify(record));
  return { ops: [...sameVersion(workload.metadata), ...edit.ops], record };
}

/**
 * What to patch so that a held workload is as it was; `session` is undefined (and there is nothing to do) when it isn't
 * held. `kept`: fields that somebody changed meanwhile, which stay theirs (`image`, `container of web gone`…).
 */
export function planRestore(workload: Json): { ops: PatchOp[]; session: SessionRecord | undefined; kept: string[] } {
  const record = sessionOf(workload);
  if (!record) return { ops: [], session: undefined, kept: [] };
  const edit = new Edit(workload);
  const index = heldContainer(edit.document, record.container);
  const kept: string[] = [];
  // Backwards: what was made last is undone first.
  for (const change of record.changed.toReversed()) {
    const at = change.in === 'pod' ? POD : [...POD, 'containers', index];
    const undone = 'list' in change ? undoItem(edit, at, change) : undoField(edit, at, change);
    if (!undone) kept.push(('list' in change ? [...change.list, change.name] : change.field).join('.'));
  }
  edit.remove(['metadata', 'annotations', SESSION_ANNOTATION]);
  pruneMade(edit, ['metadata', 'annotations'], record.made);
  return { ops: [...sameVersion(workload.metadata), ...edit.ops], session: record, kept: kept.toReversed() };
}

/** By name; or, if it was renamed meanwhile, the one that mounts the agent. */
function heldContainer(workload: Json, name: string): number {
  const containers = containersOf(workload);
  const named = containers.findIndex((each) => each.name === name);
  return named >= 0 ? named : containers.findIndex((each) => itemIndex(each.volumeMounts, AGENT_VOLUME) >= 0);
}

/** False when somebody else changed it; nothing to do when they put it back themselves. */
function undoField(edit: Edit, at: Path, { field, was, now, made }: FieldChange): boolean {
  const parent = edit.get(at);
  const full = [...at, ...field];
  const there = edit.get(full);
  if (parent && isDeepStrictEqual(there, was)) return true;
  if (!parent || (now === undefined ? there !== undefined : !contains(there, now))) return false;
  if (was !== undefined) edit.set(full, was);
  else {
    edit.remove(full);
    pruneMade(edit, full.slice(0, -1), made);
  }
  return true;
}

function undoItem(edit: Edit, at: Path, { list: path, name, was, now, made }: ItemChange): boolean {
  const full = [...at, ...path];
  const list = edit.get(at) && edit.get(full);
  const found = itemIndex(list, name);
  if (found < 0 && was === undefined) return true;
  if (found < 0 || !contains(list[found], now)) return false;
  if (was !== undefined) edit.set([...full, found], was);
  else {
    edit.remove([...full, found]);
    pruneMade(edit, full, made);
  }
  return true;
}

/** Removes up to `made` objects and lists at the end of `path`, inmost first, while they are empty. */
function pruneMade(edit: Edit, path: Path, made = 0): void {
  for (let left = made, at = path; left > 0; left--, at = at.slice(0, -1)) {
    const there = edit.get(at);
    if (there === undefined || Object.keys(there).length > 0) return;
    edit.remove(at);
  }
}

function containersOf(workload: Json): Json[] {
  return workload.spec.template.spec.containers;
}

function itemIndex(list: Json, name: string): number {
  return Array.isArray(list) ? list.findIndex((each) => each.name === name) : -1;
}

function present(key: 'was' | 'now', value: Json): object {
  return value === undefined ? {} : { [key]: value };
}
