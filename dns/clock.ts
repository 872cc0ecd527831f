/**
 * A map that knows which entries to give up: those not used since it was last looked for one (the clock algorithm). Use is a mark
 * on the entry, as taking it out of a Map and putting it back makes a much used key ever slower to find: V8 keeps the holes.
 */
export class ClockMap<Value> {
  #slots = new Map<string, { value: Value; used: boolean }>();
  #hand = this.#slots.entries();

  get size(): number {
    return this.#slots.size;
  }

  get(key: string): Value | undefined {
    const slot = this.#slots.get(key);
    if (!slot) return undefined;
    slot.used = true;
    return slot.value;
  }

  set(key: string, value: Value): void {
    const slot = this.#slots.get(key);
    if (slot) slot.value = value;
    else this.#slots.set(key, { value, used: false });
  }

  delete(key: string): void {
    this.#slots.delete(key);
  }

  /** Takes one out; undefined when there is none. */
  evict(): { key: string; value: Value } | undefined {
    while (this.#slots.size > 0) {
      const { value: entry } = this.#hand.next();
      if (!entry) {
        this.#hand = this.#slots.entries();
        continue;
      }
      const [key, slot] = entry;
      if (!slot.used) {
        this.#slots.delete(key);
        return { key, value: slot.value };
      }
      slot.used = false;
    }
    return undefined;
  }
}
