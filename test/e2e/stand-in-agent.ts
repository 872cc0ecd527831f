import { readFileSync } from 'node:fs';
import http from 'node:http';
import { acceptWebSocket } from '../../agent/wire/carrier.ts';

/**
 * The least that can stand in an agent's place, for tests of the deployment alone: it echoes over a websocket, is ready while
 * one is open, and tells its environment.
 */

const { port, probePort, listen } = JSON.parse(readFileSync('/.lpk/config.json', 'utf8'));
let connected = 0;

const tunnel = http.createServer((_, response) =>
  response.end(JSON.stringify({ env: process.env, uid: process.getuid?.() })),
);
tunnel.on('upgrade', (request, socket, head) => {
  const carrier = acceptWebSocket(request, socket, head);
  if (!carrier) return;
  connected += 1;
  carrier.on('message', (first) => carrier.send(first));
  carrier.on('error', () => {});
  carrier.on('close', () => {
    connected -= 1;
  });
});
tunnel.listen(port, listen === 'loopback' ? '127.0.0.1' : undefined);

const probes = http.createServer((request, response) => {
  response.writeHead(request.url === '/ready' && connected === 0 ? 503 : 200).end();
});
probes.listen(probePort);

process.on('SIGTERM', () => process.exit(0));
