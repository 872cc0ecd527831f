import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';

/**
 * A program with every kind of probe: HTTP (with a header), HTTPS and gRPC at three ports. In the pod it is the original, on the laptop the
 * COMMAND. `/heal` and `/sicken` say how it is from then on; it says who asked for its health, and anything else gets its process id.
 */
const [httpPort, httpsPort, grpcPort] = process.argv.slice(2, 5).map(Number);
let isHealthy = process.argv[5] !== 'sick';

/** Worth nothing: made for tests (test/unit/proxy/tls-fixture.ts). */
const key = process.env.TLS_KEY;
const cert = process.env.TLS_CERTIFICATE;

function health(kind: string): boolean {
  console.log(`${kind} ${isHealthy ? 'healthy' : 'sick'}`);
  return isHealthy;
}

function serve(kind: string): http.RequestListener {
  return ({ url, headers }, response) => {
    response.setHeader('connection', 'close');
    if (url === '/heal' || url === '/sicken') isHealthy = url === '/heal';
    if (url !== '/health') return response.end(`process ${process.pid}`);
    // As a program does that is called by names only.
    const known = kind === 'https' || (headers['x-probe'] === 'yes' && headers.host === 'shop.example');
    response.writeHead(!known ? 400 : health(kind) ? 200 : 503).end();
  };
}

const grpc = http2.createServer((request, response) => {
  const SERVING = 1;
  const NOT_SERVING = 2;
  request.resume().on('end', () => {
    response.writeHead(200, { 'content-type': 'application/grpc' });
    response.addTrailers({ 'grpc-status': '0' });
    response.end(Buffer.of(0, 0, 0, 0, 2, 0x08, health('grpc') ? SERVING : NOT_SERVING));
  });
});

const servers = [http.createServer(serve('http')), https.createServer({ key, cert }, serve('https')), grpc];
for (const [i, server] of servers.entries()) {
  await new Promise<void>((resolve) => server.listen([httpPort, httpsPort, grpcPort][i], resolve));
}
console.log(`listens as ${process.pid}`);
process.on('SIGTERM', () => process.exit(0));
