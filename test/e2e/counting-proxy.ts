import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import type net from 'node:net';
import type { Cluster } from '../../agent/deploy/kube.ts';

/** An API server on loopback that passes everything on to the real one, as its admin, and counts who asked for what. */
export class CountingProxy {
  #server: http.Server;
  #counts = new Map<string, Map<string, number>>();
  #sockets = new Set<net.Socket>();

  private constructor(server: http.Server) {
    this.#server = server;
  }

  static async open(cluster: Cluster): Promise<CountingProxy> {
    const { headers: credentials, agent: _, ...tls } = await cluster.tlsOptions();
    const { hostname, port } = new URL(cluster.server);
    const kept = new https.Agent({ keepAlive: true });
    const server = http.createServer();
    const proxy = new CountingProxy(server);
    const passOn = (request: http.IncomingMessage, agent: https.Agent | false) => {
      const path = proxy.#count(request);
      const headers = { ...request.headers, ...(credentials as http.OutgoingHttpHeaders), host: `${hostname}:${port}` };
      return https.request({ ...tls, hostname, port, method: request.method, path, headers, agent });
    };
    server.on('connection', (socket) => {
      proxy.#sockets.add(socket);
      socket.on('close', () => proxy.#sockets.delete(socket)).on('error', () => {});
    });
    server.on('request', (request, response) => {
      const onward = passOn(request, kept);
      onward.on('response', (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        response.flushHeaders(); // a watch may say nothing for a while
        answer.pipe(response);
      });
      onward.on('error', () => response.destroy());
      response.on('close', () => onward.destroy());
      request.pipe(onward);
    });
    server.on('upgrade', (request, near: net.Socket, head) => {
      const onward = passOn(request, false);
      onward.on('upgrade', (answer, far, first) => {
        near.write(headOf(answer));
        near.write(first);
        far.write(head);
        near.pipe(far).pipe(near);
        far.on('error', () => near.destroy()).on('close', () => near.destroy());
        near.on('close', () => far.destroy());
      });
      onward.on('response', (answer) => {
        near.write(headOf(answer));
        answer.pipe(near);
      });
      onward.on('error', () => near.destroy());
      onward.end();
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  /** Writes a kubeconfig of who is to be counted under `name`. */
  writeKubeconfig(file: string, name: string): void {
    const server = `http://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}/${name}`;
    const entry = { name: 'counted' };
    writeFileSync(
      file,
      JSON.stringify({
        ...{ apiVersion: 'v1', kind: 'Config', 'current-context': entry.name },
        clusters: [{ ...entry, cluster: { server } }],
        users: [{ ...entry, user: {} }],
        contexts: [{ ...entry, context: { cluster: entry.name, user: entry.name } }],
      }),
    );
  }

  /** What was asked for since the last time, by `VERB resource`. */
  take(name: string): Map<string, number> {
    const counts = this.#counts.get(name) ?? new Map();
    this.#counts.delete(name);
    return counts;
  }

  async close(): Promise<void> {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  /** The path without the name of who asks. */
  #count({ method, url = '', headers }: http.IncomingMessage): string {
    const [, name = '', path = ''] = /^\/([^/]+)(\/.*)$/.exec(url) ?? [];
    const { pathname, searchParams } = new URL(path, 'http://server');
    const [resource, object, subresource] = pathname
      .replace(/^\/apis?\/([^/]*\/)?v1\/(namespaces\/[^/]+\/)?/, '')
      .split('/');
    const verb = headers.upgrade
      ? 'CONNECT'
      : searchParams.has('watch')
        ? 'WATCH'
        : object || method !== 'GET'
          ? method
          : 'LIST';
    // Of Deployments, the restorer's is not the workload that a session holds.
    const whose = verb === 'GET' && resource === 'deployments' && object?.startsWith('lpk-') ? '/lpk-*' : '';
    const what = `${verb} ${resource}${subresource ? `/${subresource}` : whose}`;
    const counts = this.#counts.get(name) ?? new Map<string, number>();
    this.#counts.set(name, counts.set(what, (counts.get(what) ?? 0) + 1));
    return path;
  }
}

function headOf({ statusCode, statusMessage, rawHeaders }: http.IncomingMessage): string {
  let text = `HTTP/1.1 ${statusCode} ${statusMessage}\r\n`;
  for (let i = 0; i < rawHeaders.length; i += 2) text += `${rawHeaders[i]}: ${rawHeaders[i + 1]}\r\n`;
  return `${text}\r\n`;
}
