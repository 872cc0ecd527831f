import type { Resettable } from '../agent/wire/pump.ts';

/** A connection somebody wants: the one thing every door makes. */
export type Flow = {
  protocol: 'tcp' | 'udp';
  /** A name or an IP literal (IPv6 without brackets), as the client gave it: names are resolved in the pod. */
  host: string;
  port: number;
};

/** A flow on its way. */
export type Outbound = {
  stream: Resettable;
  /** Settles with the agent's dial result: rejects with an LpkError. */
  opened: Promise<void>;
  /** The door answers success before `opened`, which saves a round trip; a dial that fails then resets the client. */
  replyEarly: boolean;
};

/** Sends a flow on its way, `first` with it. Throws an LpkError when there is no way at all (no tunnel). */
export type Dial = (flow: Flow, first?: Buffer) => Outbound;
