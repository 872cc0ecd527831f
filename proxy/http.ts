import http from 'node:http';
import type net from 'node:net';
import { type Duplex, pipeline } from 'node:stream';
import type { LpkError } from '../agent/wire/errors.ts';
import { flowError } from '../agent/wire/pump.ts';
import { resetSocket } from '../agent/wire/reset-socket.ts';
import { carry, type Idle, join } from './carry.ts';
import { type Credentials, matches } from './credentials.ts';
import type { Dial, Outbound } from './flow.ts';
import { clearDeadline, dismiss, setDeadline } from './handshake.ts';
import {
  basicCredentials,
  endToEnd,
  hasBody,
  head,
  type NotATarget,
  pairs,
  parseAuthority,
  parseTarget,
  requestHeaders,
  type Target,
} from './http-message.ts';
import { type Pages, servePage } from './pages.ts';

/** HTTP proxy: CONNECT (RFC 9110 9.3.6) and requests in absolute form (RFC 9112 3.2.2). */
export type HttpDoor = {
  /** Takes a client's socket, from which nothing has been read for good, with a deadline for its first request set. */
  accept(socket: net.Socket): void;
};

const MAX_HEADER_BYTES = 64 * 1024;
/** What a server has for closing after its answer to `Connection: close`. */
const UPSTREAM_LINGER_MS = 1_000;
/** RFC 9110 11.7.1, RFC 7617. */
const PASSWORD_WANTED: NotATarget = {
  status: 407,
  line: 'this proxy wants a user and a password',
  headers: { 'Proxy-Authenticate': 'Basic realm="lpk", charset="UTF-8"' },
};

type HttpOptions = Idle & {
  dial: Dial;
  idleMs: number;
  credentials?: Credentials | undefined;
  pages?: Pages | undefined;
};

export function createHttpDoor({ dial, idleMs, flowIdleMs, credentials, pages }: HttpOptions): HttpDoor {
  // Never listens. Its own timeouts need a listening server; deadlines (handshake.ts) bound a client between requests.
  const server = http.createServer({
    maxHeaderSize: MAX_HEADER_BYTES,
    keepAliveTimeout: 0,
    requestTimeout: 0,
    headersTimeout: 0,
  });
  server.timeout = flowIdleMs; // for a request under way
  server.on('timeout', resetSocket);
  const refusal = (request: http.IncomingMessage) => {
    const given = credentials && basicCredentials(request.headers['proxy-authorization']);
    return !credentials || (given && matches(credentials, given)) ? undefined : PASSWORD_WANTED;
  };
  const underWay = new WeakMap<net.Socket, number>(); // several when a client pipelines

  const handle = (request: http.IncomingMessage, response: http.ServerResponse) => {
    const { socket } = request;
    clearDeadline(socket);
    underWay.set(socket, (underWay.get(socket) ?? 0) + 1);
    response.on('close', () => {
      const rest = (underWay.get(socket) ?? 1) - 1;
      underWay.set(socket, rest);
      if (rest === 0) setDeadline(socket, idleMs);
    });
    const own = request.url?.startsWith('/') ? pages : undefined;
    const refused = own ? servePage(own, request, response) : refusal(request);
    if (refused) answer(response, refused);
    if (refused || own) request.resume();
    else forward(dial, request, response);
  };
  server.on('request', handle);
  server.on('checkContinue', handle); // the origin decides, not we

  server.on('connect', (request: http.IncomingMessage, duplex: Duplex, early: Buffer) => {
    const socket = duplex as net.Socket;
    clearDeadline(socket);
    if (early.length > 0) socket.unshift(early);
    const refused = refusal(request);
    if (refused) {
      dismiss(socket, rawAnswer(refused));
      return;
    }
    const place = parseAuthority(request.url ?? '');
    if (!place) {
      dismiss(socket, rawAnswer({ status: 400, line: `CONNECT wants host:port, not ${request.url}` }));
      return;
    }
    const replies = {
      success: head('HTTP/1.1 200 Connection established', []),
      failure: (error: LpkError) => rawAnswer(failure(error, request.url ?? '')),
    };
    carry(socket, dial, { flow: { protocol: 'tcp', ...place }, replies }, { flowIdleMs }).catch(() => socket.destroy());
  });

  server.on('upgrade', (request: http.IncomingMessage, duplex: Duplex, early: Buffer) => {
    const socket = duplex as net.Socket;
    clearDeadline(socket);
    if (request.headers.upgrade?.toLowerCase() === 'h2c' || hasBody(request)) {
      // A proxy may ignore the wish. Node has left the request's body unread by now, so the request goes in again without it.
      const line = `${request.method} ${request.url} HTTP/${request.httpVersion}`;
      const { 'transfer-encoding': encoding, 'proxy-authorization': password } = request.headers;
      const headers = [
        ...endToEnd(request),
        ...(encoding ? ['Transfer-Encoding', encoding] : []),
        ...(password ? ['Proxy-Authorization', password] : []),
      ];
      socket.unshift(Buffer.concat([head(line, headers), early]));
      server.emit('connection', socket);
      return;
    }
    if (early.length > 0) socket.unshift(early);
    const refused = refusal(request);
    if (refused) dismiss(socket, rawAnswer(refused));
    else upgrade(dial, request, socket, { flowIdleMs });
  });

  return {
    accept: (socket) => {
      server.emit('connection', socket);
    },
  };
}

/** One request to the origin and its answer back, both streamed. Connections to origins are not reused: opening one is free. */
function forward(dial: Dial, request: http.IncomingMessage, response: http.ServerResponse): void {
  const sent = send(dial, request, (refusal) => answer(response, refusal));
  if (!sent) {
    request.resume();
    return;
  }
  const { upstream, stream } = sent;
  upstream.on('continue', () => response.writeContinue());
  upstream.on('information', (info) => {
    if (info.statusCode === 100 || request.httpVersion !== '1.1' || response.headersSent) return;
    response.socket?.write(head(`HTTP/1.1 ${info.statusCode} ${info.statusMessage}`, info.rawHeaders));
  });
  upstream.on('response', (message) => passBack(message, response));
  response.on('close', () => {
    request.unpipe(upstream);
    request.resume(); // an answer can come before the whole request was read
    if (response.writableFinished) letGo(stream);
    else upstream.destroy(); // the client left
  });
  if (!hasBody(request)) {
    upstream.end();
    return;
  }
  upstream.flushHeaders();
  request.on('end', () => {
    upstream.addTrailers(pairs(request.rawTrailers));
    upstream.end();
  });
  request.pipe(upstream, { end: false });
}

/** A request that asks for another protocol (RFC 9110 7.8): on 101 the two sockets are joined. */
function upgrade(dial: Dial, request: http.IncomingMessage, socket: net.Socket, idle: Idle): void {
  const response = () => {
    const answering = new http.ServerResponse(request);
    answering.shouldKeepAlive = false;
    answering.assignSocket(socket);
    answering.on('finish', () => {
      dismiss(socket, Buffer.alloc(0));
      letGo(stream);
    });
    return answering;
  };
  const sent = send(dial, request, (refusal) => dismiss(socket, rawAnswer(refusal)), true);
  if (!sent) return;
  const { upstream, stream } = sent;
  const abandon = () => stream.reset('cancelled', 'the client left');
  socket.once('close', abandon);
  upstream.on('response', (message) => passBack(message, response()));
  upstream.on('upgrade', (message, _stream, early) => {
    socket.off('close', abandon);
    socket.write(head(`HTTP/1.1 101 ${message.statusMessage}`, message.rawHeaders));
    if (early.length > 0) stream.unshift(early);
    join(socket, stream, idle);
  });
  upstream.end();
}

/** Dials and sends the request's head. `refuse` is called, at most once, when there is no answer of the origin to come. */
function send(
  dial: Dial,
  request: http.IncomingMessage,
  refuse: (refusal: NotATarget) => void,
  upgrading = false,
): { upstream: http.ClientRequest; stream: Outbound['stream'] } | undefined {
  const { method = '', url = '' } = request;
  const target = parseTarget(method, url);
  if ('status' in target) {
    refuse(target);
    return undefined;
  }
  let outbound: Outbound;
  try {
    outbound = dial({ protocol: 'tcp', host: target.host, port: target.port });
  } catch (error) {
    refuse(failure(flowError(error), target.authority));
    return undefined;
  }
  const { stream, opened } = outbound;
  let upstream: http.ClientRequest | undefined;
  let settled = false;
  const settle = () => {
    settled = true;
  };
  const fail = (refusal: NotATarget) => {
    if (settled) return;
    settle();
    refuse(refusal);
    if (!stream.destroyed) stream.reset('cancelled');
    upstream?.destroy(); // Node would wait for ever for a stream that was over before it looked
  };
  const failed = (error: unknown) => fail(failure(flowError(error), target.authority));
  opened.catch(failed);
  stream.on('error', failed);
  try {
    upstream = startRequest(request, target, stream, upgrading);
  } catch (error) {
    // Node's parser reads what Node's own request doesn't write: control bytes in a path, for one.
    fail({ status: 400, line: flowError(error).message });
    return undefined;
  }
  upstream.on('error', failed);
  upstream.on('response', settle);
  upstream.on('upgrade', settle);
  return { upstream, stream };
}

function startRequest(
  request: http.IncomingMessage,
  target: Target,
  stream: Outbound['stream'],
  upgrading: boolean,
): http.ClientRequest {
  return http.request({
    createConnection: () => stream,
    method: request.method ?? '',
    path: target.path,
    headers: requestHeaders(request, target, upgrading),
    maxHeaderSize: MAX_HEADER_BYTES,
  });
}

/** The answer is whole: the origin closes its side by itself, or loses it. */
function letGo(stream: Outbound['stream']): void {
  if (stream.destroyed) return;
  stream.end();
  stream.resume();
  const timer = setTimeout(() => stream.reset('cancelled'), UPSTREAM_LINGER_MS);
  stream.on('close', () => clearTimeout(timer));
}

/** The origin's answer to the client. When it breaks off, so does the client's connection: half an answer must not look whole. */
function passBack(message: http.IncomingMessage, response: http.ServerResponse): void {
  response.sendDate = false;
  try {
    response.writeHead(message.statusCode as number, message.statusMessage, endToEnd(message));
  } catch {
    // A status or header that Node reads but refuses to write.
    message.destroy();
    response.destroy();
    return;
  }
  response.flushHeaders();
  message.on('end', () => response.addTrailers(pairs(message.rawTrailers)));
  pipeline(message, response, () => {}); // destroys both when one fails
}

function answer(response: http.ServerResponse, { status, line, headers }: NotATarget): void {
  if (response.headersSent || response.destroyed) return;
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', ...headers });
  response.end(`lpk: ${line}\n`);
}

function rawAnswer({ status, line, headers }: NotATarget): Buffer {
  const body = Buffer.from(`lpk: ${line}\n`);
  const all = {
    ...headers,
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': `${body.length}`,
    Connection: 'close',
  };
  return Buffer.concat([head(`HTTP/1.1 ${status} ${http.STATUS_CODES[status]}`, Object.entries(all).flat()), body]);
}

function failure(error: LpkError, authority: string): NotATarget {
  const status = error.code === 'timed-out' ? 504 : error.code === 'not-allowed' ? 403 : 502;
  return { status, line: `${authority}: ${error.message}` };
}
