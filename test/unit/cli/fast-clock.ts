/** Time that passes when it is told to, for all that asks JavaScript's own timers and clocks; sockets are real. */

type Timer = { dueMs: number; everyMs: number | undefined; run: () => void };

export class FastClock {
  #nowMs = 0;
  #timers = new Set<Timer>();

  /** Takes the place of this process's timers and clocks, for good. */
  install(): void {
    const startedMs = Date.now();
    const begin = (everyMs: number | undefined, run: () => void, ms: number) => {
      const timer = { dueMs: this.#nowMs + Math.max(1, ms || 0), everyMs, run };
      this.#timers.add(timer);
      const handle = {
        timer,
        ref: () => handle,
        unref: () => handle,
        refresh: () => {
          timer.dueMs = this.#nowMs + Math.max(1, ms || 0);
          this.#timers.add(timer);
          return handle;
        },
      };
      return handle;
    };
    const end = (handle: { timer: Timer } | undefined) => void (handle && this.#timers.delete(handle.timer));
    const nowMs = () => startedMs + this.#nowMs;
    Object.assign(globalThis, {
      setTimeout: (run: () => void, ms: number) => begin(undefined, run, ms),
      setInterval: (run: () => void, ms: number) => begin(ms, run, ms),
      clearTimeout: end,
      clearInterval: end,
      Date: class extends Date {
        static override now = nowMs;
        constructor(...given: []) {
          super(...(given.length > 0 ? given : ([nowMs()] as unknown as [])));
        }
      },
    });
    performance.now = () => this.#nowMs;
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Lets so much time pass at once; every timer runs at its time. */
  pass(ms: number): void {
    const untilMs = this.#nowMs + ms;
    for (;;) {
      let next: Timer | undefined;
      for (const timer of this.#timers) if (timer.dueMs <= (next?.dueMs ?? untilMs)) next = timer;
      if (!next) break;
      this.#nowMs = Math.max(this.#nowMs, next.dueMs);
      if (next.everyMs === undefined) this.#timers.delete(next);
      else next.dueMs += next.everyMs;
      next.run();
    }
    this.#nowMs = untilMs;
  }
}
