import dgram from 'node:dgram';
import net from 'node:net';
import type { Dial, Outbound } from '../flow.ts';
import type { Names } from './names.ts';
import { type Address, readAddress, writeAddress } from './sockaddr.ts';

export type UdpLimits = {
  /** Silence, both ways, after which a flow is ended; the program's next datagram begins another. */
  udpIdleMs: number;
  /** Sockets that are known, and flows of them; for one more, the one that was silent longest is forgotten. */
  maxSockets: number;
  maxFlows: number;
};

/** The agent keeps a flow's socket for 120 s. */
const LIMITS: UdpLimits = { udpIdleMs: 90_000, maxSockets: 4_096, maxFlows: 512 };

type Client = { asked: Buffer; wanted: Address | undefined; flow: Flow | undefined };
type Flow = { stream: Outbound['stream']; idle: NodeJS.Timeout };
type Ends = { 4: dgram.Socket; 6: dgram.Socket };

/**
 * Where caught UDP sockets are connected to: one port of loopback for those that ask DNS, one for all others, which are
 * relayed, each by its own flow. A UDP socket's end is not to be seen: so a client is known until others come in its place.
 */
export class UdpEnds {
  #dial: Dial;
  #names: Names;
  #limits: UdpLimits;
  #ends: { dns: Ends; relay: Ends } | undefined;
  /** By their own end's address and port; longest unused first. */
  #clients = new Map<string, Client>();
  /** Longest silent first. */
  #flows = new Set<Client>();

  constructor(dial: Dial, names: Names, limits: Partial<UdpLimits> = {}) {
    this.#dial = dial;
    this.#names = names;
    this.#limits = { ...LIMITS, ...limits };
  }

  async open(): Promise<void> {
    const [dns, relay] = [await both(), await both()];
    this.#ends = { dns, relay };
    for (const socket of new Set([dns[4], dns[6]])) this.#names.serveUdp(socket);
    for (const socket of new Set([relay[4], relay[6]])) {
      socket.on('error', () => {}); // of a client that has left
      socket.on('message', (datagram, { address, port }) => this.#send(socket, datagram, `${address} ${port}`));
    }
  }

  get ports(): number[] {
    return Object.values(this.#ends ?? {}).flatMap(({ 4: ipv4, 6: ipv6 }) => [
      ipv4.address().port,
      ipv6.address().port,
    ]);
  }

  /** Flows under way. */
  get flows(): number {
    return this.#flows.size;
  }

  /** Where to connect the socket to: of its own family, and of the wanted address's as well. */
  addressFor({ family, host }: Address, purpose: 'dns' | 'relay'): Buffer {
    const ends = (this.#ends as { dns: Ends; relay: Ends })[purpose];
    const end = ends[net.isIPv4(host) ? 4 : 6].address();
    return writeAddress({ family, host: end.address, port: end.port });
  }

  /** @param ownName of the connected socket. @param wanted undefined for one that asks DNS. */
  add(ownName: Buffer, asked: Buffer, wanted?: Address): void {
    const key = keyOf(ownName);
    const before = this.#clients.get(key);
    if (before) this.#forget(key, before); // another socket had this port
    this.#clients.set(key, { asked, wanted, flow: undefined });
    const [oldest] = this.#clients;
    if (oldest && this.#clients.size > this.#limits.maxSockets) this.#forget(...oldest);
  }

  /** What it asked for. */
  find(ownName: Buffer): Buffer | undefined {
    return this.#clients.get(keyOf(ownName))?.asked;
  }

  close(): void {
    for (const { 4: ipv4, 6: ipv6 } of Object.values(this.#ends ?? {})) {
      for (const socket of new Set([ipv4, ipv6])) socket.close();
    }
    for (const client of this.#flows) this.#end(client);
  }

  #send(end: dgram.Socket, datagram: Buffer, key: string): void {
    const client = this.#clients.get(key);
    if (!client) return;
    this.#clients.delete(key);
    this.#clients.set(key, client);
    const flow = client.flow ?? this.#open(end, client, key);
    if (!flow) return;
    this.#touch(client, flow);
    // What the tunnel does not take at once is dropped, as on any network.
    if (!flow.stream.writableNeedDrain) flow.stream.write(datagram);
  }

  #open(end: dgram.Socket, client: Client, key: string): Flow | undefined {
    if (!client.wanted) return undefined;
    const { host, port } = client.wanted;
    let outbound: Outbound;
    try {
      outbound = this.#dial({ protocol: 'udp', host, port });
    } catch {
      return undefined;
    }
    const { stream, opened } = outbound;
    const over = () => client.flow === flow && this.#end(client);
    const flow: Flow = { stream, idle: setTimeout(over, this.#limits.udpIdleMs) };
    client.flow = flow;
    opened.catch(over);
    stream.on('error', () => {}); // 'close' follows
    stream.on('close', over);
    stream.on('end', over);
    const [address, clientPort] = key.split(' ');
    stream.on('data', (datagram: Buffer) => {
      this.#touch(client, flow);
      end.send(datagram, Number(clientPort), address);
    });
    this.#flows.add(client);
    const [oldest] = this.#flows;
    if (oldest && this.#flows.size > this.#limits.maxFlows) this.#end(oldest);
    return flow;
  }

  #touch(client: Client, flow: Flow): void {
    flow.idle.refresh();
    if (this.#flows.delete(client)) this.#flows.add(client);
  }

  #forget(key: string, client: Client): void {
    this.#clients.delete(key);
    this.#end(client);
  }

  #end(client: Client): void {
    const { flow } = client;
    if (!flow) return;
    client.flow = undefined;
    this.#flows.delete(client);
    clearTimeout(flow.idle);
    flow.stream.reset('cancelled');
  }
}

/** Where there is no IPv6, its clients come mapped. */
async function both(): Promise<Ends> {
  const ipv4 = await bound('udp4', '127.0.0.1');
  return { 4: ipv4, 6: await bound('udp6', '::1').catch(() => ipv4) };
}

function bound(type: 'udp4' | 'udp6', address: string): Promise<dgram.Socket> {
  const socket = dgram.createSocket({
    type,
    ipv6Only: type === 'udp6',
    lookup: (host, _, done) => done(null, host, 0),
  });
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.bind({ port: 0, address, exclusive: true }, () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}

function keyOf(ownName: Buffer): string {
  const own = readAddress(ownName);
  return `${own?.host} ${own?.port}`;
}
