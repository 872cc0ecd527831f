import type { Json } from './api.ts';
import { objectName } from './record.ts';

/** The session's Lease: how long the laptop may be silent, when it was last heard of, and who else had a say. */

/** What the restorer is told (in the variable `RESTORER_VARIABLE`, as JSON). */
export type RestorerConfig = {
  session: string;
  namespace: string;
  kind: string;
  /** `/apis/apps/v1/namespaces/shop/deployments/web` */
  apiPath: string;
  /** Those it may have to delete, as far as they were known when it was made. */
  pods: string[];
  /** As in the `SessionRecord`. */
  template?: string;
};

export const RESTORER_VARIABLE = 'LPK_RESTORER';

/** On the Lease: since when (ISO 8601) the restorer watches. */
export const WATCHING_ANNOTATION = 'lpk.dev/watching-since';

/** On the Lease: names of pods that the restorer may have to delete besides; with a comma between them. */
export const PODS_ANNOTATION = 'lpk.dev/pods';

/** On the Lease: who ended the session in its holder's stead; a `Person` as JSON. */
export const ENDED_ANNOTATION = 'lpk.dev/ended-by';

/** On the Lease: names of the workload's revisions that are the agent's, as JSON; the restorer may delete them. */
export const REVISIONS_ANNOTATION = 'lpk.dev/revisions';

/** What `REVISIONS_ANNOTATION` says; what nobody can read names none. */
export function revisionsOnLease(lease: Json): string[] {
  try {
    const names = JSON.parse(lease.metadata.annotations?.[REVISIONS_ANNOTATION] ?? '[]');
    return Array.isArray(names) ? names.filter((name) => typeof name === 'string') : [];
  } catch {
    return [];
  }
}

/** Of a namespace or (undefined) of all. */
export function leasesPath(namespace: string | undefined): string {
  return `/apis/coordination.k8s.io/v1/${namespace ? `namespaces/${namespace}/` : ''}leases`;
}

export function leasePath(namespace: string, session: string): string {
  return `${leasesPath(namespace)}/${objectName(session)}`;
}

/** A time as a Lease has it: `metav1.MicroTime`. */
export function microTime(date: Date): string {
  return date.toISOString().replace(/Z$/, '000Z');
}

/**
 * When it was last renewed (Unix time, ms). By the API server's clock, as its `managedFields` have it for who renews (Kubernetes:
 * "Server-Side Apply", `time`); without them by the laptop's.
 */
export function renewedMs({ metadata, spec }: Json): number {
  const managed = (metadata?.managedFields ?? []) as Json[];
  const renewer = managed.find(({ fieldsV1 }) => fieldsV1?.['f:spec']?.['f:renewTime']);
  return Date.parse(renewer?.time ?? spec?.renewTime ?? '');
}

/** How long the laptop may be silent, ms. */
export function silenceMs(lease: Json): number {
  return (lease.spec?.leaseDurationSeconds ?? 45) * 1_000;
}
