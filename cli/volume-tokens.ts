import type { Cluster, Json } from '../agent/deploy/kube.ts';
import { fillVolumes, hasVolumes } from './env-tokens.ts';
import { matchesAny } from './environment-options.ts';
import type { Output } from './output.ts';

/** Where every pod has its service account's token. */
const SERVICE_ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';

export type VolumeMount = { name: string; mountPath: string };

/**
 * Variables with `$(volumeMounts:NAME)` as the folder where the command finds that volume. One that the pod has not is told, and the
 * variable left out. `place`: undefined when the volumes are not copied; then it is the pod's own path, and that is told.
 */
export function placeVolumes(
  set: Record<string, string>,
  mounts: VolumeMount[],
  place: ((mountPath: string) => string) | undefined,
  warn: (text: string) => void,
): Record<string, string> {
  const placed: Record<string, string> = {};
  for (const [variable, value] of Object.entries(set)) {
    const missing: string[] = [];
    const filled = fillVolumes(value, (name) => {
      const mount = mountOf(name, mounts);
      if (!mount) missing.push(name);
      return mount ? (place?.(mount.mountPath) ?? mount.mountPath) : '';
    });
    if (missing.length > 0) {
      const there = mounts.map(({ name }) => name).join(', ') || 'none';
      warn(`${variable} is left out: the pod has no volume ${missing.join(', ')} (it has: ${there})`);
      continue;
    }
    if (filled !== value && !place) warn(`${variable} names a file of the pod, whose volumes are not copied`);
    placed[variable] = filled;
  }
  return placed;
}

/** The first that fits. What Kubernetes called NAME-token-XXXXX until 1.24 has another name by now, and the same place. */
function mountOf(name: string, mounts: VolumeMount[]): VolumeMount | undefined {
  const named = mounts.find((each) => matchesAny([name], each.name));
  if (named || !/-token-/.test(name)) return named;
  return mounts.find(({ mountPath }) => mountPath === SERVICE_ACCOUNT);
}

/** {@link placeVolumes} with what the container of this pod has mounted, which is asked for only when a variable needs it. */
export async function withVolumePlaces(
  set: Record<string, string>,
  given: {
    cluster: Cluster;
    namespace: string;
    pod: string;
    container: string;
    place: ((mountPath: string) => string) | undefined;
    output: Pick<Output, 'warn'>;
  },
): Promise<Record<string, string>> {
  if (!Object.values(set).some(hasVolumes)) return set;
  const { cluster, namespace, pod, container, place, output } = given;
  // A list, which the session may ask for anyhow; to get a pod takes another right.
  const query = { fieldSelector: `metadata.name=${pod}` };
  const { items } = await cluster.request('GET', `/api/v1/namespaces/${namespace}/pods`, { query });
  const own = ((items[0]?.spec.containers ?? []) as Json[]).find(({ name }) => name === container);
  return placeVolumes(set, own?.volumeMounts ?? [], place, (text) => output.warn(text, 'volume-missing'));
}
