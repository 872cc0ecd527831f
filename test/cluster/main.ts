import { parseArgs } from 'node:util';
import { enter } from './node.ts';
import { ClusterError, DEFAULT_VERSION, kubeconfigFile } from './place.ts';
import { crash, PIECES, reboot } from './restart.ts';
import { interrupt, interruption } from './run.ts';
import { cluster, down, up } from './up.ts';

const HELP = `Usage: scripts/cluster COMMAND

A real one-node Kubernetes on this machine, for tests. The node lives in a network of its own: the host reaches
its API server, but has no route to pods or Services. Needs root on Debian, Go and npm; the first \`up\` builds
Kubernetes, for some minutes.

  up [--version ${DEFAULT_VERSION}]   start it if it doesn't run yet; the last line is the kubeconfig's path
  down                    end it and all it started
  kubeconfig              print the kubeconfig's path
  version                 print the running cluster's version
  kubectl ARGS…           run kubectl against it
  ctr ARGS…               run containerd's ctr in it (in the namespace k8s.io, unless told otherwise)
  node COMMAND…           run a command in the node's network
  restart PIECE…          kill -9 these and start them again: ${PIECES.slice(0, 4).join(', ')},
                          ${PIECES.slice(4).join(', ')}; or \`node\`: all at once, with what a reboot forgets

LPK_CLUSTER=2 (to 9) in the environment means another one, beside the first.
`;

/** The command line is wrong: exit 2. */
class UsageError extends ClusterError {}

async function main([command, ...args]: string[]): Promise<void> {
  switch (command) {
    case 'up': {
      const version = upVersion(args);
      requireRoot();
      return console.log(await up(version));
    }
    case 'down':
      none(args);
      requireRoot();
      return down();
    case 'kubeconfig':
      none(args);
      cluster();
      return console.log(kubeconfigFile);
    case 'version':
      none(args);
      return console.log(`v${cluster().version}`);
    case 'kubectl':
      return become(cluster().kube, ['kubectl', ...args], { KUBECONFIG: kubeconfigFile });
    case 'ctr':
      return inNode(['ctr', ...args]);
    case 'node':
      if (args.length === 0) throw new UsageError('node needs a command');
      return inNode(args);
    case 'restart':
      if (args.length === 0) throw new UsageError(`restart needs the name of a piece: ${PIECES.join(', ')}; or node`);
      requireRoot();
      return args.includes('node') ? reboot() : crash(args);
    case '-h':
    case '--help':
    case 'help':
      return void process.stdout.write(HELP);
    default:
      throw new UsageError(command ? `unknown command ${command}` : 'a command is missing');
  }
}

function upVersion(args: string[]): string | undefined {
  let version: string | undefined;
  try {
    ({ version } = parseArgs({ args, options: { version: { type: 'string' } } }).values);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (version !== undefined && !/^v?1\.\d+\.\d+$/.test(version)) {
    throw new UsageError(`--version ${version} is no Kubernetes version such as ${DEFAULT_VERSION}`);
  }
  return version?.replace(/^v/, '');
}

function none(args: string[]): void {
  if (args.length > 0) throw new UsageError(`unexpected argument ${args[0]}`);
}

function requireRoot(): void {
  if (process.platform !== 'linux') throw new ClusterError('the cluster runs on Linux only');
  if (process.getuid?.() !== 0) throw new ClusterError('the cluster needs root: run it with sudo');
}

function inNode(command: string[]): void {
  const { pid } = cluster();
  requireRoot();
  const env = { CONTAINERD_NAMESPACE: process.env.CONTAINERD_NAMESPACE ?? 'k8s.io' };
  become('/usr/bin/nsenter', ['nsenter', ...enter(pid, process.cwd()), '--', ...command], env);
}

/** Replaces this process, so that terminal, signals and exit code are the program's own. */
function become(program: string, argv: string[], env: Record<string, string>): void {
  process.execve?.(program, argv, { ...process.env, ...env });
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, interrupt);
try {
  await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof ClusterError)) throw error;
  if (error instanceof UsageError) {
    console.error(`scripts/cluster: ${error.message}; see scripts/cluster --help`);
    process.exitCode = 2;
  } else {
    console.error(`scripts/cluster: ${error.message}`);
    process.exitCode = interruption.aborted ? 130 : 1;
  }
}
