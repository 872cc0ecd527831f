import { setTimeout as sleep } from 'node:timers/promises';
import { LpkError } from '../wire/errors.ts';

/** The API server as a restore sees it: the laptop's connection and the restorer's own look the same from here. */

/** Whatever JSON the API server gave. */
// biome-ignore lint/suspicious/noExplicitAny: Kubernetes objects pass through untyped on purpose: lpk writes back what it read.
export type Json = any;

export type Method = 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE';
export type Query = Record<string, string | number | boolean | undefined>;

export type RequestOptions = {
  body?: unknown;
  /** `application/json` unless told otherwise. */
  contentType?: string;
  accept?: string;
  query?: Query;
  signal?: AbortSignal;
  /** Longest silence of the API server, connecting included. */
  timeoutMs?: number;
};

export type Api = {
  /** One request; the answer's JSON. LpkError by what the API server said; see `Cluster.request`. */
  request(method: Method, path: string, options?: RequestOptions): Promise<Json>;
};

/** Runs `attempt` again while it meets a `conflict`: somebody else wrote in between. At most 20 times. */
export async function retryOnConflict<T>(attempt: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof LpkError) || error.code !== 'conflict' || tries === 20) throw error;
      // The other writer is mostly a controller that writes the status several times in a row.
      await sleep(Math.random() * 20 * tries);
    }
  }
}

/** A deletion; that it is gone, or another has taken its name, is as good. */
export async function unlessGone(deletion: Promise<unknown>): Promise<void> {
  try {
    await deletion;
  } catch (error) {
    if (!(error instanceof LpkError) || (error.code !== 'not-found' && error.code !== 'conflict')) throw error;
  }
}
