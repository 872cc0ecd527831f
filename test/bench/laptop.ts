import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { Laptop } from '../e2e/laptop.ts';

/** A computer of its own with a resolv.conf of its own, for what would change the names or routes of this one. */
export type BenchLaptop = {
  /** The command line that runs `command` there. */
  on: (command: string[]) => string[];
  remove(): Promise<void>;
};

/** Its nameserver is `127.0.0.1`, whether one runs there or not. `folder` takes its resolv.conf. */
export async function makeLaptop(folder: string): Promise<BenchLaptop> {
  const resolvConf = path.join(folder, 'resolv.conf');
  writeFileSync(resolvConf, 'nameserver 127.0.0.1\n');
  const laptop = await Laptop.make();
  const script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"';
  return {
    on: (command) =>
      laptop.on(['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, resolvConf, ...command]),
    remove: () => laptop.remove(),
  };
}
