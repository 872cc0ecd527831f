import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import { debianFile } from './debian.ts';
import { door, fakeCluster } from './fakes.ts';

/** OpenSSH through the door by ProxyCommand, to a real sshd with keys of the test's own. */

const isRoot = process.getuid?.() === 0;
/** As root, sshd wants a user to be unprivileged as, and a folder: it gets them in a mount namespace of its own. */
const OWN_VIEW = 'mount -t tmpfs none /run && mkdir /run/sshd && mount --bind "$1" /etc/passwd && shift && exec "$@"';

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

async function run(command: string, args: string[], input = '') {
  const child = spawn(command, args, { stdio: 'pipe' });
  child.stdin.on('error', () => {}).end(input);
  const [stdout, stderr, [exit]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  return { exit, stdout, stderr };
}

/** An sshd on a loopback port; gives that and the client's options for it. */
async function sshd(t: TestContext): Promise<{ port: number; options: string[] }> {
  const { file, env } = await debianFile('openssh-server', '/usr/sbin/sshd');
  const folder = await mkdtemp(join(tmpdir(), 'lpk-ssh-'));
  t.after(() => rm(folder, { recursive: true }));
  const [host, client, config, passwd] = ['host', 'client', 'config', 'passwd'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
    string,
  ];
  for (const key of [host, client]) await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key]);
  const port = await freePort();
  await writeFile(
    config,
    `Port ${port}\nListenAddress 127.0.0.1\nHostKey ${host}\nAuthorizedKeysFile ${client}.pub\nStrictModes no\n` +
      'PidFile none\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n',
  );
  await writeFile(passwd, `${await readFile('/etc/passwd', 'utf8')}sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n`);
  await writeFile(join(folder, 'known'), `web.shop ${await readFile(`${host}.pub`, 'utf8')}`);
  const command = [file, '-D', '-e', '-f', config];
  const child = isRoot
    ? spawn('unshare', ['-m', 'sh', '-c', OWN_VIEW, 'sh', passwd, ...command], { env: { ...process.env, ...env } })
    : spawn(file, command.slice(1), { env: { ...process.env, ...env } });
  t.after(() => child.kill());
  let said = '';
  for await (const chunk of child.stderr.iterator({ destroyOnReturn: false })) {
    said += chunk;
    if (said.includes('Server listening')) break;
  }
  assert.match(said, /Server listening/);
  child.stderr.resume();
  const options = ['-F', 'none', '-i', client, '-l', userInfo().username, '-o', `UserKnownHostsFile=${folder}/known`];
  return { port, options: [...options, '-o', 'HostKeyAlias=web.shop', '-o', 'BatchMode=yes', '-p', `${port}`] };
}

for (const [name, proxy] of Object.entries({ SOCKS5: '-X 5', SOCKS4: '-X 4', 'HTTP CONNECT': '-X connect' })) {
  test(`ssh by ProxyCommand nc ${proxy} (${name}): a command, its input to the end, its exit code`, async (t) => {
    const nc = await debianFile('netcat-openbsd', '/bin/nc.openbsd');
    const { port, options } = await sshd(t);
    const cluster = fakeCluster({ replyEarly: false });
    const { port: doorPort } = await door(t, { dial: cluster.dial });
    const host = name === 'SOCKS4' ? '127.0.0.1' : 'web.shop'; // nc has no 4a
    const { exit, stdout, stderr } = await run(
      'ssh',
      [...options, '-o', `ProxyCommand=${nc.file} ${proxy} -x 127.0.0.1:${doorPort} %h %p`, host, 'wc -c; exit 7'],
      'x'.repeat(3_000_000),
    );
    assert.deepEqual({ exit, stdout: stdout.trim() }, { exit: 7, stdout: '3000000' }, stderr);
    assert.deepEqual(cluster.flows, [{ protocol: 'tcp', host, port }]);
  });
}
