import { randomBytes } from 'node:crypto';
import { agentPorts, newSessionId } from '../agent/deploy/agent-container.ts';
import type { AgentPodSpec } from '../agent/deploy/agent-pod.ts';
import { agentBundle } from '../agent/deploy/bundle.ts';
import { parseTarget } from '../agent/deploy/find.ts';
import { helpsToProxy } from '../agent/deploy/helpful-rights.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import { likenessOf } from '../agent/deploy/likeness.ts';
import { preflightProxy, type Transport } from '../agent/deploy/preflight.ts';
import { KEY_BYTES } from '../agent/wire/protocol.ts';
import { sayGoesWithout } from './goes-without.ts';
import type { Output } from './output.ts';
import { whoAmI } from './whoami.ts';

/** How long the agent's pod stays when its laptop is gone for good. */
const LONELY_MS = 10 * 60_000;

export type AgentOptions = {
  transport: 'auto' | Transport;
  like: string | undefined;
  holdMs: number;
  agentImage: string | undefined;
};

/** Of a pod of lpk's own: checks the rights and reads what is to be made; changes nothing. LpkError `forbidden`, and as `likenessOf`. */
export async function agentPodSpec(
  options: AgentOptions,
  cluster: Cluster,
  output: Output,
): Promise<{ spec: AgentPodSpec; key: Buffer; transports: Transport[] }> {
  const step = output.step(`checking rights in ${cluster.namespace} (${cluster.context})`, 'check');
  try {
    const [{ transports }] = await Promise.all([
      preflightProxy(cluster, options.transport),
      sayGoesWithout(cluster, helpsToProxy(), output),
    ]);
    const chosen = options.transport === 'auto' ? transports : [options.transport];
    const like = options.like === undefined ? undefined : await likenessOf(cluster, parseTarget(options.like));
    const key = randomBytes(KEY_BYTES);
    output.hide([key.toString('hex'), key.toString('base64')]);
    const spec: AgentPodSpec = {
      ...agentPorts(like?.pod.hostNetwork === true),
      session: newSessionId(),
      listen: chosen[0] === 'proxy' ? 'pod' : 'loopback',
      holdMs: options.holdMs,
      lonelyMs: Math.max(LONELY_MS, options.holdMs),
      ...(options.agentImage ? { image: options.agentImage } : {}),
      key: key.toString('hex'),
      bundle: await agentBundle(),
      ...whoAmI(),
      ...(like ? { like } : {}),
    };
    step.done(`rights in ${cluster.namespace} (${cluster.context}) are there`);
    return { spec, key, transports: chosen };
  } catch (error) {
    step.fail();
    throw error;
  }
}
