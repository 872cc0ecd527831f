import { readFileSync } from 'node:fs';
import https from 'node:https';
import type { Api, Json, Method, Query, RequestOptions } from '../restore/api.ts';
import { type ErrorCode, LpkError } from '../wire/errors.ts';

/** What kubelet mounts into a pod with a service account (Kubernetes: "Accessing the Kubernetes API from a Pod"). */
const FOLDER = '/var/run/secrets/kubernetes.io/serviceaccount';
const TIMEOUT_MS = 20_000;
/** Between the requests of one restore, that another writer finds little room between; idle ones are closed. */
const IDLE_MS = 5_000;
const MAX_ANSWER_BYTES = 8 << 20;
/** A Lease is small. */
const MAX_EVENT_BYTES = 1 << 20;
/** A watch is begun anew after this; Node's sockets notice a dead peer by the restorer's own deadline. */
const WATCH_SECONDS = 600;

export type WatchingApi = Api & {
  /**
   * Tells the object of each event until the API server ends it or `signal` does. Rejects as `request`, and when the connection
   * breaks.
   */
  watch(path: string, query: Query, onEvent: (type: string, object: Json) => void, signal: AbortSignal): Promise<void>;
};

const CODES: Record<number, ErrorCode> = {
  401: 'unauthorized',
  403: 'forbidden',
  404: 'not-found',
  409: 'conflict',
  410: 'not-found',
};

/**
 * The API server from within a pod, as its service account. Token and CA are read for each request, as both are renewed on
 * disk. LpkError by the answer's status; `cluster-unreachable` for none, for all others, and for those that something between says.
 */
export function apiServer(
  host = process.env.KUBERNETES_SERVICE_HOST ?? '',
  port = process.env.KUBERNETES_SERVICE_PORT ?? '443',
  folder = FOLDER,
): WatchingApi {
  const kept = new https.Agent({ keepAlive: true, maxSockets: 4, timeout: IDLE_MS });

  async function exchange(
    method: Method,
    path: string,
    options: RequestOptions & { watching?: boolean },
  ): Promise<NodeJS.ReadableStream> {
    const body = options.body === undefined ? undefined : JSON.stringify(options.body);
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(options.query ?? {}))
      if (value !== undefined) query.set(name, `${value}`);
    return await new Promise((resolve, reject) => {
      const request = https.request(
        {
          host,
          port,
          method,
          path: query.size > 0 ? `${path}?${query}` : path,
          ca: readFileSync(`${folder}/ca.crt`),
          agent: options.watching ? false : kept,
          timeout: options.timeoutMs ?? TIMEOUT_MS,
          ...(options.signal ? { signal: options.signal } : {}),
          headers: {
            Accept: 'application/json',
            Authorization: `Bearer ${readFileSync(`${folder}/token`, 'utf8').trim()}`,
            'User-Agent': 'lpk-restorer',
            ...(body ? { 'Content-Type': options.contentType ?? 'application/json' } : {}),
          },
        },
        (response) => {
          const status = response.statusCode ?? 0;
          if (status >= 200 && status < 300) return resolve(response);
          readAll(response).then((text) => reject(refusal(status, text)), reject);
        },
      );
      request.on('timeout', () => request.destroy(new LpkError('cluster-unreachable', 'the API server is silent')));
      request.on('error', reject);
      request.end(body);
    });
  }

  async function failing<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      if (error instanceof LpkError) throw error;
      const why = error instanceof Error ? error.message : String(error);
      throw new LpkError('cluster-unreachable', `can't reach the API server at ${host}: ${why}`, { cause: error });
    }
  }

  return {
    request: (method, path, options = {}) =>
      failing(
        (async () => {
          const text = await readAll(await exchange(method, path, options));
          return text === '' ? undefined : JSON.parse(text);
        })(),
      ),
    watch: (path, query, onEvent, signal) =>
      failing(
        (async () => {
          const asked = { ...query, watch: true, timeoutSeconds: WATCH_SECONDS };
          // Silence is what this watch is for: the caller has a deadline of its own.
          const stream = await exchange('GET', path, { query: asked, signal, timeoutMs: 0, watching: true });
          let rest = '';
          stream.setEncoding('utf8');
          for await (const chunk of stream) {
            const lines = `${rest}${chunk}`.split('\n');
            rest = lines.pop() as string;
            if (rest.length > MAX_EVENT_BYTES) throw new LpkError('limit-exceeded', 'an event has no end');
            for (const line of lines) {
              const { type, object } = JSON.parse(line);
              if (type === 'ERROR') return; // too old a version, mostly: to be begun anew
              onEvent(type, object);
            }
          }
        })(),
      ),
  };
}

async function readAll(stream: NodeJS.ReadableStream): Promise<string> {
  stream.setEncoding('utf8');
  let text = '';
  for await (const chunk of stream) {
    text += chunk;
    if (text.length > MAX_ANSWER_BYTES) throw new LpkError('limit-exceeded', 'an answer has no end');
  }
  return text;
}

function refusal(status: number, text: string): LpkError {
  let said = text.slice(0, 500);
  let code: ErrorCode = 'cluster-unreachable';
  try {
    const { kind, message } = JSON.parse(text);
    if (kind === 'Status') code = CODES[status] ?? code;
    said = message ?? said;
  } catch {
    // Not the API server's own words: a load balancer's, whose 404 does not mean that the Lease is gone.
  }
  return new LpkError(code, `HTTP ${status}: ${said}`);
}
