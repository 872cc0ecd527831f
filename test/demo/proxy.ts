import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { Resolver } from 'node:dns/promises';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';

/** The second part of the demo: `lpk proxy up`, which replaces nothing. */
export async function demoProxy(given: {
  lpk: string;
  kubeconfig: string;
  check: (text: string, holds: boolean | undefined, seen: string | undefined) => void;
}): Promise<void> {
  const { lpk, kubeconfig, check } = given;
  const proxy = spawn(
    lpk,
    ['proxy', 'up', '-n', 'shop', '--port', '0', '--dns-port', '0', '--kubeconfig', kubeconfig],
    { stdio: ['ignore', 'inherit', 'pipe'] },
  );
  try {
    const [address, dns] = await ready(proxy);
    const { stdout } = await promisify(execFile)('curl', ['-sS', '--socks5-hostname', address, 'http://api/']);
    check('lpk proxy up: curl reaches http://api by SOCKS', stdout.startsWith('api in pod api-'), stdout.trim());
    const resolver = new Resolver();
    resolver.setServers([dns]);
    const pods = await resolver.resolve4('db.shop');
    check('… and its DNS server knows db.shop, a headless Service', pods.length > 0, pods.join(', '));
    const [srv] = await resolver.resolveSrv('_http._tcp.web.shop');
    check('… and SRV records', srv?.name === 'web.shop.svc.cluster.local', `${srv?.name}:${srv?.port}`);
  } catch (error) {
    check('lpk proxy up', false, String(error));
  } finally {
    const ended = new Promise((resolve) => proxy.once('exit', resolve));
    proxy.kill('SIGINT');
    await ended;
  }
}

/** Addresses of the proxy and the DNS server. */
function ready(proxy: ChildProcess): Promise<[string, string]> {
  return new Promise((resolve, reject) => {
    createInterface({ input: proxy.stderr as NodeJS.ReadableStream }).on('line', (line) => {
      console.log(`    ${line}`);
      const [, address, dns] = /socks5h:\/\/(\S+) or .*; DNS server (\S+)$/.exec(line) ?? [];
      if (address && dns) resolve([address, dns]);
    });
    proxy.once('exit', (code) => reject(new Error(`lpk proxy up ended with ${code}`)));
  });
}
