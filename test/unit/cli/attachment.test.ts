import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { type TestContext, test } from 'node:test';
import { agentVolume } from '../../../agent/deploy/agent-container.ts';
import type { Target } from '../../../agent/deploy/find.ts';
import type { Cluster, Json } from '../../../agent/deploy/kube.ts';
import { workloadRef } from '../../../agent/deploy/workload.ts';
import { serveSession } from '../../../agent/pod/serve.ts';
import { startServer } from '../../../agent/pod/server.ts';
import { SESSION_ANNOTATION } from '../../../agent/restore/record.ts';
import { Attachment } from '../../../cli/attachment.ts';
import { Route } from '../../../proxy/route.ts';
import { until } from '../wire/harness.ts';

/** Pods come and go by the test's word, and their agents are real ones behind a stand-in of `pods/proxy`. */

const SESSION = 'abcdefghij';
const KEY = Buffer.alloc(32, 7);

class Scene {
  readonly attachment: Attachment;
  readonly template: Json;
  readonly told: string[] = [];
  /** What the API server says to each way to a pod, by the pod's name; none: it leads there. */
  readonly refusals = new Map<string, number>();
  asked = 0;
  #pods = new Map<string, Json>();
  #changed = Promise.withResolvers<void>();
  #agents = new Map<string, number>();
  #t: TestContext;

  private constructor(t: TestContext, server: string) {
    this.#t = t;
    const record = { v: 1, id: SESSION, owner: 'me', host: 'here', since: '', container: 'app', changed: [] };
    const annotations = { [SESSION_ANNOTATION]: JSON.stringify(record) };
    const template = { spec: { volumes: [agentVolume(SESSION)] } };
    const workload = { metadata: { name: 'web', uid: 'w', annotations }, spec: { template } };
    this.template = template;
    const pods = this;
    const cluster: Cluster = {
      ...{ context: 'test', server, namespace: 'shop', user: 'me', nowMs: Date.now, close() {} },
      request: async () => workload,
      tlsOptions: async () => ({ headers: {} }),
      async *follow(_, { signal }) {
        while (!signal.aborted) {
          pods.#changed = Promise.withResolvers();
          yield new Map(pods.#pods);
          await pods.#changed.promise;
        }
      },
    };
    const target = {
      ...workloadRef('deployment', 'shop', 'web'),
      ...{ uid: 'w', container: 'app', containerPorts: [], servicePorts: [], replicas: 1, one: false },
      ...{ hostNetwork: false, podQuery: { labelSelector: 'app=web' }, workload },
    } satisfies Target;
    this.attachment = new Attachment({
      ...{ cluster, target, session: SESSION, key: KEY, agentPort: 1, transports: ['proxy'] },
      ...{ ports: new Map<number, number>(), route: new Route() },
    });
    this.attachment.over.catch(() => {});
    for (const event of ['attached', 'detached'] as const)
      this.attachment.on(event, ({ pod }) => this.told.push(`${pod} ${event}`));
    this.attachment.on('trouble', ({ code, message }) => this.told.push(`${code}: ${message}`));
  }

  static async open(t: TestContext): Promise<Scene> {
    const api = http.createServer();
    api.listen(0, '127.0.0.1');
    await once(api, 'listening');
    const scene = new Scene(t, `http://127.0.0.1:${(api.address() as net.AddressInfo).port}`);
    api.on('upgrade', (request, socket: net.Socket) => scene.#upgrade(request, socket));
    t.after(() => {
      scene.attachment.close();
      api.close();
      api.closeAllConnections();
    });
    scene.attachment.start();
    return scene;
  }

  #upgrade({ url = '', rawHeaders }: http.IncomingMessage, near: net.Socket): void {
    this.asked += 1;
    const pod = /pods\/(.*):1\//.exec(url)?.[1] as string;
    const status = this.refusals.get(pod);
    near.on('error', () => {});
    const said = JSON.stringify({ kind: 'Status', code: status, message: 'no' });
    if (status) return void near.end(`HTTP/1.1 ${status} No\r\nConnection: close\r\n\r\n${said}`);
    const far = net.connect(this.#agents.get(pod) as number, '127.0.0.1');
    far.on('error', () => near.destroy());
    const lines = rawHeaders.map((text, i) => (i % 2 === 0 ? `${text}: ` : `${text}\r\n`)).join('');
    far.write(`GET ${url} HTTP/1.1\r\n${lines}\r\n`);
    near.pipe(far).pipe(near);
  }

  /** A pod runs from now on, with an agent. */
  async run(name: string, key = KEY): Promise<void> {
    const agent = await startServer({
      ...{ host: '127.0.0.1', port: 0, key, holdMs: 60_000 },
      onSession: (session) => serveSession(session, {}),
    });
    this.#t.after(() => agent.close());
    this.#agents.set(name, agent.port);
    this.#pods.set(name, {
      metadata: { name, uid: name, labels: { app: 'web' } },
      spec: { volumes: [agentVolume(SESSION)], containers: [{ name: 'app' }] },
      status: {
        podIP: '127.0.0.1',
        containerStatuses: [{ name: 'app', containerID: name, state: { running: {} } }],
      },
    });
    this.#changed.resolve();
  }

  delete(name: string): void {
    this.#pods.delete(name);
    this.#changed.resolve();
  }

  async untilTold(pattern: RegExp): Promise<void> {
    await until(() => this.told.some((line) => pattern.test(line)), `${pattern} in ${this.told.join('\n')}`);
  }
}

test('the first pod’s refusal ends the session; that it is not there does not', async (t) => {
  const scene = await Scene.open(t);
  scene.refusals.set('web-1', 404);
  await scene.run('web-1');
  await scene.untilTold(/^not-found: pod web-1: .*; trying again$/);
  scene.refusals.clear();
  await scene.untilTold(/web-1 attached/);

  const refused = await Scene.open(t);
  refused.refusals.set('web-1', 403);
  await refused.run('web-1');
  await assert.rejects(refused.attachment.over, { code: 'forbidden', message: /^pod web-1: [^;]*$/ });
});

/** `web-1` leads here, and `web-2` refuses, which was told. */
async function attachedAndRefused(t: TestContext): Promise<Scene> {
  const scene = await Scene.open(t);
  await scene.run('web-1');
  await scene.untilTold(/web-1 attached/);
  scene.refusals.set('web-2', 403);
  await scene.run('web-2');
  await scene.untilTold(/^forbidden: pod web-2/);
  return scene;
}

test('a pod that refuses is tried again beside the others, and told once', async (t) => {
  const scene = await attachedAndRefused(t);
  const { asked } = scene;
  await until(() => scene.asked > asked, 'it is tried again');
  scene.refusals.clear();
  await scene.untilTold(/web-2 attached/);
  assert.equal(scene.told.filter((line) => /web-2/.test(line)).length, 2, scene.told.join('\n'));
  assert.deepEqual(scene.attachment.pods, ['web-1', 'web-2']);
});

test('once there was an agent, the only pod’s refusal is waited out, but not for ever', async (t) => {
  let aheadMs = 0;
  const now = performance.now.bind(performance);
  t.mock.method(performance, 'now', () => now() + aheadMs);
  const scene = await Scene.open(t);
  await scene.run('web-1');
  await scene.untilTold(/web-1 attached/);
  scene.delete('web-1');
  await scene.untilTold(/web-1 detached/);
  scene.refusals.set('web-2', 403);
  await scene.run('web-2');
  await scene.untilTold(/^forbidden: pod web-2/);
  scene.refusals.clear();
  await scene.untilTold(/web-2 attached/);
  scene.delete('web-2');
  scene.refusals.set('web-3', 403);
  await scene.run('web-3');
  await scene.untilTold(/^forbidden: pod web-3/);
  aheadMs = 90_000;
  await assert.rejects(scene.attachment.over, { code: 'forbidden', message: /^pod web-3: [^;]*$/ });
});

test('a pod that is gone is not tried again', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const scene = await attachedAndRefused(t);
  scene.delete('web-2');
  await scene.run('web-3');
  await scene.untilTold(/web-3 attached/);
  const { asked } = scene;
  t.mock.timers.tick(120_000);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(scene.asked, asked);
});

test('that somebody put the template back under the session is told once', async (t) => {
  const scene = await Scene.open(t);
  await scene.run('web-1');
  await scene.run('web-2');
  await scene.run('web-3');
  for (const name of ['web-1', 'web-2', 'web-3']) await scene.untilTold(new RegExp(`${name} attached`));
  scene.delete('web-1');
  await scene.untilTold(/web-1 detached/);
  scene.template.spec = {};
  scene.delete('web-2');
  await scene.untilTold(/^session-ended: new pods of deployment\/web do not run the agent/);
  assert.ok(scene.told.indexOf('web-2 detached') < scene.told.length - 1, 'not before');
  scene.delete('web-3');
  await scene.untilTold(/web-3 detached/);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(scene.told.filter((line) => line.startsWith('session-ended')).length, 1);
});
