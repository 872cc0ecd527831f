import http from 'node:http';

/**
 * Answers the kubelet for the container: `/live` always (a debugger at a breakpoint harms nothing), `/ready` while `isReady()`. Rejects with
 * Node's listen error.
 */
export async function startProbes(port: number, isReady: () => boolean): Promise<http.Server> {
  const server = http.createServer((request, response) => {
    const ok = request.url === '/live' || (request.url === '/ready' && isReady());
    response.writeHead(ok ? 200 : 503, { 'content-type': 'text/plain' }).end(ok ? 'ok\n' : 'no laptop is connected\n');
  });
  server.maxConnections = 64;
  await new Promise<void>((resolve, reject) => {
    server.on('error', reject); // later ones (no descriptors left) are survived
    server.listen({ port }, resolve);
  });
  return server;
}
