import type { Session } from '../wire/session.ts';
import type { Listeners } from './listen.ts';

/** When the container may be called: while a laptop is connected, or only while it listens at one of the served ports. */
export type Readiness = 'connected' | 'listening';

/** The newest laptop's session, and the pod's ports that it has the agent listen on. */
export type Served = { session: Session; listeners: Listeners };

/** Why the container may not be called now, in words; undefined: it may. */
export function whyUnready(readiness: Readiness, served: Served | undefined): string | undefined {
  if (!served?.session.isUp) return 'no laptop is connected';
  if (readiness === 'listening' && !served.listeners.isAnyOpen) return 'nothing listens on the laptop';
  return undefined;
}
