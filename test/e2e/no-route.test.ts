import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, test } from 'node:test';
import { Laptop } from './laptop.ts';
import { endAll, Lpk } from './lpk.ts';
import { Shop, service, workload } from './shop.ts';

/** From a computer without any route to the cluster's pods and Services: lpk is the only way. */

let shop: Shop;
let laptop: Laptop;
let lpk: Lpk;
let proxyPort: number;

before(async () => {
  shop = await Shop.open('route');
  await shop.deploy(
    workload('Deployment', 'web'),
    service('web', [[80, 8080]]),
    workload('Deployment', 'api'),
    service('api', [[80, 8080]]),
  );
  laptop = await Laptop.make();
  lpk = new Lpk(shop.args('connect', 'web'), { around: (command) => laptop.on(command) });
  ({ proxyPort } = await lpk.event('ready'));
});

after(async () => {
  endAll();
  await laptop?.remove();
  await shop?.close();
});

test('curl reaches a Service by its name through SOCKS and HTTP', async () => {
  const { namespace } = shop;
  for (const way of [
    ['--socks5-hostname', `127.0.0.1:${proxyPort}`],
    ['-x', `http://127.0.0.1:${proxyPort}`],
    ['--proxytunnel', '-x', `http://127.0.0.1:${proxyPort}`],
  ]) {
    for (const host of ['api', `api.${namespace}`, `api.${namespace}.svc.cluster.local`]) {
      const got = await curl(...way, `http://${host}/`);
      assert.match(
        got.stdout,
        /^api in pod api-/,
        `curl ${way.join(' ')} http://${host}/: got ${JSON.stringify(got)}; ${lpk}`,
      );
    }
  }
});

test('plain curl to the Service’s address finds no route, through lpk it does', async () => {
  const { clusterIP } = (await shop.get('services/api')).spec;
  const plain = await curl('--noproxy', '*', `http://${clusterIP}/`);
  assert.equal(plain.code, 7, `expected curl's "could not connect" (7), got ${JSON.stringify(plain)}`);
  const through = await curl('--socks5', `127.0.0.1:${proxyPort}`, `http://${clusterIP}/`);
  assert.match(through.stdout, /^api in pod api-/, `got ${JSON.stringify(through)}; ${lpk}`);
});

function curl(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const [program, ...words] = laptop.on(['curl', '-sS', '--max-time', '10', ...args]) as [string, ...string[]];
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/_proxy$/i.test(name)));
  return new Promise((resolve) => {
    execFile(program, words, { env }, (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code) : 0, stdout, stderr }),
    );
  });
}
