import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Json } from '../../agent/deploy/kube.ts';
import { installPackages } from '../cluster/packages.ts';
import { Laptop } from './laptop.ts';
import { endAll, Lpk } from './lpk.ts';
import { deployNames, type Name, names, podAnswers } from './names.ts';
import { eventually, Shop } from './shop.ts';

/** `lpk proxy` on the real cluster, from a computer whose only way out is to the API server. */

let shop: Shop;
let other: Shop;
let laptop: Laptop;
const dir = mkdtempSync(path.join(tmpdir(), 'lpk-proxy-'));
const env = { XDG_STATE_HOME: path.join(dir, 'state') };

before(async () => {
  await installPackages({ 'bind9-dnsutils': '/usr/bin/dig', curl: '/usr/bin/curl' });
  shop = await Shop.open('proxy');
  other = await Shop.open('proxy-b');
  laptop = await Laptop.make();
  await deployNames(shop, other);
});

after(async () => {
  endAll();
  await laptop?.remove();
  await Promise.all([shop?.close(), other?.close()]);
  rmSync(dir, { recursive: true });
});

describe('one proxy', () => {
  let lpk: Lpk;
  let proxy: string;
  let dnsPort: string;
  let all: Name[];

  before(async () => {
    all = await names(shop, other);
    lpk = proxyUp(shop);
    const { doors } = await lpk.event('ready');
    proxy = doors.proxy;
    dnsPort = doors.dns.split(':')[1];
  });

  after(async () => {
    lpk.signal('SIGINT');
    assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
    assert.deepEqual(await leftIn(shop), []);
    assert.deepEqual(readdirSync(path.join(env.XDG_STATE_HOME, 'lpk/proxies')), []);
  });

  test('every form of name leads where it leads a pod, by SOCKS and by HTTP', async () => {
    for (const { name, page } of all) {
      if (!page) continue;
      const url = `http://${name}:${page.port}/`;
      for (const way of [
        ['--socks5-hostname', proxy],
        ['--proxy', `socks4a://${proxy}`],
        ['-x', `http://${proxy}`],
        ['--proxytunnel', '-x', `http://${proxy}`],
      ]) {
        const got = await curl(...way, url);
        assert.match(got.stdout, page.pattern, `curl ${way.join(' ')} ${url}: ${JSON.stringify(got)}; ${lpk}`);
      }
    }
  });

  test('the DNS server says what a pod’s own resolver says, over UDP and TCP', async () => {
    const expected = await podAnswers(shop, all);
    assert.ok(expected.filter((records) => records.length > 0).length > 20, `the pod knows too little: ${expected}`);
    for (const [i, { name, type }] of all.entries()) {
      for (const over of ['+notcp', '+tcp']) {
        const got = await dig(dnsPort, name, type, over);
        assert.deepEqual(got, expected[i], `dig ${name} ${type} ${over}; ${lpk}`);
      }
    }
  });

  test('case is kept, and an answer too long for UDP comes over TCP', async () => {
    const { namespace } = shop;
    const whole = await digWhole(dnsPort, `wEb.${namespace}.SVC.cluster.local`, 'A');
    assert.match(whole, new RegExp(`^wEb\\.${namespace}\\.SVC\\.cluster\\.local\\.\\s+\\d+\\s+IN\\s+A\\s`, 'm'), whole);
    const cut = await digWhole(dnsPort, 'long.cluster.test', 'TXT');
    assert.match(cut, /status: (NXDOMAIN|SERVFAIL|REFUSED)/, cut); // and no hang: this laptop has no resolver of its own
  });

  test('status tells of the link, the doors and what passed, for people and programs', async () => {
    const [status] = (await verb('status')).events;
    assert.equal(status?.event, 'status');
    assert.equal(status?.namespace, shop.namespace);
    assert.equal(status?.link, 'up');
    assert.equal(status?.transport, 'proxy');
    assert.ok(status?.rttMs > 0 && status.bytes.in > 1_000 && status.bytes.out > 1_000, JSON.stringify(status));
    assert.ok(status?.dns.queries > 50 && status.dns.cluster > 0, JSON.stringify(status));
    const people = await verb('status', [], { json: false });
    assert.match(people.stdout, new RegExp(`^namespace ${shop.namespace} .*\\n +link +up, by proxy to pod lpk-`));
  });

  test('a second proxy into the same namespace is refused, and the first goes on', async () => {
    const second = proxyUp(shop);
    const { code, message } = await second.event('error');
    assert.equal(code, 'already-running', message);
    assert.deepEqual(await second.exit(), { code: 1, signal: null });
    const { page, name } = all[0] as Required<Name>;
    assert.match((await curl('--socks5-hostname', proxy, `http://${name}/`)).stdout, page.pattern);
  });

  test('a shell’s programs use it after eval, and no longer after --unset', async () => {
    const lpkEnv = (...more: string[]) => `$(${lpkCommand('proxy', 'env', ...more).join(' ')})`;
    const script = `
      eval "${lpkEnv()}" && curl -sS --max-time 10 http://web/ && echo "direct: $NO_PROXY"
      eval "${lpkEnv('--unset')}" && echo "after: \${ALL_PROXY-none} \${LPK_PROXY_VARIABLES-none}"`;
    const { stdout, stderr } = await onLaptop(['bash', '-c', script], { SHELL: '/bin/bash' });
    assert.match(stdout, /^web in pod web-\S+\ndirect: .*198\.19\.0\.2.*\nafter: none none\n$/, stderr);
  });

  test('the PAC file is for this laptop’s programs only', async () => {
    const pac = await curl(`http://${proxy}/proxy.pac`);
    assert.match(pac.stdout, new RegExp(`PROXY ${proxy}`));
    assert.match(pac.stdout, new RegExp(`"\\.${other.namespace}"`), 'names of every namespace');
    const rebound = await curl(
      '-H',
      'Host: evil.example',
      '-o',
      '/dev/null',
      '-w',
      '%{http_code}',
      `http://${proxy}/proxy.pac`,
    );
    assert.equal(rebound.stdout, '421');
  });

  test('a lost pod is made anew, and the doors stay', async () => {
    const [pod] = await podsOf(shop);
    await shop.deletePod(pod as string);
    await lpk.event('lost');
    await lpk.event(
      'attached',
      (event) => event.pod === pod && lpk.events.filter(({ event: name }) => name === 'attached').length > 1,
    );
    assert.match((await curl('--socks5-hostname', proxy, 'http://web/')).stdout, /^web in pod/, `${lpk}`);
    const [status] = (await verb('status')).events;
    assert.ok(status?.reconnects >= 1, JSON.stringify(status));
  });
});

test('two proxies into two namespaces at once; the end of one leaves the other', async () => {
  const [one, two] = [proxyUp(shop), proxyUp(other)];
  const [first, second] = [await one.event('ready'), await two.event('ready')];
  assert.notEqual(first.doors.proxy, second.doors.proxy);
  assert.notEqual(first.doors.dns, second.doors.dns);
  assert.match((await curl('--socks5-hostname', first.doors.proxy, 'http://web/')).stdout, /^web in pod/);
  assert.match((await curl('--socks5-hostname', second.doors.proxy, 'http://web/')).stdout, /^other in pod/);
  const ambiguous = await verb('down');
  assert.equal(ambiguous.events[0]?.code, 'usage', 'which of the two?');
  const down = await verb('down', ['-n', shop.namespace]);
  assert.equal(down.code, 0, down.stdout);
  assert.deepEqual(await one.exit(), { code: 0, signal: null }, `${one}`);
  assert.deepEqual(await leftIn(shop), []);
  assert.match((await curl('--socks5-hostname', second.doors.proxy, 'http://web/')).stdout, /^other in pod/);
  assert.equal((await verb('down')).code, 0);
  assert.deepEqual(await two.exit(), { code: 0, signal: null }, `${two}`);
  assert.deepEqual(await leftIn(other), []);
});

test('-d comes back when it is ready, and says what hinders it', async () => {
  const up = await verb('up', upArgs(shop, '-d'));
  assert.equal(up.code, 0, up.stdout);
  const ready = up.events.find(({ event }) => event === 'ready');
  assert.match((await curl('--socks5-hostname', ready?.doors.proxy, 'http://web/')).stdout, /^web in pod/);
  const again = await verb('up', upArgs(shop, '-d'));
  assert.equal(again.code, 1);
  assert.equal(again.events.at(-1)?.code, 'already-running');
  assert.equal((await verb('down')).code, 0);
  assert.deepEqual(await leftIn(shop), []);
  assert.equal(statSync(path.join(env.XDG_STATE_HOME, 'lpk/proxies/detached.log')).size, 0, 'a file without a bound');
  const none = await verb('status');
  assert.equal(none.events[0]?.code, 'not-running');
});

test('a killed proxy’s pod is removed by the next one, or by lpk restore --all', async () => {
  const first = proxyUp(shop);
  const { session } = await first.event('ready');
  first.signal('SIGKILL');
  await first.exit();
  assert.equal((await leftIn(shop)).length, 3);
  const second = proxyUp(shop);
  assert.equal((await second.event('removed')).session, session);
  await second.event('ready');
  second.signal('SIGKILL');
  await second.exit();
  const restored = await onLaptop(
    lpkCommand('restore', '--all', '-n', shop.namespace, '--kubeconfig', shop.kubeconfig),
  );
  assert.match(restored.stderr + restored.stdout, /removed the proxy of /);
  assert.deepEqual(await leftIn(shop), []);
});

test('--like has the labels, service account and node of the workload, and none of its traffic', async () => {
  await shop.create({ apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'cashier' } });
  await shop.patch('deployment/web', [{ op: 'add', path: '/spec/template/spec/serviceAccountName', value: 'cashier' }]);
  await shop.rollout('deployment/web');
  const lpk = proxyUp(shop, '--like', 'web');
  const { session, doors } = await lpk.event('ready');
  const pod = await shop.get(`pods/lpk-${session}`);
  assert.equal(pod.metadata.labels.app, 'web');
  assert.equal(pod.metadata.labels['pod-template-hash'], undefined);
  assert.equal(pod.spec.serviceAccountName, 'cashier');
  const { items } = await shop.get('pods', { labelSelector: 'app=web,pod-template-hash' });
  const web = (items as Json[]).find(({ metadata }) => !metadata.deletionTimestamp) as Json;
  assert.equal(pod.spec.nodeName, web.spec.nodeName);
  const slices = await shop.cluster.request(
    'GET',
    `/apis/discovery.k8s.io/v1/namespaces/${shop.namespace}/endpointslices`,
    { query: { labelSelector: 'kubernetes.io/service-name=web' } },
  );
  const ready = (slices.items as Json[])
    .flatMap(({ endpoints }) => endpoints ?? [])
    .filter(({ conditions }: Json) => conditions.ready)
    .map(({ targetRef }: Json) => targetRef.name);
  assert.deepEqual(ready, [web.metadata.name], 'the Service still leads to the workload’s own pod only');
  assert.match((await curl('--socks5-hostname', doors.proxy, 'http://web/')).stdout, /^web in pod/);
  lpk.signal('SIGTERM');
  await lpk.exit();
  assert.deepEqual(await leftIn(shop), []);
});

test('a lost link: cluster names fail at once, and work again when it is back', async () => {
  const lpk = proxyUp(shop, '--hold', '300');
  const { doors } = await lpk.event('ready');
  const port = doors.dns.split(':')[1];
  assert.notDeepEqual(await dig(port, 'web', 'A'), []);
  await laptop.cut();
  await lpk.event('link-down');
  const whole = await digWhole(port, `db.${shop.namespace}.svc.cluster.local`, 'A', '+time=8', '+tries=1');
  assert.match(whole, /status: SERVFAIL/, `${whole}; ${lpk}`);
  await laptop.mend();
  await lpk.event('link-up');
  await eventually('the name is known again', async () => (await dig(port, 'db', 'A')).length === 2);
  lpk.signal('SIGINT');
  await lpk.exit();
});

type Got = { code: number; stdout: string; stderr: string };

function upArgs(of: Shop, ...args: string[]): string[] {
  return ['-n', of.namespace, '--kubeconfig', of.kubeconfig, ...args];
}

function proxyUp(of: Shop, ...args: string[]): Lpk {
  return new Lpk(['proxy', 'up', ...upArgs(of, ...args)], { env, around: (command) => laptop.on(command) });
}

function lpkCommand(...args: string[]): string[] {
  return [process.execPath, path.join(import.meta.dirname, '../../cli/main.ts'), ...args];
}

async function verb(name: string, args: string[] = [], { json = true } = {}) {
  const got = await onLaptop(lpkCommand('proxy', name, ...args, ...(json ? ['-o', 'json'] : [])));
  const lines = got.stdout.split('\n').filter((line) => line.startsWith('{'));
  return { ...got, events: lines.map((line) => JSON.parse(line) as Json) };
}

function onLaptop(command: string[], more: NodeJS.ProcessEnv = {}): Promise<Got> {
  const [program, ...words] = laptop.on(command) as [string, ...string[]];
  const clean = Object.entries({ ...process.env, ...env }).filter(([name]) => !/_proxy$/i.test(name));
  return new Promise((resolve) => {
    execFile(program, words, { env: { ...Object.fromEntries(clean), ...more } }, (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code) : 0, stdout, stderr }),
    );
  });
}

function curl(...args: string[]): Promise<Got> {
  return onLaptop(['curl', '-sS', '--max-time', '10', ...args]);
}

/** The records' data, without the CNAMEs on the way to an address; sorted. */
async function dig(port: string, name: string, type: string, ...more: string[]): Promise<string[]> {
  const { stdout } = await onLaptop(['dig', '@127.0.0.1', '-p', port, '+short', '+search', ...more, name, type]);
  const lines = stdout.split('\n').filter(Boolean);
  const found = type === 'A' || type === 'AAAA' ? lines.filter((line) => !line.endsWith('.')) : lines;
  return found.sort();
}

async function digWhole(port: string, name: string, type: string, ...more: string[]): Promise<string> {
  return (await onLaptop(['dig', '@127.0.0.1', '-p', port, ...more, name, type])).stdout;
}

async function podsOf(of: Shop): Promise<string[]> {
  const { items } = await of.get('pods', { labelSelector: 'lpk.dev/session' });
  return (items as Json[]).map(({ metadata }) => metadata.name);
}

/** What is left of lpk in a namespace. */
async function leftIn(of: Shop): Promise<string[]> {
  const lists = await Promise.all(
    ['pods', 'configmaps', 'secrets'].map(async (resource) =>
      ((await of.get(resource, { labelSelector: 'lpk.dev/session' })).items as Json[]).map(
        ({ metadata }) => `${resource}/${metadata.name}`,
      ),
    ),
  );
  return lists.flat();
}
