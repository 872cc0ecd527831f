import type { Api, Json } from './api.ts';
import type { PatchOp } from './json-patch.ts';

export const FIELD_MANAGER = 'lpk';

/** A JSON Patch, in lpk's name. */
export async function patch(api: Api, { apiPath }: { apiPath: string }, ops: PatchOp[]): Promise<Json> {
  const contentType = 'application/json-patch+json';
  return await api.request('PATCH', apiPath, { body: ops, contentType, query: { fieldManager: FIELD_MANAGER } });
}
