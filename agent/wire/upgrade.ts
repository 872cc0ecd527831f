import { randomBytes } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import type { Duplex } from 'node:stream';

/** What a laptop needs to open a websocket: headers and TLS options as of `https.request`. */
export type UpgradeOptions = Pick<
  https.RequestOptions,
  'ca' | 'cert' | 'key' | 'rejectUnauthorized' | 'servername' | 'agent'
> & {
  headers?: http.OutgoingHttpHeaders;
  /** Give a connected stream instead of dialling the URL's host (a port-forward). */
  createConnection?: () => Duplex;
};

const MAX_ANSWER_CHARS = 4_096;

/**
 * Asks for a websocket (RFC 6455 4.1). The request's events tell what comes of it; `refused` is told of an HTTP answer in its place,
 * whose `body` is cut at 4,096 characters. `key`: 16 bytes in base64, for who checks the answer by it. `timeoutMs`: of silence.
 */
export function requestUpgrade(
  url: string,
  options: UpgradeOptions,
  asked: {
    subprotocol: string;
    key?: string;
    timeoutMs?: number;
    refused: (status: number, body: string) => void;
  },
): http.ClientRequest {
  const target = new URL(url.replace(/^ws/, 'http'));
  const { createConnection, headers, ...tls } = options;
  const request = (target.protocol === 'https:' ? https : http).request(target, {
    ...tls,
    ...(createConnection ? { createConnection: createConnection as never } : {}),
    headers: {
      ...headers,
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': asked.key ?? randomBytes(16).toString('base64'),
      'sec-websocket-protocol': asked.subprotocol,
    },
    ...(asked.timeoutMs ? { timeout: asked.timeoutMs } : {}),
  });
  request.on('response', (response) => {
    let body = '';
    response.setEncoding('utf8');
    response.on('data', (chunk: string) => {
      body = (body + chunk).slice(0, MAX_ANSWER_CHARS);
    });
    response.on('close', () => asked.refused(response.statusCode ?? 0, body));
  });
  request.end();
  return request;
}
