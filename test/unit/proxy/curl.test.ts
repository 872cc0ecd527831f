import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { Flow } from '../../../proxy/flow.ts';
import { door, fakeCluster, listen } from './fakes.ts';
import { TLS_CERTIFICATE, TLS_KEY } from './tls-fixture.ts';

/** A real client at every door. */

type Curl = { exit: number; stdout: string; stderr: string };

async function curl(...args: string[]): Promise<Curl> {
  const child = spawn('curl', ['--silent', '--show-error', '--max-time', '20', '--noproxy', '', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env.PATH },
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('latin1').on('data', (text) => {
    stdout += text;
  });
  child.stderr.setEncoding('latin1').on('data', (text) => {
    stderr += text;
  });
  const [exit] = await once(child, 'close');
  return { exit, stdout, stderr };
}

async function setUp(t: TestContext, { replyEarly = false } = {}) {
  const handle: http.RequestListener = async (request, response) => {
    const hash = createHash('sha256');
    let bytes = 0;
    for await (const chunk of request) {
      hash.update(chunk);
      bytes += chunk.length;
    }
    const { method, url, headers } = request;
    response.end(JSON.stringify({ method, url, host: headers.host, bytes, sha256: hash.digest('hex') }));
  };
  const port = await listen(t, http.createServer(handle));
  const securePort = await listen(t, https.createServer({ key: TLS_KEY, cert: TLS_CERTIFICATE }, handle));
  const cluster = fakeCluster({ replyEarly });
  const { port: doorPort } = await door(t, cluster);
  const folder = await mkdtemp(join(tmpdir(), 'lpk-curl-'));
  t.after(() => rm(folder, { recursive: true }));
  const certificate = join(folder, 'ca.pem');
  await writeFile(certificate, TLS_CERTIFICATE);
  return { port, securePort, cluster, folder, certificate, proxy: `127.0.0.1:${doorPort}` };
}

/** How to tell curl of the door; how the door then sees `web.shop` and `10.96.0.10`. */
const DOORS: Record<string, { args: (proxy: string) => string[]; hosts: string[] }> = {
  '--socks5-hostname': { args: (proxy) => ['--socks5-hostname', proxy], hosts: ['web.shop', '10.96.0.10', 'fd00::a'] },
  '--socks5': { args: (proxy) => ['--socks5', proxy], hosts: ['10.96.0.10', 'fd00::a'] },
  '--socks4a': { args: (proxy) => ['--socks4a', proxy], hosts: ['web.shop', '10.96.0.10'] },
  '--socks4': { args: (proxy) => ['--socks4', proxy], hosts: ['10.96.0.10'] },
  '-x': { args: (proxy) => ['-x', `http://${proxy}`], hosts: ['web.shop', '10.96.0.10', 'fd00::a'] },
  '-x --proxytunnel': {
    args: (proxy) => ['-x', `http://${proxy}`, '-p'],
    hosts: ['web.shop', '10.96.0.10', 'fd00::a'],
  },
};

for (const [name, { args, hosts }] of Object.entries(DOORS)) {
  for (const replyEarly of [false, true]) {
    test(`curl ${name}, answering ${replyEarly ? 'early' : 'after the dial'}`, async (t) => {
      const { port, cluster, proxy } = await setUp(t, { replyEarly });
      for (const host of hosts) {
        const place = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
        const { exit, stdout, stderr } = await curl(...args(proxy), `http://${place}/path?q`, `http://${place}/again`);
        assert.deepEqual({ exit, stderr }, { exit: 0, stderr: '' });
        assert.ok(stdout.includes(`"url":"/path?q","host":"${place}"`), stdout);
        assert.ok(stdout.includes(`"url":"/again","host":"${place}"`), stdout);
        const expected: Flow = { protocol: 'tcp', host, port };
        assert.deepEqual(cluster.flows.at(-1), expected);
      }
    });
  }
}

for (const [name, { args }] of Object.entries(DOORS).filter(([, { hosts }]) => hosts.includes('web.shop'))) {
  test(`curl ${name} to a TLS server, verified end to end`, async (t) => {
    const { securePort, certificate, proxy, cluster } = await setUp(t);
    const { exit, stdout, stderr } = await curl(
      ...args(proxy),
      '--cacert',
      certificate,
      `https://secure.test:${securePort}/s`,
    );
    assert.deepEqual({ exit, stderr }, { exit: 0, stderr: '' });
    assert.match(stdout, /"url":"\/s"/);
    assert.deepEqual(cluster.flows, [{ protocol: 'tcp', host: 'secure.test', port: securePort }]);
  });

  test(`curl ${name} -T uploads, with and without 100-continue, sized and chunked`, async (t) => {
    const { port, folder, proxy } = await setUp(t);
    const file = join(folder, 'upload');
    await writeFile(file, Buffer.alloc(3_000_001, 'lpk '));
    const sha256 = createHash('sha256')
      .update(await readFile(file))
      .digest('hex');
    const variants = [[], ['-H', 'Expect:'], ['-H', 'Expect: 100-continue'], ['-H', 'Transfer-Encoding: chunked']];
    for (const headers of variants) {
      const { exit, stdout, stderr } = await curl(...args(proxy), ...headers, '-T', file, `http://web:${port}/put`);
      assert.deepEqual({ exit, stderr }, { exit: 0, stderr: '' });
      const { method, bytes, sha256: seen } = JSON.parse(stdout);
      assert.deepEqual({ method, bytes, seen }, { method: 'PUT', bytes: 3_000_001, seen: sha256 }, headers.join(' '));
    }
  });
}

/** What curl says of a dial that fails: its exit code (RFC 1928 replies are all 97 to it) and the number in its message. */
const FAILURES: Record<string, { exit: number; says: RegExp }[]> = {
  refused: [
    { exit: 97, says: /\(5\)/ },
    { exit: 97, says: /91/ },
    { exit: 56, says: /502/ },
  ],
  'timed-out': [
    { exit: 97, says: /\(6\)/ },
    { exit: 97, says: /91/ },
    { exit: 56, says: /504/ },
  ],
  'not-allowed': [
    { exit: 97, says: /\(2\)/ },
    { exit: 97, says: /91/ },
    { exit: 56, says: /403/ },
  ],
};

for (const [code, [socks5, socks4, connect]] of Object.entries(FAILURES)) {
  test(`curl is told: ${code}`, async (t) => {
    const { proxy } = await setUp(t);
    for (const [expected, args] of [
      [socks5, ['--socks5-hostname', proxy]],
      [socks4, ['--socks4a', proxy]],
      [connect, ['-p', '-x', `http://${proxy}`]],
    ] as const) {
      const { exit, stderr } = await curl(...args, `http://${code}.fail/`);
      assert.equal(exit, expected?.exit, stderr);
      assert.match(stderr, expected?.says as RegExp);
    }
  });

  test(`curl is told early: ${code}`, async (t) => {
    const { proxy, cluster } = await setUp(t, { replyEarly: true });
    cluster.release();
    for (const args of [
      ['--socks5-hostname', proxy],
      ['--socks4a', proxy],
      ['-p', '-x', `http://${proxy}`],
    ]) {
      const { exit } = await curl(...args, `http://${code}.fail/`);
      // Reset while it talks to the proxy (97, 56) or to what it takes for the server (52, 55, 56): never a success.
      assert.ok([52, 55, 56, 97].includes(exit), `exit code ${exit}`);
    }
  });
}

test('curl -x shows the one line of a failed dial, an upload included', async (t) => {
  const { proxy, folder } = await setUp(t);
  const file = join(folder, 'upload');
  await writeFile(file, Buffer.alloc(5_000_000));
  for (const args of [[], ['-T', file], ['-T', file, '-H', 'Expect:']]) {
    const { exit, stdout } = await curl('-x', `http://${proxy}`, ...args, '-w', '%{http_code}', 'http://refused.fail/');
    assert.equal(exit, 0);
    assert.equal(stdout, 'lpk: refused.fail: the dial failed\n502');
  }
});
