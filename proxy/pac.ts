/** What goes to the cluster; names without leading or trailing dots, in lower case. */
export type PacOptions = {
  /** The door's, on 127.0.0.1. */
  port: number;
  /** The cluster's domain: `cluster.local`. */
  domain: string;
  /** Names of the form SERVICE.NAMESPACE are the cluster's. */
  namespaces: string[];
  /** CIDRs whose addresses are the cluster's. PAC has no word for IPv6 ones: they are left out. */
  ranges: string[];
  /** Suffixes of further names. */
  include: string[];
};

/** Media type of a PAC file. */
export const PAC_TYPE = 'application/x-ns-proxy-autoconfig';

/**
 * A proxy auto-config file, in the ES3 that every client's interpreter knows (Netscape's format; MDN, “Proxy Auto-Configuration
 * (PAC) file”): the cluster's names and addresses go through the door, all others past it.
 *
 * It says PROXY: every client knows the word, resolves the name at the proxy, can send a password, and shows the reason when a
 * dial fails. SOCKS5 Windows and Safari don't know, and Chromium has no password for it. There is no second choice: it would be the same door.
 */
export function pacFile({ port, domain, namespaces, ranges, include }: PacOptions): string {
  const suffixes = [domain, 'svc', ...namespaces, ...include];
  const nets = ranges.map(ipv4Net).filter((net) => net !== undefined);
  return `// lpk: the cluster's names and addresses go through the proxy, all others past it.
var proxy = ${JSON.stringify(`PROXY 127.0.0.1:${port}`)};
var suffixes = ${JSON.stringify(suffixes.map((suffix) => `.${suffix}`))};
var nets = ${JSON.stringify(nets)};

function FindProxyForURL(url, host) {
  var name = host.toLowerCase().replace(/\\.$/, '');
  var i;
  if (/^\\d+\\.\\d+\\.\\d+\\.\\d+$/.test(name)) {
    for (i = 0; i < nets.length; i++) {
      if (isInNet(name, nets[i][0], nets[i][1])) return proxy;
    }
    return 'DIRECT';
  }
  if (name === 'localhost' || name.indexOf(':') >= 0) return 'DIRECT';
  if (isPlainHostName(name)) return proxy;
  for (i = 0; i < suffixes.length; i++) {
    if (dnsDomainIs('.' + name, suffixes[i])) return proxy;
  }
  return 'DIRECT';
}
`;
}

/** `10.96.0.0/12` as isInNet wants it: address and mask. */
function ipv4Net(range: string): [string, string] | undefined {
  const [, address, bits] = /^(\d+\.\d+\.\d+\.\d+)\/(\d+)$/.exec(range) ?? [];
  if (!address || !bits) return undefined;
  const mask = 2 ** 32 - 2 ** (32 - Number(bits));
  return [address, [24, 16, 8, 0].map((shift) => (mask / 2 ** shift) & 0xff).join('.')];
}
