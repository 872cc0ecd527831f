import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { meet, type Order, Transfers } from './transfers.ts';

/** Runs in a pod: the rest of the cluster, for whoever talks to lpk's user or is talked to. See scene.ts. */

/** A connection to where a Service leads, to be made from the pod. */
export type Errand = { host: string; port: number };

const transfers = new Transfers();
net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => transfers.serve(socket)).listen(7000);

// A server that speaks first, as SMTP, SSH and MySQL do.
net
  .createServer({ noDelay: true }, (socket) => {
    socket.on('error', () => {});
    socket.write('220 peer is ready\n');
    socket.resume();
  })
  .listen(7001);

async function connect({ host, port }: Errand): Promise<net.Socket> {
  const socket = net.connect({ host, port, allowHalfOpen: true, noDelay: true });
  await once(socket, 'connect');
  return socket;
}

/** Until somebody answers there: the Service may know the pod, and the pod its laptop, a little later. */
async function reach(errand: Errand): Promise<object> {
  for (let tries = 1; ; tries++) {
    const socket = await connect(errand).catch(() => undefined);
    if (socket && (await meet(socket, `reach-${Math.random()}`, 1).catch(() => undefined)) !== undefined) return { tries };
    socket?.destroy();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** As many connections at once, each answered only when all are open. */
async function gather({ guests, id, ...errand }: Errand & { guests: number; id: string }): Promise<object> {
  const places = await Promise.all(Array.from({ length: guests }, async () => meet(await connect(errand), id, guests)));
  return { different: new Set(places).size };
}

const operations: Record<string, (given: never) => Promise<object> | object> = {
  reach,
  gather,
  begin: async ({ order, ...errand }: Errand & { order: Order }) => {
    transfers.begin(await connect(errand), order);
    return {};
  },
  reached: async ({ id, ...condition }: { id: string; bytes?: number; since?: number }) => {
    await transfers.reached(id, condition);
    return {};
  },
  result: ({ id }: { id: string }) => transfers.result(id),
  stop: () => {
    transfers.stop();
    return {};
  },
};

const server = http.createServer(async (request, response) => {
  if (request.method === 'GET') return void response.end('ready\n');
  try {
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    const operation = operations[request.url?.slice(1) ?? ''];
    if (!operation) throw new Error(`no operation ${request.url}`);
    response.setHeader('content-type', 'application/json').end(JSON.stringify(await operation(JSON.parse(text) as never)));
  } catch (error) {
    response.writeHead(500).end(String(error));
  }
});
server.requestTimeout = 0;
server.listen(8080);
process.on('SIGTERM', () => process.exit(0));
