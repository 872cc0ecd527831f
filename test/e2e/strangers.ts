import type http from 'node:http';
import net from 'node:net';

/** Whoever has no business with an agent and comes nevertheless: from another pod, or through the API server. */

/** What a stranger does: on a bare connection, or on a websocket (after the agent's challenge). Pieces in base64. */
export type Visit = { kind: 'bare' | 'websocket'; pieces: string[] };

/** What the stranger got for it until the connection ended. */
export type Got = {
  /** HTTP status of an answer; 0: none. */
  status: number;
  /** What came after the HTTP header, in hex. */
  rest: string;
};

const SUBPROTOCOL = 'lpk.v1';
/** Of RFC 6455 4.1, the same for all: it guards nothing. */
const UPGRADE = {
  connection: 'Upgrade',
  upgrade: 'websocket',
  'sec-websocket-version': '13',
  'sec-websocket-key': 'bHBrIHRlc3QgIHN0cmFuZ2U=',
  'sec-websocket-protocol': SUBPROTOCOL,
};

/** `connect`: the bare connection. Resolves when the agent has ended it. */
export function visitBare(connect: () => net.Socket, pieces: string[]): Promise<Got> {
  const socket = connect();
  for (const piece of pieces) socket.write(Buffer.from(piece, 'base64'));
  return got(socket);
}

/** `request`: makes an HTTP request to the agent with these headers. Resolves when the agent has ended the connection. */
export function visitWebSocket(
  request: (headers: http.OutgoingHttpHeaders) => http.ClientRequest,
  pieces: string[],
): Promise<Got> {
  return new Promise((resolve, reject) => {
    const asked = request(UPGRADE);
    asked.on('error', reject);
    asked.on('response', (response) => {
      response.resume();
      resolve({ status: response.statusCode ?? 0, rest: '' });
    });
    asked.on('upgrade', (response, socket, head) => {
      for (const piece of pieces) socket.write(Buffer.from(piece, 'base64'));
      void collect(socket, head).then((rest) =>
        resolve({ status: response.statusCode ?? 0, rest: rest.toString('hex') }),
      );
    });
    asked.end();
  });
}

/**
 * So many half-open handshakes, `atOnce` of them at a time, a new one as soon as the agent ends an old one: silent, in the
 * middle of an HTTP header, or on a websocket without a proof. Tells what they got, and how often.
 */
export async function flood(
  port: number,
  host: string,
  count: number,
  atOnce: number,
): Promise<Record<string, number>> {
  const header = Object.entries(UPGRADE).map(([name, value]) => `${name}: ${value}\r\n`);
  const openings = [
    '',
    'GET / HTTP/1.1\r\nhost: agent\r\nx-',
    `GET / HTTP/1.1\r\nhost: agent\r\n${header.join('')}\r\n`,
  ];
  const counts: Record<string, number> = {};
  let begun = 0;
  const one = async (): Promise<void> => {
    while (begun < count) {
      const opening = openings[begun++ % openings.length] as string;
      const socket = net.connect({ host, port, noDelay: true });
      socket.write(opening);
      const what = inWords(await got(socket));
      counts[what] = (counts[what] ?? 0) + 1;
    }
  };
  await Promise.all(Array.from({ length: atOnce }, one));
  return counts;
}

async function got(socket: net.Socket): Promise<Got> {
  const all = await collect(socket);
  const end = all.indexOf('\r\n\r\n');
  const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(all.toString('latin1'))?.[1] ?? 0);
  return { status, rest: (end < 0 ? all : all.subarray(end + 4)).toString('hex') };
}

function collect(socket: NodeJS.ReadWriteStream & { destroy(): void }, head?: Buffer): Promise<Buffer> {
  const pieces: Buffer[] = head ? [head] : [];
  socket.on('data', (piece: Buffer) => pieces.push(piece));
  socket.on('end', () => socket.end());
  socket.on('error', () => {});
  return new Promise((resolve) => socket.on('close', () => resolve(Buffer.concat(pieces))));
}

/** A binary frame of one type byte and 32 more: the agent's challenge (SPEC.md, "Handshake"). */
const CHALLENGE = /^8221c1[0-9a-f]{64}/;
/** RFC 6455 5.5.1: at most a code and a reason. */
const CLOSE_FRAME = /^88([0-7][0-9a-f])((?:[0-9a-f]{2})*)$/;

/** One of `nothing`, `HTTP 4xx`, `challenge`, `challenge and close N`, or what else it was. */
export function inWords({ status, rest }: Got): string {
  if (status !== 101) return `${status === 0 ? 'nothing' : `HTTP ${status}`}${rest && ` and ${rest.slice(0, 80)}`}`;
  const after = rest.replace(CHALLENGE, '');
  const said = after === rest ? 'no challenge' : 'challenge';
  if (after === '') return said;
  const [, length = '', payload = ''] = CLOSE_FRAME.exec(after) ?? [];
  if (Number.parseInt(length, 16) * 2 !== payload.length) return `${said} and ${after.slice(0, 80)}`;
  return `${said} and close ${payload ? Number.parseInt(payload.slice(0, 4), 16) : ''}`.trim();
}
