import { randomInt } from 'node:crypto';
import { AGENT_VOLUME, objectName, sessionOfPod } from '../restore/record.ts';
import type { Readiness } from '../wire/readiness.ts';
import type { Json } from './kube.ts';

export { AGENT_VOLUME, objectName, sessionOfPod };

/** The agent's container: names, paths, ports, how it starts and what it is given. `agent/pod` is what runs in it. */

export const AGENT_IMAGE = 'node:24-alpine';

export const AGENT_MOUNT = '/.lpk';

export const MANAGED_BY = { 'app.kubernetes.io/managed-by': 'lpk' } as const;
export const SESSION_LABEL = 'lpk.dev/session';

/** Whether lpk itself made this object: it is none of the user's. */
export function isOurs({ metadata }: Json): boolean {
  return Object.entries(MANAGED_BY).every(([label, value]) => metadata.labels?.[label] === value);
}

const ID_LETTERS = 'abcdefghijklmnopqrstuvwxyz0123456789';

/** A new session's id: 10 characters of [a-z0-9], about 51 bits. */
export function newSessionId(): string {
  return Array.from({ length: 10 }, () => ID_LETTERS[randomInt(ID_LETTERS.length)]).join('');
}

/** Whether a pod of this name is lpk's alone, as that of `lpk proxy up` is. */
export function isOurPodName(name: string | undefined): boolean {
  return name !== undefined && /^lpk-[a-z0-9]{10}$/.test(name);
}

/**
 * Where the agent listens: `port` for the tunnel, `probePort` for the kubelet. In the node's network the usual pair may be
 * taken by another session, so a random one is used, below the NodePorts (30000) and the ephemeral ports (32768).
 */
export function agentPorts(hostNetwork: boolean): { port: number; probePort: number } {
  const port = hostNetwork ? 20_000 + 2 * randomInt(4_900) : 47_601;
  return { port, probePort: port + 1 };
}

/**
 * Variables that keep Node from starting, or change how it runs, when the pod's own process wanted them. The agent finds
 * the value of each under `LPK_SAVED_` + its name, and hands it to the laptop's process under its own name.
 */
export const SAVED_VARIABLES = [
  'NODE_OPTIONS',
  'NODE_PATH',
  'NODE_EXTRA_CA_CERTS',
  'NODE_ICU_DATA',
  'NODE_DEBUG',
  'NODE_V8_COVERAGE',
  'NODE_COMPILE_CACHE',
  'NODE_USE_ENV_PROXY',
  'NODE_TLS_REJECT_UNAUTHORIZED',
  'OPENSSL_CONF',
  'LD_PRELOAD',
  'LD_LIBRARY_PATH',
  'UV_THREADPOOL_SIZE',
] as const;

/** What the start script puts before the names of variables that it sets aside. */
export const SAVED_PREFIX = 'LPK_SAVED_';

/** The agent is made for a few open streams' worth of memory; what it holds are Buffers, outside V8's heap. */
const NODE_FLAGS = ['--max-semi-space-size=1'];

/**
 * For `/bin/sh -c`: any POSIX shell (busybox, dash, bash), any environment. Kubernetes reads a command too: it must hold no
 * `$(` and no `$$`.
 */
export const START_SCRIPT = `for v in ${SAVED_VARIABLES.join(' ')}; do
  eval "if [ \\"\\\${$v+set}\\" ]; then export ${SAVED_PREFIX}$v=\\"\\\${$v}\\"; unset $v; fi"
done
if [ "\${PATH+set}" ]; then export ${SAVED_PREFIX}PATH="$PATH"; fi
export PATH="/usr/local/bin:/usr/bin:/bin\${PATH:+:$PATH}"
exec node ${NODE_FLAGS.join(' ')} ${AGENT_MOUNT}/agent.mjs`;

/** What the agent's `config.json` says. `listen`: on the pod's address, or only on its loopback (port-forward). */
export type AgentConfig = {
  session: string;
  listen: 'pod' | 'loopback';
  port: number;
  probePort: number;
  /** How long the agent keeps the session without a connection, ms. */
  holdMs: number;
  /** Undefined: while a laptop is connected. */
  readiness?: Readiness;
  /** How long the agent stays when no session is left, ms; undefined: for ever. */
  lonelyMs?: number;
};

/** The ConfigMap with the agent itself and the Secret with the session's key and settings; they go with the `owner`. */
export function agentObjects(given: {
  config: AgentConfig;
  /** 64 hex characters. */
  key: string;
  bundle: string;
  owner?: { apiVersion: string; kind: string; name: string; uid: string };
}): { configMap: Json; secret: Json } {
  const { session } = given.config;
  const metadata = () => ({
    name: objectName(session),
    labels: { ...MANAGED_BY, [SESSION_LABEL]: session },
    ...(given.owner ? { ownerReferences: [given.owner] } : {}),
  });
  return {
    configMap: {
      ...{ apiVersion: 'v1', kind: 'ConfigMap', metadata: metadata(), immutable: true },
      data: { 'agent.mjs': given.bundle },
    },
    secret: {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: metadata(),
      immutable: true,
      type: 'Opaque',
      stringData: { key: given.key, 'config.json': JSON.stringify(given.config) },
    },
  };
}

/** Both objects at one mount. Every field is written out, as the API server would fill it in. */
export function agentVolume(sessionId: string): Json {
  const name = objectName(sessionId);
  return {
    name: AGENT_VOLUME,
    projected: {
      sources: [
        { configMap: { name, items: [{ key: 'agent.mjs', path: 'agent.mjs' }] } },
        {
          secret: {
            name,
            items: [
              { key: 'key', path: 'key' },
              { key: 'config.json', path: 'config.json' },
            ],
          },
        },
      ],
      defaultMode: 0o444,
    },
  };
}
