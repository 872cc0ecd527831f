import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { release } from 'node:os';
import { promisify } from 'node:util';
import type { Cluster } from '../agent/deploy/kube.ts';
import {
  missingRights,
  type Right,
  rightsToProxy,
  rightsToServe,
  transportsAllowed,
} from '../agent/deploy/preflight.ts';
import { rightsToLease, rightsToRestorer } from '../agent/deploy/restorer.ts';
import { workloadRef } from '../agent/deploy/workload.ts';
import { LpkError } from '../agent/wire/errors.ts';
import { hostResolvers, systemDnsFacts, systemDnsWay } from '../dns/system.ts';
import { captureSupport } from '../proxy/capture/capture.ts';
import { findTun2socks } from '../proxy/tun-program.ts';
import { openCluster } from './cluster.ts';
import { HINTS } from './hints.ts';
import type { Output } from './output.ts';
import type { ClusterOptions } from './verb.ts';

/** One thing that is looked at. `needed`: lpk can do nothing without it. */
export type Finding = {
  name: string;
  ok: boolean;
  needed?: true;
  /** What there is, or why not. */
  text: string;
  /** What to do about it. */
  remedy?: string;
};

/** Says what works here and what to do about the rest. Exit code 1 when something is missing that lpk can't do without. */
export async function doctor(options: ClusterOptions, output: Output): Promise<number> {
  let broken = false;
  const tell = (finding: Finding) => {
    broken ||= !finding.ok && finding.needed === true;
    output.result(findingText(finding), 'finding', finding);
  };
  for await (const finding of findings(options, output)) tell(finding);
  return broken ? 1 : 0;
}

/** A line, and one more where there is something to do. */
export function findingText({ name, ok, needed, text, remedy }: Finding): string {
  const mark = ok ? '✔' : needed ? '✖' : '!';
  return [`${mark} ${name}: ${text}`, ...(ok || !remedy ? [] : [`  → ${remedy}`])].join('\n');
}

/** What there is to be found out: first of this computer, then of the cluster. Never throws: what can't be asked is a finding. */
export async function* findings(options: ClusterOptions, output: Output): AsyncGenerator<Finding> {
  for (const look of [node, kernel, capture, userNamespaces, tun, resolver]) yield await look();
  yield* cluster(options, output);
}

function node(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const ok = major > 22 || (major === 22 && minor >= 18);
  return { name: 'Node.js', ok, needed: true, text: process.versions.node, remedy: 'install Node.js 22.18 or newer' };
}

function kernel(): Finding {
  const { platform, arch } = process;
  const ok = platform === 'linux' || platform === 'darwin' || platform === 'win32';
  const remedy = 'lpk is made for Linux, macOS and Windows';
  return { name: 'system', ok, text: `${platform} ${release()} on ${arch}`, remedy };
}

function capture(): Finding {
  const support = captureSupport();
  return {
    name: 'capture without root (seccomp)',
    ok: support.ok,
    text: support.ok ? 'any program, static ones too' : support.why,
    remedy:
      'lpk run and lpk connect use proxy variables instead (--capture env); or lpk proxy up --tun --system-dns as root',
  };
}

async function userNamespaces(): Promise<Finding> {
  const name = 'user namespaces';
  const remedy = 'as root: sysctl -w user.max_user_namespaces=10000 kernel.apparmor_restrict_unprivileged_userns=0';
  if (process.platform !== 'linux') return { name, ok: false, text: 'only Linux has them' };
  try {
    await promisify(execFile)('unshare', ['--user', '--map-current-user', '--net', 'true'], { timeout: 5_000 });
    return { name, ok: true, text: 'allowed' };
  } catch (error) {
    const said = error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : String(error);
    return { name, ok: false, text: said.split('\n')[0] ?? 'refused', remedy };
  }
}

async function tun(): Promise<Finding> {
  const name = 'TUN device (--tun)';
  if (process.platform === 'linux' && !existsSync('/dev/net/tun'))
    return {
      name,
      ok: false,
      text: 'there is no /dev/net/tun',
      remedy: 'modprobe tun; in a container: --device /dev/net/tun',
    };
  try {
    const program = await findTun2socks(process.env);
    if (process.getuid && process.getuid() !== 0)
      return {
        name,
        ok: false,
        text: `${program}, but only root may make devices`,
        remedy: 'sudo -E lpk proxy up --tun',
      };
    return { name, ok: true, text: program };
  } catch (error) {
    const code = error instanceof LpkError ? error.code : 'internal';
    return { name, ok: false, text: error instanceof Error ? error.message : String(error), remedy: HINTS[code] };
  }
}

async function resolver(): Promise<Finding> {
  const facts = await systemDnsFacts();
  const servers = hostResolvers(facts);
  const text = `${systemDnsWay(facts)}, names outside the cluster by ${servers.join(', ') || 'nobody'}`;
  return { name: 'resolver', ok: servers.length > 0, text, remedy: 'name a nameserver in /etc/resolv.conf' };
}

async function* cluster(options: ClusterOptions, output: Output): AsyncGenerator<Finding> {
  let opened: Cluster;
  try {
    opened = await openCluster(options, output);
    const { gitVersion } = await opened.request('GET', '/version', { timeoutMs: 10_000 });
    const text = `${opened.context} at ${opened.server}, Kubernetes ${gitVersion}, user ${opened.user}`;
    yield { name: 'cluster', ok: true, needed: true, text };
  } catch (error) {
    const code = error instanceof LpkError ? error.code : 'internal';
    const text = error instanceof Error ? error.message : String(error);
    yield { name: 'cluster', ok: false, needed: true, text, remedy: HINTS[code] };
    return;
  }
  try {
    const transports = await transportsAllowed(opened);
    yield {
      ...{ name: 'way to a pod', ok: transports.length > 0, needed: true },
      text: transports.length > 0 ? transports.join(', then ') : 'neither pods/proxy nor pods/portforward is allowed',
      remedy: HINTS.forbidden,
    };
    const any = { ...workloadRef('deployment', opened.namespace, ''), workload: { spec: {} } };
    const all: [string, Right[]][] = [
      ['lpk proxy, lpk run', rightsToProxy()],
      ['lpk connect to a Deployment', rightsToServe(any).map(({ name: _, ...right }) => right)],
      ['the restorer of lpk connect', [...rightsToLease(), ...rightsToRestorer(any)]],
    ];
    for (const [what, rights] of all) {
      const missing = await missingRights(opened, rights);
      const text =
        missing.length > 0 ? `missing in ${opened.namespace}: ${missing.map(inWords).join(', ')}` : 'all there';
      yield { name: `rights for ${what}`, ok: missing.length === 0, text, remedy: HINTS.forbidden };
    }
  } catch (error) {
    yield { name: 'rights', ok: false, text: error instanceof Error ? error.message : String(error) };
  } finally {
    opened.close();
  }
}

function inWords({ verb, group, resource, subresource }: Right): string {
  return `${verb} ${resource}${group ? `.${group}` : ''}${subresource ? `/${subresource}` : ''}`;
}
