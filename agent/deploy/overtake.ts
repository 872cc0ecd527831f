import { retryOnConflict } from '../restore/api.ts';
import { Edit, sameVersion } from '../restore/json-patch.ts';
import { patch } from '../restore/patch.ts';
import { LpkError } from '../wire/errors.ts';
import type { Cluster } from './kube.ts';

/** A label, as controllers copy a workload's annotations to what they make. */
const MARK = ['metadata', 'labels', 'lpk.dev/overtaken'];

/**
 * A patch that was not answered may be on its way still, and would fit when all is cleared away. After this it does not: the object
 * is of another version, and otherwise as it was. Its `managedFields` are `putBack`'s to clear. LpkError: what requests throw.
 */
export async function overtake(cluster: Cluster, held: { apiPath: string }): Promise<void> {
  const write = (change: (edit: Edit) => void) =>
    retryOnConflict(async () => {
      const object = await cluster.request('GET', held.apiPath);
      const edit = new Edit(object);
      change(edit);
      await patch(cluster, held, [...sameVersion(object.metadata), ...edit.ops]);
    });
  try {
    await write((edit) => edit.set(MARK, ''));
    await write((edit) => {
      const only = Object.keys(edit.get(MARK.slice(0, -1))).length === 1;
      edit.remove(only ? MARK.slice(0, -1) : MARK);
    });
  } catch (error) {
    // Nothing fits what is no more.
    if (!(error instanceof LpkError) || error.code !== 'not-found') throw error;
  }
}
