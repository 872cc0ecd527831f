import net from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import v8 from 'node:v8';
import { findSessions, removeOrphan } from '../agent/deploy/apply.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import { type ClusterNetwork, clusterNetwork } from '../agent/deploy/ranges.ts';
import { LpkError } from '../agent/wire/errors.ts';
import { Route } from '../proxy/route.ts';
import { agentPodSpec } from './agent-spec.ts';
import { openCluster } from './cluster.ts';
import { ClusterNames } from './cluster-names.ts';
import { assertMayChangeLaptop } from './laptop-changes.ts';
import { type Leave, untilLeaving } from './leave.ts';
import { offerRestore, proxiesLeftBehind } from './left-behind.ts';
import { countFailures, tellLinks } from './link-events.ts';
import { failing, type Output } from './output.ts';
import { openControl, type ProxyStatus } from './proxy-control.ts';
import { openDoors, type ProxyDoors } from './proxy-doors.ts';
import { ProxyLink } from './proxy-link.ts';
import type { ProxyUpOptions } from './proxy-options.ts';
import { proxyStatus, statusLine } from './proxy-status.ts';
import { type Taken, takeOver } from './proxy-takeover.ts';
import { noteSession, sessionsHere } from './sessions-here.ts';
import { Undo } from './undo.ts';
import { whoAmI } from './whoami.ts';

const STATUS_MS = 1_000;

/**
 * `lpk proxy up`, whole: a pod with an agent, the doors into it, the system's DNS and routes when asked; then everything back in
 * reverse. Returns the exit code; throws LpkError after everything was put back.
 */
export async function proxyUp(options: ProxyUpOptions, output: Output): Promise<number> {
  v8.setFlagsFromString('--semi-space-growth-factor=1'); // as in connect.ts
  const undo = new Undo((failure, remedy) =>
    output.warn(remedy ? `${failure}; run: ${remedy}` : failure, 'undo-failed'),
  );
  let remedy = 'lpk proxy down';
  return untilLeaving(
    { undo, say: (line) => output.say(line), crashed: (error) => output.fail(error), remedy: () => remedy },
    async (leave) => {
      output.sayLog();
      if (options.credentials) output.hide([options.credentials.password]);
      if (options.tun) assertMayChangeLaptop('--tun');
      if (options.systemDns) assertMayChangeLaptop('--system-dns');
      const cluster = await openCluster(options, output);
      undo.add('close the connections to the cluster', async () => cluster.close());
      const where = `${cluster.namespace} (${cluster.context})`;
      remedy = `lpk restore --all -n ${cluster.namespace}`;

      const route = new Route(countFailures(output));
      const asked = Promise.withResolvers<void>();
      void offerRestore(cluster, output, { proxies: false }); // they are removed
      const { spec, key, transports } = await agentPodSpec(options, cluster, output);
      const forget = noteSession(spec.session, { ...cluster, what: 'lpk proxy' });
      undo.add('forget the session', async () => forget());
      const link = new ProxyLink({ cluster, spec, key, transports, route });
      const network: ClusterNetwork = { ranges: [], namespaces: [cluster.namespace] };
      const names = new ClusterNames({
        session: () => link.session,
        namespace: cluster.namespace,
        ranges: () => network.ranges,
      });
      let doors: ProxyDoors | undefined;
      let taken: Taken | undefined;
      const since = new Date().toISOString();
      const status = () => proxyStatus({ cluster, session: spec.session, since, link, doors, taken });
      const control = await openControl(
        { server: cluster.server, context: cluster.context, namespace: cluster.namespace },
        {
          status,
          access: () => ({
            host: net.isIP(options.bind) && !isAny(options.bind) ? options.bind : '127.0.0.1',
            port: doors?.port ?? 0,
            ranges: network.ranges,
            // kubectl and lpk must reach the API server when the proxy is gone.
            direct: [new URL(cluster.server).hostname.replace(/^\[|\]$/g, '')],
            ...(options.credentials ? { credentials: options.credentials } : {}),
          }),
          respond: (message, reply) => (doors ? doors.respond(message, reply) : reply(undefined)),
          down: () => asked.resolve(),
        },
      );
      undo.add('close the control socket', () => control.close(undo.failed));
      doors = await openDoors({ options, route, names, network });
      undo.add('close the doors', () => doors?.close() ?? Promise.resolve());

      await removeLeftovers(cluster, output);
      tellLinks(link, output);
      link.on('detached', ({ pod }) => output.warn(`pod ${pod} is gone; a new one is made`, 'lost', { pod }));
      undo.add(`remove the agent’s pod from ${cluster.namespace}`, () => removing(link, where, output), remedy);
      const starting = output.step(`starting the agent’s pod in ${where}`, 'start', { session: spec.session });
      const [session, found] = await Promise.race([
        Promise.all([link.start(), clusterNetwork(cluster)]),
        asked.promise.then(() => Promise.reject(new LpkError('cancelled', 'lpk proxy down'))),
      ]).catch(failing(starting));
      Object.assign(network, found);
      await names.ready(session);
      starting.done(`the agent runs in ${where}`);
      const { server, namespace } = cluster;
      taken = await takeOver({ options, doors, names, network, server, namespace, undo, output });
      announce(taken, cluster, output, status());
      await Promise.race([showStatus(output, where, status, leave), asked.promise, taken.over]);
      return 0;
    },
  );
}

/** Pods of this user's earlier proxies into this namespace, whose lpk died. */
async function removeLeftovers(cluster: Cluster, output: Output): Promise<void> {
  try {
    for (const session of proxiesLeftBehind(await findSessions(cluster), whoAmI(), sessionsHere())) {
      await removeOrphan(cluster, session);
      output.say(`removed what an earlier proxy left in ${session.namespace}`, 'removed', { session: session.id });
    }
  } catch (error) {
    // Who may not list ConfigMaps can still run a proxy.
    if (!(error instanceof LpkError) || error.code !== 'forbidden') throw error;
  }
}

async function removing(link: ProxyLink, where: string, output: Output): Promise<void> {
  const step = output.step(`removing the agent’s pod from ${where}`, 'remove');
  await link.close().catch(failing(step));
  step.done(`the agent’s pod is gone from ${where}`);
}

function announce(taken: Taken, cluster: Cluster, output: Output, status: ProxyStatus): void {
  const { proxy, dns } = status.doors;
  output.say(
    `proxy into ${cluster.namespace}: socks5h://${proxy} or http://${proxy}; DNS server ${dns}`,
    'ready',
    status,
  );
  output.say(`for this user’s shells: eval "$(lpk proxy env)"; for browsers: http://${proxy}/proxy.pac`);
  if (taken.systemDns && taken.tun) output.say('every program reaches the cluster by its names; Ctrl-C takes it back');
  else output.say('Ctrl-C ends it');
}

/** On a terminal one live line, until it is time to go. */
async function showStatus(output: Output, where: string, status: () => ProxyStatus, leave: Leave): Promise<void> {
  if (!output.isLive) return leave.asked();
  const step = output.step(`proxy into ${where}`, 'serve');
  while (!leave.signal.aborted) {
    step.update(statusLine(status()));
    await pause(STATUS_MS, undefined, { signal: leave.signal }).catch(() => {});
  }
  step.done(`proxy into ${where} ended`);
}

function isAny(address: string): boolean {
  return address === '0.0.0.0' || address === '::';
}
