import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

/** Kubernetes as the cluster runs it when no version is asked for; `kube/go.mod` pins it. */
export const DEFAULT_VERSION = '1.37.2';

/** What went wrong, why, and what to do next, in one line for the user. */
export class ClusterError extends Error {
  override name = 'ClusterError';
}

const cacheHome = process.env.XDG_CACHE_HOME || path.join(os.homedir(), '.cache');

/** What is built or fetched once. */
export const cache = path.join(cacheHome, 'lpk');

/** Several may run beside each other on one machine: `LPK_CLUSTER` is the number of the one that is meant, from 1 (as without it) to 9. */
const number = clusterNumber(process.env.LPK_CLUSTER);
export const clusterName = number === 1 ? 'cluster' : `cluster-${number}`;

/** The cluster's keys, settings, data and logs. Nobody else may read it. */
export const state = path.join(cache, clusterName);

/** The node's own cgroup in each hierarchy, for all of its pods. */
export const cgroup = `lpk-${clusterName}`;

export const kubeconfigFile = path.join(state, 'kubeconfig');
export const pki = path.join(state, 'pki');
export const logs = path.join(state, 'log');

/** The host's end of the link is `host`, the node's is `node`. The host has no route to pods and Services. */
export const network = {
  link: `lpk-${clusterName}`,
  host: `198.19.${16 * (number - 1)}.1`,
  node: `198.19.${16 * (number - 1)}.2`,
  pods: '10.244.0.0/16',
  nodePods: '10.244.0.0/24',
  services: '10.96.0.0/16',
  apiService: '10.96.0.1',
  dns: '10.96.0.10',
  domain: 'cluster.local',
};

function clusterNumber(given: string | undefined): number {
  if (!given) return 1;
  if (!/^[1-9]$/.test(given)) throw new ClusterError(`LPK_CLUSTER is a number from 1 to 9, not ${given}`);
  return Number(given);
}

/** Writes a file that only root reads. */
export function writePrivate(file: string, text: string): void {
  fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
  fs.writeFileSync(file, text, { mode: 0o600 });
}
