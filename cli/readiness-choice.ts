/** When a pod may be called. */

export const READINESS = ['listening', 'connected', 'probe'] as const;
export type ReadinessChoice = (typeof READINESS)[number];
