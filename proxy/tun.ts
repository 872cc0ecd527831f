import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { LpkError } from '../agent/wire/errors.ts';
import type { Cidr } from './cidr.ts';
import { freeDevice, isTunPlatform, planTun, type TunPlan, type TunPlatform, type TunStep } from './tun-plan.ts';
import { findTun2socks } from './tun-program.ts';
import { assertFree, readRoutes } from './tun-routes.ts';

/** Does steps so that they are taken back whatever happens; `LaptopChanges` of `cli/` is one. */
export type Changes = { apply(steps: TunStep[]): Promise<void> };

export type TunOptions = {
  /** lpk's own door, on 127.0.0.1. */
  socks: { port: number; user?: string; password?: string };
  /** Of `routedRanges()`. */
  ranges: Cidr[];
  changes: Changes;
  env?: NodeJS.ProcessEnv;
};

export type Tun = {
  device: string;
  /** Resolves when tun2socks has ended, and with it the device and its routes: with why. */
  ended: Promise<LpkError>;
};

const DEVICE_MS = 10_000;
/** Of what tun2socks says, for the error. */
const TAIL_CHARS = 2_000;

/**
 * Makes a TUN device, and the laptop's way to `ranges` leads through it to the SOCKS door: TCP by CONNECT, UDP by UDP
 * ASSOCIATE. To close it, undo the `changes`; so also when this rejects: `needs-root`, `no-tun2socks`, `route-overlap`, or
 * `laptop-setup`.
 */
export async function openTun({ socks, ranges, changes, env = process.env }: TunOptions): Promise<Tun> {
  const { platform } = process;
  if (!isTunPlatform(platform))
    throw new LpkError('laptop-setup', `--tun is for Linux, macOS and Windows, not ${platform}`);
  assertTunAllowed(platform);
  if (ranges.length === 0) throw new LpkError('usage', '--tun has no range of addresses left to route');
  const program = await findTun2socks(env, platform);
  assertFree(ranges, await readRoutes(platform));
  const device = freeDevice(platform, await devices(platform));
  if (!device) throw new LpkError('laptop-setup', 'all the TUN devices that lpk takes are in use');

  const plan = planTun(platform, device, { socks, ranges });
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-tun-'));
  try {
    const config = path.join(folder, 'config.yaml');
    writeFileSync(config, plan.config, { mode: 0o600 });
    const child = await start(platform, program, ['-config', config]);
    const ended = endOf(child);
    await changes.apply([
      { what: `tun2socks (process ${child.pid})`, do: [], undo: [{ end: { pid: child.pid as number } }] },
    ]);
    const problem = await Promise.race([ended, isReady(plan, ended)]);
    if (problem) throw problem;
    await changes.apply(plan.steps);
    return { device, ended };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function assertTunAllowed(platform: TunPlatform): void {
  if (process.getuid && process.getuid() !== 0) {
    throw new LpkError('needs-root', '--tun makes a network device, which only root may');
  }
  if (platform === 'linux' && !existsSync('/dev/net/tun')) {
    throw new LpkError(
      'laptop-setup',
      'this computer has no TUN devices: there is no /dev/net/tun (`modprobe tun`; in a container: --device /dev/net/tun)',
    );
  }
}

async function devices(platform: TunPlatform): Promise<string[]> {
  // Not of /sys, which may be another network namespace's.
  if (platform === 'linux')
    return [...readFileSync('/proc/net/dev', 'latin1').matchAll(/^ *(\S+):/gm)].map((match) => match[1] as string);
  if (platform === 'win32') return Object.keys(networkInterfaces());
  const { stdout } = await promisify(execFile)('ifconfig', ['-l']);
  return stdout.trim().split(/\s+/);
}

/** In a session of its own: Ctrl-C is for lpk, which ends it when the time has come. */
async function start(platform: TunPlatform, program: string, args: string[]): Promise<ChildProcess> {
  // On Linux the kernel ends it with lpk, so that not even `kill -9` leaves its device and routes.
  const hasSetpriv = platform === 'linux' && (await canEndWithParent());
  const [first, ...rest] = [...(hasSetpriv ? ['setpriv', '--pdeathsig', 'KILL', '--'] : []), program, ...args] as [
    string,
  ];
  const child = spawn(first, rest, {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: platform !== 'win32',
    windowsHide: true,
  });
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (cause) => {
      reject(new LpkError('no-tun2socks', `${program} could not be run: ${cause.message}`, { cause }));
    });
  });
  return child;
}

/** setpriv(1) of util-linux 2.33 or newer; busybox's has no --pdeathsig. */
function canEndWithParent(): Promise<boolean> {
  return promisify(execFile)('setpriv', ['--pdeathsig', 'KILL', '--', 'true']).then(
    () => true,
    () => false,
  );
}

function endOf(child: ChildProcess): Promise<LpkError> {
  let tail = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      tail = (tail + text).slice(-TAIL_CHARS);
    });
  }
  return new Promise((resolve) => {
    child.once('close', (code, signal) => {
      const said = tail.trim().replaceAll(/\s*\n\s*/g, ' | ');
      const how = signal ? `by ${signal}` : `with exit code ${code}`;
      resolve(new LpkError('laptop-setup', `tun2socks ended ${how}${said && `: ${said}`}`));
    });
  });
}

/** Undefined when the device is there. */
async function isReady({ device, ready }: TunPlan, ended: Promise<unknown>): Promise<LpkError | undefined> {
  let over = false;
  void ended.then(() => {
    over = true;
  });
  const until = Date.now() + DEVICE_MS;
  while (!over && Date.now() < until) {
    if (await succeeds(ready)) return undefined;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return new LpkError('laptop-setup', `tun2socks has made no device ${device} in ${DEVICE_MS / 1000} s`);
}

function succeeds([program, ...args]: string[]): Promise<boolean> {
  return promisify(execFile)(program as string, args).then(
    () => true,
    () => false,
  );
}
