import { type ErrorCode, LpkError } from '../agent/wire/errors.ts';
import type { Stream } from '../agent/wire/stream.ts';
import type { Dial, Flow, Outbound } from './flow.ts';
import type { Tunnel } from './tunnel.ts';

/** Above this round trip, waiting for the agent's dial result before answering a client costs more than it tells. */
const REPLY_EARLY_RTT_MS = 10;
/** A destination that failed lately is waited for, so that its client hears the true reason. */
const REMEMBER_FAILURE_MS = 30_000;
const MAX_FAILURES = 1_024;
/** What says something about the destination; a client that left or a lost link does not. */
const FAILURES: ReadonlySet<ErrorCode> = new Set([
  'refused',
  'unreachable',
  'timed-out',
  'not-allowed',
  'name-not-found',
]);

/** Picks the tunnel for each flow, and says whether its client may be answered before the agent has dialled. */
export class Route {
  #tunnels: Tunnel[] = [];
  #failures = new Map<string, number>();
  #failed: (code: ErrorCode, flow: Flow) => void;

  /** @param failed hears of each flow that failed before it was open, and not because its client left. */
  constructor(failed: (code: ErrorCode, flow: Flow) => void = () => {}) {
    this.#failed = failed;
  }

  add(tunnel: Tunnel): void {
    this.#tunnels.push(tunnel);
  }

  remove(tunnel: Tunnel): void {
    this.#tunnels = this.#tunnels.filter((other) => other !== tunnel);
  }

  /** See flow.ts. A flow opened while the link is down waits for it, as long as the agent holds the session. */
  readonly dial: Dial = (flow, first): Outbound => {
    const tunnel = this.#pick();
    const { session } = tunnel;
    const stream: Stream =
      flow.protocol === 'udp' ? session.openUdp(flow.host, flow.port) : session.openTcp(flow.host, flow.port, first);
    const key = flowKey(flow);
    const failedAt = this.#failures.get(key);
    const failedLately = failedAt !== undefined && performance.now() - failedAt < REMEMBER_FAILURE_MS;
    stream.opened.then(
      () => this.#failures.delete(key),
      ({ code }: LpkError) => {
        if (FAILURES.has(code)) this.#remember(key);
        if (code !== 'cancelled') this.#failed(code, flow);
      },
    );
    return { stream, opened: stream.opened, replyEarly: session.link.rttMs > REPLY_EARLY_RTT_MS && !failedLately };
  };

  #pick(): Tunnel {
    const tunnel =
      this.#tunnels.find(({ isUp }) => isUp) ?? this.#tunnels.find(({ isHeld }) => isHeld) ?? this.#tunnels[0];
    if (!tunnel) throw new LpkError('link-lost', 'there is no link to the cluster');
    return tunnel;
  }

  #remember(key: string): void {
    this.#failures.delete(key);
    this.#failures.set(key, performance.now());
    const [oldest] = this.#failures.keys();
    if (this.#failures.size > MAX_FAILURES && oldest !== undefined) this.#failures.delete(oldest);
  }
}

function flowKey(flow: Flow): string {
  return `${flow.protocol} ${flow.host} ${flow.port}`;
}
