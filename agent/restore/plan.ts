import { isDeepStrictEqual } from 'node:util';
import type { Json } from './api.ts';
import { contains, Edit, type PatchOp, type Path, sameVersion } from './json-patch.ts';
import {
  AGENT_VOLUME,
  containersOf,
  type FieldChange,
  type ItemChange,
  itemIndex,
  POD,
  SESSION_ANNOTATION,
  type SessionRecord,
  sessionOf,
} from './record.ts';

/** A restore as a pure function of a workload's JSON: it needs nothing but the annotation. */

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
    const at = { workload: [], pod: POD, container: [...POD, 'containers', index] }[change.in];
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
