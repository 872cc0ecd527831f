import { EventEmitter } from 'node:events';
import type { Target } from '../agent/deploy/find.ts';
import type { Cluster, Json } from '../agent/deploy/kube.ts';
import type { Transport } from '../agent/deploy/preflight.ts';
import { type PodEvent, watchPods } from '../agent/deploy/rollout.ts';
import { readWorkload, workloadName } from '../agent/deploy/workload.ts';
import { sessionOf, sessionOfPod } from '../agent/restore/record.ts';
import { type ErrorCode, LpkError } from '../agent/wire/errors.ts';
import type { Session } from '../agent/wire/session.ts';
import { deliverInbound } from '../proxy/deliver.ts';
import { ListeningPorts } from '../proxy/listening.ts';
import type { Route } from '../proxy/route.ts';
import type { Tunnel } from '../proxy/tunnel.ts';
import { AgentDialer } from './agent-dialer.ts';
import type { LinkEvents } from './link-events.ts';

export type AttachmentOptions = {
  cluster: Cluster;
  target: Target;
  /** Id of the session in the cluster, and its key. */
  session: string;
  key: Buffer;
  agentPort: number;
  /** To be tried, in this order. */
  transports: Transport[];
  /** Container's port → laptop's port. */
  ports: Map<number, number>;
  route: Route;
  /** Says why the workload is no longer this session's: a sentence without its end. `otherwise`: when nobody says who did it. */
  whyEnded?: (otherwise: string) => Promise<string>;
  /**
   * Of a pod that no controller makes again: sees to it that it runs, until `signal`. @returns whether the session goes on.
   */
  remake?: (signal: AbortSignal) => Promise<boolean>;
  /** The cluster has no room for the agents' pods: makes some. @returns whether it could. */
  makeRoom?: () => Promise<boolean>;
};

export type AttachmentEvents = LinkEvents & {
  /** A pod, running or not, is of this revision of the workload: its ReplicaSet's or ControllerRevision's name. */
  revision: [string];
  /** The names of all pods of the session, running or not, are others. */
  named: [string[]];
  /** A connection came for this port, where nothing listens. */
  refused: [{ laptopPort: number }];
  /** Something began or ceased to listen at one of the laptop's ports. */
  listening: [];
  /** An agent listens on this port of the container, as something does on the laptop's. */
  served: [{ pod: string; podPort: number }];
};

const LISTEN_AGAIN_MS = 2_000;
const ATTACH_AGAIN_MS = 1_000;
const MAX_ATTACH_AGAIN_MS = 30_000;
/** An API server that is just starting may refuse what it allowed before for some time; an agent may be slow to answer. */
const PATIENCE_MS = 90_000;
/** Of these no session ends that had an agent: the network may come back. */
const WAITED_OUT: ReadonlySet<ErrorCode> = new Set(['cluster-unreachable', 'timed-out', 'link-lost']);

/** A pod whose agent runs, by the watch's word. */
type Running = {
  pod: string;
  sinceMs: number;
  againMs: number;
  again?: NodeJS.Timeout;
  /** Of the failures told. */
  told: Set<ErrorCode>;
};

type Attached = { pod: string; tunnel: Tunnel; session: Session | undefined };

/**
 * Ties the laptop to every pod of the workload that runs this session's agent, as pods come and go: one tunnel each, inbound
 * connections delivered, the agents listening exactly on the ports where the laptop listens.
 */
export class Attachment extends EventEmitter<AttachmentEvents> {
  #options: AttachmentOptions;
  #dialer: AgentDialer;
  #running = new Map<string, Running>();
  #attached = new Map<string, Attached>();
  #hasBegun = false;
  #saidReverted = false;
  #listening: ListeningPorts;
  #stop = new AbortController();
  #first = Promise.withResolvers<Session>();
  #over = Promise.withResolvers<never>();
  #closed = false;
  #keepsPod = new AbortController();
  #remaking: Promise<void> | undefined;

  constructor(options: AttachmentOptions) {
    super();
    this.#options = options;
    this.#dialer = new AgentDialer({ ...options, namespace: options.target.namespace });
    this.#first.promise.catch(() => {});
    this.#over.promise.catch(() => {});
    this.#listening = new ListeningPorts([...options.ports.values()], (port) => this.#listeningChanged(port));
  }

  /** The session's id in the cluster. */
  get id(): string {
    return this.#options.session;
  }

  /** The first agent's session. Rejects as `over` does. */
  get first(): Promise<Session> {
    return this.#first.promise;
  }

  /** Never resolves; rejects with an LpkError when the session can't go on: `session-ended`, `image-pull`, `rollout-failed`, … */
  get over(): Promise<never> {
    return this.#over.promise;
  }

  /** One that answers, or else waits for the link. */
  get agent(): { pod: string; session: Session } | undefined {
    const agents = [...this.#attached.values()].flatMap(({ pod, session }) => (session ? { pod, session } : []));
    return agents.find(({ session }) => session.isUp) ?? agents.find(({ session }) => !session.ended);
  }

  /** Of {@link agent}. */
  get session(): Session | undefined {
    return this.agent?.session;
  }

  /** At a port of the laptop. */
  isListening(port: number): boolean {
    return this.#listening.isListening(port);
  }

  get pods(): string[] {
    return [...this.#attached.values()].filter(({ session }) => session).map(({ pod }) => pod);
  }

  /** Those that answer now. */
  get agents(): { pod: string; session: Session }[] {
    return [...this.#attached.values()].flatMap(({ pod, session }) => (session?.isUp ? [{ pod, session }] : []));
  }

  /** Whether something listens on the laptop for this port of the container. */
  isServed(podPort: number): boolean {
    const laptopPort = this.#options.ports.get(podPort);
    return laptopPort !== undefined && this.#listening.isListening(laptopPort);
  }

  /** Of the first pod that answers. */
  get transport(): Transport {
    return this.#dialer.transport;
  }

  /** Begins; everything after is told by `first`, `over` and events. */
  start(): void {
    this.#run().catch((error: unknown) => this.#end(error));
  }

  /** The workload may be somebody else's by now; `over` then says so. @returns whether it is this session's still. */
  async check(): Promise<boolean> {
    try {
      await this.#stillOurs();
      return true;
    } catch (error) {
      this.#end(error);
      return false;
    }
  }

  /** The agents' pods are refused. @returns whether there is more room now. */
  async makeRoom(): Promise<boolean> {
    return (await this.#options.makeRoom?.()) ?? false;
  }

  /** From now on the pod may go; resolves when it is not being made anew either. */
  async letPodGo(): Promise<void> {
    this.#keepsPod.abort();
    await this.#remaking;
  }

  /** Leaves every agent at once. */
  close(): void {
    this.#keepsPod.abort();
    this.#closed = true;
    this.#stop.abort();
    this.#listening.close();
    for (const { again } of this.#running.values()) clearTimeout(again);
    for (const uid of [...this.#attached.keys()]) this.#detach(uid);
  }

  async #run(): Promise<void> {
    const { cluster, target, session } = this.#options;
    await this.#listening.start();
    const named = (pods: string[], revisions: string[]) => {
      this.emit('named', pods);
      if (pods.length === 0 && !this.#remakeOnce()) void this.check();
      // Also of pods that never run: somebody may have changed the image meanwhile.
      for (const revision of revisions) this.emit('revision', revision);
    };
    const refused = (error: LpkError) => this.emit('trouble', error);
    const events = watchPods(cluster, target, session, this.#stop.signal, { named, refused });
    for await (const event of events) this.#podEvent(event);
  }

  #podEvent(event: PodEvent): void {
    if (event.type === 'running') {
      const sinceMs = performance.now();
      const running: Running = { pod: event.pod, sinceMs, againMs: ATTACH_AGAIN_MS, told: new Set() };
      this.#running.set(event.uid, running);
      this.#tryToAttach(event.uid, running);
    } else if (event.type === 'gone') {
      clearTimeout(this.#running.get(event.uid)?.again);
      this.#running.delete(event.uid);
      this.#detach(event.uid, 'the pod is gone');
      if (!this.#remakeOnce()) void this.check();
    } else {
      const error = new LpkError(event.code, event.message);
      if (event.fatal && this.#running.size === 0) this.#end(error);
      else this.emit('trouble', error);
    }
  }

  #tryToAttach(uid: string, running: Running): void {
    this.#attach(uid, running).catch((error: unknown) => this.#attachFailed(uid, running, error));
  }

  async #attach(uid: string, running: Running): Promise<void> {
    const { pod } = running;
    const tunnel = await this.#dialer.open(pod, (made) => {
      const entry: Attached = { pod, tunnel: made, session: undefined };
      this.#attached.set(uid, entry);
      made.on('session', (session) => {
        entry.session = session;
        this.#serve(pod, session);
      });
      made.on('retry', (error) => this.emit('retrying', { pod, error }));
      return () => !this.#closed && this.#attached.get(uid) === entry;
    });
    if (!tunnel) return;
    tunnel.on('down', ({ reason, holdMs }) => {
      if (holdMs > 0) this.emit('linkDown', { pod, reason, holdMs }); // else the agent said goodbye: its pod is ending
    });
    tunnel.on('up', () => this.emit('linkUp', { pod }));
    tunnel.on('cut', (lost) => {
      if (!this.#closed) this.emit('cut', { pod, ...lost });
    });
    tunnel.on('end', (error) => this.#attachFailed(uid, running, error));
    running.againMs = ATTACH_AGAIN_MS;
    running.told.clear();
    this.#hasBegun = true;
    this.#options.route.add(tunnel);
    this.emit('attached', { pod, transport: this.transport, rttMs: tunnel.session.link.rttMs });
    this.#first.resolve(tunnel.session);
  }

  /** Tried again for as long as the pod runs, unless that is of no use and no other agent answers. */
  #attachFailed(uid: string, running: Running, error: unknown): void {
    // A pod that is no longer there, or runs anew, is the watch's to tell.
    if (this.#closed || this.#running.get(uid) !== running) return;
    this.#detach(uid);
    const cause = error instanceof LpkError ? error : new LpkError('internal', String(error), { cause: error });
    const { pod, sinceMs, told } = running;
    const isPatient = this.#hasBegun && (WAITED_OUT.has(cause.code) || performance.now() - sinceMs < PATIENCE_MS);
    if (this.#attached.size === 0 && cause.code !== 'not-found' && !isPatient) {
      return this.#end(new LpkError(cause.code, `pod ${pod}: ${cause.message}`, { cause }));
    }
    if (!told.has(cause.code))
      this.emit('trouble', new LpkError(cause.code, `pod ${pod}: ${cause.message}; trying again`, { cause }));
    told.add(cause.code);
    running.again = setTimeout(() => this.#tryToAttach(uid, running), running.againMs);
    running.againMs = Math.min(2 * running.againMs, MAX_ATTACH_AGAIN_MS);
  }

  #detach(uid: string, reason?: string): void {
    const entry = this.#attached.get(uid);
    if (!entry) return;
    this.#attached.delete(uid);
    this.#options.route.remove(entry.tunnel);
    entry.tunnel.close(reason);
    if (!this.#closed && entry.session) this.emit('detached', { pod: entry.pod });
  }

  /** @returns whether that is this laptop's to do. A session that never began is over instead. */
  #remakeOnce(): boolean {
    const { remake, target } = this.#options;
    const { signal } = this.#keepsPod;
    if (!remake || !this.#hasBegun || signal.aborted) return false;
    const name = workloadName(target);
    const run = async () => {
      if (await remake(signal)) return;
      throw new LpkError('session-ended', await this.#whyEnded(`${name} was removed by somebody else`));
    };
    this.#remaking ??= run()
      .catch((error: unknown) => !signal.aborted && this.#end(error))
      .then(() => {
        this.#remaking = undefined;
      });
    return true;
  }

  /** An agent's pod went: because somebody took the workload back? */
  async #stillOurs(): Promise<void> {
    const { cluster, target, session } = this.#options;
    const name = workloadName(target);
    let holder: ReturnType<typeof sessionOf>;
    let workload: Json;
    try {
      workload = await readWorkload(cluster, target);
      holder = sessionOf(workload);
    } catch (error) {
      if (!(error instanceof LpkError) || error.code !== 'not-found') return; // can't tell now; the next event asks again
      if (this.#remakeOnce()) return;
      throw new LpkError('session-ended', await this.#whyEnded(`${name} was deleted`), { cause: error });
    }
    if (this.#closed) return;
    if (holder?.id === session) return this.#sayIfReverted(workload);
    const by = holder ? `; now ${holder.owner} on ${holder.host} has it` : '';
    throw new LpkError('session-ended', `${await this.#whyEnded(`${name} was put back by somebody else`)}${by}`);
  }

  async #whyEnded(otherwise: string): Promise<string> {
    return (await this.#options.whyEnded?.(otherwise)) ?? otherwise;
  }

  /** Who puts back what a repository or a chart says may leave the annotation there, which is in neither. */
  #sayIfReverted(workload: Json): void {
    const { target, session } = this.#options;
    const podSpec = workload.spec.template?.spec;
    if (target.kind === 'pod' || !podSpec || sessionOfPod(podSpec) === session || this.#saidReverted) return;
    this.#saidReverted = true;
    const what = `new pods of ${workloadName(target)} do not run the agent: somebody put its template back (GitOps, helm)`;
    const then = 'pause that for the workload, leave and connect again';
    this.emit('trouble', new LpkError('session-ended', `${what}; ${then}`));
  }

  /** A new session: deliver what it accepts, and have the agent listen where the laptop does. */
  #serve(pod: string, session: Session): void {
    const { ports } = this.#options;
    deliverInbound(
      session,
      (podPort) => ports.get(podPort),
      (laptopPort) => {
        this.#listening.refused(laptopPort);
        this.emit('refused', { laptopPort });
      },
    );
    session.once('up', () => {
      for (const [podPort, laptopPort] of ports)
        if (this.#listening.isListening(laptopPort)) this.#listen(pod, session, podPort, true);
    });
  }

  #listeningChanged(port: number): void {
    const listening = this.#listening.isListening(port);
    for (const { pod, session } of this.#attached.values()) {
      if (!session || session.ended) continue;
      for (const [podPort, laptopPort] of this.#options.ports)
        if (laptopPort === port) this.#listen(pod, session, podPort, listening);
    }
    this.emit('listening');
  }

  #listen(pod: string, session: Session, podPort: number, listening: boolean, isRetry = false): void {
    session.request(listening ? 'listen' : 'unlisten', { port: podPort }).then(
      () => listening && !this.#closed && this.emit('served', { pod, podPort }),
      (error: LpkError) => {
        if (session.ended || this.#closed) return;
        if (!isRetry) this.emit('trouble', error);
        // In the node's network the pod before may still have it for a while.
        if (error.code !== 'address-in-use') return;
        setTimeout(() => this.#listenAgain(pod, session, podPort), LISTEN_AGAIN_MS).unref();
      },
    );
  }

  #listenAgain(pod: string, session: Session, podPort: number): void {
    const laptopPort = this.#options.ports.get(podPort);
    if (session.ended || this.#closed || laptopPort === undefined || !this.#listening.isListening(laptopPort)) return;
    this.#listen(pod, session, podPort, true, true);
  }

  #end(error: unknown): void {
    if (this.#closed) return;
    this.#first.reject(error);
    this.#over.reject(error);
  }
}
