import type http from 'node:http';
import type { NotATarget } from './http-message.ts';
import { isLoopback } from './loopback.ts';

/** What the door itself answers, by path (`/proxy.pac`): for this laptop's own programs, and not for the web pages in its browsers. */
export type Pages = Record<string, () => { type: string; body: string }>;

/**
 * A browser that reads a page must not hand it to another one's script: not sniffed for a script, not embedded elsewhere; and
 * without a word about CORS, not fetched.
 */
const HEADERS = {
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
  'Cross-Origin-Resource-Policy': 'same-origin',
};

/** Answers a request in origin form; gives back what is to be said when there is no such page for this client. */
export function servePage(
  pages: Pages,
  request: http.IncomingMessage,
  response: http.ServerResponse,
): NotATarget | undefined {
  const { socket, headers, method = '', url = '' } = request;
  if (!isLoopback(socket.remoteAddress)) return { status: 403, line: 'this page is for the laptop itself' };
  // A name that was made to point here (DNS rebinding) has its page's origin, so the page could read the answer.
  if (!ownNames(socket.localAddress, socket.localPort).includes(headers.host?.toLowerCase() ?? '')) {
    return { status: 421, line: `${headers.host ?? 'a request without Host'} is not this proxy` };
  }
  const path = url.replace(/\?.*/, '');
  const page = Object.hasOwn(pages, path) ? pages[path] : undefined;
  if (!page)
    return { status: 404, line: `there is no ${path}; as a proxy, give this address to your client (curl -x)` };
  if (method !== 'GET' && method !== 'HEAD') return { status: 405, line: `${path} can only be read` };
  const { type, body } = page();
  response.writeHead(200, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body), ...HEADERS });
  response.end(body);
  return undefined;
}

function ownNames(address = '', port = 0): string[] {
  const bound = address.includes(':') ? `[${address}]` : address;
  return ['127.0.0.1', 'localhost', '[::1]', bound].map((host) => `${host}:${port}`);
}
