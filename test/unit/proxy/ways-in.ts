import type { RawClient } from './raw-client.ts';

/** One way of asking the door for a connection: the table that the suite of every door runs over. */
export type WayIn = {
  name: string;
  /** The host a flow asked for this way must have. */
  host: string;
  /** All a client says before its payload. `host` replaces the usual one where the protocol carries names. */
  request(port: number, host?: string): Buffer;
  /** Reads the door's answer: 'ok', or how it says no. */
  answer(client: RawClient): Promise<string>;
  /** How it says no, by dial result; absent where the protocol carries no names to fail with. */
  refusals?: Record<string, string>;
};

const u16 = (value: number) => Buffer.of(value >> 8, value & 0xff);

const socks5Request = (command: number, address: Buffer, port: number) =>
  Buffer.concat([Buffer.of(5, 1, 0), Buffer.of(5, command, 0), address, u16(port)]);

const socks5Name = (name: string) => Buffer.concat([Buffer.of(3, name.length), Buffer.from(name)]);

async function socks5Answer(client: RawClient): Promise<string> {
  const method = await client.take(2);
  if (method[1] !== 0) return `method ${method[1]}`;
  const reply = await client.take(10);
  return reply[1] === 0 ? 'ok' : `reply ${reply[1]}`;
}

async function socks4Answer(client: RawClient): Promise<string> {
  const reply = await client.take(8);
  return reply[1] === 0x5a ? 'ok' : `code ${reply[1]}`;
}

async function connectAnswer(client: RawClient): Promise<string> {
  const head = await client.takeUntil('\r\n\r\n');
  const status = head.slice(9, 12);
  return status === '200' ? 'ok' : `${status} ${(await client.rest()).toString().trim()}`;
}

export const WAYS_IN: WayIn[] = [
  {
    name: 'SOCKS5 by name',
    host: 'web.shop',
    request: (port, host = 'web.shop') => socks5Request(1, socks5Name(host), port),
    answer: socks5Answer,
    refusals: {
      refused: 'reply 5',
      unreachable: 'reply 4',
      enetunreach: 'reply 3',
      'name-not-found': 'reply 4',
      'timed-out': 'reply 6',
      'not-allowed': 'reply 2',
      'too-many-streams': 'reply 1',
      'no-tunnel': 'reply 1',
    },
  },
  {
    name: 'SOCKS5 by IPv4',
    host: '10.96.0.10',
    request: (port) => socks5Request(1, Buffer.of(1, 10, 96, 0, 10), port),
    answer: socks5Answer,
  },
  {
    name: 'SOCKS5 by IPv6',
    host: 'fd00:10:96::a',
    request: (port) => socks5Request(1, Buffer.from('04fd000010009600000000000000' + '00000a', 'hex'), port),
    answer: socks5Answer,
  },
  {
    name: 'SOCKS4',
    host: '10.96.0.10',
    request: (port) => Buffer.concat([Buffer.of(4, 1), u16(port), Buffer.of(10, 96, 0, 10), Buffer.from('me\0')]),
    answer: socks4Answer,
  },
  {
    name: 'SOCKS4a',
    host: 'web.shop',
    request: (port, host = 'web.shop') =>
      Buffer.concat([Buffer.of(4, 1), u16(port), Buffer.of(0, 0, 0, 1), Buffer.from(`\0${host}\0`)]),
    answer: socks4Answer,
    refusals: { refused: 'code 91', 'name-not-found': 'code 91', 'no-tunnel': 'code 91' },
  },
  {
    name: 'HTTP CONNECT by name',
    host: 'web.shop',
    request: (port, host = 'web.shop') => Buffer.from(`CONNECT ${host}:${port} HTTP/1.1\r\nHost: ${host}\r\n\r\n`),
    answer: connectAnswer,
    refusals: {
      refused: '502 lpk: refused.fail:80: the dial failed',
      unreachable: '502 lpk: unreachable.fail:80: the dial failed',
      'name-not-found': '502 lpk: name-not-found.fail:80: the dial failed',
      'timed-out': '504 lpk: timed-out.fail:80: the dial failed',
      'not-allowed': '403 lpk: not-allowed.fail:80: the dial failed',
      'no-tunnel': '502 lpk: no-tunnel.fail:80: there is no tunnel',
    },
  },
  {
    name: 'HTTP CONNECT by IPv6',
    host: 'fd00:10:96::a',
    request: (port) => Buffer.from(`CONNECT [fd00:10:96::a]:${port} HTTP/1.1\r\nHost: x\r\n\r\n`),
    answer: connectAnswer,
  },
];

export { socks5Answer, socks5Name, socks5Request };
