import { spawn } from 'node:child_process';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { sign, writeKubeconfig } from './credentials.ts';
import { kubeconfigFile } from './place.ts';
import { run } from './run.ts';
import { cluster, upForTest } from './up.ts';

/** For tests: makes sure that the cluster runs, of whichever version, and gives the path of the admin's kubeconfig. */
export async function clusterUp(): Promise<{ kubeconfig: string }> {
  return { kubeconfig: await upForTest() };
}

/** Writes a kubeconfig for a user of this name and these groups, who may do what RBAC lets them. */
export async function userKubeconfig(file: string, name: string, groups: string[] = []): Promise<void> {
  const unique = `user-${process.pid}-${path.basename(file)}`;
  writeKubeconfig(file, name, await sign(unique, name, groups));
}

/** Runs kubectl as the admin, or with another kubeconfig, and gives its stdout. Throws a ClusterError when it fails. */
export async function kubectl(args: string[], options: { input?: string; kubeconfig?: string } = {}): Promise<string> {
  const { input, kubeconfig = kubeconfigFile } = options;
  return run(cluster().kube, ['kubectl', ...args], { input, env: { ...process.env, KUBECONFIG: kubeconfig } });
}

/** What kubectl prints until it ends; also when it breaks off, as `logs --follow` may, which says nothing of who is listened to. */
export async function kubectlOutput(args: string[]): Promise<string> {
  const env = { ...process.env, KUBECONFIG: kubeconfigFile };
  const child = spawn(cluster().kube, ['kubectl', ...args], { stdio: ['ignore', 'pipe', 'inherit'], env });
  return await text(child.stdout);
}
