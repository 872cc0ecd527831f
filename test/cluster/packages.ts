import fs from 'node:fs';
import { locked } from './lock.ts';
import { ClusterError } from './place.ts';
import { step } from './progress.ts';
import { run } from './run.ts';

/** Debian's packages, each with a file that tells whether it is there. */
export type Packages = Record<string, string>;

const clusterPackages: Packages = {
  containerd: '/usr/bin/containerd',
  runc: '/usr/sbin/runc',
  'containernetworking-plugins': '/usr/lib/cni/ptp',
  iptables: '/usr/sbin/iptables', // for a pod's hostPort
  nftables: '/usr/sbin/nft', // for kube-proxy
  iproute2: '/usr/sbin/ip',
  openssl: '/usr/bin/openssl',
  'busybox-static': '/usr/share/doc/busybox-static', // the package busybox has the program, too
};

/** Installs what is missing: of the cluster, or of a test. */
export async function installPackages(packages: Packages = clusterPackages): Promise<void> {
  const missing = () => Object.keys(packages).filter((name) => !fs.existsSync(packages[name]!));
  if (missing().length === 0) return;
  await locked('packages', () => install(missing()));
}

/** For a mirror that fails now and then, and for a machine that is just updating itself. */
export const APT_PATIENCE = ['-o', 'Acquire::Retries=5', '-o', 'DPkg::Lock::Timeout=300'];

async function install(missing: string[]): Promise<void> {
  if (missing.length === 0) return; // another has installed them meanwhile
  const hint = `install them by hand: apt-get install ${missing.join(' ')}`;
  if (!fs.existsSync('/usr/bin/apt-get')) throw new ClusterError(`missing: ${missing.join(', ')}; ${hint}`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const apt = (...args: string[]) => run('apt-get', [...APT_PATIENCE, ...args], { env, hint });
  const installAll = () => apt('install', '-y', '--no-install-recommends', ...missing);
  await step(`installing ${missing.join(', ')}`, async () => {
    try {
      await installAll();
    } catch {
      // A new machine's package lists are empty or old.
      await apt('update');
      await installAll();
    }
  });
}
