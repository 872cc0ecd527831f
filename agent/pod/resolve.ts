import dgram from 'node:dgram';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { LpkError } from '../wire/errors.ts';

export type ResolverConfig = { nameservers: string[]; search: string[]; ndots: number };

const PER_SERVER_MS = 2_000;
const TRUNCATED = 0x02;

/** Reads resolv.conf(5): nameservers, search list, ndots (default 1). */
export function parseResolvConf(text: string): ResolverConfig {
  const config: ResolverConfig = { nameservers: [], search: [], ndots: 1 };
  for (const line of text.split('\n')) {
    const [keyword, ...values] = line.replace(/[#;].*$/, '').trim().split(/\s+/);
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
 * Passes a DNS message on as it is to the pod's nameservers, one after the other; a truncated answer is asked for again over TCP
 * (RFC 7766). Rejects with LpkError `timed-out` or `protocol`.
 */
export async function forwardDns(question: Buffer, nameservers: string[], port = 53): Promise<Buffer> {
  if (question.length < 12) throw new LpkError('protocol', 'a DNS message has at least 12 bytes');
  for (const server of nameservers) {
    const answer = await overUdp(question, server, port).catch(() => undefined);
    if (!answer) continue;
    if (((answer[2] as number) & TRUNCATED) === 0) return answer;
    return await overTcp(question, server, port).catch(() => answer);
  }
  throw new LpkError('timed-out', `no answer from the pod's nameserver (${nameservers.join(', ') || 'none configured'})`);
}

function overUdp(question: Buffer, server: string, port: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const socket = dgram.createSocket(net.isIPv6(server) ? 'udp6' : 'udp4');
    const timer = setTimeout(() => done(new Error('timed out')), PER_SERVER_MS);
    const done = (result: Buffer | Error): void => {
      clearTimeout(timer);
      socket.close();
      if (result instanceof Error) reject(result);
      else resolve(result);
    };
    socket.once('error', done);
    socket.on('message', (answer) => {
      if (answer.length >= 12 && answer.readUInt16BE(0) === question.readUInt16BE(0)) done(answer);
    });
    socket.connect(port, server, () => socket.send(question));
  });
}

function overTcp(question: Buffer, server: string, port: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host: server, port });
    let received: Buffer = Buffer.alloc(0);
    socket.setTimeout(PER_SERVER_MS, () => socket.destroy(new Error('timed out')));
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
      resolve(received.subarray(2, 2 + received.readUInt16BE(0)));
      socket.destroy();
    });
  });
}
