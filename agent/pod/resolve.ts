import dgram from 'node:dgram';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { LpkError } from '../wire/errors.ts';

export type ResolverConfig = { nameservers: string[]; search: string[]; ndots: number };

const PER_SERVER_MS = 2_000;
const MAX_MESSAGE_BYTES = 65_535;
/** Of the second 16 bits of a message (RFC 1035 4.1.1). */
const TRUNCATED = 0x0200;
const RCODE = 0x000f;
/** The answers after which resolvers ask the next nameserver: SERVFAIL, NOTIMP, REFUSED. */
const FAILURES = [2, 4, 5];

/** Reads resolv.conf(5): nameservers, search list, ndots (default 1). */
export function parseResolvConf(text: string): ResolverConfig {
  const config: ResolverConfig = { nameservers: [], search: [], ndots: 1 };
  for (const line of text.split('\n')) {
    const [keyword, ...values] = line
      .replace(/[#;].*$/, '')
      .trim()
      .split(/\s+/);
    if (keyword === 'nameserver' && values[0]) config.nameservers.push(values[0]);
    if (keyword === 'search' || keyword === 'domain') config.search = values;
    if (keyword === 'options') {
      const ndots = values.map((value) => /^ndots:(\d+)$/.exec(value)?.[1]).find((value) => value !== undefined);
      if (ndots !== undefined) config.ndots = Number(ndots);
    }
  }
  return config;
}

export function podResolverConfig(): ResolverConfig {
  return parseResolvConf(readFileSync('/etc/resolv.conf', 'utf8'));
}

/**
 * Passes a DNS message on as it is to the pod's nameservers, one after the other until one knows; a truncated answer is asked
 * for again over TCP (RFC 7766). Rejects with LpkError `timed-out` or `protocol`.
 */
export async function forwardDns(
  question: Buffer,
  nameservers: string[],
  { port = 53, perServerMs = PER_SERVER_MS } = {},
): Promise<Buffer> {
  if (question.length < 12 || question.length > MAX_MESSAGE_BYTES) {
    throw new LpkError('protocol', `a DNS message has 12 to ${MAX_MESSAGE_BYTES} bytes, not ${question.length}`);
  }
  let failed: Buffer | undefined;
  for (const server of nameservers) {
    const answer = await ask(question, server, port, perServerMs).catch(() => undefined);
    if (!answer) continue;
    if (!FAILURES.includes(answer.readUInt16BE(2) & RCODE)) return answer;
    failed = answer;
  }
  if (failed) return failed;
  throw new LpkError(
    'timed-out',
    `no answer from the pod's nameserver (${nameservers.join(', ') || 'none configured'})`,
  );
}

async function ask(question: Buffer, server: string, port: number, patienceMs: number): Promise<Buffer> {
  const answer = await overUdp(question, server, port, patienceMs);
  if ((answer.readUInt16BE(2) & TRUNCATED) === 0) return answer;
  return await overTcp(question, server, port, patienceMs).catch(() => answer);
}

function overUdp(question: Buffer, server: string, port: number, patienceMs: number): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const socket = dgram.createSocket(net.isIPv6(server) ? 'udp6' : 'udp4');
  const timer = setTimeout(() => reject(new Error('timed out')), patienceMs);
  socket.on('error', reject);
  socket.on('message', (answer) => {
    if (answer.length >= 12 && answer.readUInt16BE(0) === question.readUInt16BE(0)) resolve(answer);
  });
  socket.once('connect', () => socket.send(question));
  socket.connect(port, server);
  return promise.finally(() => {
    clearTimeout(timer);
    socket.close();
  });
}

function overTcp(question: Buffer, server: string, port: number, patienceMs: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host: server, port });
    let received: Buffer = Buffer.alloc(0);
    socket.setTimeout(patienceMs, () => socket.destroy(new Error('timed out')));
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('closed before the answer was whole')));
    socket.on('connect', () => {
      const length = Buffer.alloc(2);
      length.writeUInt16BE(question.length);
      socket.write(Buffer.concat([length, question]));
    });
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (received.length < 2 || received.length < 2 + received.readUInt16BE(0)) return;
      const answer = received.subarray(2, 2 + received.readUInt16BE(0));
      if (answer.length < 12) reject(new Error('no DNS message'));
      else resolve(answer);
      socket.destroy();
    });
  });
}
