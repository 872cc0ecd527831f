import { type ClusterNetwork, clusterNetwork } from '../agent/deploy/ranges.ts';
import { Responder } from '../dns/responder.ts';
import { openDoor } from '../proxy/door.ts';
import type { Dial } from '../proxy/flow.ts';
import { Route } from '../proxy/route.ts';
import { dialThroughSocks } from '../proxy/socks5-client.ts';
import { agentPodSpec } from './agent-spec.ts';
import { openCluster } from './cluster.ts';
import { ClusterNames } from './cluster-names.ts';
import { offerRestore } from './left-behind.ts';
import { countFailures, tellLinks } from './link-events.ts';
import type { Output } from './output.ts';
import { askingOf, onlyProxy, type ProxyAccess, type Resolved, type RunningProxy } from './proxy-control.ts';
import { ProxyLink } from './proxy-link.ts';
import type { RunOptions } from './run-options.ts';
import { noteSession } from './sessions-here.ts';
import type { Undo } from './undo.ts';

/** How a command's connections and questions get into the cluster. */
export type Way = {
  dial: Dial;
  /** A DNS message's answer, and whether the cluster gave it; others are of the laptop's own resolvers. */
  askDns(message: Buffer): Promise<Resolved>;
  /** CIDRs of the cluster. */
  ranges: string[];
  /** Opens, unless there is one, a proxy for programs that use proxy variables. */
  proxy(): Promise<Pick<ProxyAccess, 'host' | 'port' | 'credentials'>>;
  /** What it is, for people. */
  name: string;
};

/** By the proxy that runs, else by an agent of the command's own. LpkError `usage` when several run and none is named. */
export async function findWay(options: RunOptions, undo: Undo, output: Output): Promise<Way> {
  const only = await onlyProxy({ namespace: options.namespace, context: options.context });
  return only ? await throughRunning(only, output) : await throughOwn(options, undo, output);
}

async function throughRunning(proxy: RunningProxy, output: Output): Promise<Way> {
  const { namespace, context } = proxy.status;
  const access = await proxy.access();
  if (access.credentials) output.hide([access.credentials.password]);
  return {
    dial: dialThroughSocks(access),
    askDns: (message) => proxy.resolve(message),
    ranges: access.ranges,
    proxy: () => Promise.resolve(access),
    name: `the proxy into ${namespace} (${context})`,
  };
}

async function throughOwn(options: RunOptions, undo: Undo, output: Output): Promise<Way> {
  const cluster = await openCluster(options, output);
  undo.add('close the connections to the cluster', async () => cluster.close());
  const where = `${cluster.namespace} (${cluster.context})`;
  void offerRestore(cluster, output);
  const { spec, key, transports } = await agentPodSpec(options, cluster, output);
  const forget = noteSession(spec.session, { ...cluster, what: 'lpk run' });
  undo.add('forget the session', async () => forget());
  const route = new Route(countFailures(output));
  const link = new ProxyLink({ cluster, spec, key, transports, route });
  tellLinks(link, output);
  const remedy = `lpk restore --all -n ${cluster.namespace}`;
  undo.add(`remove the agent’s pod from ${cluster.namespace}`, () => link.close(), remedy);
  const step = output.step(`starting an agent’s pod in ${where}`, 'start', { session: spec.session });
  let network: ClusterNetwork;
  const names = new ClusterNames({
    session: () => link.session,
    namespace: cluster.namespace,
    ranges: () => network?.ranges ?? [],
  });
  try {
    const [session, found] = await Promise.all([link.start(), clusterNetwork(cluster)]);
    network = found;
    await names.ready(session);
    step.done(`an agent runs in ${where}`);
  } catch (error) {
    step.fail();
    throw error;
  }
  return {
    dial: route.dial,
    askDns: answering(names),
    ranges: network.ranges,
    proxy: async () => {
      const door = await openDoor({ port: 0, dial: route.dial });
      undo.add('close the proxy', () => door.close());
      return { host: '127.0.0.1', port: door.port };
    },
    name: `an agent in ${where}`,
  };
}

/** The answers a DNS server of lpk's would give, without one; `include`: suffixes that are the cluster's besides its own. */
export function answering(names: ClusterNames, include: string[] = []): Way['askDns'] {
  const responder = new Responder(names.responderOptions({ mode: 'split', include, exclude: [] }));
  return (message) => askingOf((reply) => responder.respond(message, 'tcp', reply));
}
