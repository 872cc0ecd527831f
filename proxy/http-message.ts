import type http from 'node:http';

/** What an HTTP proxy must read from a request, and what it must not pass on. */

export type Authority = { host: string; port: number };

const DEFAULT_HTTP_PORT = 80;

/** `host:port`, `[v6]:port`; the port may be missing when there is a default. Undefined when it is neither. */
export function parseAuthority(text: string, defaultPort?: number): Authority | undefined {
  const parts = /^(?:\[([0-9a-f:.]+)\]|([^\s[\]:/?#@\\]{1,255}))(?::(\d{0,5}))?$/i.exec(text);
  const host = parts?.[1] ?? parts?.[2];
  const port = parts?.[3] ? Number(parts[3]) : defaultPort;
  return host && port && port <= 65_535 ? { host, port } : undefined;
}

export type Target = Authority & {
  /** For the Host header (RFC 9112 3.2.2: the proxy takes it from the target, whatever the client's own said). */
  authority: string;
  /** The request target in origin form. */
  path: string;
};

/** A refusal: status, one line for people, and headers that it must have. */
export type NotATarget = { status: number; line: string; headers?: Record<string, string> };

/** What a client says in Proxy-Authorization: its user and password (RFC 7617). */
export function basicCredentials(header: string | undefined): { user: Buffer; password: Buffer } | undefined {
  const token = /^basic +([a-z0-9+/]+=*) *$/i.exec(header ?? '')?.[1];
  const bytes = Buffer.from(token ?? '', 'base64');
  const colon = bytes.indexOf(':');
  return colon < 0 ? undefined : { user: bytes.subarray(0, colon), password: bytes.subarray(colon + 1) };
}

/** The absolute form of a request target (RFC 9112 3.2.2). The path is passed on as it is, never normalised. */
export function parseTarget(method: string, url: string): Target | NotATarget {
  const parts = /^([a-z][a-z0-9+.-]*):\/\/(?:[^/?#]*@)?([^/?#@]*)([^#]*)/i.exec(url);
  if (!parts) return { status: 400, line: 'this is a proxy: give its address to your client (curl -x)' };
  const [, scheme = '', authority = '', rest = ''] = parts;
  if (!['http', 'ws'].includes(scheme.toLowerCase())) {
    return { status: 501, line: `${scheme}:// goes through CONNECT; in absolute form this proxy speaks http:// only` };
  }
  const place = parseAuthority(authority, DEFAULT_HTTP_PORT);
  if (!place) return { status: 400, line: `no host and port in ${scheme}://${authority}` };
  if (rest === '' && method === 'OPTIONS') return { ...place, authority, path: '*' }; // RFC 9112 3.2.4
  return { ...place, authority, path: rest.startsWith('/') ? rest : `/${rest}` };
}

/** Between two neighbours only: RFC 9110 7.6.1, and what older clients say to proxies. */
const HOP_BY_HOP = [
  'connection',
  'proxy-connection',
  'keep-alive',
  'te',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
  'proxy-authenticate',
  'proxy-authorization',
];

/** Not removed even when Connection names them: they frame and address the message. */
const NEVER_REMOVED = ['host', 'content-length'];

/**
 * The headers that go on, as name, value, name, value…: order, case and repetition as they were. No Via is added, though RFC 9110
 * 7.6.3 asks for one: to the service this proxy must not be there.
 */
export function endToEnd({ rawHeaders, headers }: http.IncomingMessage): string[] {
  const named = (headers.connection ?? '').split(',').map((name) => name.trim().toLowerCase());
  const removed = new Set([...HOP_BY_HOP, ...named.filter((name) => !NEVER_REMOVED.includes(name))]);
  return pairs(rawHeaders)
    .filter(([name]) => !removed.has(name.toLowerCase()))
    .flat();
}

/** Methods for which Node's client adds no framing of its own. */
const NODE_SENDS_NO_BODY = ['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE'];

/** The request's headers for the origin. `upgrade`: keep the wish to change protocols. */
export function requestHeaders(request: http.IncomingMessage, { authority }: Target, upgrade = false): string[] {
  const sent = pairs(endToEnd(request))
    .filter(([name]) => name.toLowerCase() !== 'host')
    .flat();
  const { 'transfer-encoding': encoding, 'content-length': length } = request.headers;
  const unframed = encoding === undefined && length === undefined;
  return [
    ...['Host', authority],
    ...sent,
    ...(encoding ? ['Transfer-Encoding', encoding] : []),
    // Node would make it an empty chunked body.
    ...(unframed && !NODE_SENDS_NO_BODY.includes(request.method ?? '') ? ['Content-Length', '0'] : []),
    ...(upgrade ? ['Connection', 'Upgrade', 'Upgrade', request.headers.upgrade ?? ''] : ['Connection', 'close']),
  ];
}

/** RFC 9112 6.3. */
export function hasBody({ headers }: http.IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
}

/** `[name, value]` from Node's flat list. */
export function pairs(flat: string[]): [string, string][] {
  return Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i] as string, flat[2 * i + 1] as string]);
}

/** A message head as it goes over the wire. */
export function head(startLine: string, flat: string[]): Buffer {
  const lines = pairs(flat).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.from(`${startLine}\r\n${lines.join('')}\r\n`, 'latin1');
}
