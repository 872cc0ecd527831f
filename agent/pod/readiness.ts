import type { Readiness } from '../wire/readiness.ts';
import type { Session } from '../wire/session.ts';
import { carryProbe, type Prober } from './carried-probe.ts';
import type { Listeners } from './listen.ts';

/** The newest laptop's session, and the pod's ports that it has the agent listen on. */
export type Served = { session: Session; listeners: Listeners };

/** Why the container may not be called now, in words; undefined: it may. */
export type WhyUnready = (by: Prober) => Promise<string | undefined>;

/** By this rule; a carried probe is carried out once at a time, however many ask. */
export function judge(readiness: Readiness, served: () => Served | undefined): WhyUnready {
  let underWay: Promise<string | undefined> | undefined;
  return async (by) => {
    const now = served();
    if (!now?.session.isUp) return 'no laptop is connected';
    if (readiness === 'connected') return undefined;
    if (readiness === 'listening') return now.listeners.isAnyOpen ? undefined : 'nothing listens on the laptop';
    underWay ??= carryProbe(now.session, readiness, by).finally(() => {
      underWay = undefined;
    });
    return await underWay;
  };
}
