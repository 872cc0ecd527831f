/**
 * Every way lpk can fail, by code. Nothing in lpk matches on an error's text: it looks at `code`, and the person reads
 * `message` (what failed and why) and the code's hint (`cli/hints.ts`: what to do next).
 */
export const ERROR_CODES = [
  // a stream or flow
  'refused',
  'unreachable',
  'timed-out',
  'not-allowed',
  'name-not-found',
  'connection-reset',
  'cancelled',
  'too-many-streams',
  'address-in-use',
  'internal',
  // the link
  'protocol',
  'limit-exceeded',
  'link-lost',
  'session-unknown',
  'version-mismatch',
  'key-mismatch',
  // the cluster
  'kubeconfig-invalid',
  'cluster-unreachable',
  'unauthorized',
  'forbidden',
  'not-found',
  'no-selector',
  'no-workload',
  'ambiguous-workload',
  'ambiguous-container',
  'unsupported-workload',
  'no-replicas',
  'already-held',
  'session-alive',
  'conflict',
  'image-pull',
  'rollout-failed',
  'rollout-timed-out',
  'session-ended',
  'agent-unreachable',
  'agent-not-listening',
  // the laptop
  'usage',
  'profile-invalid',
  'port-taken',
  'already-running',
  'not-running',
  'no-capture',
  'command-not-found',
  'command-not-executable',
  'needs-root',
  'route-overlap',
  'no-tun2socks',
  'laptop-setup',
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

/** lpk's one error class. `message` is one line: what failed and why; `cause` keeps the underlying error. */
export class LpkError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'LpkError';
    this.code = code;
  }
}

/** The `code` of a Node system error (`ECONNREFUSED`, …), if it has one. */
export function systemCode(error: unknown): string | undefined {
  if (error && typeof error === 'object' && 'code' in error && typeof error.code === 'string') return error.code;
  return undefined;
}
