import { LpkError } from '../agent/wire/errors.ts';
import { CAPTURES, type CaptureChoice } from './capture-choice.ts';
import { type EnvironmentChoice, environmentOptions, readEnvironmentChoice } from './environment-options.ts';
import type { WhenHeld } from './make-room.ts';
import { readRanges } from './ranges-options.ts';
import { READINESS, type ReadinessChoice } from './readiness-choice.ts';
import {
  type ClusterOptions,
  clusterOptions,
  readChoice,
  readClusterOptions,
  readList,
  readNumber,
  readText,
  type Verb,
  type Words,
} from './verb.ts';
import { readVolumesChoice, type VolumesChoice, volumesOptions } from './volumes-options.ts';

/** Inbound connections to the container's port reach 127.0.0.1:`laptopPort`. */
export type PortMapping = {
  laptopPort: number;
  /** Undefined when not named: then it follows from what the container serves. */
  containerPort: number | undefined;
};

export type ConnectOptions = ClusterOptions & {
  target: string;
  ports: PortMapping[];
  container: string | undefined;
  /** Of the workload's pods only one is served. */
  one: boolean;
  transport: 'auto' | 'proxy' | 'port-forward';
  agentImage: string;
  /** 0: any free one. */
  proxyPort: number;
  /** When a pod may be called. */
  readiness: ReadinessChoice;
  /** Wait for the rollout when the workload is restored. */
  wait: boolean;
  /** How long the agent keeps the session of a laptop that went away, ms. */
  holdMs: number;
  /** How long this laptop may be silent before the cluster puts the workload back, ms. */
  restoreAfterMs: number;
  restorer: boolean;
  /** Prove that calls through the Service arrive. */
  selfTest: boolean;
  whenHeld: WhenHeld;
  /** Stop this user's processes that listen on the ports that are needed. */
  freePorts: boolean;
  capture: CaptureChoice;
  environment: EnvironmentChoice;
  /** CIDRs to catch besides those found, and those not to. */
  routes: string[];
  noRoutes: string[];
  /** Suffixes of names outside the cluster that the pod resolves, and reaches. */
  dnsInclude: string[];
  volumes: VolumesChoice;
  /** Undefined: stay until asked to leave. */
  command: { program: string; args: string[] } | undefined;
};

const TRANSPORTS = ['auto', 'proxy', 'port-forward'] as const;
const DEFAULT_AGENT_IMAGE = 'node:24-alpine';
const DEFAULT_HOLD_SECONDS = 60;
const MAX_HOLD_SECONDS = 86_400;
const RESTORE_AFTER_SECONDS = { least: 15, most: 86_400, otherwise: 45 };

export const connectVerb: Verb = {
  command: 'connect [target]',
  describe: 'Take the place of a Service’s or workload’s pod, until the command ends or Ctrl-C',
  examples: [
    ['lpk connect web -- npm start', 'the pod behind the Service web becomes `npm start`'],
    ['lpk connect deployment/web -n shop -p 3000:8080', 'calls to the container’s port 8080 reach 127.0.0.1:3000'],
    ['lpk connect statefulset/db --proxy-port 1080', 'no command: use the proxy with your own programs'],
    ['lpk connect', 'as lpk.yaml says, which `lpk init` writes'],
  ],
  options: (words) =>
    clusterOptions(
      environmentOptions(volumesOptions(words))
        .positional('target', {
          type: 'string',
          describe:
            'SERVICE, deployment/NAME, statefulset/NAME, daemonset/NAME, replicaset/NAME, rollout/NAME or pod/NAME',
        })
        .option('port', {
          alias: 'p',
          array: true,
          string: true,
          requiresArg: true,
          describe: 'LOCAL[:CONTAINER], may be repeated',
        })
        .option('free-ports', {
          boolean: true,
          describe: 'Stop your own programs that listen on the ports needed here',
        })
        .option('container', { string: true, requiresArg: true, describe: 'Which container, when the pod has several' })
        .option('replicas', {
          string: true,
          requiresArg: true,
          describe: 'all (default), or one: the others stay (of a Deployment: one more pod beside them)',
        })
        .option('proxy-port', {
          string: true,
          requiresArg: true,
          describe: 'Port of the SOCKS and HTTP proxy (default: any free one)',
        })
        .option('transport', { string: true, requiresArg: true, describe: 'auto (default), proxy or port-forward' })
        .option('readiness', {
          string: true,
          requiresArg: true,
          describe:
            'When calls come here: listening (default: something listens at one of the ports), connected, or probe (the container’s readiness probe, at your process)',
        })
        .option('agent-image', {
          string: true,
          requiresArg: true,
          describe: `Image with Node for the agent (default: ${DEFAULT_AGENT_IMAGE})`,
        })
        .option('hold', {
          string: true,
          requiresArg: true,
          describe: `Seconds the agent keeps connections while the laptop is away (default: ${DEFAULT_HOLD_SECONDS})`,
        })
        .option('capture', {
          string: true,
          requiresArg: true,
          describe: 'auto (default), seccomp (any program, Linux), env (proxy variables) or none',
        })
        .option('route', {
          array: true,
          string: true,
          requiresArg: true,
          describe: 'CIDR that is the cluster’s besides those found, may be repeated',
        })
        .option('no-route', {
          array: true,
          string: true,
          requiresArg: true,
          describe: 'CIDR that is not the cluster’s, may be repeated',
        })
        .option('dns-include', {
          array: true,
          string: true,
          requiresArg: true,
          describe: 'Names under SUFFIX are resolved and reached from the pod too, may be repeated',
        })
        .option('profile', {
          string: true,
          requiresArg: true,
          describe: 'Profile of lpk.yaml (default, without a target: its default, or its only one)',
        })
        .option('restore-after', {
          string: true,
          requiresArg: true,
          describe: `Seconds without a sign of this computer after which the cluster puts the workload back (default: ${RESTORE_AFTER_SECONDS.otherwise}, or a longer --hold)`,
        })
        .option('no-self-test', {
          boolean: true,
          describe: 'Do not try whether a call through the Service arrives here',
        })
        .option('no-restorer', { boolean: true, describe: 'Leave no restorer in the cluster that would do so' })
        .option('wait', { boolean: true, describe: 'When somebody holds the workload: wait until it is free' })
        .option('take-over', { boolean: true, describe: 'When somebody holds the workload: end their session' })
        .option('no-wait', { boolean: true, describe: 'Do not wait for the rollout when the workload is restored' }),
    ),
  async run(words, command, output) {
    const { completeLine } = await import('./connect-line.ts');
    const line = await completeLine({ words, command }, output);
    const options = readConnectOptions(line.words, line.command);
    const { connect } = await import('./connect.ts');
    if (line.folder) process.chdir(line.folder);
    return connect(options, output);
  },
};

/** @throws LpkError `usage`: one line that says which option is wrong and what it should be. */
export function readConnectOptions(words: Words, command: string[] | undefined): ConnectOptions {
  const target = readText(words, 'target');
  if (!target) throw new LpkError('usage', 'connect needs a target (a Service, deployment/NAME…) or an lpk.yaml');
  if (command?.length === 0) throw new LpkError('usage', 'there is no command after --');
  const [program, ...args] = command ?? [];
  const ports = ((words.port ?? []) as unknown[]).map((mapping) => parsePortMapping(String(mapping)));
  checkPorts(ports);
  const hold = { least: 1, most: MAX_HOLD_SECONDS, otherwise: DEFAULT_HOLD_SECONDS };
  const holdSeconds = readNumber(words, 'hold', hold);
  // Who wants connections kept for long wants the workload kept for as long.
  const restoreAfter = Math.max(RESTORE_AFTER_SECONDS.otherwise, words.hold === undefined ? 0 : holdSeconds);
  return {
    ...readClusterOptions(words),
    target,
    ports,
    container: readText(words, 'container'),
    one: readChoice(words, 'replicas', ['all', 'one'] as const, 'all') === 'one',
    transport: readChoice(words, 'transport', TRANSPORTS, 'auto'),
    readiness: readChoice(words, 'readiness', READINESS, 'listening'),
    agentImage: readText(words, 'agent-image') ?? DEFAULT_AGENT_IMAGE,
    proxyPort: readNumber(words, 'proxy-port', { least: 0, most: 65_535, otherwise: 0 }),
    wait: words['no-wait'] !== true,
    freePorts: words['free-ports'] === true,
    capture: readChoice(words, 'capture', CAPTURES, 'auto'),
    environment: readEnvironmentChoice(words),
    routes: readRanges(words, 'route'),
    noRoutes: readRanges(words, 'no-route'),
    dnsInclude: readList(words, 'dns-include'),
    volumes: readVolumesChoice(words),
    holdMs: holdSeconds * 1000,
    restoreAfterMs: readNumber(words, 'restore-after', { ...RESTORE_AFTER_SECONDS, otherwise: restoreAfter }) * 1000,
    restorer: words['no-restorer'] !== true,
    selfTest: words['no-self-test'] !== true,
    whenHeld: readWhenHeld(words),
    command: program === undefined ? undefined : { program, args },
  };
}

function readWhenHeld(words: Words): WhenHeld {
  if (words.wait === true && words['take-over'] === true) {
    throw new LpkError('usage', '--wait leaves the workload to who holds it, --take-over does not: choose one');
  }
  if (words['take-over'] === true) return 'take-over';
  return words.wait === true ? 'wait' : 'refuse';
}

/**
 * `LOCAL[:CONTAINER]`: a port of the laptop, and of the container.
 *
 * @throws LpkError `usage`.
 */
export function parsePortMapping(text: string): PortMapping {
  const parts = text.split(':');
  if (parts.length > 2) throw new LpkError('usage', `-p ${text}: expected LOCAL[:CONTAINER], like 3000:80`);
  const [laptopPort, containerPort] = parts.map((part) => parsePort(text, part));
  return { laptopPort: laptopPort as number, containerPort };
}

function parsePort(mapping: string, text: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65_535) {
    const what = text === '' ? 'a port is missing' : `${text} is not a port (1 to 65535)`;
    throw new LpkError('usage', `-p ${mapping}: ${what}; expected LOCAL[:CONTAINER], like 3000:80`);
  }
  return port;
}

function checkPorts(ports: PortMapping[]): void {
  const seen = new Set<number>();
  for (const { containerPort } of ports) {
    if (containerPort === undefined) continue;
    if (seen.has(containerPort))
      throw new LpkError('usage', `-p: the container’s port ${containerPort} is mapped twice`);
    seen.add(containerPort);
  }
}
