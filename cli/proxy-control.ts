import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { LpkError, systemCode } from '../agent/wire/errors.ts';
import { ask, listenOn, reply, socketPath } from './control-socket.ts';
import type { ProxyChoice } from './proxy-options.ts';
import { stateFolder } from './state-folder.ts';

/**
 * A running proxy as other lpk commands find it: a file that says where its control socket is, and HTTP on that socket. What
 * answers lives; what doesn't is left of one that died.
 */

export type ProxyStatus = {
  pid: number;
  context: string;
  namespace: string;
  server: string;
  since: string;
  session: string;
  pod: string | undefined;
  transport: string;
  link: 'up' | 'down';
  rttMs: number | undefined;
  streams: number;
  bytes: { in: number; out: number };
  reconnects: number;
  doors: {
    proxy: string;
    dns: string;
    systemDns?: string;
    tun?: { device: string; ranges: string[] };
  };
  dns: { queries: number; cached: number; cluster: number; host: number; failed: number };
};

/** What `env` needs, the password included: the socket is for this user only. */
export type ProxyAccess = {
  host: string;
  port: number;
  credentials?: { user: string; password: string };
  /** Hosts to be reached past the proxy. */
  direct: string[];
  /** CIDRs of the cluster, as far as they are known. */
  ranges: string[];
};

type Entry = { socket: string; context: string; namespace: string };

type Reply = (answer: Buffer | undefined, road?: 'cluster' | 'host') => void;

/** A DNS message's answer, and whether the cluster gave it. */
export type Resolved = { message: Buffer; cluster: boolean };

export type ControlHandlers = {
  status: () => ProxyStatus;
  access: () => ProxyAccess;
  /** As `DnsServer.respond`. */
  respond: (message: Buffer, reply: Reply) => void;
  /** Asks the proxy to end; who asked is answered by `Control.close`. */
  down: () => void;
};

const RESOLVE_MS = 10_000;
const MAX_MESSAGE_BYTES = 65_535;
/** Header of a DNS answer: `cluster` or `host`. */
const BY = 'lpk-answered-by';

export type Control = {
  /** Everything is undone, but for `failed`: tells who asked for the end, and is no longer there. */
  close(failed: string[]): Promise<void>;
};

/**
 * Serves other commands. LpkError `already-running` when a proxy into the same namespace of the same cluster does so already.
 */
export async function openControl(
  of: { server: string; context: string; namespace: string },
  handlers: ControlHandlers,
): Promise<Control> {
  const folder = stateFolder('proxies');
  const id = createHash('sha256').update(`${of.server}\n${of.namespace}`).digest('hex').slice(0, 12);
  const socket = socketPath(folder, id);
  const file = path.join(folder, `${id}.json`);
  const waiting = new Set<http.ServerResponse>();
  const server = http.createServer((request, response) => {
    const { method, url } = request;
    if (method === 'GET' && url === '/status') return reply(response, handlers.status());
    if (method === 'GET' && url === '/access') return reply(response, handlers.access());
    if (method === 'POST' && url === '/resolve') return void answerQuestion(request, response, handlers);
    if (method !== 'POST' || url !== '/down') return void response.writeHead(404).end();
    waiting.add(response);
    response.on('close', () => waiting.delete(response));
    handlers.down();
  });
  await listenOn(server, socket).catch(async (error: unknown) => {
    if (systemCode(error) !== 'EADDRINUSE') throw error;
    const running = await ask<ProxyStatus>(socket, 'GET', '/status').catch(() => undefined);
    if (running) {
      const { namespace, context, pid, doors } = running;
      throw new LpkError(
        'already-running',
        `a proxy into namespace ${namespace} (${context}) runs already: ${doors.proxy}, process ${pid}`,
      );
    }
    rmSync(socket, { force: true });
    await listenOn(server, socket);
  });
  const entry: Entry = { socket, context: of.context, namespace: of.namespace };
  writeFileSync(file, JSON.stringify(entry), { mode: 0o600 });
  return {
    close: async (failed) => {
      rmSync(file, { force: true });
      const closed = new Promise((resolve) => server.close(resolve)); // removes the socket too
      await Promise.all(
        [...waiting].map((response) => {
          const told = new Promise((resolve) => response.once('close', resolve));
          reply(response, { failed });
          return told;
        }),
      );
      server.closeAllConnections();
      await closed;
    },
  };
}

async function answerQuestion(request: http.IncomingMessage, response: http.ServerResponse, handlers: ControlHandlers) {
  try {
    const pieces: Buffer[] = [];
    let bytes = 0;
    for await (const piece of request as AsyncIterable<Buffer>) {
      bytes += piece.length;
      if (bytes > MAX_MESSAGE_BYTES) throw new LpkError('limit-exceeded', 'no DNS message is so long');
      pieces.push(piece);
    }
    const { message, cluster } = await askingOf((reply) => handlers.respond(Buffer.concat(pieces), reply));
    response.writeHead(200, { 'content-type': 'application/dns-message', [BY]: cluster ? 'cluster' : 'host' });
    response.end(message);
  } catch (error) {
    if (!response.headersSent) response.writeHead(400);
    response.end(error instanceof Error ? error.message : String(error));
  }
}

/** `ask` is given what to call with the answer. Rejects with LpkError `protocol` for what is no question. */
export function askingOf(ask: (reply: Reply) => void): Promise<Resolved> {
  return new Promise((resolve, reject) => {
    ask((message, road) => {
      if (message) resolve({ message, cluster: road === 'cluster' });
      else reject(new LpkError('protocol', 'that is no DNS question'));
    });
  });
}

export type RunningProxy = {
  status: ProxyStatus;
  access(): Promise<ProxyAccess>;
  /** Asks its DNS server. */
  resolve(message: Buffer): Promise<Resolved>;
  /** Resolves when it has ended; with what it could not undo. */
  down(): Promise<{ failed: string[] }>;
};

/** Those that answer, of this user. Files of those that died are removed. */
export async function runningProxies(choice: ProxyChoice): Promise<RunningProxy[]> {
  const folder = stateFolder('proxies');
  const files = readdirSync(folder).filter((name) => name.endsWith('.json'));
  const found = await Promise.all(files.map((name) => connect(path.join(folder, name))));
  return found.filter(
    (proxy) =>
      proxy !== undefined &&
      (choice.namespace === undefined || proxy.status.namespace === choice.namespace) &&
      (choice.context === undefined || proxy.status.context === choice.context),
  ) as RunningProxy[];
}

/** The one that is meant. LpkError `not-running`; `usage` when there are several. */
export async function oneProxy(choice: ProxyChoice): Promise<RunningProxy> {
  const only = await onlyProxy(choice);
  if (only) return only;
  const where = choice.namespace ? ` into namespace ${choice.namespace}` : '';
  throw new LpkError('not-running', `no proxy${where} runs`);
}

/** The same, or undefined when none runs. LpkError `usage` when there are several. */
export async function onlyProxy(choice: ProxyChoice): Promise<RunningProxy | undefined> {
  const running = await runningProxies(choice);
  if (running.length <= 1) return running[0];
  const all = running.map(({ status: { namespace, context } }) => `${namespace} (${context})`).join(', ');
  throw new LpkError('usage', `several proxies run: ${all}; name one with -n NAMESPACE or --context`);
}

async function connect(file: string): Promise<RunningProxy | undefined> {
  let entry: Entry;
  try {
    entry = JSON.parse(readFileSync(file, 'utf8')) as Entry;
  } catch {
    return undefined; // being written, or removed
  }
  const { socket } = entry;
  try {
    const status = await ask<ProxyStatus>(socket, 'GET', '/status');
    return {
      status,
      access: () => ask(socket, 'GET', '/access'),
      resolve: (message) => askDns(socket, message),
      down: () => ask(socket, 'POST', '/down', 0),
    };
  } catch (error) {
    if (systemCode(error) === 'ECONNREFUSED' || systemCode(error) === 'ENOENT') {
      rmSync(file, { force: true });
      rmSync(socket, { force: true });
    }
    return undefined;
  }
}

const questions = new http.Agent({ keepAlive: true, maxSockets: 8 });

function askDns(socketPath: string, message: Buffer): Promise<Resolved> {
  return new Promise((resolve, reject) => {
    const options = { socketPath, method: 'POST', path: '/resolve', timeout: RESOLVE_MS, agent: questions };
    const request = http.request(options, (response) => {
      buffer(response).then((answer) => {
        if (response.statusCode === 200) resolve({ message: answer, cluster: response.headers[BY] === 'cluster' });
        else reject(new LpkError('protocol', answer.toString()));
      }, reject);
    });
    request.on('timeout', () => request.destroy(new LpkError('timed-out', 'the proxy does not answer')));
    request.on('error', reject);
    request.end(message);
  });
}
