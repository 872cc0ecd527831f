import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';

/**
 * Connections with something to check, for both of their ends: the test and the peer pod run this same code. Who connects
 * says in a first line of JSON what is to happen. Data is never periodic, so a block that is lost, repeated or out of order
 * changes the hash.
 */
export type Order = {
  /** Both ends know what became of it under this name. */
  id: string;
  /** Who connects sends (`up`) or receives (`down`); `echo` never ends by itself; `meet`: all wait for the last guest. */
  act: 'up' | 'down' | 'echo' | 'meet';
  /** For `up` and `down`; without it, data flows until `stop`. */
  bytes?: number;
  /** Without it: as fast as it goes. */
  bytesPerSecond?: number;
  /** For `meet`: how many connections are open at once before any is answered. */
  guests?: number;
};

/** What one end sent or received. */
export type Result = {
  bytes: number;
  sha256: string;
  /** When data was received, by `machineMs`, at most every `ARRIVAL_STEP_MS`. */
  arrivals: number[];
  /** A system error's code, or `unfinished`. */
  error?: string;
  endedAt: number;
};

const CHUNK_BYTES = 64 * 1024;
const ARRIVAL_STEP_MS = 5;

/** The machine's monotonic clock, ms: the same for every process and pod on it (clock_gettime(2), CLOCK_MONOTONIC). */
export function machineMs(): number {
  return Number(process.hrtime.bigint() / 1_000n) / 1_000;
}

const PATTERN = createHash('shake256', { outputLength: CHUNK_BYTES }).update('lpk').digest();

/** `length` bytes at `offset`: a multiple of the chunk's size, which is written into it. */
function dataAt(offset: number, length: number): Buffer {
  const chunk = Buffer.from(PATTERN);
  chunk.writeUIntBE(offset, 0, 6);
  return chunk.subarray(0, length);
}

/** One end's transfers, by id. */
export class Transfers {
  #results = new Map<string, PromiseWithResolvers<Result>>();
  #received = new Map<string, { bytes: number; arrivals: number[] }>();
  #watchers = new Set<() => void>();
  #meetings = new Map<string, { guests: number; sockets: Socket[] }>();
  #stop = new AbortController();

  /** Answers a connection that came in. */
  serve(socket: Socket): void {
    socket.on('error', () => {}); // the result tells
    // Others may call too: lpk's own self-test does, by HTTP.
    readLine(socket)
      .then((line) => this.#answer(socket, JSON.parse(line) as Order))
      .catch(() => socket.destroy());
  }

  #answer(socket: Socket, order: Order): void {
    if (order.act === 'echo') {
      socket.pipe(socket);
    } else if (order.act === 'meet') {
      const guests = order.guests ?? 1;
      const meeting = this.#meetings.get(order.id) ?? { guests, sockets: [] };
      this.#meetings.set(order.id, meeting);
      meeting.sockets.push(socket);
      if (meeting.sockets.length < guests) return;
      for (const [index, guest] of meeting.sockets.entries()) guest.end(`${index}\n`);
    } else {
      this.#do(socket, order, order.act === 'up' ? 'receive' : 'send');
    }
  }

  /** Begins an `up` or `down` on a connection to the other end. `result` tells how it went. */
  begin(socket: Socket, order: Order): void {
    socket.on('error', () => {});
    socket.write(`${JSON.stringify(order)}\n`);
    this.#do(socket, order, order.act === 'up' ? 'send' : 'receive');
  }

  #do(socket: Socket, order: Order, what: 'send' | 'receive'): void {
    const result = this.#result(order.id);
    const work = what === 'send' ? this.#send(socket, order) : this.#receive(socket, order);
    work.then(result.resolve, result.reject);
  }

  /** Every transfer that has no fixed size ends after the piece it is at. */
  stop(): void {
    this.#stop.abort();
    this.#stop = new AbortController();
  }

  result(id: string): Promise<Result> {
    return this.#result(id).promise;
  }

  /** When data arrived so far. */
  arrivals(id: string): number[] {
    return this.#received.get(id)?.arrivals ?? [];
  }

  /** Resolves when more than `bytes` were received, and after the time `since` (of `machineMs`) something was. */
  async reached(id: string, { bytes = 0, since = 0 }: { bytes?: number; since?: number }): Promise<void> {
    const done = () => {
      const { bytes: got, arrivals } = this.#received.get(id) ?? { bytes: 0, arrivals: [] };
      return got > bytes && (arrivals.at(-1) ?? 0) > since;
    };
    if (done()) return;
    await new Promise<void>((resolve) => {
      const look = () => {
        if (!done()) return;
        this.#watchers.delete(look);
        resolve();
      };
      this.#watchers.add(look);
    });
  }

  #result(id: string): PromiseWithResolvers<Result> {
    const known = this.#results.get(id) ?? Promise.withResolvers<Result>();
    this.#results.set(id, known);
    return known;
  }

  async #send(socket: Socket, { bytes = Number.MAX_SAFE_INTEGER, bytesPerSecond }: Order): Promise<Result> {
    const { signal } = this.#stop;
    const closed = closing(socket);
    const hash = createHash('sha256');
    let sent = 0;
    let due = machineMs();
    while (sent < bytes && !signal.aborted && !socket.destroyed) {
      const chunk = dataAt(sent, Math.min(CHUNK_BYTES, bytes - sent));
      hash.update(chunk);
      sent += chunk.length;
      if (!socket.write(chunk)) await Promise.race([once(socket, 'drain').catch(() => {}), closed]);
      if (!bytesPerSecond) continue;
      due = Math.max(due + (chunk.length / bytesPerSecond) * 1_000, machineMs());
      await pause(Math.max(0, due - machineMs()), undefined, { signal }).catch(() => {});
    }
    socket.end();
    socket.resume(); // the receiver ends its direction when it has everything
    const error = await closed;
    return { bytes: sent, sha256: hash.digest('hex'), arrivals: [], endedAt: machineMs(), ...(error ? { error } : {}) };
  }

  async #receive(socket: Socket, { id }: Order): Promise<Result> {
    const hash = createHash('sha256');
    const received = { bytes: 0, arrivals: [] as number[] };
    this.#received.set(id, received);
    const { arrivals } = received;
    socket.on('data', (chunk: Buffer) => {
      hash.update(chunk);
      received.bytes += chunk.length;
      const now = machineMs();
      if (now - (arrivals.at(-1) ?? 0) >= ARRIVAL_STEP_MS) arrivals.push(now);
      for (const look of this.#watchers) look();
    });
    socket.once('end', () => socket.end());
    const error = await closing(socket);
    const { bytes } = received;
    return { bytes, sha256: hash.digest('hex'), arrivals, endedAt: machineMs(), ...(error ? { error } : {}) };
  }
}

/** Guest of a meeting: resolves with the place it was given once all have come. */
export async function meet(socket: Socket, id: string, guests: number): Promise<number> {
  const order: Order = { id, act: 'meet', guests };
  socket.write(`${JSON.stringify(order)}\n`);
  const place = Number(await readLine(socket));
  socket.end();
  return place;
}

/** Resolves when the socket is closed: with undefined when both directions had ended, else with what went wrong. */
function closing(socket: Socket): Promise<string | undefined> {
  return new Promise((resolve) => {
    let error: string | undefined;
    socket.once('error', (failure: NodeJS.ErrnoException) => {
      error = failure.code ?? failure.message;
    });
    socket.once('close', () => {
      const whole = socket.readableEnded && socket.writableFinished;
      resolve(error ?? (whole ? undefined : 'unfinished'));
    });
  });
}

/** The next line; what follows stays in the socket, which is paused. Rejects when there is none. */
export async function readLine(socket: Socket): Promise<string> {
  let text: Buffer = Buffer.alloc(0);
  for (;;) {
    const chunk: Buffer | null = socket.read();
    if (chunk) {
      text = Buffer.concat([text, chunk]);
      const end = text.indexOf('\n');
      if (end < 0) continue;
      if (end + 1 < text.length) socket.unshift(text.subarray(end + 1));
      return text.toString('utf8', 0, end);
    }
    if (socket.readableEnded || socket.destroyed) throw new Error(`the connection ended after '${text}'`);
    await Promise.race([once(socket, 'readable'), once(socket, 'end'), once(socket, 'close')]);
  }
}
