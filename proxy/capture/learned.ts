const MAX_ADDRESSES = 4_096;
/** Programs keep addresses longer than they are told to: connection pools, the JVM. */
const GRACE_MS = 10 * 60_000;

/** Addresses that the cluster's DNS gave to the launched programs: they lead into the cluster, whatever range they are of. */
export class LearnedAddresses {
  #nowMs: () => number;
  /** When each is forgotten, ms; the one learned longest ago first. */
  #until = new Map<string, number>();

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** @param host an IP literal as `net.SocketAddress` writes it. */
  learn(host: string, ttlS: number): void {
    this.#until.delete(host);
    this.#until.set(host, this.#nowMs() + ttlS * 1_000 + GRACE_MS);
    const [oldest] = this.#until.keys();
    if (this.#until.size > MAX_ADDRESSES && oldest !== undefined) this.#until.delete(oldest);
  }

  has(host: string): boolean {
    return (this.#until.get(host) ?? 0) > this.#nowMs();
  }
}
