import http from 'node:http';
import https from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Json, Method, Query, RequestOptions } from '../restore/api.ts';
import { LpkError, systemCode } from '../wire/errors.ts';
import { type Credentials, type LoginOptions, readLogin } from './kubeconfig.ts';
import { asStatus, networkError, parseBody, statusError } from './status.ts';

/**
 * The API server: raw JSON over a keep-alive connection. No typed models: those drop the fields they don't know, and what
 * lpk writes back must be what it read.
 */

export type { Json, Method, Query, RequestOptions };

export type WatchEvent = { type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK'; object: Json };

export type FollowOptions = { query?: Query; signal: AbortSignal; refused?: (error: LpkError) => void };

export type Cluster = {
  context: string;
  server: string;
  namespace: string;
  user: string;
  /**
   * One request; the answer's JSON. LpkError: `cluster-unreachable` (names the server), `unauthorized`, `forbidden` (in the
   * API server's words: verb, resource, namespace), `not-found`, `conflict`, `cancelled` (by `signal`), `internal`.
   */
  request(method: Method, path: string, options?: RequestOptions): Promise<Json>;
  /**
   * The objects of a list as they change, by uid: the whole set first, then after every change. Lists and watches, again
   * after any interruption; ends when `signal` says so. Throws what the first list throws and what the first watch is refused for;
   * later only `not-found`, and `forbidden` or `unauthorized` when they last: anything else is waited out. `refused` is told of
   * those that are waited out, once each time.
   */
  follow(path: string, options: FollowOptions): AsyncGenerator<Map<string, Json>>;
  /** To open a connection of one's own to the API server (`https.request`, `ws`); `anew` after a 401. */
  tlsOptions(anew?: boolean): Promise<Credentials>;
  /** The API server's clock by its latest answer, to the second (Unix time, ms): laptops' clocks differ. Before it answered, our own. */
  nowMs(): number;
  /** Ends the idle connections. */
  close(): void;
};

/** Sees what is asked of the API server; its bodies it does not. */
export type ClusterObserver = {
  /** One request's answer up to its headers: `status`, or `failure`, the code of what kept it away. */
  answered(seen: { method: Method; path: string; ms: number; status?: number; failure?: string }): void;
  /** What is sent to say who we are: for who must keep it out of what is written down. */
  credentials(credentials: Credentials): void;
};

const TIMEOUT_MS = 20_000;
/** A watch that says nothing this long is begun anew: the API server sends a bookmark about every minute. */
const WATCH_SILENCE_MS = 90_000;
const WATCH_SECONDS = 600;
const MAX_RETRIES = 5;
const QUOTA_RETRY_MS = 200;
const MAX_BACKOFF_MS = 5_000;
/** An API server that is just starting may refuse what it allowed before (RBAC not read yet, OIDC not ready) for some time. */
const REFUSED_MS = 90_000;
const REFUSED_TOLD_MS = 3_000;

/** Reads the kubeconfig (`KUBECONFIG`, else `~/.kube/config`); connects on the first request. LpkError `kubeconfig-invalid`. */
export async function openCluster(options: LoginOptions = {}, observer?: ClusterObserver): Promise<Cluster> {
  const login = await readLogin(options);
  const { server, user } = login;
  const credentialsFor = async (anew?: boolean) => {
    const credentials = await login.credentials(anew);
    observer?.credentials(credentials);
    return credentials;
  };
  const base = new URL(server);
  const secure = base.protocol === 'https:';
  const transport = secure ? https : http;
  const keepAlive = new transport.Agent({ keepAlive: true, maxSockets: 6 });

  let aheadMs = 0;

  type Answer = { response: http.IncomingMessage; status: number };

  /** One HTTP exchange up to the answer's headers. */
  async function exchange(
    method: Method,
    path: string,
    options: RequestOptions & { watching?: boolean },
    anew = false,
  ) {
    const { headers, agent, ...tls } = await credentialsFor(anew);
    const body = options.body === undefined ? undefined : Buffer.from(JSON.stringify(options.body));
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(options.query ?? {})) {
      if (value !== undefined) query.set(name, String(value));
    }
    const target = `${base.pathname.replace(/\/$/, '')}${path}${query.size > 0 ? `?${query}` : ''}`;
    const begunAt = performance.now();
    const seen = (outcome: { status: number } | { failure: string }) =>
      observer?.answered({ method, path, ms: Math.round(performance.now() - begunAt), ...outcome });
    return await new Promise<Answer>((resolve, reject) => {
      const request = transport.request({
        ...(secure ? tls : {}),
        agent: agent ?? (options.watching ? undefined : keepAlive),
        hostname: base.hostname.replace(/^\[|\]$/g, ''),
        port: base.port || (secure ? 443 : 80),
        method,
        path: target,
        headers: {
          Accept: options.accept ?? 'application/json',
          'User-Agent': 'lpk',
          ...(body ? { 'Content-Type': options.contentType ?? 'application/json', 'Content-Length': body.length } : {}),
          ...headers,
        },
        timeout: options.timeoutMs ?? TIMEOUT_MS,
        signal: options.signal,
      });
      request.on('timeout', () => {
        const silent = `can't reach the cluster at ${server}: no answer within ${(options.timeoutMs ?? TIMEOUT_MS) / 1000} s`;
        request.destroy(new LpkError('cluster-unreachable', silent));
      });
      request.on('response', (response) => {
        const { statusCode: status = 0 } = response;
        const dateMs = Date.parse(response.headers.date ?? '');
        if (!Number.isNaN(dateMs)) aheadMs = dateMs - Date.now();
        seen({ status });
        resolve({ response, status });
      });
      request.on('error', (error) => {
        seen({ failure: systemCode(error) ?? error.name });
        // A kept connection that the API server closed while the request was on its way: nothing was answered, so ask again.
        if (request.reusedSocket && (systemCode(error) === 'ECONNRESET' || systemCode(error) === 'EPIPE')) {
          exchange(method, path, options).then(resolve, reject);
        } else reject(error);
      });
      request.end(body);
    });
  }

  /** `exchange`, again after a 401 (with new credentials) and after a 429 or 503 that says when. */
  async function ask(method: Method, path: string, options: RequestOptions & { watching?: boolean }): Promise<Answer> {
    let anew = false;
    for (let retries = 0; ; retries++) {
      try {
        options.signal?.throwIfAborted();
        const answer = await exchange(method, path, options, anew);
        const { response, status } = answer;
        if (status >= 200 && status < 300) return answer;
        const body = parseBody(await readAll(response));
        anew = status === 401 && !anew && retries < MAX_RETRIES;
        if (anew) continue;
        const afterS = Number(response.headers['retry-after'] ?? asStatus(body)?.details?.retryAfterSeconds);
        if ((status === 429 || status === 503) && afterS >= 0 && retries < MAX_RETRIES) {
          await sleep(Math.min(afterS, 10) * 1000, undefined, { signal: options.signal });
          continue;
        }
        // Another was counted by the same quota at that moment. (What is there already has the reason AlreadyExists.)
        if (method === 'POST' && status === 409 && asStatus(body)?.reason === 'Conflict' && retries < MAX_RETRIES) {
          await sleep(Math.random() * QUOTA_RETRY_MS, undefined, { signal: options.signal });
          continue;
        }
        throw statusError(status, body, { server, user, doing: `${method} ${path}`, path });
      } catch (error) {
        throw failure(error, options.signal);
      }
    }
  }

  function failure(error: unknown, signal: AbortSignal | undefined): LpkError {
    if (signal?.aborted) return new LpkError('cancelled', 'stopped', { cause: error });
    return networkError(error, server);
  }

  async function request(method: Method, path: string, options: RequestOptions = {}): Promise<Json> {
    const { response } = await ask(method, path, options);
    let text: string;
    try {
      text = await readAll(response);
    } catch (error) {
      throw failure(error, options.signal);
    }
    try {
      return text === '' ? undefined : JSON.parse(text);
    } catch (cause) {
      throw new LpkError('cluster-unreachable', `${server} does not answer as a Kubernetes API server: no JSON`, {
        cause,
      });
    }
  }

  /**
   * The events after `resourceVersion`, as many at a time as came together, and none as soon as they may be watched; ends when the
   * API server ends it.
   */
  async function* watch(path: string, query: Query, signal: AbortSignal): AsyncGenerator<WatchEvent[]> {
    const { response } = await ask('GET', path, {
      query: { ...query, watch: true, allowWatchBookmarks: true, timeoutSeconds: WATCH_SECONDS },
      signal,
      timeoutMs: WATCH_SILENCE_MS,
      watching: true,
    });
    yield [];
    response.setEncoding('utf8');
    let rest = '';
    for await (const chunk of response) {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() as string;
      const events = lines
        .filter(Boolean)
        .map((line) => JSON.parse(line) as WatchEvent | { type: 'ERROR'; object: Json });
      const failed = events.find((event) => event.type === 'ERROR');
      if (failed) throw statusError(failed.object.code ?? 500, failed.object, { server, user, doing: `watch ${path}` });
      if (events.length > 0) yield events as WatchEvent[];
    }
  }

  async function* follow(path: string, { query = {}, signal, refused }: FollowOptions) {
    let listedOnce = false;
    let watchedOnce = false;
    let backoffMs = 250;
    let refusedMs = 0;
    while (!signal.aborted) {
      try {
        const list = await request('GET', path, { query, signal });
        const items = (list.items ?? []) as Json[];
        const now = new Map<string, Json>(items.map((item) => [item.metadata.uid, item]));
        listedOnce = true;
        yield new Map(now);
        let resourceVersion: string = list.metadata.resourceVersion;
        for (;;) {
          const begunAt = performance.now();
          for await (const events of watch(path, { ...query, resourceVersion }, signal)) {
            watchedOnce = true;
            refusedMs = 0;
            if (events.length === 0) continue;
            let changed = false;
            for (const { type, object } of events) {
              resourceVersion = object.metadata.resourceVersion;
              if (type === 'BOOKMARK') continue;
              if (type === 'DELETED') now.delete(object.metadata.uid);
              else now.set(object.metadata.uid, object);
              changed = true;
            }
            backoffMs = 250;
            if (changed) yield new Map(now);
          }
          // A gateway that ends every watch at once must not be asked in a tight loop.
          if (performance.now() - begunAt < 1_000) await sleep(1_000, undefined, { signal });
        }
      } catch (error) {
        if (signal.aborted) return;
        const code = error instanceof LpkError ? error.code : undefined;
        // 410 Gone reads as not-found: the version is too old to watch from, so the list is read again.
        const gone = code === 'not-found' && asStatus((error as LpkError).cause)?.code === 410;
        const refusal = code === 'forbidden' || code === 'unauthorized';
        const final = refusal ? !watchedOnce || refusedMs >= REFUSED_MS : code === 'not-found' && !gone;
        if (!listedOnce || final) throw error;
        if (refusal) {
          const before = refusedMs;
          refusedMs += backoffMs;
          if (before < REFUSED_TOLD_MS && refusedMs >= REFUSED_TOLD_MS) refused?.(error as LpkError);
        }
        await sleep(backoffMs, undefined, { signal }).catch(() => {});
        backoffMs = Math.min(backoffMs * 2, MAX_BACKOFF_MS);
      }
    }
  }

  return {
    context: login.context,
    server,
    namespace: login.namespace,
    user,
    request,
    follow,
    tlsOptions: credentialsFor,
    nowMs: () => Date.now() + aheadMs,
    close: () => keepAlive.destroy(),
  };
}

async function readAll(response: http.IncomingMessage): Promise<string> {
  response.setEncoding('utf8');
  let text = '';
  for await (const chunk of response) text += chunk;
  return text;
}
