import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import type net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Writable } from 'node:stream';
import v8 from 'node:v8';
import { agentVolume } from '../../../agent/deploy/agent-container.ts';
import type { Target } from '../../../agent/deploy/find.ts';
import { workloadRef } from '../../../agent/deploy/workload.ts';
import type { WatchingApi } from '../../../agent/pod/api-server.ts';
import { keepWatch } from '../../../agent/pod/restorer.ts';
import { serveSession } from '../../../agent/pod/serve.ts';
import { startServer } from '../../../agent/pod/server.ts';
import type { Json } from '../../../agent/restore/api.ts';
import { WATCHING_ANNOTATION } from '../../../agent/restore/lease.ts';
import { Attachment } from '../../../cli/attachment.ts';
import { openCluster } from '../../../cli/cluster.ts';
import { tellLinks } from '../../../cli/link-events.ts';
import { Log } from '../../../cli/log.ts';
import { Output, type Sink } from '../../../cli/output.ts';
import { keepLease } from '../../../cli/session-guard.ts';
import { Route } from '../../../proxy/route.ts';
import { FastClock } from './fast-clock.ts';

/**
 * A session of which nobody wants anything for a week: the laptop's link, Lease, watch, credentials, output and log, the agent and the
 * restorer, all real, before a stand-in of an API server and with a clock that is as fast as they are. Run with --expose-gc; says in JSON what
 * it took. `node idle-week.ts HOURS`
 */

const HOURS = Number(process.argv[2] ?? 7 * 24);
const SESSION = 'abcdefghij';
/** No more than the link's silence that ends it; a ping is due in each. */
const STRIDE_MS = 3_000;
const PARTS = 20;

// As `lpk connect` has it: else V8 doubles its young generation whenever more than a part of it survives.
v8.setFlagsFromString('--semi-space-growth-factor=1');

const [realTimeout, realClear] = [setTimeout, clearTimeout];
const clock = new FastClock();
clock.install();

const folder = mkdtempSync(path.join(tmpdir(), 'lpk-week-'));
const tokenFile = path.join(folder, 'token');
let token = '';
let rotations = 0;
function rotate(): void {
  rotations += 1;
  token = `token-${rotations}-${'x'.repeat(900)}`;
  writeFileSync(tokenFile, token);
}
rotate();
setInterval(rotate, 3_600_000);

const workload = { metadata: { name: 'web', uid: 'w' }, spec: { selector: { matchLabels: { app: 'web' } } } };
const pod = {
  metadata: { name: 'web-1', uid: 'p', labels: { app: 'web' }, resourceVersion: '1' },
  spec: { volumes: [agentVolume(SESSION)], containers: [{ name: 'app' }] },
  status: {
    podIP: '127.0.0.1',
    containerStatuses: [{ name: 'app', containerID: 'c', state: { running: {} } }],
  },
};
const lease: Json = {
  metadata: { name: `lpk-${SESSION}`, resourceVersion: '1' },
  spec: { renewTime: '', leaseDurationSeconds: 45 },
};

// The stand-in hands its websockets to the agent's server as they are: a hop less for half a million messages.
const { createServer } = http;
let agentServer: http.Server | undefined;
http.createServer = ((...given: Parameters<typeof createServer>) => {
  agentServer = createServer(...given);
  return agentServer;
}) as typeof createServer;
const agent = await startServer({
  ...{ host: '127.0.0.1', port: 0, key: Buffer.alloc(32, 7), holdMs: 60_000 },
  onSession: (session) => serveSession(session, {}),
});

const counts: Record<string, number> = {};
const counted = (what: string) => {
  counts[what] = (counts[what] ?? 0) + 1;
};
/** Requests that are not answered yet, watches aside. */
let open = 0;
let toldRestorer: (() => void) | undefined;

const api = createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url ?? '', 'http://api');
  const resource =
    pathname.split('/')[
      pathname.includes('lpk-') || pathname.endsWith('/web')
        ? pathname.split('/').length - 2
        : pathname.split('/').length - 1
    ];
  const watches = searchParams.has('watch');
  counted(`${watches ? 'WATCH' : request.method} ${resource}`);
  const answer = (status: number, body: Json) =>
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  if (!watches) {
    open += 1;
    response.on('close', () => {
      open -= 1;
    });
  }
  request.resume();
  if (request.headers.authorization !== `Bearer ${token}`) {
    counted('401');
    return void answer(401, { kind: 'Status', code: 401, message: 'Unauthorized' });
  }
  if (watches) {
    response.writeHead(200, { 'content-type': 'application/json' }).flushHeaders();
    const bookmark = { type: 'BOOKMARK', object: { metadata: { resourceVersion: '2' } } };
    const beat = setInterval(() => response.write(`${JSON.stringify(bookmark)}\n`), 60_000);
    setTimeout(
      () => {
        clearInterval(beat);
        response.end();
      },
      Number(searchParams.get('timeoutSeconds')) * 1_000,
    );
  } else if (resource === 'pods') answer(200, { metadata: { resourceVersion: '1' }, items: [pod] });
  else if (resource === 'leases') {
    lease.spec.renewTime = new Date().toISOString();
    toldRestorer?.();
    answer(200, lease);
  } else answer(404, { kind: 'Status', code: 404, message: `no ${pathname}` });
});
api.on('upgrade', (request, near: net.Socket, head) => {
  counted('CONNECT pods/proxy');
  near.setNoDelay(true);
  agentServer?.emit('upgrade', request, near, head);
});
await new Promise<void>((resolve) => {
  api.listen(0, '127.0.0.1', resolve);
});

const kubeconfig = path.join(folder, 'kubeconfig');
writeFileSync(
  kubeconfig,
  JSON.stringify({
    ...{ apiVersion: 'v1', kind: 'Config', 'current-context': 'c' },
    clusters: [{ name: 'c', cluster: { server: `http://127.0.0.1:${(api.address() as net.AddressInfo).port}` } }],
    users: [{ name: 'u', user: { tokenFile } }],
    contexts: [{ name: 'c', context: { cluster: 'c', user: 'u', namespace: 'shop' } }],
  }),
);

let saidBytes = 0;
const sink = () =>
  new Writable({
    write: (chunk, _, done) => {
      saidBytes += chunk.length;
      done();
    },
  }) as unknown as Sink;
const output = new Output({ format: 'json', stdout: sink(), stderr: sink() });
const logs = path.join(folder, 'lpk');
output.keepLog(Log.open('connect', { folders: [logs] }), false);

const cluster = await openCluster({ kubeconfig }, output);
const target = {
  ...workloadRef('deployment', 'shop', 'web'),
  ...{ uid: 'w', container: 'app', containerPorts: [], servicePorts: [], replicas: 1, one: false, hostNetwork: false },
  ...{ podQuery: { labelSelector: 'app=web' }, workload },
} satisfies Target;
const attachment = new Attachment({
  ...{ cluster, target, session: SESSION, key: Buffer.alloc(32, 7), agentPort: 1, transports: ['proxy'] },
  ...{ ports: new Map<number, number>(), route: new Route() },
});
tellLinks(attachment, output);
attachment.over.catch((error: unknown) => {
  throw error;
});
const guarded = { cluster, target, session: SESSION, silenceMs: 45_000, restorer: true, remedy: 'lpk restore', output };
const keeper = keepLease({ ...guarded, check: () => attachment.check() });

let restorerLines = 0;
const restorerApi: WatchingApi = {
  request: async (method) => {
    counted(`restorer ${method} leases`);
    if (method === 'PATCH') lease.metadata.annotations = { [WATCHING_ANNOTATION]: 'now' };
    return structuredClone(lease);
  },
  watch: (_path, _query, onEvent, signal) => {
    counted('restorer WATCH leases');
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        toldRestorer = undefined;
        resolve();
      };
      const timer = setTimeout(done, 600_000);
      toldRestorer = () => onEvent('MODIFIED', structuredClone(lease));
      signal.addEventListener('abort', done, { once: true });
    });
  },
};
const restorerConfig = { session: SESSION, namespace: 'shop', kind: 'deployment', apiPath: target.apiPath, pods: [] };
void keepWatch(restorerConfig, {
  api: restorerApi,
  nowMs: () => clock.nowMs,
  wait: (ms, signal) =>
    new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal?.addEventListener('abort', done);
    }),
  log: () => {
    restorerLines += 1;
  },
}).then(() => {
  throw new Error('the restorer took the session back');
});

attachment.start();
let isUp = false;
attachment.once('attached', () => {
  isUp = true;
});
while (!isUp) {
  await new Promise((resolve) => setImmediate(resolve));
  clock.pass(1);
}
const session = attachment.session;
const agentSession = agent.session();
if (!session || !agentSession) throw new Error('no session');

/** Of both ends. */
let pongs = 0;
let heard = Promise.withResolvers<void>();
for (const { link } of [session, agentSession]) {
  const note = link.noteRtt.bind(link);
  link.noteRtt = (ms) => {
    pongs += 1;
    note(ms);
    heard.resolve();
  };
}

/** Until both ends have heard from each other again, and what was asked for is answered. */
async function settle(): Promise<void> {
  const due = pongs + 2;
  while (pongs < due) {
    heard = Promise.withResolvers();
    let late: NodeJS.Timeout | undefined;
    const giveUp = new Promise<boolean>((resolve) => {
      late = realTimeout(() => resolve(true), 60_000);
    });
    const missed = await Promise.race([heard.promise, giveUp]);
    realClear(late);
    if (missed) throw new Error(`no answer to a ping, at ${clock.nowMs / 1_000} s`);
  }
  while (open > 0) await new Promise((resolve) => setImmediate(resolve));
}

type Measured = { heapKiB: number; buffersKiB: number; rssKiB: number; saidBytes: number; logBytes: number };

function measure(): Measured {
  for (let i = 0; i < 3; i++) globalThis.gc?.();
  const { heapUsed, external, rss } = process.memoryUsage();
  const kib = (bytes: number) => Math.round(bytes / 1024);
  const logBytes = readdirSync(logs).reduce((sum, name) => sum + statSync(path.join(logs, name)).size, 0);
  return { heapKiB: kib(heapUsed), buffersKiB: kib(external), rssKiB: kib(rss), saidBytes, logBytes };
}

const totalMs = HOURS * 3_600_000;
const startedMs = clock.nowMs;
const measured: Measured[] = [];
for (let part = 1; part <= PARTS; part++) {
  while (clock.nowMs - startedMs < (part / PARTS) * totalMs) {
    clock.pass(STRIDE_MS);
    await settle();
  }
  measured.push(measure());
}
const lost = attachment.session !== session || agent.session() !== agentSession || session.ended;
console.log(JSON.stringify({ measured, counts, pongs, rotations, restorerLines, lost: Boolean(lost) }));
keeper.stop();
rmSync(folder, { recursive: true });
process.exit(0);
