/** What the agent is told of readiness: in its `config.json`, which both ends know. */

/**
 * When the container may be called: while a laptop is connected; only while it listens at one of the served ports; or when the
 * container's own readiness probe, carried out at the laptop's process, succeeds.
 */
export type Readiness = 'connected' | 'listening' | CarriedProbe;

/** A readiness probe with its names resolved. `port`: the container's. */
export type CarriedProbe = { port: number; timeoutMs: number } & (
  | {
      kind: 'httpGet';
      scheme: 'HTTP' | 'HTTPS';
      /** Undefined: the pod's address. */
      host?: string;
      path: string;
      headers: { name: string; value: string }[];
    }
  | { kind: 'tcpSocket' }
  | { kind: 'grpc'; service: string }
);
