import { isDeepStrictEqual } from 'node:util';
import type { Json } from './api.ts';

/** Edits of a JSON document, kept as a JSON Patch (RFC 6902) that does the same to the API server's copy. */

export type PatchOp = { op: 'add' | 'replace' | 'remove' | 'test'; path: string; value?: Json };
export type Path = (string | number)[];

/** RFC 6901. */
export function pointer(path: Path): string {
  return path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}

/** A document that is changed step by step; the original stays as it is. */
export class Edit {
  readonly document: Json;
  readonly ops: PatchOp[] = [];

  constructor(original: Json) {
    this.document = structuredClone(original);
  }

  get(path: Path): Json {
    return path.reduce((at, part) => at?.[part], this.document);
  }

  /** Sets a field, or a list's item at an index it has. Objects on the way that are absent are made; returns how many. */
  set(path: Path, value: Json): number {
    const absent = path.findIndex((_, i) => i > 0 && this.get(path.slice(0, i)) === undefined);
    const made = absent < 0 ? 0 : path.length - absent;
    // The outermost absent object is added with all that is in it: one operation, never a half-made path.
    const at = path.slice(0, path.length - made);
    const whole = path.slice(path.length - made).reduceRight((inner, part) => ({ [part]: inner }), value);
    const parent = this.get(at.slice(0, -1));
    const last = at.at(-1) as string | number;
    const replaces = Array.isArray(parent) || parent[last] !== undefined;
    parent[last] = structuredClone(whole);
    this.ops.push({ op: replaces ? 'replace' : 'add', path: pointer(at), value: structuredClone(whole) });
    return made;
  }

  /** Adds an item at a list's end; makes the list when it is absent. */
  append(path: Path, item: Json): void {
    const list = this.get(path);
    if (!Array.isArray(list)) {
      this.set(path, [item]);
      return;
    }
    list.push(structuredClone(item));
    this.ops.push({ op: 'add', path: pointer([...path, '-']), value: structuredClone(item) });
  }

  /** Removes a field or a list's item. */
  remove(path: Path): void {
    const parent = this.get(path.slice(0, -1));
    const last = path.at(-1) as string | number;
    if (Array.isArray(parent)) parent.splice(Number(last), 1);
    else delete parent[last];
    this.ops.push({ op: 'remove', path: pointer(path) });
  }
}

/** Is `ours` still there? Fields that were added beside ours don't matter: the API server fills some in by itself. */
export function contains(there: Json, ours: Json): boolean {
  if (ours === null || typeof ours !== 'object' || Array.isArray(ours)) return isDeepStrictEqual(there, ours);
  if (there === null || typeof there !== 'object' || Array.isArray(there)) return false;
  return Object.entries(ours).every(([key, value]) => contains(there[key], value));
}

/**
 * The patch is for this very version: replacing the version by itself makes the API server answer 409 to any other. (A
 * `test` operation would do too, but is answered 422, as any patch that makes no sense.)
 */
export function sameVersion(metadata: Json): PatchOp[] {
  return [{ op: 'replace', path: '/metadata/resourceVersion', value: metadata.resourceVersion }];
}
