import http from 'node:http';
import type { IncomingHttpHeaders } from 'node:http2';
import { isIP } from 'node:net';
import type { Duplex } from 'node:stream';
import type { CarriedProbe } from '../wire/readiness.ts';
import type { Session } from '../wire/session.ts';

/** A readiness probe carried out at the laptop's process, by the kubelet's rules (kubernetes/pkg/probe). */

/** Who probes: the kubelet as the agent sees it. */
export type Prober = {
  /** Of the pod, as the kubelet has it. */
  podAddress: string;
  address: string;
  port: number;
  /** `kube-probe/1.34` */
  userAgent: string;
};

/** Of an answer's body (kubernetes/pkg/probe/http: maxRespBodyLength). */
const MAX_BODY_BYTES = 10 * 1024;
const MAX_REQUESTS = 10;
const REDIRECTS = [301, 302, 303, 307, 308];
/** How long the kubelet's closed connections linger, ms (kubernetes/pkg/probe/dialer_others.go). */
const LINGER_MS = 1_000;

/** @returns why it failed, in words; undefined: it succeeded. */
export async function carryProbe(session: Session, probe: CarriedProbe, by: Prober): Promise<string | undefined> {
  const late = AbortSignal.timeout(probe.timeoutMs);
  const streams: Duplex[] = [];
  const dial: Dial = (port) => {
    const stream = session.openAccept(port, by.address, by.port);
    streams.push(stream);
    return stream;
  };
  const timedOut = new Promise<never>((_, reject) => {
    late.addEventListener('abort', () => reject(new Error(`no answer within ${probe.timeoutMs / 1_000} s`)));
  });
  try {
    return await Promise.race([timedOut, PROBES[probe.kind](dial, probe as never, by)]);
  } catch (error) {
    return `${probe.kind} port ${probe.port}: ${error instanceof Error ? error.message : error}`;
  } finally {
    for (const stream of streams) close(stream);
  }
}

/** A connection to the laptop's process, as if to this port of the pod. */
type Dial = (port: number) => ReturnType<Session['openAccept']>;
type Kind = CarriedProbe['kind'];
type Of<K extends Kind> = Extract<CarriedProbe, { kind: K }>;

const PROBES: { [K in Kind]: (dial: Dial, probe: Of<K>, by: Prober) => Promise<string | undefined> } = {
  httpGet: probeHttp,
  tcpSocket: probeTcp,
  grpc: probeGrpc,
};

/** As `close(2)` with SO_LINGER: an end, and a reset for who does not answer it. A stopped process must not gather connections. */
function close(stream: Duplex): void {
  if (stream.destroyed) return;
  const timer = setTimeout(() => stream.destroy(), LINGER_MS);
  stream.once('close', () => clearTimeout(timer));
  stream.resume();
  stream.end();
}

async function probeTcp(dial: Dial, { port }: Of<'tcpSocket'>): Promise<undefined> {
  await dial(port).opened;
}

/** 2xx and 3xx are success; redirects within the same host are followed. */
async function probeHttp(dial: Dial, probe: Of<'httpGet'>, by: Prober): Promise<string | undefined> {
  const host = probe.host ?? by.podAddress;
  const inUrl = isIP(host) === 6 ? `[${host}]` : host;
  const path = probe.path.replace(/#.*/s, '').replace(/[^\x21-\x7e]+/g, encodeURIComponent);
  let url = new URL(`${probe.scheme.toLowerCase()}://${inUrl}:${probe.port}`);
  let target = path.startsWith('/') ? path : `/${path}`;
  for (let requests = 1; ; requests++) {
    const { status, location } = await get(dial, url, target, headersOf(probe, url, by));
    if (status < 200 || status >= 400) return `GET ${url.origin}${target}: status ${status}`;
    if (location === undefined || !REDIRECTS.includes(status)) return undefined;
    const to = new URL(location, new URL(target, url));
    if (to.hostname !== url.hostname) return undefined;
    if (requests === MAX_REQUESTS) return `GET ${to}: stopped after ${MAX_REQUESTS} redirects`;
    url = new URL(to.origin);
    target = `${to.pathname}${to.search}`;
  }
}

type Headers = Record<string, string | string[]>;

function headersOf(probe: Of<'httpGet'>, url: URL, by: Prober): Headers {
  const given = Map.groupBy(probe.headers, ({ name }) => name.toLowerCase());
  const headers: Headers = { 'user-agent': by.userAgent, accept: '*/*' };
  for (const [name, all] of given) headers[name] = all.map(({ value }) => value);
  const host = given.get('host')?.[0]?.value;
  for (const name of ['user-agent', 'accept']) if (given.get(name)?.[0]?.value === '') delete headers[name];
  return { ...headers, host: host || url.host, connection: 'close' };
}

type HttpAnswer = { status: number; location: string | undefined };

async function get(dial: Dial, url: URL, path: string, headers: Headers): Promise<HttpAnswer> {
  const isTls = url.protocol === 'https:';
  const stream = dial(Number(url.port) || (isTls ? 443 : 80));
  const servername = isIP(url.hostname.replace(/^\[|\]$/g, '')) ? {} : { servername: url.hostname };
  // The kubelet takes any certificate.
  const socket = isTls
    ? (await import('node:tls')).connect({ socket: stream, rejectUnauthorized: false, ...servername })
    : stream;
  socket.on('error', () => {}); // one that comes when the answer is there is nobody's any more
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    stream.once('error', reject);
    const request = http.request({ method: 'GET', path, headers, createConnection: () => socket });
    request.on('response', resolve).on('error', reject).end();
  });
  let bytes = 0;
  for await (const chunk of response) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) break;
  }
  return { status: response.statusCode ?? 0, location: response.headers.location };
}

/** The answer `{status: SERVING}` as a message of gRPC: uncompressed, two bytes long, field 1 is 1. */
const SERVING = Buffer.of(0, 0, 0, 0, 2, 0x08, 1);
const MAX_MESSAGE_BYTES = 1024;

/** grpc.health.v1.Health/Check (https://github.com/grpc/grpc/blob/master/doc/health-checking.md) over HTTP/2 in the clear. */
async function probeGrpc(
  dial: Dial,
  { port, service, timeoutMs }: Of<'grpc'>,
  by: Prober,
): Promise<string | undefined> {
  const stream = dial(port);
  const authority = isIP(by.podAddress) === 6 ? `[${by.podAddress}]:${port}` : `${by.podAddress}:${port}`;
  const http2 = await import('node:http2');
  const client = http2.connect(`http://${authority}`, { createConnection: () => stream });
  try {
    const { status, message } = await new Promise<{ status: string | undefined; message: Buffer }>(
      (resolve, reject) => {
        stream.once('error', reject);
        client.on('error', reject);
        const call = client.request({
          ':method': 'POST',
          ':path': '/grpc.health.v1.Health/Check',
          'content-type': 'application/grpc',
          te: 'trailers',
          'grpc-timeout': `${timeoutMs}m`,
          'user-agent': by.userAgent,
        });
        let code: string | undefined;
        let received = Buffer.alloc(0);
        const note = (headers: IncomingHttpHeaders) => {
          code = (headers['grpc-status'] as string | undefined) ?? code;
        };
        call.on('response', note).on('trailers', note).on('error', reject);
        call.on('data', (chunk: Buffer) => {
          received = Buffer.concat([received, chunk]).subarray(0, MAX_MESSAGE_BYTES);
        });
        call.on('close', () => resolve({ status: code, message: received }));
        call.end(checkRequest(service));
      },
    );
    if (status !== '0') return `grpc port ${port}: status ${status ?? 'none: it does not speak gRPC'}`;
    return message.equals(SERVING) ? undefined : `grpc port ${port}: service "${service}" is not SERVING`;
  } finally {
    client.destroy();
  }
}

/** `HealthCheckRequest{service}` as a message of gRPC. */
function checkRequest(service: string): Buffer {
  const name = Buffer.from(service);
  const message = name.length === 0 ? name : Buffer.concat([Buffer.of(0x0a), varint(name.length), name]);
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let left = value; ; left >>>= 7) {
    if (left < 0x80) return Buffer.from([...bytes, left]);
    bytes.push((left & 0x7f) | 0x80);
  }
}
