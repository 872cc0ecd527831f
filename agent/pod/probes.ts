import http from 'node:http';

/**
 * Answers the kubelet for the container: `/live` always (a debugger at a breakpoint harms nothing), `/ready` unless `whyUnready()` has a
 * reason. Rejects with Node's listen error.
 */
export async function startProbes(port: number, whyUnready: () => string | undefined): Promise<http.Server> {
  const server = http.createServer((request, response) => {
    const known = request.url === '/live' || request.url === '/ready';
    const why = request.url === '/ready' ? whyUnready() : undefined;
    const status = !known ? 404 : why ? 503 : 200;
    response.writeHead(status, { 'content-type': 'text/plain' }).end(`${why ?? (known ? 'ok' : 'not found')}\n`);
  });
  server.maxConnections = 64;
  await new Promise<void>((resolve, reject) => {
    server.on('error', reject); // later ones (no descriptors left) are survived
    server.listen({ port }, resolve);
  });
  return server;
}
