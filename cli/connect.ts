import { randomBytes } from 'node:crypto';
import v8 from 'node:v8';
import { agentPorts, newSessionId } from '../agent/deploy/agent-container.ts';
import { restore, swapIn } from '../agent/deploy/apply.ts';
import { heldTarget } from '../agent/deploy/beside.ts';
import { agentBundle } from '../agent/deploy/bundle.ts';
import { findTarget, parseTarget, type Target } from '../agent/deploy/find.ts';
import { helpsToServe } from '../agent/deploy/helpful-rights.ts';
import { forgetHistory, forgetHistoryAfterRollout } from '../agent/deploy/history.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import { preflight } from '../agent/deploy/preflight.ts';
import { clusterNetwork } from '../agent/deploy/ranges.ts';
import { remakePod } from '../agent/deploy/remake-pod.ts';
import { rolloutState, waitRollout } from '../agent/deploy/rollout.ts';
import { whichPods, workloadName } from '../agent/deploy/workload.ts';
import type { LpkError } from '../agent/wire/errors.ts';
import { KEY_BYTES } from '../agent/wire/protocol.ts';
import type { Readiness } from '../agent/wire/readiness.ts';
import type { Session } from '../agent/wire/session.ts';
import { type Door, openDoor } from '../proxy/door.ts';
import { Route } from '../proxy/route.ts';
import { canAsk, openAsk } from './ask.ts';
import { Attachment } from './attachment.ts';
import { openCluster } from './cluster.ts';
import { ClusterNames } from './cluster-names.ts';
import { expectCapture, runCommand } from './command.ts';
import type { ConnectOptions } from './connect-options.ts';
import { sayGoesWithout } from './goes-without.ts';
import { sayInHistory } from './in-history.ts';
import { assertCommand } from './launch.ts';
import type { LeaseKeeper } from './lease-keeper.ts';
import { type Leave, untilLeaving } from './leave.ts';
import { offerRestore } from './left-behind.ts';
import { countFailures, tellLinks } from './link-events.ts';
import { makeRoom, whenFree } from './make-room.ts';
import { failing, type Output } from './output.ts';
import { mapPorts } from './ports.ts';
import { planReadiness } from './readiness.ts';
import { RolloutBeside } from './rollout-beside.ts';
import { SelfTest } from './self-test.ts';
import { openSessionControl, sessionStatus } from './session-control.ts';
import { giveUpRestorer, keepLease, planGuard, sayWithout, tellRestorer, whyEnded } from './session-guard.ts';
import { noteSession } from './sessions-here.ts';
import { freePorts } from './taken-ports.ts';
import { Undo } from './undo.ts';
import { variablesBefore, variablesOver } from './variables-before.ts';
import { withVolumePlaces } from './volume-tokens.ts';
import type { Volumes } from './volumes.ts';
import { answering, type Way } from './way.ts';
import { whoAmI } from './whoami.ts';

/**
 * `lpk connect`, whole: find, swap, attach, run; then everything back in reverse. Returns the exit code; throws LpkError after everything was
 * put back.
 */
export async function connect(options: ConnectOptions, output: Output): Promise<number> {
  // Bulk transfers make Buffers faster than V8's growing young generation lets them go: half the memory, and faster.
  v8.setFlagsFromString('--semi-space-growth-factor=1');
  const undo = new Undo((failure, remedy) =>
    output.warn(remedy ? `${failure}; run: ${remedy}` : failure, 'undo-failed'),
  );
  let remedy = 'lpk restore --all';
  return untilLeaving(
    { undo, say: (line) => output.say(line), crashed: (error) => output.fail(error), remedy: () => remedy },
    async (leave) => {
      output.sayLog();
      output.hide(Object.values(options.environment.set));
      if (options.command) {
        assertCommand(options.command.program);
        expectCapture(options.capture);
      }
      const cluster = await openCluster(options, output);
      undo.add('close the connections to the cluster', async () => cluster.close());
      void offerRestore(cluster, output);
      const finding = output.step(`finding ${options.target} in ${cluster.namespace} (${cluster.context})`, 'find');
      const { container, one } = options;
      const find = () => findTarget(cluster, parseTarget(options.target), { container, one });
      const found = await find().catch(failing(finding));
      leave.signal.throwIfAborted();
      const room = await makeRoom(cluster, found, options.whenHeld, { output, signal: leave.signal });
      const sessionId = newSessionId();
      const asked = room ? await find().catch(failing(finding)) : found;
      const target = heldTarget(asked, sessionId);
      const name = workloadName(target);
      remedy = `lpk restore ${name} -n ${target.namespace}`;
      const ports = mapPorts(options.ports, target);
      const { readiness, awaitedPorts, instead } = planReadiness(options.readiness, target, ports);
      const part = whichPods(asked, one);
      finding.done(
        `${workloadName(asked)}, container ${target.container}, in ${target.namespace}${part ? `: ${part}` : ''}`,
        { workload: name, container: target.container },
      );
      if (instead) output.say(`readiness: listening, as ${instead}`, 'readiness', { readiness: 'listening' });

      // Without a command, who listens there is the program that the calls are meant for.
      const needed = options.command || options.freePorts ? [...ports.values()] : [];
      if (options.proxyPort > 0) needed.push(options.proxyPort);
      await freePorts(needed, { free: options.freePorts, ask: canAsk(output) ? openAsk : undefined, output });

      leave.signal.throwIfAborted();

      const route = new Route(countFailures(output));
      const door = await openDoor({ port: options.proxyPort, dial: route.dial });
      undo.add('close the proxy', () => door.close());

      // The image's own variables go with its container, and with it the only way to read them.
      const before = options.command ? await variablesBefore(cluster, asked, output) : undefined;
      leave.signal.throwIfAborted();
      const attachment = await swap({
        options,
        cluster,
        asked,
        target,
        sessionId,
        ports,
        readiness,
        route,
        undo,
        output,
        remedy,
        signal: leave.signal,
      });
      tellLinks(attachment, output);
      attachment.on('detached', ({ pod }) => output.say(`pod ${pod} is gone`, 'detached', { pod }));
      attachment.on('refused', ({ laptopPort }) => output.count('failed', `call to 127.0.0.1:${laptopPort} refused`));
      const { signal } = leave;
      const isProbed = typeof readiness === 'object';
      const rollout = new RolloutBeside({
        ...{ cluster, target, attachment, awaitedPorts, isProbed, output, undo, signal },
      });
      const session = await rollout.begun();
      const pod = await session.request<Record<string, string>>('environment');
      const variables = variablesOver(before, pod, asked);
      output.hide(Object.values(variables), [target.name, target.namespace, cluster.context, ...attachment.pods]);
      const closeControl = await openSessionControl(attachment.id, {
        status: () => sessionStatus({ cluster, target, ports, proxyPort: door.port, attachment, variables, options }),
        environment: () => ({ variables, whole: before !== undefined }),
      });
      undo.add('close the control socket', async () => closeControl());
      announce({ target, ports, door, attachment, output, withCommand: options.command !== undefined });
      rollout.tell();
      if (options.selfTest) {
        const test = new SelfTest({
          ...{ cluster, target, ports, output },
          agents: () => attachment.agents,
          isServed: (port) => attachment.isServed(port),
        });
        undo.add('end the self-test', async () => test.stop());
        attachment.on('served', ({ podPort }) => test.served(podPort));
        rollout.done.then(
          () => test.start(),
          () => {}, // `tell` says so
        );
      }
      const { command, capture, environment, routes, noRoutes } = options;
      if (command) {
        const way = await podsWay({
          cluster,
          target,
          attachment,
          session,
          route,
          door,
          dnsInclude: options.dnsInclude,
        });
        const { over } = attachment;
        const volumes = await podsVolumes({ options, cluster, target, attachment, leave, undo, output });
        const all = { ...variables, ...volumes?.env };
        const set = await withVolumePlaces(environment.set, {
          ...{ cluster, namespace: target.namespace, pod: attachment.pods[0] as string, container: target.container },
          ...{ place: volumes?.find, output },
        });
        return await runCommand(command, {
          ...{ way, capture, routes, noRoutes, pod: all, environment: { ...environment, set }, wrap: volumes?.wrap },
          ...{ leave, undo, output, over },
        });
      }
      return await Promise.race([attachment.over, leave.asked().then(() => 0)]);
    },
  );
}

type Swap = {
  options: ConnectOptions;
  cluster: Cluster;
  /** What the person named, and what of it the session holds. */
  asked: Target;
  target: Target;
  sessionId: string;
  ports: Map<number, number>;
  readiness: Readiness;
  route: Route;
  undo: Undo;
  output: Output;
  remedy: string;
  signal: AbortSignal;
};

/** Puts the agent in and begins to attach. What undoes it is there before anything is changed. */
export async function swap({
  options,
  cluster,
  asked,
  target,
  sessionId,
  ports,
  readiness,
  route,
  undo,
  output,
  remedy,
  signal,
}: Swap): Promise<Attachment> {
  const name = workloadName(target);
  const doing = target.beside
    ? { now: `adding ${name} beside ${workloadName(asked)}`, done: `${name} added beside ${workloadName(asked)}` }
    : {
        now: `swapping container ${target.container} of ${name}`,
        done: `container ${target.container} of ${name} swapped`,
      };
  const swapping = output.step(`${doing.now} for the agent`, 'swap');
  const [{ transports }, guard] = await Promise.all([
    preflight(cluster, target, options.transport),
    planGuard(cluster, target, options),
    sayGoesWithout(
      cluster,
      helpsToServe(target, { command: options.command !== undefined, restorer: options.restorer }),
      output,
    ),
  ]).catch(failing(swapping));
  const chosen = options.transport === 'auto' ? transports : [options.transport];
  const { silenceMs, restorer } = guard.lease ?? { silenceMs: options.restoreAfterMs, restorer: false };
  const key = randomBytes(KEY_BYTES);
  output.hide([key.toString('hex'), key.toString('base64')]);
  const spec = {
    ...agentPorts(target.hostNetwork),
    session: sessionId,
    listen: chosen[0] === 'proxy' ? ('pod' as const) : ('loopback' as const),
    // What the restorer takes back holds nothing any longer.
    holdMs: restorer ? Math.min(options.holdMs, silenceMs) : options.holdMs,
    image: options.agentImage,
    key: key.toString('hex'),
    bundle: await agentBundle(),
    ...whoAmI(),
    servedPorts: [...ports.keys()],
    readiness,
    ...(guard.lease ? { lease: guard.lease } : {}),
  };
  const guarded = { cluster, target, session: spec.session, silenceMs, restorer, remedy, output };
  let keeper: LeaseKeeper | undefined;
  const remake = async (stop: AbortSignal) => {
    const { manifest } = await swapped;
    return await remakePod(
      cluster,
      { ref: target, session: sessionId, manifest },
      {
        signal: stop,
        made: () => output.say(`${name} is made anew`, 'remade', { workload: name }),
        refused: (error) => output.warn(error.message, 'trouble', { code: error.code }),
      },
    );
  };
  const attachment: Attachment = new Attachment({
    cluster,
    target,
    session: spec.session,
    key,
    agentPort: spec.port,
    transports: chosen,
    ports,
    route,
    whyEnded: (otherwise) => whyEnded(guarded, keeper, otherwise),
    makeRoom: () => giveUpRestorer(guarded, keeper),
    ...(target.beside ? { remake } : {}),
  });
  undo.add('leave the agents', async () => attachment.close());
  const forget = noteSession(spec.session, { ...cluster, namespace: target.namespace, what: name });
  undo.add('forget the session', async () => forget());
  undo.add('stop renewing the Lease', async () => keeper?.stop()); // after the restore, which may take a while
  const swapped = whenFree(cluster, asked, { ...options, output, signal }, () => swapIn(cluster, target, spec));
  undo.add(
    `restore ${name}`,
    async () => {
      keeper?.ending();
      await attachment.letPodGo();
      const held = await swapped.catch(() => undefined); // a failed swap has undone itself
      if (held) await putBack(cluster, target, held, options.wait, output);
    },
    remedy,
  );
  const { refused, raised = [] } = await swapped.catch(failing(swapping));
  if (refused) guarded.restorer = false;
  if (guard.lease) keeper = keepLease({ ...guarded, check: () => attachment.check() });
  swapping.done(doing.done, { session: spec.session });
  const without = refused?.message ?? guard.missing;
  if (options.restorer && without) sayWithout(output, without, remedy);
  else if (restorer) tellRestorer(guarded, attachment);
  if (raised.length > 0) {
    const limits = raised.map(({ resource, was, now }) => `${resource} ${was} → ${now}`).join(', ');
    const text = `limits of container ${target.container} raised for this session: ${limits}`;
    output.say(text, 'raised', { limits: raised });
  }
  attachment.start();
  return attachment;
}

async function putBack(
  cluster: Cluster,
  target: Target,
  held: Awaited<ReturnType<typeof swapIn>>,
  wait: boolean,
  output: Output,
): Promise<void> {
  const name = workloadName(target);
  const step = output.step(`restoring ${name}`, 'restore');
  const { workload, kept } = await restore(cluster, held).catch(failing(step));
  // Pods that were not all there before may never be: a broken workload is what people debug.
  const ranBefore = rolloutState(target.kind, target.workload).done;
  let history: Awaited<ReturnType<typeof forgetHistory>> | undefined;
  if (workload === 'restored' && wait && ranBefore) {
    // It is put back; that its pods are late is worth a word and no more.
    await waitRollout(cluster, target, {
      signal: new AbortController().signal,
      onProgress: (done, total, text) => step.update(`restoring ${name}: ${text}`, { done, total }),
    })
      .then(async () => {
        history = await forgetHistoryAfterRollout(cluster, target);
      })
      .catch((error: LpkError) => output.warn(`${name} is restored, but its rollout is not done: ${error.message}`));
  }
  const outcome = {
    restored: `${name} restored${wait && !ranBefore ? '; not all its pods ran before, so they are not waited for' : ''}`,
    'not-held': `${name} was restored already`,
    'held-by-another': `${name} is somebody else's by now and was left alone`,
    removed: `${name} removed`,
    gone: `${name} was deleted meanwhile; nothing to restore`,
  }[workload];
  step.done(outcome, { outcome: workload, kept });
  for (const field of kept)
    output.say(`changed by somebody else meanwhile, left as it is: ${field}`, 'kept', { field });
  if (workload !== 'restored') return;
  history ??= await forgetHistory(cluster, target).catch((_: LpkError) => undefined); // what is restored stays so
  if (history && history.stayed > 0) sayInHistory(output, target);
}

function announce(given: {
  target: Target;
  ports: Map<number, number>;
  door: Door;
  attachment: Attachment;
  output: Output;
  withCommand: boolean;
}): void {
  const { target, ports, door, attachment, output, withCommand } = given;
  const name = workloadName(target);
  for (const [podPort, laptopPort] of ports) output.say(`${name} port ${podPort} → 127.0.0.1:${laptopPort}`);
  if (ports.size === 0) output.warn(`${name} names no port: nothing arrives here; name one with -p LOCAL:CONTAINER`);
  const proxy = `127.0.0.1:${door.port}`;
  const fields = {
    workload: name,
    namespace: target.namespace,
    proxyPort: door.port,
    transport: attachment.transport,
    pods: attachment.pods,
    ports: [...ports].map(([containerPort, laptopPort]) => ({ containerPort, laptopPort })),
  };
  output.say(`proxy into the cluster: socks5h://${proxy} or http://${proxy}`, 'ready', fields);
  if (withCommand) return;
  output.say(
    `use it with any program: export ALL_PROXY=http://${proxy} HTTP_PROXY=http://${proxy} HTTPS_PROXY=http://${proxy}`,
  );
  output.say(`Ctrl-C leaves and ${target.beside ? `removes ${name}` : `puts ${name} back`}`);
}

/** The command's way into the cluster: by the pods whose place it takes. */
async function podsWay(given: {
  cluster: Cluster;
  target: Target;
  attachment: Attachment;
  session: Session;
  route: Route;
  door: Door;
  dnsInclude: string[];
}): Promise<Way> {
  const { cluster, target, attachment, session, route, door, dnsInclude } = given;
  const { ranges } = await clusterNetwork(cluster);
  const names = new ClusterNames({
    session: () => attachment.session,
    namespace: target.namespace,
    ranges: () => ranges,
  });
  await names.ready(session);
  return {
    dial: route.dial,
    askDns: answering(names, dnsInclude),
    ranges,
    proxy: () => Promise.resolve({ host: '127.0.0.1', port: door.port }),
    name: `the agent in ${workloadName(target)}`,
  };
}

/** What the command is to find of the pod's files. It is no reason to wait when the session is over, or the person leaves. */
async function podsVolumes(given: {
  options: ConnectOptions;
  cluster: Cluster;
  target: Target;
  attachment: Attachment;
  leave: Leave;
  undo: Undo;
  output: Output;
}): Promise<Volumes | undefined> {
  const { options, cluster, target, attachment, leave, undo, output } = given;
  const [pod] = attachment.pods;
  if (!options.volumes || pod === undefined) return undefined;
  const { copyVolumes } = await import('./volumes.ts');
  const agent = () => attachment.agent;
  const copied = copyVolumes({ cluster, target, pod, agent, ...options.volumes, undo, output });
  copied.catch(() => {}); // when nobody waits any more
  return await Promise.race([attachment.over, leave.asked().then(() => undefined), copied]);
}
