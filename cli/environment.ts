import { isIP, isIPv6 } from 'node:net';
import { type EnvironmentChoice, matchesAny } from './environment-options.ts';

/**
 * Variables that describe the machine a process runs on, not its job: the laptop's stay, whatever the pod says.
 *
 * Three kinds: the person's shell and home; the loader; and the options of language runtimes, which name files of the pod's
 * image (an injected `-javaagent:/otel/…` or `--require /otel/…` would keep the process from starting at all). Besides, the
 * agent runs in a stock Node image, so NODE_VERSION and YARN_VERSION are that image's and not the pod's.
 */
const LAPTOPS_OWN = new Set([
  ...['PATH', 'HOME', 'HOSTNAME', 'SHELL', 'PWD', 'OLDPWD', 'TERM', 'COLORTERM', 'USER', 'LOGNAME', 'SHLVL', '_'],
  ...['TMPDIR', 'TMP', 'TEMP', 'BASH_ENV'],
  ...['NODE_OPTIONS', 'NODE_PATH', 'NODE_VERSION', 'YARN_VERSION'],
  ...['JAVA_HOME', 'JAVA_TOOL_OPTIONS', 'JDK_JAVA_OPTIONS', '_JAVA_OPTIONS', 'CLASSPATH'],
  ...['PYTHONHOME', 'PYTHONPATH', 'PYTHONSTARTUP', 'VIRTUAL_ENV'],
  ...['RUBYOPT', 'RUBYLIB', 'GEM_HOME', 'GEM_PATH', 'PERL5OPT', 'PERL5LIB', 'GOROOT', 'GOPATH'],
  ...['DOTNET_ROOT', 'DOTNET_STARTUP_HOOKS'],
]);
const LAPTOPS_OWN_PREFIXES = ['LD_', 'DYLD_', 'XDG_', 'CORECLR_'];

const LOOPBACK = ['localhost', '127.0.0.1', '::1'];

/**
 * The environment of the launched command: the pod's variables over the laptop's, less those that describe a machine
 * ({@link LAPTOPS_OWN}), with the proxy variables of {@link proxyEnvironment} over both.
 *
 * The pod's NODE_OPTIONS is left out like every other runtime's
 * options; the laptop's own stays, so a debugger that works through it keeps working.
 *
 * @returns `leftOut`: names of the pod's variables that were not taken over, sorted.
 */
export function childEnvironment({
  laptop,
  pod,
  proxy,
  choice = { include: [], exclude: [], set: {} },
}: {
  laptop: NodeJS.ProcessEnv;
  pod: Record<string, string>;
  /** Undefined: no proxy variables. */
  proxy?: { port: number; host?: string; credentials?: { user: string; password: string } } | undefined;
  choice?: EnvironmentChoice | undefined;
}): { env: Record<string, string>; leftOut: string[] } {
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(laptop)) if (value !== undefined) env[name] = value;
  const variables = proxy ? proxyEnvironment(laptop, proxy.port, proxy) : {};
  const leftOut: string[] = [];
  for (const [name, value] of Object.entries(pod)) {
    const own = isLaptopsOwn(name) && !matchesAny(choice.include, name);
    if (own || name in variables || matchesAny(choice.exclude, name)) leftOut.push(name);
    else env[name] = value;
  }
  return { env: { ...env, ...variables, ...choice.set }, leftOut: leftOut.toSorted() };
}

function isLaptopsOwn(name: string): boolean {
  return LAPTOPS_OWN.has(name) || LAPTOPS_OWN_PREFIXES.some((prefix) => name.startsWith(prefix));
}

/**
 * The variables that make common runtimes use lpk's proxy on `host`:`proxyPort` (127.0.0.1), names included; what each runtime reads
 * was seen with real programs (`test/unit/cli/runtimes.test.ts`).
 *
 * - ALL_PROXY is `http://`, not `socks5h://`: the door serves CONNECT to any port, so nothing is lost, while Python's httpx
 *   (and with it many API clients) refuses to start when it meets a SOCKS address and its `socksio` extra is not installed.
 * - Java gets HTTP and HTTPS proxies for URL and HttpClient, and the SOCKS proxy for plain sockets (JDBC and the like):
 *   `new Socket("db", 5432)` hands an unresolved name to the SOCKS proxy. NIO channels and `InetAddress` know no proxy.
 */
export function proxyEnvironment(
  laptop: NodeJS.ProcessEnv,
  proxyPort: number,
  access: { host?: string; credentials?: { user: string; password: string }; direct?: string[] } = {},
): Record<string, string> {
  const { host = '127.0.0.1', credentials, direct: others = [] } = access;
  const login = credentials && [credentials.user, credentials.password].map(encodeURIComponent).join(':');
  const url = `http://${login ? `${login}@` : ''}${isIPv6(host) ? `[${host}]` : host}:${proxyPort}`;
  const direct = [...LOOPBACK, ...others, ...directOnLaptop(laptop.NO_PROXY ?? laptop.no_proxy ?? '')];
  const noProxy = [...new Set(direct)].join(',');
  return {
    HTTP_PROXY: url,
    http_proxy: url,
    HTTPS_PROXY: url,
    https_proxy: url,
    ALL_PROXY: url,
    all_proxy: url,
    NO_PROXY: noProxy,
    no_proxy: noProxy,
    NODE_USE_ENV_PROXY: '1',
    JAVA_TOOL_OPTIONS: [laptop.JAVA_TOOL_OPTIONS, ...javaOptions(host, proxyPort, direct)].filter(Boolean).join(' '),
  };
}

/**
 * The entries of the laptop's NO_PROXY that stay: names and single addresses. `*`, address ranges (`10.0.0.0/8`, `10.`) and
 * the cluster's own domains would lead cluster traffic past the proxy; people have them there for other tools' sake.
 */
function directOnLaptop(noProxy: string): string[] {
  return noProxy.split(/[\s,]+/).filter((entry) => {
    const name = entry.replace(/^[*.]+/, '');
    if (name === '' || entry.includes('/')) return false;
    if (/^[\d.*]+$/.test(name) && isIP(name) === 0) return false;
    return !/^((.+\.)?svc|(.+\.)?cluster\.local|local)$/i.test(name);
  });
}

/** https://docs.oracle.com/en/java/javase/17/docs/api/java.base/java/net/doc-files/net-properties.html */
function javaOptions(host: string, proxyPort: number, direct: string[]): string[] {
  const own = new Set(LOOPBACK);
  const names = direct.filter((entry) => !own.has(entry)).map((entry) => entry.replace(/^\./, '*.'));
  const nonProxyHosts = ['localhost', '127.*', '[::1]', ...new Set(names)].join('|');
  return [
    ...['http.proxy', 'https.proxy', 'socksProxy'].flatMap((proxy) => [
      `-D${proxy}Host=${host}`,
      `-D${proxy}Port=${proxyPort}`,
    ]),
    `-Dhttp.nonProxyHosts=${nonProxyHosts}`,
    `-DsocksNonProxyHosts=${nonProxyHosts}`,
  ];
}
