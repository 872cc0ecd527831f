import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { installPackages } from '../cluster/packages.ts';
import { run as runToEnd } from '../cluster/run.ts';
import { Backends, PATTERN_BYTES } from './backends.ts';
import { Laptop } from './laptop.ts';
import { endAll, Lpk } from './lpk.ts';
import { deployNames, names, podAnswers } from './names.ts';
import { eventually, Shop } from './shop.ts';
import { timedLookUp, tookMs } from './timed-lookup.ts';

/** `lpk proxy up --tun --system-dns`: programs without any setting, on a computer (a namespace) with a nameserver of its own. */

const GIB = 1024 ** 3;
const RESOLV_CONF = '# by hand\nnameserver 127.0.0.1\nsearch home\noptions timeout:5\n';
const OUTSIDE = { name: 'outside.example', address: '192.0.2.7' };

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-tun-'));
const resolvConf = path.join(dir, 'resolv.conf');
const env = { XDG_STATE_HOME: path.join(dir, 'state'), LPK_TUN2SOCKS: '' };

let shop: Shop;
let other: Shop;
let laptop: Laptop;
let backends: Backends;
let nameserver: Lpk;

before(async () => {
  await installPackages({
    ...{ 'bind9-dnsutils': '/usr/bin/dig', curl: '/usr/bin/curl', 'redis-tools': '/usr/bin/redis-cli' },
    ...{ 'postgresql-client': '/usr/bin/psql' },
  });
  const built = await runToEnd(path.join(import.meta.dirname, '../../scripts/tun2socks'), []);
  env.LPK_TUN2SOCKS = built.trim().split('\n').at(-1) as string;
  writeFileSync(resolvConf, RESOLV_CONF);
  shop = await Shop.open('tun');
  other = await Shop.open('tun-b');
  laptop = await Laptop.make();
  nameserver = new Lpk([], {
    json: false,
    around: () =>
      on([
        process.execPath,
        path.join(import.meta.dirname, 'tiny-dns.ts'),
        '127.0.0.1',
        `${OUTSIDE.name}=${OUTSIDE.address}`,
      ]),
  });
  await nameserver.line(/^ready/);
  [backends] = await Promise.all([Backends.start(shop), deployNames(shop, other)]);
});

after(async () => {
  endAll();
  await backends?.stop();
  await laptop?.remove();
  await Promise.all([shop?.close(), other?.close()]);
  rmSync(dir, { recursive: true });
});

afterEach(async () => {
  assert.equal(readFileSync(resolvConf, 'utf8'), RESOLV_CONF, 'resolv.conf is as it was');
  assert.deepEqual(await lpkLinks(), [], 'no device is left');
  assert.deepEqual(changesLeft(), [], 'no change is left to undo');
});

describe('the cluster’s own addresses', () => {
  test('curl, psql, redis-cli, dig, a UDP echo and 1 GiB, and then nothing is left', async () => {
    const routes = await routesOf();
    const lpk = proxyUp('--tun', '--system-dns');
    const { doors } = await lpk.event('ready');
    assert.equal(doors.systemDns, 'resolv.conf');
    assert.match(doors.tun.ranges.join(' '), /10\.96\.0\.0/);
    await everyProgram(lpk);
    const { stdout } = await laptopRun(['dig', '@10.96.0.10', '+short', `web.${shop.namespace}.svc.cluster.local`]);
    assert.match(stdout, /^10\.96\.\d+\.\d+\n$/, `dig @10.96.0.10 through the device: ${stdout}; ${lpk}`);
    lpk.signal('SIGINT');
    assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
    assert.equal(await routesOf(), routes);
  });

  test('every form of name leads where it leads a pod', async () => {
    const all = await names(shop, other);
    const lpk = proxyUp('--tun', '--system-dns');
    const { dns } = (await lpk.event('ready')).doors;
    for (const { name, page } of all) {
      if (!page) continue;
      const got = await laptopRun(['curl', '-sS', '--max-time', '10', `http://${name}:${page.port}/`]);
      assert.match(got.stdout, page.pattern, `curl http://${name}:${page.port}/: ${JSON.stringify(got)}; ${lpk}`);
    }
    const expected = await podAnswers(shop, all);
    const [server] = dns.split(':');
    for (const [i, { name, type }] of all.entries()) {
      if (type === 'A' || type === 'AAAA') continue;
      const { stdout } = await laptopRun(['dig', `@${server}`, '+short', name, type]);
      assert.deepEqual(stdout.split('\n').filter(Boolean).sort(), expected[i], `dig ${name} ${type}; ${lpk}`);
    }
    lpk.signal('SIGTERM');
    await lpk.exit();
  });

  test('after kill -9 outside names never stop, and the next lpk command removes the rest', async () => {
    const routes = await routesOf();
    const lpk = proxyUp('--tun', '--system-dns');
    await lpk.event('ready');
    await outsideWorks();
    // lpk itself, and not the programs around it in the namespaces.
    const { pid } = await lpk.event('ready');
    process.kill(pid, 'SIGKILL');
    await lpk.exit();
    assert.ok((await outsideWorks()) < 2_000, 'outside names resolve within 2 s');
    await eventually('the device goes with lpk', async () => (await lpkLinks()).length === 0);
    assert.equal(await routesOf(), routes);
    assert.notEqual(readFileSync(resolvConf, 'utf8'), RESOLV_CONF, 'no command has run yet');
    const next = await laptopRun([process.execPath, MAIN, 'proxy', 'status']);
    assert.match(next.stderr, /undid what an lpk that is gone/, next.stderr);
    await outsideWorks();
    const restored = await laptopRun([
      process.execPath,
      MAIN,
      'restore',
      '--all',
      '-n',
      shop.namespace,
      '--kubeconfig',
      shop.kubeconfig,
    ]);
    assert.equal(restored.code, 0, restored.stderr);
  });
});

describe('a computer that uses the Service range itself', () => {
  before(async () => {
    // As a dummy link would, which not every kernel has.
    for (const line of [
      'link add name corp-vpn type veth peer name corp-far',
      'link set corp-far up',
      'link set corp-vpn up',
      'addr add 10.96.1.1/12 dev corp-vpn',
    ]) {
      const { code, stderr } = await laptopRun(['ip', ...line.split(' ')]);
      assert.equal(code, 0, stderr);
    }
  });

  after(async () => {
    await laptopRun(['ip', 'link', 'del', 'corp-vpn']);
  });

  test('--tun is refused with both named, and nothing is changed', async () => {
    const lpk = proxyUp('--tun', '--system-dns');
    const { code, message } = await lpk.event('error');
    assert.equal(code, 'route-overlap');
    assert.match(message, /10\.96\.0\.0\/1\d .*corp-vpn/);
    assert.deepEqual(await lpk.exit(), { code: 1, signal: null });
  });

  test('--fake-ip works beside it: every program, and 1 GiB', async () => {
    const routes = await routesOf();
    const lpk = proxyUp('--tun', '--system-dns', '--fake-ip-range', '198.18.0.0/16');
    const { doors } = await lpk.event('ready');
    assert.deepEqual(doors.tun.ranges, ['198.18.0.0/16']);
    const { stdout } = await laptopRun(['getent', 'ahostsv4', `web.${shop.namespace}`]);
    assert.match(stdout, /^198\.18\./);
    await everyProgram(lpk);
    lpk.signal('SIGINT');
    await lpk.exit();
    assert.equal(await routesOf(), routes);
  });
});

const MAIN = path.join(import.meta.dirname, '../../cli/main.ts');

/** No proxy variable is set, and every program uses names as a pod would. */
async function everyProgram(lpk: Lpk): Promise<void> {
  const { namespace } = shop;
  const table: [string[], RegExp][] = [
    [['curl', '-sS', '--max-time', '10', `http://web.${namespace}/`], /^web in pod web-/],
    [['curl', '-sS', '--max-time', '10', `http://web.${other.namespace}/`], /^other in pod web-/],
    [
      ['psql', '-h', `pg.${namespace}`, '-U', 'postgres', '-Atc', "select 6 * 7, 'from postgres'"],
      /^42\|from postgres$/m,
    ],
    [['redis-cli', '-h', `redis.${namespace}`, 'set', 'greeting', 'hello'], /^OK$/m],
    [['redis-cli', '-h', `redis.${namespace}`, 'get', 'greeting'], /^hello$/m],
    [
      [process.execPath, path.join(import.meta.dirname, 'udp-echo.ts'), `bulk.${namespace}`, '7777'],
      /^100 of 100 came back$/m,
    ],
    [['getent', 'ahostsv4', OUTSIDE.name], /^192\.0\.2\.7 /],
  ];
  for (const [command, pattern] of table) {
    const got = await laptopRun(command);
    assert.match(got.stdout, pattern, `${command.join(' ')}: ${JSON.stringify(got)}; ${lpk}`);
  }
  const download = `curl -sS --max-time 300 http://bulk.${namespace}/${GIB} | sha256sum`;
  assert.equal((await laptopRun(['bash', '-c', download])).stdout, `${patternHash(GIB)}  -\n`, `${lpk}`);
}

/** @returns how long it took, ms. */
async function outsideWorks(): Promise<number> {
  const { stdout } = await laptopRun(timedLookUp(OUTSIDE.name));
  assert.match(stdout, /^192\.0\.2\.7 /);
  return tookMs(stdout);
}

function patternHash(bytes: number): string {
  const piece = Buffer.from(Array.from({ length: PATTERN_BYTES }, (_, i) => i % 251));
  const hash = createHash('sha256');
  for (let left = bytes; left > 0; left -= piece.length) hash.update(piece.subarray(0, Math.min(left, piece.length)));
  return hash.digest('hex');
}

function proxyUp(...args: string[]): Lpk {
  return new Lpk(['proxy', 'up', '-n', shop.namespace, '--kubeconfig', shop.kubeconfig, ...args], { env, around: on });
}

/** On the laptop, with a resolv.conf of its own. */
function on(command: string[]): string[] {
  const script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"';
  return laptop.on(['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, resolvConf, ...command]);
}

function laptopRun(command: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const [program, ...words] = on(command) as [string, ...string[]];
  const clean = Object.entries({ ...process.env, ...env }).filter(([name]) => !/_proxy$/i.test(name));
  return new Promise((resolve) => {
    execFile(program, words, { env: Object.fromEntries(clean) }, (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code) : 0, stdout, stderr }),
    );
  });
}

/** Without link-local addresses, which the kernel gives its links a second after they are up. */
async function routesOf(): Promise<string> {
  const { stdout } = await laptopRun(['sh', '-c', 'ip route show table all; ip -6 route show table all']);
  return stdout
    .split('\n')
    .filter((line) => !line.includes('fe80:'))
    .join('\n');
}

async function lpkLinks(): Promise<string[]> {
  const { stdout } = await laptopRun(['ip', '-br', 'link']);
  return stdout.split('\n').filter((line) => /^lpk/.test(line));
}

function changesLeft(): string[] {
  const folder = path.join(env.XDG_STATE_HOME, 'lpk/changes');
  return existsSync(folder) ? readdirSync(folder) : [];
}
