import { LpkError, systemCode } from '../wire/errors.ts';

/** What an API server's answer, or its silence, means in lpk's codes. */

/** `metav1.Status`, the body of every failure the API server itself states. */
export type Status = {
  kind: 'Status';
  message?: string;
  reason?: string;
  code?: number;
  details?: { name?: string; group?: string; kind?: string; retryAfterSeconds?: number };
};

/** A text or an error's message on one line, at most 500 characters. */
export function oneLine(text: unknown): string {
  const words = text instanceof Error ? text.message || text.name : String(text);
  const line = words.replace(/\s+/g, ' ').trim();
  return line.length > 500 ? `${line.slice(0, 499)}…` : line;
}

export function asStatus(body: unknown): Status | undefined {
  return body && typeof body === 'object' && 'kind' in body && body.kind === 'Status' ? (body as Status) : undefined;
}

/** A body's JSON, or the text itself when it is none. */
export function parseBody(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** What every API server has. That it lacks the kind of others, it says with a 404 in plain text. */
const EVERYWHERE = /^\/(api|apis\/(apps|coordination\.k8s\.io|rbac\.authorization\.k8s\.io))\/v1\//;

/**
 * A failed answer as LpkError; the `Status` stays as its cause. The API server's own message names verb, resource and
 * namespace of a 403, and the object of a 404 or 409. `doing` goes before it: what we were at. A 404 that a load balancer
 * made up by itself, for a `path` that is there, says nothing about the object.
 */
export function statusError(
  httpStatus: number,
  body: unknown,
  from: { server: string; user: string; doing: string; path?: string },
) {
  const status = asStatus(body);
  const said = oneLine(status?.message ?? (typeof body === 'string' ? body : '')) || `HTTP ${httpStatus}`;
  const cause = status ?? body;
  switch (httpStatus) {
    case 401:
      return new LpkError('unauthorized', `${from.server} does not accept the credentials of user "${from.user}"`, {
        cause,
      });
    case 403:
      return new LpkError('forbidden', said, { cause });
    case 404:
    case 410:
      if (!status && EVERYWHERE.test(from.path ?? '')) break;
      return new LpkError('not-found', said, { cause });
    case 409:
      return new LpkError('conflict', said, { cause });
  }
  if (httpStatus >= 500 || [404, 410, 429].includes(httpStatus)) {
    const message = `${from.server} can't answer now (HTTP ${httpStatus}): ${said}`;
    return new LpkError('cluster-unreachable', message, { cause });
  }
  return new LpkError('internal', `${from.doing}: the API server refused it (HTTP ${httpStatus}): ${said}`, { cause });
}

const SAID: Record<string, string> = {
  ECONNREFUSED: 'nothing listens there',
  ENOTFOUND: 'the name is not known',
  EAI_AGAIN: 'the name can’t be looked up now',
  ETIMEDOUT: 'it does not answer',
  EHOSTUNREACH: 'there is no way to the host',
  ENETUNREACH: 'there is no way to its network',
  ECONNRESET: 'it broke off the connection',
};

/** A connection that failed or broke: `cluster-unreachable`, naming the server. */
export function networkError(error: unknown, server: string): LpkError {
  if (error instanceof LpkError) return error;
  const code = systemCode(error);
  const said = (code && SAID[code]) || oneLine(error);
  return new LpkError(
    'cluster-unreachable',
    `can't reach the cluster at ${server}: ${said}${code ? ` (${code})` : ''}`,
    {
      cause: error,
    },
  );
}

/**
 * An HTTP answer where an upgrade was asked for. Through `pods/proxy` the pod can answer too: only the API server states a
 * `Status`, so only then a 403 or 404 is about rights or about the pod.
 */
export function upgradeError(httpStatus: number, text: string, named: { server: string; user: string }): LpkError {
  const body = parseBody(text);
  const status = asStatus(body);
  if (httpStatus === 401 || (status && [403, 404].includes(httpStatus))) {
    return statusError(httpStatus, body, { ...named, doing: 'reaching the agent' });
  }
  const said = oneLine(status?.message ?? text) || 'no reason given';
  return new LpkError('agent-unreachable', `the agent can't be reached (HTTP ${httpStatus}): ${said}`, { cause: body });
}
