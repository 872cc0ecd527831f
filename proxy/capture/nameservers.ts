import { readFileSync, statSync } from 'node:fs';
import net from 'node:net';

/** The nameservers of resolv.conf(5), read again when the file has changed: a VPN comes and goes. */
export class Nameservers {
  #path: string;
  #version = '';
  #servers: ReadonlySet<string> = new Set();

  constructor(path = '/etc/resolv.conf') {
    this.#path = path;
  }

  has(host: string): boolean {
    const stat = statSync(this.#path, { throwIfNoEntry: false });
    const version = stat ? `${stat.ino} ${stat.mtimeMs} ${stat.size}` : '';
    if (version !== this.#version) {
      this.#version = version;
      this.#servers = new Set(stat ? parse(readFileSync(this.#path, 'latin1')) : []);
    }
    return this.#servers.has(host);
  }
}

function parse(text: string): string[] {
  return [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].flatMap(([, address = '']) => {
    if (net.isIPv4(address)) return [address];
    return net.isIPv6(address) ? [new net.SocketAddress({ family: 'ipv6', address }).address] : [];
  });
}
