/** Capture on the real kernel: every test as root, where this is root, and as an ordinary user. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { captureSupport } from '../../../../proxy/capture/capture.ts';
import type { Flow } from '../../../../proxy/flow.ts';

const ERRNO = {
  ENOENT: 2,
  EINTR: 4,
  EACCES: 13,
  ENOSYS: 38,
  ENETUNREACH: 101,
  ECONNRESET: 104,
  EISCONN: 106,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EHOSTUNREACH: 113,
  EINPROGRESS: 115,
};
const CAPTOR = join(import.meta.dirname, 'captor.ts');
/** setpriv(1), for a user that owns nothing here. */
const NOBODY = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];

let folder: string;
let client: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'lpk-capture-'));
  chmodSync(folder, 0o755);
  client = join(folder, 'client');
  execFileSync('gcc', ['-O1', '-static', '-pthread', '-o', client, join(import.meta.dirname, 'client.c')]);
});
after(() => {
  for (const captor of running) captor.kill('SIGKILL'); // of tests that failed
  rmSync(folder, { recursive: true, force: true });
});

const running = new Set<ChildProcess>();

type Seen = {
  output: string;
  code: number | null;
  signal: string | null;
  flows: Flow[];
  resets: number;
  stats: { tcp: number; udp: number; dns: number; connections: number; questions: number };
  missing?: string;
  leaked: number;
};

type Captor = { captor: ChildProcess; pid: Promise<number>; output(): string; seen: Promise<Seen> };

function start(user: string[], command: string[], options: SpawnOptions = {}): Captor {
  // Node itself may lie where that user can't look: so by a file descriptor.
  const node = openSync(process.execPath, 'r');
  const [program = '', ...args] = [...user, '/proc/self/fd/4', CAPTOR, ...command];
  const captor = spawn(program, args, { ...options, cwd: '/', stdio: ['pipe', 'pipe', 'inherit', 'pipe', node] });
  running.add(captor);
  captor.once('exit', () => running.delete(captor));
  let output = '';
  let report = '';
  captor.stdout?.on('data', (text) => (output += text));
  const { promise: pid, resolve } = Promise.withResolvers<number>();
  captor.stdio[3]?.on('data', (text) => {
    report += text;
    if (report.includes('\n')) resolve(JSON.parse(report.split('\n')[0] as string).pid);
  });
  const seen = once(captor, 'close').then(() => ({ ...JSON.parse(report.split('\n')[1] || '{}'), output }));
  return { captor, pid, output: () => output, seen };
}

const users: [string, string[]][] = [['this user', []]];
if (process.getuid?.() === 0) users.push(['an ordinary user', NOBODY]);

test('this machine can be captured on', () => {
  assert.deepEqual(captureSupport(), { ok: true });
});

for (const [who, user] of users) {
  const run = (...command: string[]) => start(user, command).seen;
  const as = (what: string, body: () => Promise<void>) => test(`${what} (${who})`, { timeout: 120_000 }, body);

  as('a blocking connect, IPv4, IPv6 and mapped, gets there, and getpeername says where', async () => {
    for (const host of ['10.0.0.1', 'fd00::1', '::ffff:10.0.0.1']) {
      const { output, flows, leaked } = await run(client, 'tcp', host, '80');
      const plain = host.replace('::ffff:', '');
      assert.equal(output, `peer ${host} 80\ngot ping tcp ${plain} 80\nagain errno ${ERRNO.EISCONN}\n`);
      assert.deepEqual(flows, [{ protocol: 'tcp', host: plain, port: 80 }]);
      assert.equal(leaked, 0);
    }
  });

  as('a blocking connect that fails gives the true errno, and its socket can be used again', async () => {
    const failures = {
      2: ERRNO.ECONNREFUSED,
      3: ERRNO.ETIMEDOUT,
      4: ERRNO.EHOSTUNREACH,
      5: ERRNO.EACCES,
      6: ERRNO.ENETUNREACH,
    };
    const tries = Object.keys(failures).map((host) => `${client} tcp 10.0.0.${host} 80 10.0.0.1 81`);
    const { output } = await run('sh', '-c', tries.join(';'));
    const after = `peer 10.0.0.1 81\ngot ping tcp 10.0.0.1 81\nagain errno ${ERRNO.EISCONN}\n`;
    assert.equal(
      output,
      Object.values(failures)
        .map((errno) => `errno ${errno}\n${after}`)
        .join(''),
    );
  });

  as('a non-blocking connect is answered at once, reset when the dial fails, and told what is known', async () => {
    const good = await run(client, 'nonblocking', '10.0.0.1', '80');
    assert.equal(good.output, 'connected 0\ngot ping tcp 10.0.0.1 80\n');
    const none = await run(client, 'nonblocking', '10.0.0.6', '80');
    assert.equal(none.output, `errno ${ERRNO.ENETUNREACH}\n`);
    const attempt = `${client} nonblocking 10.0.0.2 80`;
    // The first is reset, at once or a moment later; a later one is told why: the next, unless this machine takes longer than patience.
    const script = `${attempt}; while told=$(${attempt}); [ "$told" != "errno ${ERRNO.ECONNREFUSED}" ]; do :; done; echo "$told"`;
    const { output } = await run('sh', '-c', script);
    assert.match(output, /^connected (0|104)\n(send|recv) errno (32|104|107)\nerrno 111\n$/);
  });

  as('a blocking connect waits for the dial, at most as long as its SO_SNDTIMEO', async () => {
    const { output } = await run(client, 'timeout', '10.0.0.7', '80');
    assert.equal(output, `errno ${ERRNO.EINPROGRESS}\n`);
    assert.match((await run(client, 'tcp', '10.0.0.8', '80')).output, /^peer 10.0.0.8 80\ngot ping/);
  });

  as('a signal interrupts a connect, or the kernel makes it again', async () => {
    assert.equal((await run(client, 'alarm', '10.0.0.7', '80')).output, `alarm\nerrno ${ERRNO.EINTR}\n`);
    const again = await run(client, 'alarm', '10.0.0.9', '80', 'restart');
    assert.equal(again.output, 'alarm\npeer 10.0.0.9 80\ngot ping tcp 10.0.0.9 80\n');
    assert.equal(again.flows.length, 1);
  });

  as('a killed caller abandons its dial', async () => {
    const { output, flows, resets } = await run(client, 'killed', '10.0.0.7', '80');
    assert.equal(output, 'signal 9\n');
    assert.deepEqual([flows.length, resets], [1, 1]);
  });

  as('dup and fork keep the name of the other end', async () => {
    const { output } = await run(client, 'dup', '10.0.0.1', '80');
    assert.equal(output, 'peer 10.0.0.1 80\ngot ping tcp 10.0.0.1 80\npeer 10.0.0.1 80\n');
  });

  as('connected UDP is a flow of its own; on port 53 it asks our DNS', async () => {
    for (const host of ['10.0.0.1', 'fd00::1']) {
      const { output, flows } = await run(client, 'udp', host, '5000');
      assert.equal(output, `peer ${host} 5000\ngot ping udp ${host} 5000\n`);
      assert.deepEqual(flows, [{ protocol: 'udp', host, port: 5000 }]);
    }
  });

  as('a question without a connect is answered from the address that was asked', async () => {
    const verbs = ['dns', 'dns-sendmsg', 'dns-sendmmsg'];
    const nameservers = ['10.255.255.53', '192.0.2.53', 'fd12::53', '2001:db8::53'];
    const script = `for v in ${verbs.join(' ')}; do for n in ${nameservers.join(' ')}; do ${client} $v $n 53 web.test; done; done`;
    const { output, missing, stats, leaked } = await run('sh', '-c', script);
    assert.equal(missing, undefined);
    const answers = nameservers.map(
      (nameserver) => `from ${nameserver} 53\nrcode 0, 42 bytes, flags 81, fd flags 1\naddress 10.0.0.1\n`,
    );
    assert.equal(output, answers.join('').repeat(verbs.length));
    assert.equal(stats.dns, 12);
    assert.equal(leaked, nameservers.length); // each has a socket of ours from then on
  });

  as('an answer too long for UDP is cut, and one that fails is SERVFAIL', async () => {
    assert.match((await run(client, 'dns', '192.0.2.53', '53', 'big.test')).output, /rcode 0, 26 bytes, flags 83/);
    assert.match((await run(client, 'dns', '192.0.2.53', '53', 'broken.test')).output, /rcode 2,/);
  });

  as('an address learned from an answer is caught, others go their own way', async () => {
    const learned = `${client} dns 192.0.2.53 53 outside.test; exec ${client} tcp 203.0.113.1 80`;
    assert.match((await run('sh', '-c', learned)).output, /got ping tcp 203.0.113.1 80/);
    const { flows } = await run('sh', '-c', `${client} tcp 127.0.0.1 1; exec ${client} udp 127.0.0.1 1`);
    assert.deepEqual(flows, []);
  });

  as('loopback and unix sockets are left alone, but name services are not there', async () => {
    assert.match(
      (await run('sh', '-c', `exec ${client} tcp 127.0.0.1 $BAIT`)).output,
      /^peer 127.0.0.1 \d+\ngot loopback/,
    );
    assert.equal((await run(client, 'tcp', '127.0.0.1', '1')).output, `errno ${ERRNO.ECONNREFUSED}\n`);
    for (const path of ['/run/systemd/resolve/io.systemd.Resolve', '/var/run/nscd/socket', '/nowhere']) {
      assert.equal((await run(client, 'unix', path)).output, `errno ${ERRNO.ENOENT}\n`);
    }
  });

  as('io_uring is not there', async () => {
    assert.equal((await run(client, 'io_uring')).output, `errno ${ERRNO.ENOSYS}\n`);
  });

  as('512 connects at once from 16 processes: none is lost, nothing is left', async () => {
    const { output, flows, stats, leaked } = await run(client, 'many', '10.0.0.1', '80', '16', '32');
    assert.equal(output, 'lost 0\n');
    assert.deepEqual([flows.length, stats.tcp, stats.connections], [512, 512, 0]);
    assert.equal(leaked, 0);
  });

  as('the command ends as without lpk: exit code, signal, not found; its process is like any', async () => {
    assert.equal((await run('sh', '-c', 'exit 7')).code, 7);
    assert.equal((await run('sh', '-c', 'kill -9 $$')).signal, 'SIGKILL');
    assert.equal((await run('/no/such/program')).output, 'error ENOENT\n');
    const fields = 'grep -E "^(Sig(Blk|Ign)|Uid|NoNewPrivs)" /proc/self/status; ls /proc/self/fd; ps -o pgid= -p $$';
    const caught = start(user, ['sh', '-c', fields]);
    const { output } = await caught.seen;
    const pgrp = readFileSync('/proc/self/stat', 'latin1').replace(/.*\) /, '').split(' ')[2];
    assert.match(output, /SigBlk:\t0{16}\nSigIgn:\t0{16}\n/);
    assert.match(output, /NoNewPrivs:\t1/);
    // The listener, the helper's channel and the like would be there.
    assert.doesNotMatch(output, /^([6-9]|[1-4]\d)$/m);
    assert.match(output, new RegExp(`^ *${pgrp}$`, 'm'));
  });

  as('when lpk is killed, what waits and what comes later fails, and the program ends as it likes', async () => {
    const script = `${client} tcp 10.0.0.7 80; ${client} tcp 10.0.0.1 80; ${client} tcp 127.0.0.1 1; echo over`;
    const { captor, pid, output } = start(user, ['sh', '-c', script]);
    const shell = await pid;
    // The call is under way when the client waits in seccomp.
    const child = () => readFileSync(`/proc/${shell}/task/${shell}/children`, 'utf8').trim();
    while (!child() || !isTrapped(child())) await new Promise((resolve) => setTimeout(resolve, 5));
    captor.kill('SIGKILL');
    await once(captor, 'close'); // its pipe is the shell's too
    assert.equal(output(), `${`errno ${ERRNO.ENOSYS}\n`.repeat(3)}over\n`);
    while (isRunning(shell)) await new Promise((resolve) => setTimeout(resolve, 5));
  });
}

function isRunning(pid: number): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, 'latin1').includes(') Z');
  } catch {
    return false;
  }
}

function isTrapped(pid: string): boolean {
  try {
    return (
      /^State:\tS/m.test(readFileSync(`/proc/${pid}/status`, 'latin1')) &&
      /^(42|203) /.test(readFileSync(`/proc/${pid}/syscall`, 'latin1'))
    );
  } catch {
    return false;
  }
}
