import net from 'node:net';
import { LpkError } from '../agent/wire/errors.ts';
import { isLoopback } from '../proxy/loopback.ts';
import { isDetached } from './detached.ts';
import { isShell, SHELLS, type Shell } from './proxy-env.ts';
import { assertRange, readRanges } from './ranges-options.ts';
import {
  type ClusterOptions,
  clusterOptions,
  readChoice,
  readClusterOptions,
  readList,
  readNumber,
  readText,
  type Verb,
  type VerbGroup,
  type Words,
} from './verb.ts';

export type ProxyUpOptions = ClusterOptions & {
  like: string | undefined;
  /** Undefined: the usual one, or any free one when that is taken. 0: any free one. */
  port: number | undefined;
  dnsPort: number | undefined;
  bind: string;
  credentials: { user: string; password: string } | undefined;
  dns: 'split' | 'all';
  dnsInclude: string[];
  dnsExclude: string[];
  systemDns: boolean;
  tun: boolean;
  /** CIDRs to route besides those found, and those not to. */
  routes: string[];
  noRoutes: string[];
  /** The range of stand-in addresses; undefined: cluster names have their own addresses. */
  fakeIpRange: string | undefined;
  transport: 'auto' | 'proxy' | 'port-forward';
  agentImage: string | undefined;
  /** How long the agent keeps the session of a laptop that went away, ms. */
  holdMs: number;
  detach: boolean;
};

/** Which of the running proxies. Undefined: the only one. */
export type ProxyChoice = { namespace: string | undefined; context: string | undefined };

const TRANSPORTS = ['auto', 'proxy', 'port-forward'] as const;
const DEFAULT_HOLD_SECONDS = 60;
const MAX_HOLD_SECONDS = 86_400;
const FAKE_IP_RANGE = '198.18.0.0/15';

const text = { string: true, requiresArg: true } as const;
const list = { array: true, string: true, requiresArg: true } as const;
const flag = { boolean: true } as const;

const up: Verb = {
  command: 'up',
  describe: 'Open the cluster’s network to programs on this computer, until Ctrl-C',
  examples: [
    ['lpk proxy up -n shop', 'one port for SOCKS and HTTP, a DNS server, in the foreground'],
    ['lpk proxy up -d; eval "$(lpk proxy env)"', 'in the background, and this shell uses it'],
    ['sudo -E lpk proxy up --tun --system-dns', 'every program, without any setting'],
  ],
  options: (words) =>
    clusterOptions(words)
      .option('detach', { ...flag, alias: 'd', describe: 'Go on in the background once it is ready' })
      .option('like', {
        ...text,
        describe: 'Be like this workload: its labels, service account and node, so its policies and rights apply',
      })
      .option('port', { ...text, describe: 'Port of the SOCKS and HTTP proxy (default: 1080, or a free one)' })
      .option('dns-port', { ...text, describe: 'Port of the DNS server (default: 1053, or a free one)' })
      .option('dns', { ...text, describe: 'split (default): only cluster names to the cluster; all: every name' })
      .option('dns-include', { ...list, describe: 'SUFFIX that is the cluster’s too, may be repeated' })
      .option('dns-exclude', { ...list, describe: 'SUFFIX that is not the cluster’s, may be repeated' })
      .option('system-dns', { ...flag, describe: 'Make the system use the DNS server (root)' })
      .option('tun', { ...flag, describe: 'Route the cluster’s addresses through a TUN device (root)' })
      .option('route', { ...list, describe: 'CIDR to route besides those found, may be repeated' })
      .option('no-route', { ...list, describe: 'CIDR not to route, may be repeated' })
      .option('fake-ip', { ...flag, describe: 'Answer cluster names with stand-in addresses: no overlap with a VPN' })
      .option('fake-ip-range', { ...text, describe: `CIDR of the stand-in addresses (default: ${FAKE_IP_RANGE})` })
      .option('bind', { ...text, describe: 'Address the proxy listens on (default: 127.0.0.1)' })
      .option('allow-lan', { ...flag, describe: 'Allow --bind to an address others can reach; needs a password' })
      .option('user', { ...text, describe: 'User name for the proxy; the password comes from LPK_PROXY_PASSWORD' })
      .option('transport', { ...text, describe: 'auto (default), proxy or port-forward' })
      .option('agent-image', { ...text, describe: 'Image with Node for the agent (default: node:24-alpine)' })
      .option('hold', {
        ...text,
        describe: `Seconds the agent keeps connections while the laptop is away (default: ${DEFAULT_HOLD_SECONDS})`,
      }),
  async run(words, command, output) {
    refuseCommand('up', command);
    const options = readUpOptions(words, process.env);
    if (options.detach) {
      const { detach } = await import('./proxy-detach.ts');
      return detach(output);
    }
    const { proxyUp } = await import('./proxy-up.ts');
    return proxyUp(options, output);
  },
};

const down: Verb = {
  command: 'down',
  offline: true,
  describe: 'End a running proxy and wait until nothing of it is left',
  examples: [['lpk proxy down -n shop', 'when several run: the one into this namespace']],
  options: (words) => choiceOptions(words).option('all', { ...flag, describe: 'All of them' }),
  async run(words, command, output) {
    refuseCommand('down', command);
    const { proxyDown } = await import('./proxy-verbs.ts');
    return proxyDown({ ...readChoiceOptions(words), all: words.all === true }, output);
  },
};

const status: Verb = {
  command: 'status',
  offline: true,
  describe: 'Show the running proxies: link, connections, bytes, doors',
  examples: [['lpk proxy status -o json', 'for programs']],
  options: choiceOptions,
  async run(words, command, output) {
    refuseCommand('status', command);
    const { proxyStatus } = await import('./proxy-verbs.ts');
    return proxyStatus(readChoiceOptions(words), output);
  },
};

const env: Verb = {
  command: 'env',
  offline: true,
  describe: 'Print what makes a shell’s programs use a running proxy',
  examples: [
    ['eval "$(lpk proxy env)"', 'bash, zsh'],
    ['lpk proxy env --shell fish | source', 'fish'],
    ['lpk proxy env --shell powershell | Out-String | Invoke-Expression', 'PowerShell'],
    ['eval "$(lpk proxy env --unset)"', 'take it back'],
  ],
  options: (words) =>
    choiceOptions(words)
      .option('shell', { ...text, describe: `${SHELLS.join(', ')} (default: as $SHELL says)` })
      .option('unset', { ...flag, describe: 'Print what takes it back' }),
  async run(words, command, output) {
    refuseCommand('env', command);
    const shell = readText(words, 'shell');
    if (shell !== undefined && !isShell(shell))
      throw new LpkError('usage', `--shell is ${SHELLS.join(', ')}, not ${shell}`);
    const { proxyEnv } = await import('./proxy-verbs.ts');
    return proxyEnv(
      { ...readChoiceOptions(words), shell: shell as Shell | undefined, unset: words.unset === true },
      output,
    );
  },
};

export const proxyVerbs: VerbGroup = {
  command: 'proxy',
  describe: 'The cluster’s network for every program on this computer',
  verbs: [up, down, status, env],
};

function choiceOptions(words: Parameters<Verb['options']>[0]) {
  return words
    .option('namespace', { ...text, alias: 'n', describe: 'The proxy into this namespace, when several run' })
    .option('context', { ...text, describe: 'The proxy into the cluster of this context' })
    .option('output', { ...text, alias: 'o', describe: 'text, or json: one object per line on stdout' });
}

function readChoiceOptions(words: Words): ProxyChoice {
  readChoice(words, 'output', ['text', 'json'], 'text');
  return { namespace: readText(words, 'namespace'), context: readText(words, 'context') };
}

function refuseCommand(verb: string, command: string[] | undefined): void {
  if (command) throw new LpkError('usage', `proxy ${verb} takes no command after --`);
}

/** @throws LpkError `usage`: one line that says which option is wrong and what it should be. */
export function readUpOptions(words: Words, environment: NodeJS.ProcessEnv): ProxyUpOptions {
  const range = readText(words, 'fake-ip-range');
  const fakeIp = words['fake-ip'] === true || range !== undefined;
  const options: ProxyUpOptions = {
    ...readClusterOptions(words),
    like: readText(words, 'like'),
    port: readPort(words, 'port'),
    dnsPort: readPort(words, 'dns-port'),
    bind: readText(words, 'bind') ?? '127.0.0.1',
    credentials: readCredentials(words, environment),
    dns: readChoice(words, 'dns', ['split', 'all'] as const, 'split'),
    dnsInclude: readSuffixes(words, 'dns-include'),
    dnsExclude: readSuffixes(words, 'dns-exclude'),
    systemDns: words['system-dns'] === true,
    tun: words.tun === true,
    routes: readRanges(words, 'route'),
    noRoutes: readRanges(words, 'no-route'),
    fakeIpRange: fakeIp ? assertRange('fake-ip-range', range ?? FAKE_IP_RANGE, 4) : undefined,
    transport: readChoice(words, 'transport', TRANSPORTS, 'auto'),
    agentImage: readText(words, 'agent-image'),
    holdMs: readNumber(words, 'hold', { least: 1, most: MAX_HOLD_SECONDS, otherwise: DEFAULT_HOLD_SECONDS }) * 1000,
    detach: words.detach === true && !isDetached(environment),
  };
  if (net.isIP(options.bind) === 0) throw new LpkError('usage', `--bind is an IP address, not ${options.bind}`);
  if (!isLoopback(options.bind) && words['allow-lan'] !== true) {
    const why = `others could use the cluster through ${options.bind}`;
    throw new LpkError('usage', `--bind ${options.bind} needs --allow-lan and a password: ${why}`);
  }
  if (!isLoopback(options.bind) && !options.credentials)
    throw new LpkError('usage', '--allow-lan needs a password: --user NAME, and LPK_PROXY_PASSWORD');
  if (options.tun && options.bind !== '127.0.0.1' && options.bind !== '0.0.0.0')
    throw new LpkError('usage', '--tun needs the proxy on 127.0.0.1: leave --bind out');
  if ((options.routes.length > 0 || options.noRoutes.length > 0) && !options.tun)
    throw new LpkError('usage', '--route and --no-route are for --tun');
  return options;
}

function readPort(words: Words, name: string): number | undefined {
  if (words[name] === undefined) return undefined;
  return readNumber(words, name, { least: 0, most: 65_535, otherwise: 0 });
}

function readCredentials(words: Words, environment: NodeJS.ProcessEnv): ProxyUpOptions['credentials'] {
  const user = readText(words, 'user');
  const password = environment.LPK_PROXY_PASSWORD;
  if (user === undefined) return undefined;
  if (!password) throw new LpkError('usage', '--user needs a password in the variable LPK_PROXY_PASSWORD');
  if (user.includes(':')) throw new LpkError('usage', '--user can’t have a colon (RFC 7617)');
  if (Buffer.byteLength(user) > 255 || Buffer.byteLength(password) > 255)
    throw new LpkError('usage', 'user name and password have at most 255 bytes each (RFC 1929)');
  return { user, password };
}

function readSuffixes(words: Words, name: string): string[] {
  return readList(words, name).map((suffix) => {
    const bare = suffix
      .replace(/^\*?\./, '')
      .replace(/\.$/, '')
      .toLowerCase();
    if (!/^[a-z0-9_]([-a-z0-9_.]{0,251}[a-z0-9_])?$/.test(bare))
      throw new LpkError('usage', `--${name} is a DNS suffix like corp.example, not ${suffix}`);
    return bare;
  });
}
