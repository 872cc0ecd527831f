import net from 'node:net';

/** The address that a reverse name stands for (RFC 1035 section 3.5, RFC 3596 section 2.5); undefined for any other name. */
export function reversedAddress(name: string): string | undefined {
  const v4 = /^((?:\d{1,3}\.){4})in-addr\.arpa$/.exec(name)?.[1];
  if (v4) {
    const address = v4.slice(0, -1).split('.').reverse().join('.');
    return net.isIPv4(address) ? address : undefined;
  }
  const v6 = /^((?:[0-9a-f]\.){32})ip6\.arpa$/.exec(name)?.[1];
  if (!v6) return undefined;
  const digits = v6.replaceAll('.', '').split('').reverse().join('');
  const groups = digits.match(/.{4}/g) as string[];
  return new net.SocketAddress({ family: 'ipv6', address: groups.join(':') }).address;
}
