import http from 'node:http';
import type { Prober } from './carried-probe.ts';
import type { Judge } from './readiness.ts';

/**
 * Answers the kubelet for the container: `/live` always (a debugger at a breakpoint harms nothing), `/ready` as the judge
 * says. Rejects with Node's listen error.
 */
export async function startProbes(port: number, judge: Judge): Promise<http.Server> {
  const server = http.createServer(async (request, response) => {
    const answer = (status: number, text: string) =>
      response.writeHead(status, { 'content-type': 'text/plain' }).end(`${text}\n`);
    if (request.url === '/live') return answer(200, 'ok');
    if (request.url !== '/ready') return answer(404, 'not found');
    const why = await judge.whyUnready(proberOf(request));
    return why === undefined ? answer(200, 'ok') : answer(503, why);
  });
  server.maxConnections = 64;
  await new Promise<void>((resolve, reject) => {
    server.on('error', reject); // later ones (no descriptors left) are survived
    server.listen({ port }, resolve);
  });
  return server;
}

function proberOf({ socket, headers }: http.IncomingMessage): Prober {
  const plain = (address = '') => address.replace(/^::ffff:/, '');
  return {
    podAddress: plain(socket.localAddress),
    address: plain(socket.remoteAddress),
    port: socket.remotePort ?? 0,
    userAgent: headers['user-agent'] ?? 'kube-probe',
  };
}
