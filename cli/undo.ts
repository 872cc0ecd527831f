type Step = { name: string; run: () => Promise<void>; remedy: string | undefined };

/**
 * What a session did, and how to take it back: last thing first, each one tried even when another fails.
 *
 * A step may be added at any time. One that comes after {@link run} (something that was under way when the leaving began)
 * is undone at once.
 */
export class Undo {
  /** Names of the steps that failed, oldest first. */
  readonly failed: string[] = [];

  #steps: Step[] = [];
  #current: Step | undefined;
  #running: Promise<void> | undefined;
  #report: (failure: string, remedy: string | undefined) => void;

  /** @param report told of each step that failed: one line, and the command that helps. */
  constructor(report: (failure: string, remedy: string | undefined) => void) {
    this.#report = report;
  }

  /**
   * @param name what `run` does, as a person would say it: `restore deployment/web`.
   * @param remedy the command that does it when `run` could not: `lpk restore deployment/web -n shop`.
   */
  add(name: string, run: () => Promise<void>, remedy?: string): void {
    this.#steps.push({ name, run, remedy });
    if (this.#running) this.#running = this.#running.then(() => this.#undo());
  }

  /** Names of the steps not undone yet, in the order they will be. */
  get pending(): string[] {
    const waiting = this.#steps.map((step) => step.name).toReversed();
    return this.#current ? [this.#current.name, ...waiting] : waiting;
  }

  /** Undoes everything. Called again, it waits for the same work. Never rejects: see {@link failed}. */
  run(): Promise<void> {
    this.#running ??= this.#undo();
    return this.#running;
  }

  async #undo(): Promise<void> {
    for (let step = this.#steps.pop(); step; step = this.#steps.pop()) {
      this.#current = step;
      try {
        await step.run();
      } catch (error) {
        this.failed.push(step.name);
        const why = error instanceof Error ? error.message : String(error);
        this.#report(`could not ${step.name}: ${why}`, step.remedy);
      }
      this.#current = undefined;
    }
  }
}
