import { randomBytes } from 'node:crypto';
import type { Target } from '../agent/deploy/find.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import {
  type Finding,
  failedHop,
  lookAlong,
  type ServicePath,
  servicePaths,
  sharedWith,
} from '../agent/deploy/service-path.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import { LpkError } from '../agent/wire/errors.ts';
import type { Session } from '../agent/wire/session.ts';
import type { Output } from './output.ts';

/** How long a Service may take to know of a pod that is ready: its EndpointSlice, then kube-proxy on each node. */
const CALL_MS = 10_000;
const PROXY_TIMEOUT_MS = 5_000;
/** So long after the rollout nothing listens at a port: worth a word. */
const LISTENER_MS = 15_000;
/** A rollout that takes longer, though something listens, is looked at from the Service's end, and again once it is over. */
const ROLLOUT_MS = 20_000;
/** Pods that call, and paths that are called, at most. */
const MAX_CALLERS = 8;
const MAX_PATHS = 8;

export type Agent = { pod: string; session: Session };

export type SelfTestOptions = {
  cluster: Cluster;
  target: Target;
  /** Container's port → laptop's port. */
  ports: Map<number, number>;
  /** Those that answer now. */
  agents: () => Agent[];
  /** The agents listen on the container's port, as something does on the laptop's. */
  isServed: (podPort: number) => boolean;
  output: Output;
};

/**
 * Proves, once for each port as it is first served, that a call through a Service reaches the agents; else says which hop fails. The
 * agents call and recognise the call themselves: the program on the laptop never sees it. Nothing it finds ends the session.
 */
export class SelfTest {
  #options: SelfTestOptions;
  #tested = new Map<number, Promise<void>>();
  #proven = new Set<ServicePath>();
  #said = new Set<string>();
  #foundPaths: Promise<ServicePath[]> | undefined;
  #started = false;
  #isOver = false;
  #stopped = false;
  #silence: NodeJS.Timeout | undefined;
  #late: NodeJS.Timeout | undefined;

  constructor(options: SelfTestOptions) {
    this.#options = options;
    this.#serveAll();
  }

  /** The rollout is over. What was tried before, and failed, may only have been too early. */
  start(): void {
    if (this.#isOver || this.#stopped) return;
    this.#isOver = true;
    for (const [port, early] of this.#tested) {
      if (this.#options.isServed(port)) void early.then(() => this.#tryPort(port));
      else this.#tested.delete(port); // tried when it is served again
    }
    this.#begin();
  }

  #begin(): void {
    if (this.#started || this.#stopped) return;
    this.#started = true;
    this.#silence = setTimeout(() => void this.#tellSilent(), LISTENER_MS);
    this.#silence.unref();
    this.#serveAll();
  }

  /** Something may have listened before anybody was there to hear of it. */
  #serveAll(): void {
    for (const port of this.#options.ports.keys()) if (this.#options.isServed(port)) this.served(port);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#silence);
    clearTimeout(this.#late);
  }

  /** The agents listen on this port of the container. */
  served(podPort: number): void {
    if (!this.#started) this.#late ??= setTimeout(() => this.#begin(), ROLLOUT_MS).unref();
    if (!this.#started || this.#stopped || this.#tested.has(podPort)) return;
    this.#tested.set(podPort, this.#tryPort(podPort));
  }

  #tryPort(podPort: number): Promise<void> {
    return this.#test(podPort).catch((error: unknown) => this.#untold(error));
  }

  async #test(podPort: number): Promise<void> {
    if (this.#stopped) return;
    this.#foundPaths ??= this.#findPaths();
    const all = (await this.#foundPaths).filter((path) => path.podPort === podPort).slice(0, MAX_PATHS);
    const paths = all.filter((path) => !this.#proven.has(path));
    if (paths.length === 0) return;
    const agents = this.#options.agents().slice(0, MAX_CALLERS);
    const token = randomBytes(16).toString('hex');
    const answers = new Map(agents.map(({ pod }) => [randomBytes(16).toString('hex'), pod]));
    try {
      await Promise.all(
        [...answers].map(([answer, pod]) =>
          agents.find((agent) => agent.pod === pod)?.session.request('expect', { port: podPort, token, answer }),
        ),
      );
      await Promise.all(paths.map((path) => this.#testPath(path, agents, token, answers)));
    } finally {
      const ended = agents.map(({ session }) => session.request('unexpect', { port: podPort }));
      await Promise.allSettled(ended);
    }
  }

  async #findPaths(): Promise<ServicePath[]> {
    const { cluster, target, ports } = this.#options;
    const { paths, findings } = await servicePaths(cluster, target, [...ports.keys()]).catch((error: unknown) => {
      this.#foundPaths = undefined;
      throw error;
    });
    for (const finding of findings) this.#tellFinding(finding);
    return paths;
  }

  async #testPath(path: ServicePath, agents: Agent[], token: string, answers: Map<string, string>): Promise<void> {
    const { cluster, target } = this.#options;
    const ours = this.#options.agents().map(({ pod }) => pod);
    // Another program would get the call, and could make nothing of it.
    const shared = await sharedWith(cluster, target, path, ours);
    if (shared) return this.#tellFinding(shared, path);
    const { host, port } = path;
    const calls = await Promise.allSettled(
      agents.map(async ({ pod, session }) => {
        const { answer } = await session.request<{ answer: string }>('call', { host, port, token, forMs: CALL_MS });
        const reached = answers.get(answer);
        if (reached === undefined) throw new LpkError('protocol', 'something else answered');
        return { pod, reached };
      }),
    );
    const arrived = calls.flatMap((call) => (call.status === 'fulfilled' ? [call.value] : []));
    if (arrived.length > 0) {
      const fromAll = arrived.length === agents.length;
      if (fromAll) this.#proven.add(path);
      this.#tellArrived(path, 'pod', [...new Set(arrived.map(({ reached }) => reached))], fromAll);
    }
    if (this.#stopped || arrived.length === agents.length) return;
    const failed = agents.filter(({ pod }) => !arrived.some((call) => call.pod === pod));
    const { reason } = calls.find((call) => call.status === 'rejected') as PromiseRejectedResult;
    const failure = reason instanceof LpkError ? reason : new LpkError('internal', String(reason), { cause: reason });
    const { notSeen, ...seen } = await lookAlong(
      cluster,
      target.namespace,
      path,
      failed.map(({ pod }) => pod),
    );
    const finding = failedHop(path, seen, failure);
    this.#tellFinding(finding, path, notSeen);
    if (arrived.length > 0 || this.#stopped) return;
    const reached = await this.#byApiServer(path, token, answers);
    if (reached) this.#tellArrived(path, 'api-server', [reached]);
  }

  /** The API server calls the Service's endpoints itself; not everybody may ask it to. */
  async #byApiServer(path: ServicePath, token: string, answers: Map<string, string>): Promise<string | undefined> {
    const at = `${path.proxy}/.lpk/self-test/${token}`;
    const answer = await this.#options.cluster
      .request('GET', at, { timeoutMs: PROXY_TIMEOUT_MS })
      .catch((_: LpkError) => undefined); // no right to, or it fails there too: the finding stands
    return answers.get(answer);
  }

  /** @param fromAll a warning before it is taken back, though the same pods are reached. */
  #tellArrived(path: ServicePath, by: 'pod' | 'api-server', reached: string[], fromAll = false): void {
    if (this.#stopped || !this.#isNew(`${path.service} ${path.servicePort} ${by} ${reached.toSorted()} ${fromAll}`))
      return;
    const from = by === 'pod' ? (reached.length > 1 ? 'from the pods' : 'from the pod') : 'from the API server';
    this.#options.output.say(
      `Service ${path.service} port ${path.servicePort} leads here: a call ${from} arrived`,
      'self-test',
      { ok: true, ...this.#fields(path), by, reached },
    );
  }

  #tellFinding({ hop, message, remedy }: Finding, path?: ServicePath, notSeen: string[] = []): void {
    if (this.#stopped || !this.#isNew(`${path?.service} ${path?.servicePort} ${message}`)) return;
    const blind = notSeen.length > 0 ? `; not looked at, for want of rights: ${notSeen.join(', ')}` : '';
    this.#options.output.warn(`${message}; ${remedy}${blind}`, 'self-test', {
      ok: false,
      hop,
      ...(path ? this.#fields(path) : {}),
      remedy,
      notSeen,
    });
  }

  #isNew(what: string): boolean {
    const { size } = this.#said;
    return this.#said.add(what).size > size;
  }

  #fields({ service, servicePort, podPort }: ServicePath): object {
    return { service, port: servicePort, containerPort: podPort, laptopPort: this.#options.ports.get(podPort) };
  }

  /** It is over or can't be made: the session is none the worse for it. */
  #untold(error: unknown): void {
    if (this.#stopped || this.#options.agents().length === 0) return;
    const { target, output } = this.#options;
    const why = error instanceof Error ? error.message : String(error);
    const text = `can't tell whether calls reach ${workloadName(target)}: ${why}`;
    if (this.#isNew(text)) output.warn(text, 'self-test', { ok: false });
  }

  #tellSilent(): void {
    const { ports, isServed } = this.#options;
    const silent = [...ports].filter(([podPort]) => !isServed(podPort) && !this.#tested.has(podPort));
    if (silent.length === 0) return;
    const where = silent.map(([podPort, laptopPort]) => `127.0.0.1:${laptopPort} (container’s port ${podPort})`);
    this.#tellFinding({
      hop: 'listener',
      message: `nothing listens yet at ${where.join(', ')}: calls are refused`,
      remedy: 'start the program, or name its port with -p LOCAL:CONTAINER',
    });
  }
}
