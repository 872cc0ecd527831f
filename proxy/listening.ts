import { open } from 'node:fs/promises';
import net from 'node:net';

const POLL_MS = 400;
const PROBE_MS = 1_000;
const PAGE_BYTES = 4_096;
/** Lines of proc(5) `/proc/net/tcp`: number, own address, other address, state (0A is LISTEN). */
const LISTENER = /^ *\d+: ([0-9A-F]+):([0-9A-F]{4}) [0-9A-F:]+ 0A /gm;
const CONNECTION = /^ *\d+: [0-9A-F:]+ [0-9A-F:]+ (?!0A )[0-9A-F]{2} /m;
/** proc(5): addresses in host byte order, hex: any and loopback of IPv4 and IPv6, and mapped loopback. */
const REACHABLE = /^(00000000|[0-9A-F]{6}7F|0{32}|0{24}01000000|0{16}FFFF0000[0-9A-F]{6}7F)$/;

/**
 * Knows whether something listens at each of the laptop's ports, so that the agent listens exactly then. On Linux the
 * kernel's table tells, without a connection that a program would notice; elsewhere, and for forwarded ports that no table shows,
 * a connection is tried, and only while nothing was there.
 */
export class ListeningPorts {
  #ports: number[];
  #changed: (port: number, listening: boolean) => void;
  #open = new Map<number, 'table' | 'probe'>();
  #probedAt = new Map<number, number>();
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  /** `changed` is told of every port that opens or closes. Nothing is taken for open at first. */
  constructor(ports: number[], changed: (port: number, listening: boolean) => void) {
    this.#ports = [...new Set(ports)];
    this.#changed = changed;
  }

  /** Resolves after the first look. */
  async start(): Promise<void> {
    await this.#look();
  }

  isListening(port: number): boolean {
    return this.#open.has(port);
  }

  /** A delivery found nothing there. */
  refused(port: number): void {
    if (this.#open.get(port) === 'probe') this.#set(port, undefined);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  async #look(): Promise<void> {
    if (this.#ports.length === 0) return;
    const table = await listeningTable();
    await Promise.all(
      this.#ports.map(async (port) => {
        if (table?.has(port)) return this.#set(port, 'table');
        if (this.#open.get(port) === 'table') this.#set(port, undefined);
        if (!this.#open.has(port) && this.#probeIsDue(port) && (await answers(port))) this.#set(port, 'probe');
      }),
    );
    if (!this.#closed) this.#timer = setTimeout(() => this.#look(), POLL_MS);
  }

  #probeIsDue(port: number): boolean {
    const now = performance.now();
    const last = this.#probedAt.get(port);
    if (last !== undefined && now - last < PROBE_MS) return false;
    this.#probedAt.set(port, now);
    return true;
  }

  #set(port: number, how: 'table' | 'probe' | undefined): void {
    if (this.#closed) return;
    const was = this.#open.has(port);
    if (how) this.#open.set(port, how);
    else this.#open.delete(port);
    if (was !== this.#open.has(port)) this.#changed(port, !was);
  }
}

/** Ports with a listener that loopback reaches, by proc(5) `/proc/net/tcp`; undefined where there is no such file. */
export async function listeningTable(): Promise<Set<number> | undefined> {
  try {
    const [v4, v6] = await Promise.all([
      readListeners('/proc/net/tcp'),
      readListeners('/proc/net/tcp6').catch(() => ''),
    ]);
    return parseListening(v4 + v6);
  } catch {
    return undefined;
  }
}

/** The kernel lists listeners first (`tcp_seek_last_pos`, net/ipv4/tcp_ipv4.c): of thousands of connections only a page is read. */
async function readListeners(path: string): Promise<string> {
  const file = await open(path);
  try {
    let text = '';
    for (;;) {
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(PAGE_BYTES), 0, PAGE_BYTES);
      text += buffer.toString('latin1', 0, bytesRead);
      if (bytesRead === 0 || CONNECTION.test(text)) return text;
    }
  } finally {
    await file.close();
  }
}

export function parseListening(table: string): Set<number> {
  const ports = new Set<number>();
  for (const [, host = '', port = ''] of table.matchAll(LISTENER)) {
    if (REACHABLE.test(host)) ports.add(Number.parseInt(port, 16));
  }
  return ports;
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect({ host: '127.0.0.1', port });
    socket.setTimeout(POLL_MS, () => socket.destroy());
    socket.once('connect', () => {
      resolve(true);
      socket.destroy();
    });
    socket.once('error', () => {});
    socket.once('close', () => resolve(false));
  });
}
