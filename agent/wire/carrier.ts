import type { Duplex } from 'node:stream';
import type { SecureContextOptions } from 'node:tls';
import { type ClientOptions, WebSocket, WebSocketServer } from 'ws';
import { type ErrorCode, LpkError } from './errors.ts';
import { MAX_MESSAGE_BYTES, SUBPROTOCOL, TIMES } from './protocol.ts';

/** What a laptop needs to say to open a websocket: headers and TLS options as of `https.request`. */
export type WebSocketOptions = SecureContextOptions & {
  headers?: Record<string, string>;
  servername?: string;
  rejectUnauthorized?: boolean;
  agent?: ClientOptions['agent'];
  /** Give a connected stream instead of dialling the URL's host (a port-forward). */
  createConnection?: () => Duplex;
};

const SETTINGS = { perMessageDeflate: false, maxPayload: MAX_MESSAGE_BYTES, skipUTF8Validation: true } as const;

/**
 * A websocket that can carry a link. The mask is zero, which `ws` then skips: masking guards old proxies against a browser's
 * scripts (RFC 6455 10.3), and here the bytes travel in TLS and no script chooses them.
 */
export function openWebSocket(url: string, options: WebSocketOptions = {}): WebSocket {
  const { createConnection, ...rest } = options;
  const carrier = new WebSocket(url, SUBPROTOCOL, {
    ...rest,
    ...(createConnection ? { createConnection: createConnection as unknown as ClientOptions['createConnection'] } : {}),
    ...SETTINGS,
    generateMask: (mask: Buffer) => mask.fill(0),
    handshakeTimeout: TIMES.handshakeMs * 2,
    followRedirects: false,
  });
  carrier.on('unexpected-response', (_request, response) => {
    let text = '';
    response.setEncoding('utf8');
    response.on('data', (chunk: string) => {
      if (text.length < MAX_ANSWER_CHARS) text += chunk;
    });
    response.on('close', () => {
      carrier.emit('error', upgradeError(response.statusCode ?? 0, text));
      carrier.terminate();
    });
  });
  return carrier;
}

const MAX_ANSWER_CHARS = 4096;

const STATUS_CODES: Record<number, ErrorCode> = {
  401: 'unauthorized',
  403: 'forbidden',
  404: 'not-found',
  426: 'version-mismatch',
};

/** An HTTP answer where a websocket was asked for. The API server's own answers are a Status object, the agent's one line. */
function upgradeError(status: number, body: string): LpkError {
  let message = body.trim();
  try {
    const parsed: unknown = JSON.parse(body);
    if (parsed && typeof parsed === 'object' && 'message' in parsed) message = String(parsed.message);
  } catch {
    // not JSON: the text as it is
  }
  const line = message.replace(/\s+/g, ' ').slice(0, 300) || 'no reason given';
  return new LpkError(STATUS_CODES[status] ?? 'agent-unreachable', `${line} (HTTP ${status})`);
}

/** The agent's end: takes upgraded sockets (`handleUpgrade`), speaks one subprotocol. */
export function webSocketServer(): WebSocketServer {
  return new WebSocketServer({ noServer: true, ...SETTINGS, handleProtocols: () => SUBPROTOCOL });
}
