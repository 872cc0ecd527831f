import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import { PAC_TYPE, pacFile } from '../../../proxy/pac.ts';
import { debianFile } from './debian.ts';
import { door, fakeCluster, listen } from './fakes.ts';

/** Chromium with the door's PAC file. Where there is none, it is fetched once: 124 MB; the shell of headless tests knows no PAC. */

async function browse(t: TestContext, url: string, args: string[]): Promise<string> {
  const { file, env } = await debianFile('chromium', '/usr/lib/chromium/chromium');
  const profile = await mkdtemp(join(tmpdir(), 'lpk-chromium-'));
  const child = spawn(
    file,
    [
      // What goes past the proxy finds no name or address but loopback: nothing leaves the machine.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1',
      ...[
        '--no-sandbox',
        '--disable-gpu',
        '--disable-background-networking',
        '--no-first-run',
        '--headless=new',
        '--dump-dom',
      ],
      ...['--virtual-time-budget=10000', `--user-data-dir=${profile}`, ...args, url],
    ],
    { env: { PATH: process.env.PATH, HOME: profile, ...env }, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  // Its helpers may still write when it has ended.
  t.after(() => rm(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 }));
  const [dom, said] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  return dom || said;
}

test('Chromium: cluster names go through the door by the PAC file, localhost does not, and a page can not read the file', async (t) => {
  const cluster = fakeCluster({ replyEarly: false });
  const options = { domain: 'cluster.local', namespaces: ['shop'], ranges: ['10.96.0.0/12'], include: [] };
  const { port: doorPort } = await door(t, {
    dial: cluster.dial,
    pages: { '/proxy.pac': () => ({ type: PAC_TYPE, body: pacFile({ port: doorPort, ...options }) }) },
  });
  const pac = `http://127.0.0.1:${doorPort}/proxy.pac`;
  const page = `<p id=out>waiting</p><script src="${pac}"></script><script>
    const tell = (words) => document.getElementById('out').textContent = words + ', script: ' + typeof FindProxyForURL;
    fetch('${pac}').then((answer) => answer.text()).then(() => tell('fetch: read'), () => tell('fetch: refused'));
  </script>`;
  const port = await listen(
    t,
    http.createServer((request, response) => {
      response.setHeader('Content-Type', 'text/html');
      response.end(request.url === '/page' ? page : `<p>${request.headers.host}${request.url}</p>`);
    }),
  );
  const args = [`--proxy-pac-url=${pac}`];
  for (const host of ['web.shop', '10.96.0.10', 'db-0.db.shop.svc.cluster.local']) {
    const dom = await browse(t, `http://${host}:${port}/x`, args);
    assert.match(dom, new RegExp(`<p>${host}:${port}/x</p>`));
    assert.ok(
      cluster.flows.some((flow) => flow.host === host),
      host,
    );
  }
  const passed = () => cluster.flows.filter(({ host }) => host === 'localhost').length;
  assert.match(await browse(t, `http://localhost:${port}/here`, args), /localhost:\d+\/here/);
  assert.equal(passed(), 0);
  const dom = await browse(t, `http://web.shop:${port}/page`, args);
  assert.match(dom, /fetch: refused, script: undefined/);
});
