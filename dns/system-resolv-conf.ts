import type { Step, SystemDns } from './system.ts';

/** /etc/resolv.conf without a resolver of the host's own before it (resolv.conf(5)). */

/** Nameservers that count (MAXNS): those after the third are not asked. */
const MAX_NAMESERVERS = 3;

/** The one of a file that names none. */
const DEFAULT_SERVER = '127.0.0.1';

const OPTIONS = /^options[ \t].*$/gm;

/**
 * lpk's server comes first, at port 53 of a loopback address, and the host's own stay behind it. When lpk is gone, nothing
 * listens there, the kernel says so at once, and glibc asks the next one: names outside never stop. What DHCP or a VPN writes meanwhile is
 * theirs to keep.
 *
 * The file itself is changed, through a symlink too, and not replaced: it keeps its inode (it may be a bind mount), its owner and its
 * label, and a network manager that writes its target at the next change of network is seen at once.
 */
export function planResolvConf(
  original: string | undefined,
  { pid, server }: Pick<SystemDns, 'pid' | 'server'>,
): Step[] {
  const file = '/etc/resolv.conf';
  const content = original ?? '';
  const lines = [
    `# lpk ${pid}: cluster names; lpk takes these lines out when it ends, and without lpk the next nameserver answers`,
    `nameserver ${server.address}`,
  ];
  if (nameservers(content).length === 0) lines.push(`nameserver ${DEFAULT_SERVER}`);
  const block = `${lines.join('\n')}\n`;
  const from = block + content.replace(OPTIONS, withoutRotate);
  const rotating = (content.match(OPTIONS) ?? []).filter((line) => withoutRotate(line) !== line);
  const options = rotating.map((line): [string, string] => [withoutRotate(line), line]);
  return [
    {
      what: `${file}: nameserver ${server.address} before the others`,
      do: [{ write: file, content: from }],
      undo: [{ putBack: file, from, ours: [[block, ''], ...options], to: original }],
    },
  ];
}

/** The nameservers that would be asked without lpk. */
export function serversOf(content: string): string[] {
  const others = content.replace(/^# lpk \d+:.*\nnameserver .*\n/gm, '');
  const servers = nameservers(others).slice(0, MAX_NAMESERVERS);
  return servers.length > 0 ? servers : [DEFAULT_SERVER];
}

function nameservers(content: string): string[] {
  return [...content.matchAll(/^nameserver[ \t]+([^ \t\n#;]+)/gm)].map((match) => match[1] as string);
}

/** A line of options without `rotate`, which would send every other question past lpk. */
function withoutRotate(line: string): string {
  const left = line.replaceAll(/[ \t]+rotate(?=[ \t]|$)/g, '');
  return left === line ? line : `# lpk took rotate out of the next line\n${left}`;
}
