import fs from 'node:fs';
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
  const missing = Object.keys(packages).filter((name) => !fs.existsSync(packages[name]!));
  if (missing.length === 0) return;
  const hint = `install them by hand: apt-get install ${missing.join(' ')}`;
  if (!fs.existsSync('/usr/bin/apt-get')) throw new ClusterError(`missing: ${missing.join(', ')}; ${hint}`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const install = () => run('apt-get', ['install', '-y', '--no-install-recommends', ...missing], { env, hint });
  await step(`installing ${missing.join(', ')}`, async () => {
    try {
      await install();
    } catch {
      // A new machine's package lists are empty or old.
      await run('apt-get', ['update'], { env, hint });
      await install();
    }
  });
}
