import { randomInt } from 'node:crypto';
import dgram from 'node:dgram';
import net from 'node:net';
import { answersTo, isTruncated, RCODE, rcodeOf } from './message.ts';

export type AskServersOptions = {
  perServerMs?: number;
  /** Servers that did not answer, with the time until which the others come first. The caller keeps it between questions. */
  dead?: Map<string, number>;
  nowMs?: () => number;
};

const PER_SERVER_MS = 2_000;
const DEAD_MS = 10_000;
/** The answers after which resolvers ask the next nameserver. */
const FAILURES: number[] = [RCODE.servFail, RCODE.notImp, RCODE.refused];

/**
 * Asks nameservers one after the other until one knows: over UDP from a port of its own and with a random id (RFC 5452), over TCP
 * when that is truncated (RFC 7766). The answer bears the id of `message`.
 *
 * Rejects with code `ETIMEOUT` when none answered, with `EINVAL` for a `message` that is no question.
 * @param servers `127.0.0.53`, `192.0.2.1:5353`, `::1`, `[::1]:5353`; port 53 unless given.
 */
export async function askServers(
  message: Buffer,
  servers: string[],
  { perServerMs = PER_SERVER_MS, dead, nowMs = Date.now }: AskServersOptions = {},
): Promise<Buffer> {
  if (message.length < 17 || message.readUInt16BE(4) !== 1) throw coded('EINVAL', 'not a DNS question');
  const now = nowMs();
  const isDead = (server: string) => (dead?.get(server) ?? 0) > now;
  const order = [...servers.filter((server) => !isDead(server)), ...servers.filter(isDead)];
  const question = Buffer.from(message);
  let failed: Buffer | undefined;
  for (const server of order) {
    question.writeUInt16BE(randomInt(0x10000), 0);
    const answer = await ask(question, parseServer(server), perServerMs).catch(() => undefined);
    if (!answer) {
      dead?.set(server, nowMs() + DEAD_MS);
      continue;
    }
    dead?.delete(server);
    message.copy(answer, 0, 0, 2);
    if (!FAILURES.includes(rcodeOf(answer))) return answer;
    failed ??= answer;
  }
  if (failed) return failed;
  throw coded('ETIMEOUT', `no answer from ${servers.join(', ') || 'any nameserver: none is configured'}`);
}

/** Throws an Error with code `EINVAL` for what is no address with or without a port. */
export function parseServer(text: string): { host: string; port: number } {
  const match = /^\[([^\]]+)\](?::(\d+))?$/.exec(text) ?? /^([^:]+):(\d+)$/.exec(text);
  const host = match?.[1] ?? text;
  const port = Number(match?.[2] ?? 53);
  if (!net.isIP(host) || port < 1 || port > 65_535) throw coded('EINVAL', `${text} is no nameserver's address`);
  return { host, port };
}

async function ask(question: Buffer, server: { host: string; port: number }, patienceMs: number): Promise<Buffer> {
  const answer = await overUdp(question, server, patienceMs);
  if (!isTruncated(answer)) return answer;
  return await overTcp(question, server, patienceMs).catch(() => answer);
}

function overUdp(
  question: Buffer,
  { host, port }: { host: string; port: number },
  patienceMs: number,
): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const socket = dgram.createSocket(net.isIPv6(host) ? 'udp6' : 'udp4');
  const timer = setTimeout(() => reject(coded('ETIMEOUT', 'timed out')), patienceMs);
  socket.on('error', reject);
  // What is not to this question may be forged: the true answer may still come.
  socket.on('message', (answer) => answersTo(answer, question) && resolve(answer));
  socket.once('connect', () => socket.send(question));
  socket.connect(port, host);
  return promise.finally(() => {
    clearTimeout(timer);
    socket.close();
  });
}

function overTcp(
  question: Buffer,
  { host, port }: { host: string; port: number },
  patienceMs: number,
): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const socket = net.connect({ host, port });
  const timer = setTimeout(() => reject(coded('ETIMEOUT', 'timed out')), patienceMs);
  const chunks: Buffer[] = [];
  let length = 0;
  socket.on('error', reject);
  socket.on('close', () => reject(coded('ECONNRESET', 'closed before the answer was whole')));
  socket.on('connect', () => {
    socket.write(Buffer.concat([Buffer.of(question.length >> 8, question.length & 0xff), question]));
  });
  socket.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    length += chunk.length;
    if (length < 2) return;
    const received = Buffer.concat(chunks);
    const end = 2 + received.readUInt16BE(0);
    if (length < end) {
      chunks.splice(0, chunks.length, received);
      return;
    }
    const answer = received.subarray(2, end);
    if (answersTo(answer, question)) resolve(answer);
    else reject(coded('EBADRESP', 'answered another question'));
  });
  return promise.finally(() => {
    clearTimeout(timer);
    socket.destroy();
  });
}

function coded(code: string, message: string): Error {
  return Object.assign(new Error(message), { code });
}
