import path from 'node:path';
import { run } from '../cluster/run.ts';
import { Lpk } from '../e2e/lpk.ts';
import { makeLaptop } from './laptop.ts';
import { family, processInPod } from './processes.ts';
import type { Scene } from './scene.ts';
import { PORTS } from './servers.ts';
import type { Subject } from './subjects.ts';

/** `lpk proxy up --tun --system-dns` on a computer of its own, and the load there, as a program that knows of no proxy. */
export async function openTun({ namespace, kubeconfig, service }: Scene, folder: string): Promise<Subject> {
  const built = await run(path.join(import.meta.dirname, '../../scripts/tun2socks'), []);
  const env = {
    XDG_STATE_HOME: path.join(folder, 'state'),
    LPK_TUN2SOCKS: built.trim().split('\n').at(-1) as string,
  };
  const laptop = await makeLaptop(folder);
  const lpk = new Lpk(
    [
      ...['proxy', 'up', '-n', namespace, '--kubeconfig', kubeconfig],
      ...['--transport', 'proxy', '--tun', '--system-dns'],
    ],
    { env, around: laptop.on },
  );
  const close = async () => {
    lpk.signal('SIGINT');
    await lpk.exit();
    await laptop.remove();
  };
  try {
    const { pid, pod } = await lpk.event('ready');
    return {
      name: 'lpk proxy, TUN',
      way: (server, byAddress = false) => ({
        host: byAddress ? service.address : service.name,
        port: PORTS[server],
      }),
      on: laptop.on,
      pids: { laptop: family(pid), agent: await processInPod(namespace, pod, 'agent.mjs') },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
