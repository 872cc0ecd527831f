import type { Readiness } from '../wire/readiness.ts';
import type { Session } from '../wire/session.ts';
import { carryProbe, type Prober } from './carried-probe.ts';
import type { Listeners } from './listen.ts';

/** The newest laptop's session, and the pod's ports that it has the agent listen on. */
export type Served = { session: Session; listeners: Listeners };

/** Says whether the container may be called now. */
export class Judge {
  #readiness: Readiness;
  #served: () => Served | undefined;
  #underWay: Promise<string | undefined> | undefined;
  #carried = { probes: 0, why: undefined as string | undefined };

  constructor(readiness: Readiness, served: () => Served | undefined) {
    this.#readiness = readiness;
    this.#served = served;
  }

  /** How many probes it carried out, and why the last one failed. */
  get carried(): { probes: number; why: string | undefined } {
    return this.#carried;
  }

  /** Why it may not, in words; undefined: it may. A carried probe is carried out once at a time, however many ask. */
  async whyUnready(by: Prober): Promise<string | undefined> {
    this.#underWay ??= this.#why(by).finally(() => {
      this.#underWay = undefined;
    });
    return await this.#underWay;
  }

  async #why(by: Prober): Promise<string | undefined> {
    const served = this.#served();
    if (!served?.session.isUp) return 'no laptop is connected';
    if (this.#readiness === 'connected') return undefined;
    if (this.#readiness === 'listening')
      return served.listeners.isAnyOpen ? undefined : 'nothing listens on the laptop';
    const why = await carryProbe(served.session, this.#readiness, by);
    this.#carried = { probes: this.#carried.probes + 1, why };
    return why;
  }
}
