/** A fault of the whole cluster that several runs share: it happens once all of them are ready for it, and then to all at once. */
export class OneFault {
  #expected: number;
  #ready = 0;
  #all = Promise.withResolvers<void>();
  #happening: Promise<void> | undefined;

  constructor(runs: number) {
    this.#expected = runs;
  }

  /** Resolves when it is over. */
  async happens(fault: () => Promise<void>): Promise<void> {
    this.#ready += 1;
    this.#look();
    await this.#all.promise;
    this.#happening ??= fault();
    await this.#happening;
  }

  /** One of them ended before it was ready. */
  without(): void {
    if (this.#happening) return;
    this.#expected -= 1;
    this.#look();
  }

  #look(): void {
    if (this.#ready >= this.#expected) this.#all.resolve();
  }
}
