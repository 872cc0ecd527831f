import { type Abi, AF, SOCK } from './abi.ts';
import { assemble, type Operand, type Step } from './machine-code.ts';

/** Of linux/sched.h. */
const CLONE_NEWUSER = 0x10000000;
const CLONE_NEWNET = 0x40000000;
/** rtnetlink(7). */
const NETLINK = { family: 16, raw: 3, newLink: 16, newRoute: 24, request: 1, create: 0x400 };
const LOOPBACK_INDEX = 1;
const IFF_UP = 1;
const ROUTE = { tableLocal: 255, protocolStatic: 4, scopeHost: 254, typeLocal: 2, attributeOif: 4 };
/** Where its sockets are for us to take; dup3(2) closes the last one's copy. */
export const PLACES = { 4: 30, 6: 31 } as const;

/**
 * The program, an ELF file of about a kilobyte, of the process that is a network namespace for us, without being root: user_namespaces(7)
 * gives it the rights in there, which go with its first exec, and which a process of several threads can't have.
 *
 * In its namespace there is loopback alone, and every address is its own (a local route for all of them). It puts an IPv4 and
 * an IPv6 UDP socket at their {@link PLACES} and writes a byte to standard output; for a byte on standard input it does so again.
 * It ends when its input does.
 */
export function namespaceProgram(arch: string, { calls }: Abi): Buffer {
  const call = (name: keyof typeof calls, ...args: Operand[]): Step => ({ call: calls[name], args });
  const required = (name: keyof typeof calls, ...args: Operand[]): Step => ({
    call: calls[name],
    args,
    orExit: 'negative',
  });
  const send = (message: Buffer) => call('sendto', { result: 'netlink' }, message, message.length, 0, 0, 0);
  const fresh = (family: number, place: number): Step[] => [
    { call: calls.socket, args: [family, SOCK.dgram, 0], keep: 'socket' },
    call('dup3', { result: 'socket' }, place, 0),
    call('close', { result: 'socket' }),
  ];
  return assemble(
    [
      call('unshare', CLONE_NEWUSER), // root may do without
      required('unshare', CLONE_NEWNET),
      { call: calls.socket, args: [NETLINK.family, NETLINK.raw, 0], keep: 'netlink', orExit: 'negative' },
      send(upMessage()),
      send(routeMessage(AF.inet)),
      send(routeMessage(AF.inet6)),
      { label: 'again' },
      ...fresh(AF.inet, PLACES[4]),
      ...fresh(AF.inet6, PLACES[6]),
      { call: calls.write, args: [1, Buffer.from('.'), 1], orExit: 'aboveZero' },
      { call: calls.read, args: [0, 'stack', 1], orExit: 'aboveZero' },
      { jump: 'again' },
    ],
    arch,
  );
}

function upMessage(): Buffer {
  const link = Buffer.alloc(16); // struct ifinfomsg
  link.writeInt32LE(LOOPBACK_INDEX, 4);
  link.writeUInt32LE(IFF_UP, 8);
  link.writeUInt32LE(IFF_UP, 12);
  return netlinkMessage(NETLINK.newLink, NETLINK.request, link);
}

/** `ip route add local default dev lo`. */
function routeMessage(family: number): Buffer {
  const route = Buffer.alloc(12); // struct rtmsg
  const scope = family === AF.inet ? ROUTE.scopeHost : 0;
  route.set([family, 0, 0, 0, ROUTE.tableLocal, ROUTE.protocolStatic, scope, ROUTE.typeLocal]);
  const device = Buffer.alloc(8); // struct rtattr
  device.writeUInt16LE(8, 0);
  device.writeUInt16LE(ROUTE.attributeOif, 2);
  device.writeUInt32LE(LOOPBACK_INDEX, 4);
  return netlinkMessage(NETLINK.newRoute, NETLINK.request | NETLINK.create, Buffer.concat([route, device]));
}

function netlinkMessage(type: number, flags: number, body: Buffer): Buffer {
  const header = Buffer.alloc(16); // struct nlmsghdr
  header.writeUInt32LE(header.length + body.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(flags, 6);
  return Buffer.concat([header, body]);
}
