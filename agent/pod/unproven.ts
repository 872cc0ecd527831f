import type net from 'node:net';

/**
 * Connections that have proven nothing yet, at most `max`. Beyond that, the oldest of the address that has most of them
 * makes room: a flood from one pod drives out its own connections, not the laptop's.
 */
export class Unproven {
  #max: number;
  #addresses = new Map<net.Socket, string>();

  constructor(max: number) {
    this.#max = max;
  }

  get size(): number {
    return this.#addresses.size;
  }

  /** Destroys `socket` when it has not been `release`d within `ms`. */
  add(socket: net.Socket, ms: number): void {
    this.#addresses.set(socket, socket.remoteAddress ?? '');
    const timer = setTimeout(() => this.#addresses.has(socket) && socket.destroy(), ms);
    socket.once('close', () => {
      clearTimeout(timer);
      this.#addresses.delete(socket);
    });
    if (this.#addresses.size > this.#max) this.#makeRoom();
  }

  release(socket: net.Socket): void {
    this.#addresses.delete(socket);
  }

  destroyAll(): void {
    for (const socket of [...this.#addresses.keys()]) socket.destroy();
  }

  #makeRoom(): void {
    const counts = new Map<string, number>();
    for (const address of this.#addresses.values()) counts.set(address, (counts.get(address) ?? 0) + 1);
    const most = Math.max(...counts.values());
    for (const [socket, address] of this.#addresses) {
      if (counts.get(address) !== most) continue;
      this.#addresses.delete(socket);
      socket.destroy();
      return;
    }
  }
}
