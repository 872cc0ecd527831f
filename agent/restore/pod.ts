import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { LpkError } from '../wire/errors.ts';
import { type Api, type Json, retryOnConflict, unlessGone } from './api.ts';
import { Edit, sameVersion } from './json-patch.ts';
import { patch } from './patch.ts';
import type { Held, RestoreOutcome } from './put-back.ts';
import { objectName, SESSION_ANNOTATION, sessionOf, sessionOfPod } from './record.ts';

/** Takes a session back that holds a pod itself, not a workload that makes pods: a pod can't be changed, only made anew. */

/** Of the session's ConfigMap: the pod as it was, a `SavedPod` as JSON. */
export const SAVED_POD_KEY = 'pod.json';

/** `uid`: of the pod it was read from. */
export type SavedPod = { uid: string; manifest: Json };

/** Is the pod of lpk's own make, beside a workload's others? Then it has the name of the session's objects. */
export function isBeside({ apiPath }: { apiPath: string }, session: string): boolean {
  return apiPath.endsWith(`/pods/${objectName(session)}`);
}

/** Of a session that holds a bare pod: the object that owns all others, and outlives the pod. */
export function savedPath(namespace: string, session: string): string {
  return `/api/v1/namespaces/${namespace}/configmaps/${objectName(session)}`;
}

/** Fields of a pod that are its own alone, or that the API server would refuse in a new one. */
const OF_THIS_POD = ['uid', 'resourceVersion', 'generation', 'creationTimestamp', 'managedFields', 'selfLink'];
/** Admission sets these from the classes that the pod names, and refuses others than it would set. */
const BY_ADMISSION = ['priority', 'preemptionPolicy', 'overhead'];

/**
 * What makes the same pod again. What admission has added stays (the token's volume, tolerations, a mesh's sidecar): it adds nothing
 * where it finds its own. The node is the scheduler's to choose again, unless whoever made the pod chose it; annotations that
 * came with its status (a network plugin's address) are not of the new one.
 */
export function manifestOf({ metadata, spec }: Json): Json {
  const without = (object: Json, fields: string[]) =>
    Object.fromEntries(Object.entries(object).filter(([field]) => !fields.includes(field)));
  const managed = (metadata.managedFields ?? []) as Json[];
  const written = managed.filter(({ subresource }) => subresource === undefined);
  const ofStatus = managed
    .filter(({ subresource }) => subresource === 'status')
    .flatMap(({ fieldsV1 }) => Object.keys(fieldsV1?.['f:metadata']?.['f:annotations'] ?? {}))
    .map((field) => field.replace(/^f:/, ''));
  const nodeChosen = written.some(({ fieldsV1 }) => fieldsV1?.['f:spec']?.['f:nodeName'] !== undefined);
  const annotations = without(metadata.annotations ?? {}, ofStatus);
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      ...without(metadata, [...OF_THIS_POD, 'annotations']),
      ...(Object.keys(annotations).length > 0 ? { annotations } : {}),
    },
    spec: without(spec, [...BY_ADMISSION, 'ephemeralContainers', ...(nodeChosen ? [] : ['nodeName'])]),
  };
}

/** As `putBack`. */
export async function putBackPod(api: Api, held: Held): Promise<RestoreOutcome> {
  const first = await readPod(api, held);
  const session = held.session ?? (first && sessionOf(first)?.id);
  if (!session) return { workload: first ? 'not-held' : 'gone', kept: [] };
  if (isBeside(held, session)) return await removeOwn(api, held, session, first);
  const saved = await readSaved(api, held.namespace, session);
  // Without it the session never began with the pod, or is over.
  if (!saved) return { workload: first ? 'not-held' : 'gone', kept: [] };
  return await retryOnConflict(() => remake(api, { ...held, session }, saved));
}

async function removeOwn(api: Api, held: Held, session: string, pod: Json | undefined): Promise<RestoreOutcome> {
  if (!pod) return { workload: 'gone', kept: [] };
  if (sessionOfPod(pod.spec) !== session) return { workload: 'held-by-another', kept: [] };
  await deletePod(api, held, pod);
  return { workload: 'removed', ...recordOf(pod), kept: [] };
}

/** From wherever a swap or another restore stopped. */
async function remake(api: Api, held: Held & { session: string }, saved: SavedPod): Promise<RestoreOutcome> {
  const pod = await readPod(api, held);
  const done = { ...recordOf(pod), kept: [] };
  const isAgent = pod && sessionOfPod(pod.spec) === held.session;
  const isOriginal = pod?.metadata.uid === saved.uid;
  if (pod && isOriginal && !pod.metadata.deletionTimestamp) {
    // As far as this it was only claimed.
    if (sessionOf(pod)?.id !== held.session) return { workload: 'not-held', ...done };
    await unclaim(api, held, pod);
    return { workload: 'restored', ...done };
  }
  if (pod && !isAgent && !isOriginal) {
    const same = isDeepStrictEqual(manifestOf(pod).spec, saved.manifest.spec);
    return { workload: same ? 'not-held' : 'held-by-another', kept: [] };
  }
  if (pod) await deletePod(api, held, pod);
  if (pod) await untilGone(api, held, pod);
  await api.request('POST', `/api/v1/namespaces/${held.namespace}/pods`, { body: saved.manifest });
  return { workload: 'restored', ...done };
}

/** The manifest; undefined when the session has none, or none any more. LpkError: what requests throw. */
async function readSaved(api: Api, namespace: string, session: string): Promise<SavedPod | undefined> {
  const configMap = await readIfThere(api, savedPath(namespace, session));
  const text = configMap?.data?.[SAVED_POD_KEY];
  return text === undefined ? undefined : (JSON.parse(text) as SavedPod);
}

/** A claim is an annotation: whoever writes it first has the pod. */
export async function claim(api: Api, held: Held, pod: Json, record: string): Promise<void> {
  const edit = new Edit(pod);
  edit.set(['metadata', 'annotations', SESSION_ANNOTATION], record);
  await patch(api, held, [...sameVersion(pod.metadata), ...edit.ops]);
}

async function unclaim(api: Api, held: Held, pod: Json): Promise<void> {
  const edit = new Edit(pod);
  const only = Object.keys(pod.metadata.annotations).length === 1;
  edit.remove(['metadata', 'annotations', ...(only ? [] : [SESSION_ANNOTATION])]);
  await patch(api, held, [...sameVersion(pod.metadata), ...edit.ops]);
}

export async function readPod(api: Api, { apiPath }: { apiPath: string }): Promise<Json | undefined> {
  return await readIfThere(api, apiPath);
}

/** This very pod: another may have its name by now. */
export async function deletePod(api: Api, { apiPath }: Held, { metadata: { uid } }: Json): Promise<void> {
  const body = { apiVersion: 'v1', kind: 'DeleteOptions', preconditions: { uid } };
  await unlessGone(api.request('DELETE', apiPath, { body }));
}

const FIRST_LOOK_MS = 100;
const LONGEST_PAUSE_MS = 1_000;
/** Beyond the time that the pod itself asks for to end. */
const SLACK_MS = 60_000;

/** Waits until a pod that was deleted is no more. LpkError `timed-out`. */
export async function untilGone(api: Api, held: Held, { metadata, spec }: Json): Promise<void> {
  const graceS: number = spec.terminationGracePeriodSeconds ?? 30;
  const until = performance.now() + graceS * 1_000 + SLACK_MS;
  for (let pauseMs = FIRST_LOOK_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
    if ((await readPod(api, held))?.metadata.uid !== metadata.uid) return;
    if (performance.now() > until) {
      const why = metadata.finalizers ? `: its finalizers (${metadata.finalizers.join(', ')})` : '';
      throw new LpkError('timed-out', `pod ${metadata.name} was deleted but does not end${why}`);
    }
    await sleep(pauseMs);
  }
}

/** Undefined when it is not there. LpkError: what requests throw. */
export async function readIfThere(api: Api, path: string): Promise<Json | undefined> {
  try {
    return await api.request('GET', path);
  } catch (error) {
    if (error instanceof LpkError && error.code === 'not-found') return undefined;
    throw error;
  }
}

function recordOf(pod: Json | undefined): Pick<RestoreOutcome, 'session'> {
  const session = pod && sessionOf(pod);
  return session ? { session } : {};
}
