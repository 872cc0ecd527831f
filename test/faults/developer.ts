import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { rightsToReach } from '../../agent/deploy/preflight.ts';
import { inForce } from '../e2e/in-force.ts';
import type { Scene } from '../e2e/scene.ts';
import { readRoles, rulesOf } from '../rbac.ts';

const RBAC = path.join(import.meta.dirname, '../../docs/rbac.yaml');
const ROLES = ['lpk-connect', 'lpk-proxy', 'lpk-status', 'lpk-restore'];
const TOKEN_SECONDS = 24 * 3_600;

/**
 * Makes a kubeconfig that of a user with docs/rbac.yaml's rights in the scene's namespace and no others: unlike an administrator, an API
 * server that is just starting does not know them yet.
 */
export async function asDeveloper(scene: Scene, kubeconfig: string): Promise<void> {
  const { namespace, cluster } = scene;
  const roles = readRoles(readFileSync(RBAC, 'utf8'));
  // The Roles have one of the two ways to a pod, and say that the other is as good.
  const rights = [...ROLES.flatMap((role) => roles.get(role) ?? []), ...rightsToReach('port-forward')];
  const rbac = { apiVersion: 'rbac.authorization.k8s.io/v1', metadata: { name: 'developer' } };
  await scene.apply(
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'developer' } },
    { ...rbac, kind: 'Role', rules: rulesOf(rights) },
    {
      ...{ ...rbac, kind: 'RoleBinding' },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'developer' },
      subjects: [{ kind: 'ServiceAccount', name: 'developer', namespace }],
    },
  );
  const account = `/api/v1/namespaces/${namespace}/serviceaccounts/developer/token`;
  const { status } = await cluster.request('POST', account, {
    body: {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenRequest',
      spec: { expirationSeconds: TOKEN_SECONDS },
    },
  });
  const config = JSON.parse(readFileSync(kubeconfig, 'utf8'));
  config.users = [{ name: 'developer', user: { token: status.token } }];
  for (const { context } of config.contexts) context.user = 'developer';
  writeFileSync(kubeconfig, JSON.stringify(config));
  await inForce(kubeconfig, namespace, rights);
}
