import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { Json } from '../../agent/deploy/kube.ts';
import { isWatched } from '../../agent/deploy/restorer.ts';
import { CountingProxy } from './counting-proxy.ts';
import { endAll, type Lpk } from './lpk.ts';
import { eventually, type Listener, listen, Shop, service, workload } from './shop.ts';

/** A team's worth of sessions at once: they start, work and restore, and ask little of the API server. */

const SESSIONS = 20;
const CONTAINER_PORT = 8080;
const REST_MS = 60_000;
/**
 * Requests of one session. Start: 34 questions for rights, the 8 objects of a session, and what is read once or looked for in each kind. Rest: a Lease is renewed
 * every 10 s, and nothing else is due within a minute.
 */
const MOST = { start: 72, rest: 7, restore: 22 };
/**
 * As many as the time that it takes: renewals, with each a look at the restorer while that is still starting, and attempts to reach an
 * agent that is.
 */
const BY_TIME = /^(CONNECT |PATCH leases$|GET deployments\/lpk-\*$)/;
/** All at once on one machine take their time. */
const PATIENCE_MS = 480_000;

const names = Array.from({ length: SESSIONS }, (_, i) => `web-${i}`);
const folder = mkdtempSync(path.join(tmpdir(), 'lpk-fleet-'));
let shop: Shop;
let api: CountingProxy;
const programs = new Map<string, Listener>();
before(async () => {
  shop = await Shop.open('fleet');
  api = await CountingProxy.open(shop.cluster);
  await Promise.all([
    shop.deployCaller(),
    shop.deploy(...names.flatMap((name) => [workload('Deployment', name), service(name, [[80, CONTAINER_PORT]])])),
    ...names.map(async (name) => {
      const answer = `HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nlaptop of ${name}`;
      programs.set(name, await listen(0, (socket) => socket.once('data', () => socket.end(answer))));
    }),
  ]);
});
after(async () => {
  endAll();
  for (const program of programs.values()) await program.close();
  await api?.close();
  await shop?.close();
  rmSync(folder, { recursive: true });
});

/** What the sessions asked for since the last time; fails when it was more than `MOST`. */
function tell(t: TestContext, phase: keyof typeof MOST): void {
  const all = names.map((name) => api.take(name));
  const totals = all.map((counts) =>
    [...counts].reduce((sum, [kind, count]) => sum + (phase !== 'rest' && BY_TIME.test(kind) ? 0 : count), 0),
  );
  const kinds = new Set(all.flatMap((counts) => [...counts.keys()]));
  const mean = [...kinds]
    .map((kind) => [kind, all.reduce((sum, counts) => sum + (counts.get(kind) ?? 0), 0) / SESSIONS] as const)
    .toSorted((a, b) => b[1] - a[1]);
  t.diagnostic(`${phase}: ${Math.min(...totals)} to ${Math.max(...totals)} requests a session`);
  for (const [kind, count] of mean) t.diagnostic(`    ${count.toFixed(2).padStart(6)} ${kind}`);
  assert.ok(
    Math.max(...totals) <= MOST[phase],
    `${phase}: a session made ${Math.max(...totals)} requests, of at most ${MOST[phase]}`,
  );
}

test(`${SESSIONS} sessions on ${SESSIONS} workloads at once start, work and restore`, async (t) => {
  const specs = await Promise.all(names.map((name) => shop.specOf(`deployment/${name}`)));
  const lpks = names.map((name): Lpk => {
    const kubeconfig = path.join(folder, name);
    api.writeKubeconfig(kubeconfig, name);
    const mapping = `${programs.get(name)?.port}:${CONTAINER_PORT}`;
    return shop.lpk('connect', name, '--kubeconfig', kubeconfig, '-p', mapping).patient(PATIENCE_MS);
  });
  await Promise.all(lpks.map((lpk) => lpk.event('serving', ({ state }) => state === 'done')));
  await Promise.all(lpks.map((lpk) => lpk.event('self-test', ({ ok }) => ok)));
  await eventually('all restorers watch', async () => {
    const leases = `/apis/coordination.k8s.io/v1/namespaces/${shop.namespace}/leases`;
    const { items } = await shop.cluster.request('GET', leases);
    return (items as Json[]).filter(isWatched).length === SESSIONS;
  });
  for (const [i, lpk] of lpks.entries()) {
    // Of the pods before, the node may know a moment longer.
    await eventually(`the laptop answers; ${lpk}`, async () => {
      const { received } = await shop.callHttp(names[i] as string, 80);
      return new RegExp(`laptop of ${names[i]}$`).test(String(received));
    });
    // It may have looked before all was ready, and then again; nothing else may have failed.
    const failed = lpk.events.filter(({ event, ok, hop }) => event === 'self-test' && !ok && hop !== 'readiness');
    assert.deepEqual(failed, [], `${lpk}`);
    assert.ok(!lpk.events.some(({ event }) => event === 'no-restorer'), `${lpk}`);
  }
  tell(t, 'start');

  await pause(REST_MS); // it is the time that is measured
  tell(t, 'rest');

  for (const lpk of lpks) lpk.signal('SIGINT');
  for (const lpk of lpks) assert.deepEqual(await lpk.exit(), { code: 0, signal: null }, `${lpk}`);
  tell(t, 'restore');
  for (const [i, name] of names.entries()) {
    assert.equal(await shop.specOf(`deployment/${name}`), specs[i], name);
    assert.deepEqual(await shop.objectsOf(`deployment/${name}`), [], name);
  }
});
