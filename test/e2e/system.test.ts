import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, afterEach, before, test } from 'node:test';
import { timedLookUp, tookMs } from './timed-lookup.ts';

/**
 * TUN and system DNS for real: the kernel's device and routes, glibc's resolver, tun2socks. In a network and a mount namespace of
 * the test's own, so that this computer's routes and its resolv.conf are not touched. Needs root and Linux, and no cluster.
 */

/** The laptop's own nameserver, which is there without lpk. */
const NAMESERVER = '203.0.113.2';
const RESOLV_CONF = '# by hand\nnameserver 203.0.113.2\noptions rotate timeout:5\nsearch home\n';
const RANGES = ['10.96.0.0/16', 'fd00:96::/112'];

const folder = fs.mkdtempSync(path.join(tmpdir(), 'lpk-system-'));
const resolvConf = path.join(folder, 'resolv.conf');
const journals = path.join(folder, 'changes');
let tun2socks: string;
let room: ChildProcess;
/** All that runs in the namespaces. */
const programs: Program[] = [];

before(async () => {
  const built = execFileSync(path.join(import.meta.dirname, '../../scripts/tun2socks'), { encoding: 'utf8' });
  tun2socks = built.trim().split('\n').at(-1) as string;
  fs.writeFileSync(resolvConf, RESOLV_CONF);
  const commands = [
    'ip link set lo up',
    // glibc looks up no IPv4 address on a computer that has none itself. IPv6 would give the links addresses only after a while.
    'ip link add eth0 type veth peer name wall',
    'ip link set eth0 addrgenmode none',
    'ip link set wall addrgenmode none up',
    'ip addr add 203.0.113.2/24 dev eth0',
    'ip link set eth0 up',
    'mount --bind "$0" /etc/resolv.conf',
    'echo ready',
    'exec cat',
  ];
  const unshare = ['--net', '--mount', '--propagation', 'private', 'sh', '-c', commands.join(' && '), resolvConf];
  room = spawn('unshare', unshare, { stdio: ['pipe', 'pipe', 'inherit'] });
  const failed = once(room, 'exit').then(([code]) =>
    assert.fail(`the namespaces could not be made: exit code ${code}`),
  );
  await Promise.race([once(room.stdout!, 'data'), failed]);
  failed.catch(() => {}); // it ends with the tests
  const file = path.join(import.meta.dirname, 'tiny-dns.ts');
  const host = start([process.execPath, file, NAMESERVER, 'outside.test=203.0.113.7']);
  await host.line(/^ready/);
});

after(() => {
  for (const { child } of programs) child.kill('SIGKILL');
  room?.kill('SIGKILL');
  fs.rmSync(folder, { recursive: true });
});

afterEach(async () => {
  // All but the nameserver. What a failed test left is not the next one's.
  for (const { child } of programs.splice(1)) {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  }
  fs.rmSync(journals, { recursive: true, force: true });
  fs.writeFileSync(resolvConf, RESOLV_CONF);
});

test('plain curl reaches the routed ranges, by address and by name; then nothing is left', async () => {
  assert.equal((await run('curl', '-sS', '--max-time', '5', 'http://10.96.7.8/')).code, 7, 'there is no route yet');
  const before = await network();
  const lpk = session(RANGES);
  await lpk.line(/^ready lpk0$/);

  assert.deepEqual(await get('http://10.96.7.8/'), '10.96.7.8 by 10.96.7.8\n');
  assert.deepEqual(await get('http://[fd00:96::5]/'), '[fd00:96::5] by fd00:96::5\n');
  assert.deepEqual(await get('http://web.shop/'), 'web.shop by 10.96.7.8\n');
  assert.equal(await echoed('10.96.7.8', 7_000, 4_000), 4_000);
  assert.equal(await lookUp('outside.test'), '203.0.113.7');
  assert.equal(fs.statSync(fs.readdirSync(journals).map((name) => path.join(journals, name))[0]!).mode & 0o777, 0o600);

  lpk.child.kill('SIGTERM');
  await lpk.line(/^undone$/);
  assert.equal(await network(), before, 'no device, no address and no route is left');
  assert.equal(fs.readFileSync(resolvConf, 'utf8'), RESOLV_CONF);
  assert.deepEqual(fs.readdirSync(journals), []);
  assert.equal((await run('curl', '-sS', '--max-time', '5', 'http://10.96.7.8/')).code, 7);
  assert.equal(await lookUp('web.shop'), undefined);
});

test('two at once have a device each, and the end of one leaves the other', async () => {
  const before = await network();
  const one = session(['10.96.0.0/16']);
  await one.line(/^ready lpk0$/);
  const two = session(['10.97.0.0/16'], { number: 1 });
  await two.line(/^ready lpk1$/);
  assert.equal(await get('http://10.96.7.8/'), '10.96.7.8 by 10.96.7.8\n');
  assert.equal(await get('http://10.97.7.8:81/'), '10.97.7.8:81 by 10.97.7.8\n');

  one.child.kill('SIGTERM');
  await one.line(/^undone$/);
  assert.equal(await get('http://10.97.7.8:81/'), '10.97.7.8:81 by 10.97.7.8\n');
  assert.match(
    fs.readFileSync(resolvConf, 'utf8'),
    /^# lpk .*\nnameserver 127\.0\.0\.154\n# by hand\nnameserver 203\.0\.113\.2\n/,
  );
  two.child.kill('SIGTERM');
  await two.line(/^undone$/);
  assert.equal(await network(), before);
  assert.equal(fs.readFileSync(resolvConf, 'utf8'), RESOLV_CONF);
});

test('after kill -9 outside names never stop, the device is gone, and the next lpk removes the rest', async () => {
  const before = await network();
  const lpk = session(RANGES);
  await lpk.line(/^ready/);
  assert.equal(await lookUp('web.shop'), '10.96.7.8');

  lpk.child.kill('SIGKILL');
  await once(lpk.child, 'exit');
  const { out } = await run(...timedLookUp('outside.test'));
  assert.match(out, /^203\.0\.113\.7 /);
  assert.ok(tookMs(out) < 2_000, `an outside name took ${tookMs(out)} ms`);
  assert.match(fs.readFileSync(resolvConf, 'utf8'), /^nameserver 127\.0\.0\.153$/m, 'no command was run yet');
  while ((await network()) !== before) await new Promise(setImmediate);

  // As the next lpk command does, in the same place.
  const module = path.join(import.meta.dirname, '../../cli/laptop-changes.ts');
  const script = `import { undoLeftovers } from ${JSON.stringify(module)}; await undoLeftovers([process.argv[1]], console.log);`;
  const next = await run(process.execPath, '--input-type=module', '-e', script, journals);
  assert.match(next.out, /had changed: \/etc\/resolv\.conf/);
  assert.equal(fs.readFileSync(resolvConf, 'utf8'), RESOLV_CONF);
  assert.deepEqual(fs.readdirSync(journals), []);
});

test('a tun2socks that ends is told, with how', async () => {
  const lpk = session(['10.96.0.0/16']);
  await lpk.line(/^ready/);
  const [journal] = fs.readdirSync(journals);
  const { steps } = JSON.parse(fs.readFileSync(path.join(journals, journal!), 'utf8'));
  const { pid } = steps[0].undo[0].end;
  process.kill(pid, 'SIGKILL');
  assert.equal(await lpk.line(/^tun2socks/), 'tun2socks ended by SIGKILL');
  lpk.child.kill('SIGTERM');
  await lpk.line(/^undone$/);
  assert.deepEqual(fs.readdirSync(journals), []);
});

test('a range that the laptop has a route in is refused, with both named, and nothing is changed', async () => {
  await run('ip', 'route', 'add', '10.96.128.0/24', 'dev', 'lo');
  const before = await network();
  const lpk = session(RANGES);
  assert.equal(
    await lpk.line(/overlap/),
    "route-overlap: the cluster's 10.96.0.0/16 overlaps 10.96.128.0/24, which this computer has a route for (lo)",
  );
  await lpk.line(/^undone$/);
  assert.equal(await network(), before);
  assert.equal(fs.existsSync(journals) && fs.readdirSync(journals).length > 0, false);
  await run('ip', 'route', 'del', '10.96.128.0/24', 'dev', 'lo');
});

test('what tun2socks can not do is said in its own words', async () => {
  const broken = path.join(folder, 'broken');
  fs.writeFileSync(broken, '#!/bin/sh\necho "no tunnel today" >&2\nexit 3\n', { mode: 0o755 });
  const lpk = session(['10.96.0.0/16'], { program: broken });
  assert.equal(await lpk.line(/tun2socks/), 'laptop-setup: tun2socks ended with exit code 3: no tunnel today');
  await lpk.line(/^undone$/);
});

type Program = { child: ChildProcess; line(pattern: RegExp): Promise<string> };

/** Starts a program in the namespaces. */
function start(command: string[], env = process.env): Program {
  const child = spawn('nsenter', [...inRoom(), ...command], { stdio: ['ignore', 'pipe', 'inherit'], env });
  const lines: string[] = [];
  let wake = () => {};
  createInterface(child.stdout!).on('line', (line) => {
    lines.push(line);
    wake();
  });
  let over = false;
  child.once('close', () => {
    over = true;
    wake();
  });
  const program = {
    child,
    async line(pattern: RegExp): Promise<string> {
      for (;;) {
        const found = lines.find((line) => pattern.test(line));
        if (found !== undefined) return found;
        assert.ok(!over, `it ended and never said ${pattern}, but: ${lines.join(' | ')}`);
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
  };
  programs.push(program);
  return program;
}

function session(ranges: string[], { program = tun2socks, number = 0 } = {}): Program {
  const env = { ...process.env, LPK_TUN2SOCKS: program };
  const file = path.join(import.meta.dirname, 'system-session.ts');
  return start([process.execPath, file, journals, String(number), ...ranges], env);
}

async function run(...command: string[]): Promise<{ code: number; out: string }> {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/_proxy$/i.test(name)));
  const child = spawn('nsenter', [...inRoom(), ...command], { stdio: ['ignore', 'pipe', 'ignore'], env });
  let out = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    out += text;
  });
  const [code] = await once(child, 'close');
  return { code, out };
}

async function get(url: string): Promise<string> {
  const { code, out } = await run('curl', '-sS', '--max-time', '10', url);
  assert.equal(code, 0, `curl ${url}: exit code ${code}`);
  return out;
}

/** The bytes that come back of a datagram. */
async function echoed(host: string, port: number, bytes: number): Promise<number> {
  const script = `
    const socket = require('node:dgram').createSocket('udp4', (datagram) => {
      console.log(datagram.length);
      process.exit();
    });
    socket.send(Buffer.alloc(${bytes}), ${port}, '${host}');
    setTimeout(process.exit, 5_000, 1);`;
  return Number((await run(process.execPath, '-e', script)).out);
}

/** By glibc. */
async function lookUp(name: string): Promise<string | undefined> {
  const { out } = await run('getent', 'ahostsv4', name);
  return out.split(/\s/)[0] || undefined;
}

/** All devices, addresses and routes. */
async function network(): Promise<string> {
  const commands = ['ip -o link', 'ip -o addr', 'ip route show table all', 'ip -6 route show table all'];
  return (await run('sh', '-c', commands.join('; '))).out;
}

function inRoom(): string[] {
  return ['--target', String(room.pid), '--net', '--mount', '--'];
}
