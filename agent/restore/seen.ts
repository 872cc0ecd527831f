import { setTimeout as sleep } from 'node:timers/promises';
import type { Api, Json } from './api.ts';

/** Longest wait for a controller to see a changed template, ms. */
const SEEN_MS = 30_000;
const LOOK_MS = 50;

/** Has the controller seen the spec as it is? Argo's says by a string which generation it saw. */
export function isSeen({ metadata, status }: Json): boolean {
  return Number(status?.observedGeneration) >= metadata.generation;
}

/** The workload once its controller has seen its spec; or as it is when that takes too long. LpkError: what requests throw. */
export async function untilSeen(api: Api, { apiPath }: { apiPath: string }): Promise<Json> {
  const until = performance.now() + SEEN_MS;
  let workload = await api.request('GET', apiPath);
  while (!isSeen(workload) && performance.now() < until) {
    await sleep(LOOK_MS);
    workload = await api.request('GET', apiPath);
  }
  return workload;
}
