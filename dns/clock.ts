type Slot<Value> = { key: string; value: Value; used: boolean; at: number };

/**
 * A map that knows which entries to give up: those not used since it was last looked for one (the clock algorithm).
 *
 * Its order is a ring of its own. A Map's would cost more with every use: V8 keeps the hole of an entry that is taken out and put
 * back, and an iterator that is kept holds all the tables that the map has outgrown.
 */
export class ClockMap<Value> {
  #slots = new Map<string, Slot<Value>>();
  #ring: (Slot<Value> | undefined)[] = [];
  /** The ring's empty places. */
  #free: number[] = [];
  #hand = 0;

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
    const known = this.#slots.get(key);
    if (known) {
      known.value = value;
      return;
    }
    // The place given up last is the one that the hand comes to last.
    const at = this.#free.pop() ?? this.#ring.length;
    const slot = { key, value, used: false, at };
    this.#ring[at] = slot;
    this.#slots.set(key, slot);
  }

  delete(key: string): void {
    const slot = this.#slots.get(key);
    if (!slot) return;
    this.#slots.delete(key);
    this.#ring[slot.at] = undefined;
    this.#free.push(slot.at);
  }

  /** Takes one out; undefined when there is none. */
  evict(): { key: string; value: Value } | undefined {
    while (this.#slots.size > 0) {
      const slot = this.#ring[this.#hand];
      this.#hand = (this.#hand + 1) % this.#ring.length;
      if (!slot) continue;
      if (!slot.used) {
        this.delete(slot.key);
        return { key: slot.key, value: slot.value };
      }
      slot.used = false;
    }
    return undefined;
  }
}
