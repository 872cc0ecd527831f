import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { flood, type Got, type Visit, visitBare, visitWebSocket } from './strangers.ts';
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

/** Answers in a row that make sure: the node's rules of a Service choose among old and new pods by chance. */
const ANSWERS = 20;

/** Until somebody answers there: the Service may know the pod, and the pod its laptop, a little later. */
async function reach(errand: Errand): Promise<object> {
  for (let answers = 0, tries = 1; ; tries++) {
    const socket = await connect(errand).catch(() => undefined);
    const answered = socket && (await meet(socket, `reach-${Math.random()}`, 1).catch(() => undefined)) !== undefined;
    answers = answered ? answers + 1 : 0;
    if (answers === ANSWERS) return { tries };
    if (answered) continue;
    socket?.destroy();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** As many connections at once, each answered only when all are open. */
async function gather({ guests, id, ...errand }: Errand & { guests: number; id: string }): Promise<object> {
  const places = await Promise.all(Array.from({ length: guests }, async () => meet(await connect(errand), id, guests)));
  return { different: new Set(places).size };
}

/** To an agent of which this pod knows the address and no more. */
function visit({ host, port, kind, pieces }: Errand & Visit): Promise<Got> {
  if (kind === 'bare') return visitBare(() => net.connect({ host, port }), pieces);
  return visitWebSocket((headers) => http.request({ host, port, headers }), pieces);
}

const operations: Record<string, (given: never) => Promise<object> | object> = {
  reach,
  gather,
  visit,
  flood: ({ host, port, count, atOnce }: Errand & { count: number; atOnce: number }) =>
    flood(port, host, count, atOnce),
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
    response
      .setHeader('content-type', 'application/json')
      .end(JSON.stringify(await operation(JSON.parse(text) as never)));
  } catch (error) {
    response.writeHead(500).end(String(error));
  }
});
server.requestTimeout = 0;
server.listen(8080);
process.on('SIGTERM', () => process.exit(0));
