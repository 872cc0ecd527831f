import { openCluster } from '../../agent/deploy/kube.ts';
import { missingRights, type Right } from '../../agent/deploy/preflight.ts';
import { eventually } from './shop.ts';

/** Until this kubeconfig's user has these rights: the authorizer hears of a Role and its binding a moment after they are made. */
export async function inForce(kubeconfig: string, namespace: string, rights: Right[]): Promise<void> {
  const cluster = await openCluster({ kubeconfig, namespace });
  try {
    await eventually('the rights are in force', async () => (await missingRights(cluster, rights)).length === 0);
  } finally {
    cluster.close();
  }
}
