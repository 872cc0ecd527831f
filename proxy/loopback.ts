import net from 'node:net';

const loopback = new net.BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/** Whether an address is one that only this machine reaches; a name is none, wherever it points today. */
export function isLoopback(address: string | undefined): boolean {
  const family = net.isIP(address ?? '');
  return family !== 0 && loopback.check(address as string, family === 6 ? 'ipv6' : 'ipv4'); // a mapped IPv4 address as well
}
