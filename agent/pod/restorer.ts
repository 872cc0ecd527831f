import { setTimeout as sleep } from 'node:timers/promises';
import { type Json, unlessGone } from '../restore/api.ts';
import { indexInStatefulSet } from '../restore/follow.ts';
import { forgetRevision } from '../restore/history.ts';
import {
  leasePath,
  leasesPath,
  microTime,
  PODS_ANNOTATION,
  RESTORER_VARIABLE,
  type RestorerConfig,
  revisionsOnLease,
  silenceMs,
  WATCHING_ANNOTATION,
} from '../restore/lease.ts';
import { isBeside, readPod, savedPath } from '../restore/pod.ts';
import { putBack } from '../restore/put-back.ts';
import { objectName } from '../restore/record.ts';
import { LpkError } from '../wire/errors.ts';
import { apiServer, type WatchingApi } from './api-server.ts';
import { LeaseClock } from './lease-clock.ts';

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;
const SHORT_WATCH_MS = 1_000;
/** What the workload's own pods get to start, before the agent is left in its history. */
const ROLLOUT_MS = 180_000;
/** What a missing right gets to come, before what it keeps from going is left where it is. */
const RIGHTS_MS = 60_000;
const LOOK_MS = 1_000;

/** The restorer's surroundings; a test brings its own time and its own API server. */
export type Surroundings = {
  api: WatchingApi;
  /** Of a clock that never jumps, ms. */
  nowMs: () => number;
  wait: (ms: number, signal?: AbortSignal) => Promise<void>;
  log: (line: string) => void;
};

/** Runs until it is ended from outside: a Deployment would only start it again. */
export async function runRestorer(): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => process.exit(0));
  setInterval(() => {}, 2 ** 30);
  await keepWatch(JSON.parse(process.env[RESTORER_VARIABLE] ?? '{}') as RestorerConfig, {
    api: apiServer(),
    nowMs: () => performance.now(),
    wait: (ms, signal) => sleep(ms, undefined, { signal }),
    log: (line) => console.log(`${new Date().toISOString()} ${line}`),
  });
}

/**
 * Watches a session's Lease; when it has lapsed, or is gone, puts the workload back and deletes the Lease, which owns
 * everything else of the session, the restorer's own Deployment and rights included. Nothing makes it give up: whatever
 * fails is tried again, the Lease first, since the laptop may have come back meanwhile.
 */
export async function keepWatch(config: RestorerConfig, { api, nowMs, wait, log }: Surroundings): Promise<void> {
  const path = leasePath(config.namespace, config.session);
  const clock = new LeaseClock(nowMs());
  let marked = false;
  let { pods } = config;
  let pauseMs = FIRST_PAUSE_MS;

  async function readLease(): Promise<Json | undefined> {
    try {
      const lease = await api.request('GET', path);
      see(lease);
      return lease;
    } catch (error) {
      if (error instanceof LpkError && error.code === 'not-found') return undefined;
      clock.lost();
      throw error;
    }
  }

  const see = (lease: Json) => {
    clock.seen(lease.spec?.renewTime ?? '', silenceMs(lease), nowMs());
    const named: string = lease.metadata?.annotations?.[PODS_ANNOTATION] ?? '';
    pods = [...config.pods, ...named.split(',').filter(Boolean)];
  };

  /** For the laptop, which warns when nobody watches. */
  async function mark(lease: Json): Promise<Json> {
    if (marked) return lease;
    const annotations = { [WATCHING_ANNOTATION]: microTime(new Date()) };
    const contentType = 'application/merge-patch+json';
    const now = await api.request('PATCH', path, { body: { metadata: { annotations } }, contentType });
    marked = true;
    log(`watching over ${config.apiPath}, session ${config.session}`);
    return now;
  }

  /** Until the Lease has lapsed, is deleted, or the watch ended. */
  async function watch(lease: Json): Promise<void> {
    const stop = new AbortController();
    const begunMs = nowMs();
    const query = {
      fieldSelector: `metadata.name=${objectName(config.session)}`,
      resourceVersion: lease.metadata.resourceVersion,
    };
    const watching = api.watch(
      leasesPath(config.namespace),
      query,
      (type, object) => (type === 'DELETED' ? stop.abort() : see(object)),
      stop.signal,
    );
    const lapse = (async () => {
      for (let leftMs = clock.leftMs(nowMs()); leftMs > 0; leftMs = clock.leftMs(nowMs()))
        await wait(leftMs, stop.signal);
    })();
    try {
      await Promise.race([watching, lapse]);
    } catch (error) {
      if (!stop.signal.aborted) throw error;
    } finally {
      clock.contact(nowMs());
      stop.abort();
      await Promise.allSettled([watching, lapse]);
    }
    // A gateway that ends every watch at once must not be asked in a tight loop.
    if (nowMs() - begunMs < SHORT_WATCH_MS) await wait(SHORT_WATCH_MS);
  }

  async function takeBack(lease: Json | undefined): Promise<void> {
    log(lease ? `the laptop was not heard of for ${silenceMs(lease) / 1_000} s` : 'the Lease is gone');
    const outcome = await putBack(api, config, podsOf);
    const { kept } = outcome;
    log(
      `${config.apiPath}: ${outcome.workload}${kept.length > 0 ? `; left as others made it: ${kept.join(', ')}` : ''}`,
    );
    if (lease && outcome.workload !== 'held-by-another') await forget(revisionsOnLease(lease));
    // Its last deed: what the Lease owns goes with it.
    const body = { apiVersion: 'v1', kind: 'DeleteOptions', propagationPolicy: 'Background' };
    const root = rootOf(config);
    if (lease || root !== path) await unlessGone(api.request('DELETE', root, { body }));
  }

  /** The agent's templates, once no pod has them any more. Pods that never get ready must not keep all else here. */
  async function forget(revisions: string[]): Promise<void> {
    const { isOver, allowed } = patience();
    for (const name of revisions) {
      while (!(await allowed(forgetRevision(api, config, name))) && !isOver()) await wait(LOOK_MS);
    }
  }

  /** One by one, as the restorer may read these by name and list none. */
  async function podsOf(workload: Json): Promise<Json[]> {
    const has = (name: string) => {
      const index = indexInStatefulSet({ metadata: { name } }, workload);
      return config.kind !== 'statefulset' || (index >= 0 && index < (workload.spec.replicas ?? 1));
    };
    const { isOver, allowed } = patience();
    const found: Json[] = [];
    for (const name of pods.filter(has)) {
      const apiPath = `/api/v1/namespaces/${config.namespace}/pods/${name}`;
      const read = () => allowed(readPod(api, { apiPath }));
      let pod = await read();
      for (; pod === false && !isOver(); pod = await read()) await wait(LOOK_MS);
      if (pod) found.push(pod);
    }
    return found;
  }

  /** With what the laptop named to it. A right that the Role lacks must not keep all else here either. */
  function patience() {
    const begunMs = nowMs();
    let refusedMs: number | undefined;
    const isOver = () => {
      const now = nowMs();
      return now - begunMs >= ROLLOUT_MS || (refusedMs !== undefined && now - refusedMs >= RIGHTS_MS);
    };
    /** @returns false when it is refused. */
    const allowed = async <T>(request: Promise<T>): Promise<T | false> => {
      try {
        const answer = await request;
        refusedMs = undefined;
        return answer;
      } catch (error) {
        if (!(error instanceof LpkError) || error.code !== 'forbidden') throw error;
        refusedMs ??= nowMs();
        if (isOver()) log(`left as it is: ${error.message}`);
        return false;
      }
    };
    return { isOver, allowed };
  }

  for (;;) {
    try {
      const lease = await readLease();
      if (lease && clock.leftMs(nowMs()) > 0) await watch(await mark(lease));
      else {
        await takeBack(lease);
        return;
      }
      pauseMs = FIRST_PAUSE_MS;
    } catch (error) {
      log(`${error instanceof Error ? error.message : error}; again in ${pauseMs / 1_000} s`);
      await wait(pauseMs);
      pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
    }
  }
}

/** What owns all else of the session: its Lease; of a bare pod the ConfigMap, which must outlive whatever somebody deletes. */
function rootOf({ kind, apiPath, namespace, session }: RestorerConfig): string {
  const isBare = kind === 'pod' && !isBeside({ apiPath }, session);
  return isBare ? savedPath(namespace, session) : leasePath(namespace, session);
}
