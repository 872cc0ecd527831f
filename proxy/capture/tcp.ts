import net from 'node:net';
import { type Address, readAddress, writeAddress } from './sockaddr.ts';

/** A program's socket that was connected to us in place of where it wanted to go. */
export type Client = {
  /** `struct sockaddr` as the program gave it: what getpeername tells. */
  asked: Buffer;
  /** Its other end, once it is there; undefined when it never came: the program has reset it at once. */
  accepted: Promise<net.Socket | undefined>;
};

type Expected = Client & { accept: (socket: net.Socket | undefined) => void; timer: NodeJS.Timeout };

/** What the kernel needs to bring a connection that it has made already. */
const ACCEPT_MS = 5_000;
/** Connects of one turn of the loop that were not accepted yet; the kernel lowers it to net.core.somaxconn. */
const BACKLOG = 4_096;

/**
 * Where caught TCP sockets are connected to: a port of loopback, and one of IPv6's where there is one. A client is known by its
 * own end's address and port, for as long as its connection lasts; who else connects is cut off.
 */
export class TcpEnds {
  #servers: net.Server[] = [];
  #addresses: { 4: Address; 6: Address } | undefined;
  #clients = new Map<string, Expected>();
  #sockets = new Set<net.Socket>();

  async open(): Promise<void> {
    const port = await this.#listen('127.0.0.1');
    const port6 = await this.#listen('::1').catch(() => undefined);
    const mapped: Address = { family: 6, host: '127.0.0.1', port };
    this.#addresses = { 4: mapped, 6: port6 === undefined ? mapped : { family: 6, host: '::1', port: port6 } };
  }

  get ports(): number[] {
    return Object.values(this.#addresses ?? {}).map(({ port }) => port);
  }

  /** Clients there are. */
  get size(): number {
    return this.#clients.size;
  }

  /** Where to connect the socket to: of its own family, and of the wanted address's as well, as a socket may be for IPv6 only. */
  addressFor(wanted: Address): Buffer {
    const { 4: ipv4, 6: ipv6 } = this.#addresses as { 4: Address; 6: Address };
    return writeAddress(net.isIPv4(wanted.host) ? { ...ipv4, family: wanted.family } : ipv6);
  }

  /** To be called in the same turn as the connect. @param ownName `struct sockaddr` of the socket's own end. */
  expect(ownName: Buffer, asked: Buffer): Client {
    const key = keyOf(readAddress(ownName));
    const { promise: accepted, resolve } = Promise.withResolvers<net.Socket | undefined>();
    const timer = setTimeout(() => this.#forget(key, client), ACCEPT_MS);
    const before = this.#clients.get(key);
    if (before) this.#forget(key, before); // its port has another socket now
    const client: Expected = { asked, accepted, accept: resolve, timer };
    this.#clients.set(key, client);
    return client;
  }

  find(ownName: Buffer): Client | undefined {
    return this.#clients.get(keyOf(readAddress(ownName)));
  }

  close(): void {
    for (const server of this.#servers) server.close();
    for (const socket of this.#sockets) socket.destroy();
    for (const [key, client] of this.#clients) this.#forget(key, client);
  }

  async #listen(host: string): Promise<number> {
    const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#accept(socket));
    await new Promise<void>((resolve, reject) => {
      server.on('error', reject); // stays: a failed accept (no more file descriptors) would end the process
      server.listen({ host, port: 0, backlog: BACKLOG, ipv6Only: true }, resolve);
    });
    this.#servers.push(server);
    return (server.address() as net.AddressInfo).port;
  }

  #accept(socket: net.Socket): void {
    socket.on('error', () => {}); // 'close' follows
    const { remoteAddress: host = '', remotePort: port = 0 } = socket;
    const key = keyOf({ family: 4, host, port });
    const client = this.#clients.get(key);
    if (!client) {
      socket.destroy();
      return;
    }
    clearTimeout(client.timer);
    this.#sockets.add(socket);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#forget(key, client);
    });
    client.accept(socket);
  }

  #forget(key: string, client: Expected): void {
    clearTimeout(client.timer);
    client.accept(undefined); // unless it was accepted
    if (this.#clients.get(key) === client) this.#clients.delete(key);
  }
}

function keyOf(address: Address | undefined): string {
  return `${address?.host} ${address?.port}`;
}
