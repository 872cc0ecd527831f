import { newSessionId } from '../agent/deploy/agent-container.ts';
import type { Target } from '../agent/deploy/find.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import { Route } from '../proxy/route.ts';
import { swap } from './connect.ts';
import { readConnectOptions } from './connect-options.ts';
import type { EnvOptions } from './env-options.ts';
import { untilLeaving } from './leave.ts';
import { tellLinks } from './link-events.ts';
import type { Output } from './output.ts';
import { planReadiness } from './readiness.ts';
import { RolloutBeside } from './rollout-beside.ts';
import { Undo } from './undo.ts';

/**
 * Takes the target's place as `lpk connect` does, only until the agent has said which variables it has, and puts everything back. Returns
 * the exit code; throws LpkError after everything was put back.
 */
export async function shortSession(
  cluster: Cluster,
  target: Target,
  { container, agentImage }: Pick<EnvOptions, 'container' | 'agentImage'>,
  output: Output,
  told: (variables: Record<string, string>) => void,
): Promise<number> {
  const options = readConnectOptions({ target: workloadName(target), container, 'agent-image': agentImage }, undefined);
  const remedy = `lpk restore ${workloadName(target)} -n ${target.namespace}`;
  const undo = new Undo((failure) => output.warn(`${failure}; run: ${remedy}`, 'undo-failed'));
  return await untilLeaving(
    { undo, say: (line) => output.say(line), crashed: (error) => output.fail(error), remedy: () => remedy },
    async ({ signal }) => {
      const [ports, route] = [new Map<number, number>(), new Route()];
      const { readiness, awaitedPorts } = planReadiness(options.readiness, target, ports);
      const given = { cluster, target, output, undo, signal };
      const attachment = await swap({
        ...given,
        asked: target,
        sessionId: newSessionId(),
        options,
        ports,
        readiness,
        route,
        remedy,
      });
      tellLinks(attachment, output);
      const rollout = new RolloutBeside({ ...given, attachment, awaitedPorts, isProbed: false });
      told(await (await rollout.begun()).request('environment'));
      return 0;
    },
  );
}
