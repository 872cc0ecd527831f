import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import type { Dial, Outbound } from './flow.ts';
import { clearDeadline, dismiss } from './handshake.ts';
import { type Associate, associated, notAssociated } from './socks5.ts';
import { addressEnd, addressText } from './socks5-address.ts';

export type UdpLimits = {
  /** Silence, both ways, after which a flow is ended. */
  udpIdleMs: number;
  /** Associations at once; for one more, the one that was silent longest is closed. */
  maxAssociations: number;
  /** Flows at once, of one association and of all; for one more, the one that was silent longest is ended. */
  maxFlowsEach: number;
  maxUdpFlows: number;
  /** Bytes of datagrams that wait for the tunnel, all flows together; more are dropped. Twice: of answers, each association. */
  maxQueuedBytes: number;
};

/** The agent keeps a flow's socket for 120 s; a session has 1,024 streams, among which TCP is to find room. */
export const UDP_LIMITS: UdpLimits = {
  udpIdleMs: 90_000,
  maxAssociations: 1_024,
  maxFlowsEach: 256,
  maxUdpFlows: 512,
  maxQueuedBytes: 4 * 1024 * 1024,
};

type Association = {
  client: net.Socket;
  clientAddress: string;
  /** Known from the client's first datagram on, at the latest. */
  clientPort: number | undefined;
  relay: dgram.Socket;
  /** By address as the client writes it; longest silent first. */
  flows: Map<string, UdpFlow>;
};

type UdpFlow = {
  association: Association;
  /** RSV, FRAG and the destination in the client's own bytes: what its answers begin with. */
  header: Buffer;
  key: string;
  stream: Outbound['stream'];
  idle: NodeJS.Timeout;
};

/** RSV and FRAG. */
const PREFIX_BYTES = 3;

/**
 * SOCKS5's UDP ASSOCIATE (RFC 1928 sections 4 and 7). Each destination of an association is a flow of its own, so that every
 * answer has its sender. What can't be sent on is dropped, as on any network; it never ends an association.
 */
export class UdpRelay {
  #dial: Dial;
  #limits: UdpLimits;
  /** Longest silent first, both. */
  #associations = new Set<Association>();
  #flows = new Set<UdpFlow>();
  #queuedBytes = 0;

  constructor(dial: Dial, limits: UdpLimits) {
    this.#dial = dial;
    this.#limits = limits;
  }

  /**
   * Answers the client's request and relays its datagrams until its TCP connection ends. The relay's socket is where that
   * connection came in, so the client reaches it.
   */
  async associate(client: net.Socket, { from }: Associate): Promise<void> {
    const address = unmapped(client.localAddress);
    const clientAddress = unmapped(client.remoteAddress);
    if (!address || !clientAddress) return; // it left
    const relay = dgram.createSocket({ type: net.isIPv6(address) ? 'udp6' : 'udp4', lookup: literalLookup });
    const listening = once(relay, 'listening');
    relay.bind(0, address);
    try {
      await listening;
    } catch {
      relay.close();
      dismiss(client, notAssociated());
      return;
    }
    relay.on('error', () => {}); // the client's port closed, for one; its connection tells when it left
    if (client.destroyed) {
      relay.close();
      return;
    }
    // A hint at another address is of a client behind a translation, which changes the port as well.
    const isHint = from.port !== 0 && [clientAddress, '0.0.0.0', '::'].includes(from.host);
    const clientPort = isHint ? from.port : undefined;
    const association: Association = { client, clientAddress, clientPort, relay, flows: new Map() };
    relay.on('message', (datagram, { address, port }) => {
      if (address !== clientAddress || port !== (association.clientPort ?? port)) return;
      association.clientPort = port;
      this.#send(association, datagram);
    });
    client.once('close', () => this.#close(association));
    client.once('end', () => client.end());
    if (client.readableEnded) client.end(); // its end came with its request
    client.resume(); // nothing is to come; what comes is dropped
    clearDeadline(client);
    this.#associations.add(association);
    const [oldest] = this.#associations;
    if (oldest && this.#associations.size > this.#limits.maxAssociations) this.#close(oldest);
    client.write(associated(address, relay.address().port));
  }

  #close(association: Association): void {
    if (!this.#associations.delete(association)) return;
    for (const flow of association.flows.values()) this.#end(flow);
    association.relay.close();
    association.client.destroy();
  }

  #send(association: Association, datagram: Buffer): void {
    if (datagram[2] !== 0) return; // a fragment
    const end = addressEnd(datagram, PREFIX_BYTES);
    if (end === undefined) return;
    const key = datagram.toString('latin1', PREFIX_BYTES, end);
    const flow = association.flows.get(key) ?? this.#open(association, key, datagram.subarray(0, end));
    if (!flow) return;
    this.#touch(flow);
    const { stream } = flow;
    const payload = datagram.subarray(end);
    if (stream.writableNeedDrain || this.#queuedBytes + payload.length > this.#limits.maxQueuedBytes) return;
    this.#queuedBytes += payload.length;
    stream.write(payload, () => {
      this.#queuedBytes -= payload.length;
    });
  }

  /** Undefined when there is no such destination, or no way to it. */
  #open(association: Association, key: string, start: Buffer): UdpFlow | undefined {
    const header = Buffer.from(start); // a copy: what it is part of may be long
    const host = addressText(header[PREFIX_BYTES] as number, header.subarray(PREFIX_BYTES + 1, -2));
    const port = header.readUInt16BE(header.length - 2);
    if (!host || port === 0) return undefined;
    let outbound: Outbound;
    try {
      outbound = this.#dial({ protocol: 'udp', host, port });
    } catch {
      return undefined;
    }
    const { stream, opened } = outbound;
    const idle = setTimeout(() => this.#end(flow), this.#limits.udpIdleMs);
    const flow: UdpFlow = { association, header, key, stream, idle };
    opened.catch(() => this.#end(flow));
    stream.on('error', () => {}); // 'close' follows
    stream.on('close', () => this.#end(flow));
    stream.on('end', () => this.#end(flow));
    stream.on('data', (payload: Buffer) => this.#answer(flow, payload));
    association.flows.set(key, flow);
    this.#flows.add(flow);
    const [oldestOfAll] = this.#flows;
    if (oldestOfAll && this.#flows.size > this.#limits.maxUdpFlows) this.#end(oldestOfAll);
    const [oldest] = association.flows.values();
    if (oldest && association.flows.size > this.#limits.maxFlowsEach) this.#end(oldest);
    return flow;
  }

  /**
   * The answer's source is the destination in the client's own words. For a name it is the name: the address is known only in
   * the pod, and a client with several names under way could not tell answers from 0.0.0.0 apart. Who sends names reads them.
   */
  #answer(flow: UdpFlow, payload: Buffer): void {
    const { association, header } = flow;
    this.#touch(flow);
    const { relay, clientAddress, clientPort } = association;
    if (relay.getSendQueueSize() + payload.length > this.#limits.maxQueuedBytes) return;
    relay.send([header, payload], clientPort, clientAddress);
  }

  #end(flow: UdpFlow): void {
    if (!this.#flows.delete(flow)) return;
    clearTimeout(flow.idle);
    flow.association.flows.delete(flow.key);
    flow.stream.reset('cancelled');
  }

  /** Takes them to the end of their lines. */
  #touch(flow: UdpFlow): void {
    const { association, key } = flow;
    flow.idle.refresh();
    if (this.#flows.delete(flow)) this.#flows.add(flow);
    if (association.flows.delete(key)) association.flows.set(key, flow);
    if (this.#associations.delete(association)) this.#associations.add(association);
  }
}

/** An IPv4 address as an IPv6 socket shows it (RFC 4291 2.5.5.2), without what is IPv6's. */
function unmapped(address = ''): string {
  return address.replace(/^::ffff:(?=\d+\.)/i, '');
}

/** All addresses here are literals: no thread is asked, no turn of the loop lost. */
function literalLookup(
  address: string,
  _options: unknown,
  done: (error: null, address: string, family: number) => void,
): void {
  done(null, address, net.isIP(address));
}
