import type { Json } from './api.ts';

/** What differs between the kinds of workload once their pods' template is another. */

/**
 * How the pods come to the new template. `by-itself`: the controller replaces them. `when-ready`: it does, but a StatefulSet goes on to
 * the next pod only when the last one is ready, and waits for ever for one that never will be, even when its template has
 * changed since ("Forced rollback" in the Kubernetes documentation of StatefulSets). `when-deleted`: somebody has to delete them.
 */
export type Following = 'by-itself' | 'when-ready' | 'when-deleted';

export function following(kind: string, { spec }: Json): Following {
  if (kind === 'replicaset' || spec.updateStrategy?.type === 'OnDelete') return 'when-deleted';
  return kind === 'statefulset' && spec.podManagementPolicy !== 'Parallel' ? 'when-ready' : 'by-itself';
}

/** How many of a StatefulSet's pods, counted from the first, keep the old template. */
export function partitionOf({ spec }: Json): number {
  return spec.updateStrategy?.rollingUpdate?.partition ?? 0;
}

/** Counted from the first, 0: a StatefulSet's ordinals need not begin there. */
export function indexInStatefulSet({ metadata }: Json, { spec }: Json): number {
  return Number(metadata.name.slice(metadata.name.lastIndexOf('-') + 1)) - (spec.ordinals?.start ?? 0);
}
