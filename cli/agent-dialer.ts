import type { Cluster } from '../agent/deploy/kube.ts';
import type { Transport } from '../agent/deploy/preflight.ts';
import { reachError, throughPortForward, throughProxy } from '../agent/deploy/reach.ts';
import { type ErrorCode, LpkError } from '../agent/wire/errors.ts';
import { Tunnel } from '../proxy/tunnel.ts';

/**
 * How long an agent that runs may take to answer, as on a node where twenty others start at that moment; the shorter one when another
 * transport can still be tried.
 */
const FIRST_ANSWER_MS = 90_000;
const TRY_MS = 8_000;
/** While a pod refuses, the transport works, and the agent is only starting: so many such times. A policy may refuse as well, for good. */
const LISTEN_TRIES = 4;
/** Failures of a transport that the other one may not have. */
const OF_THE_TRANSPORT: ReadonlySet<ErrorCode> = new Set([
  'forbidden',
  'not-found',
  'agent-unreachable',
  'agent-not-listening',
  'link-lost',
  'timed-out',
]);

export type AgentDialerOptions = {
  cluster: Cluster;
  namespace: string;
  key: Buffer;
  agentPort: number;
  /** To be tried, in this order. */
  transports: Transport[];
};

/** Opens tunnels to a session's agents by the first transport that works, and remembers which that was. */
export class AgentDialer {
  #options: AgentDialerOptions;
  #transports: Transport[];

  constructor(options: AgentDialerOptions) {
    this.#options = options;
    this.#transports = options.transports;
  }

  /** What worked last, or is to be tried first. */
  get transport(): Transport {
    return this.#transports[0] as Transport;
  }

  /**
   * `made` is told of each tunnel before it starts, so that its session isn't missed; what it returns says whether the tunnel is
   * still wanted, asked again at each step. Undefined when it no longer is. LpkError: the last transport's.
   */
  async open(pod: string, made: (tunnel: Tunnel) => () => boolean): Promise<Tunnel | undefined> {
    let refusals = 0;
    const left = [...this.#transports];
    for (let transport = left.shift(); transport; ) {
      const tunnel = this.#tunnel(pod, transport);
      const wanted = made(tunnel);
      const more = left.length > 0;
      try {
        await tunnel.start(more ? TRY_MS : FIRST_ANSWER_MS);
      } catch (error) {
        if (!more || !(error instanceof LpkError) || !OF_THE_TRANSPORT.has(error.code) || !wanted()) throw error;
        if (error.code !== 'agent-not-listening' || ++refusals >= LISTEN_TRIES) transport = left.shift();
        continue;
      }
      if (!wanted()) {
        tunnel.close();
        return undefined;
      }
      const chosen = transport;
      this.#transports = [chosen, ...this.#transports.filter((other) => other !== chosen)];
      return tunnel;
    }
    return undefined;
  }

  #tunnel(pod: string, transport: Transport): Tunnel {
    const { cluster, namespace, key, agentPort } = this.#options;
    const through = transport === 'proxy' ? throughProxy : throughPortForward;
    return new Tunnel({
      key,
      connect: through(cluster, namespace, pod, agentPort),
      explain: (error) => reachError(error, cluster.server),
    });
  }
}
