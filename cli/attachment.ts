import { EventEmitter } from 'node:events';
import type { Target } from '../agent/deploy/find.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import type { Transport } from '../agent/deploy/preflight.ts';
import { reachError, throughPortForward, throughProxy } from '../agent/deploy/reach.ts';
import { type PodEvent, watchPods } from '../agent/deploy/rollout.ts';
import { sessionOf } from '../agent/deploy/swap.ts';
import { readWorkload, workloadName } from '../agent/deploy/workload.ts';
import { type ErrorCode, LpkError } from '../agent/wire/errors.ts';
import type { Session } from '../agent/wire/session.ts';
import { deliverInbound } from '../proxy/deliver.ts';
import { ListeningPorts } from '../proxy/listening.ts';
import type { Route } from '../proxy/route.ts';
import { Tunnel } from '../proxy/tunnel.ts';

/** How long an agent that runs may take to answer; the shorter one when another transport can still be tried. */
const FIRST_ANSWER_MS = 30_000;
const TRY_MS = 8_000;
/** Failures of a transport that the other one may not have. */
const OF_THE_TRANSPORT: ReadonlySet<ErrorCode> = new Set([
  'forbidden',
  'not-found',
  'agent-unreachable',
  'link-lost',
  'timed-out',
]);

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
};

export type AttachmentEvents = {
  attached: [{ pod: string; transport: Transport; rttMs: number }];
  detached: [{ pod: string }];
  linkDown: [{ pod: string; reason: string; holdMs: number }];
  linkUp: [{ pod: string }];
  /** Something that may mend itself, or that only part of the work suffers from. */
  trouble: [LpkError];
};

type Attached = { pod: string; tunnel: Tunnel; session: Session | undefined };

/**
 * Ties the laptop to every pod of the workload that runs this session's agent, as pods come and go: one tunnel each, inbound
 * connections delivered, the agents listening exactly on the ports where the laptop listens.
 */
export class Attachment extends EventEmitter<AttachmentEvents> {
  #options: AttachmentOptions;
  #transports: Transport[];
  #attached = new Map<string, Attached>();
  #listening: ListeningPorts;
  #stop = new AbortController();
  #first = Promise.withResolvers<Session>();
  #over = Promise.withResolvers<never>();
  #closed = false;

  constructor(options: AttachmentOptions) {
    super();
    this.#options = options;
    this.#transports = options.transports;
    this.#first.promise.catch(() => {});
    this.#over.promise.catch(() => {});
    this.#listening = new ListeningPorts([...options.ports.values()], (port) => this.#listeningChanged(port));
  }

  /** The first agent's session. Rejects as `over` does. */
  get first(): Promise<Session> {
    return this.#first.promise;
  }

  /** Never resolves; rejects with an LpkError when the session can't go on: `session-ended`, `image-pull`, `rollout-failed`, … */
  get over(): Promise<never> {
    return this.#over.promise;
  }

  get pods(): string[] {
    return [...this.#attached.values()].filter(({ session }) => session).map(({ pod }) => pod);
  }

  /** Of the first pod that answers. */
  get transport(): Transport {
    return this.#transports[0] as Transport;
  }

  /** Begins; everything after is told by `first`, `over` and events. */
  start(): void {
    this.#run().catch((error: unknown) => this.#end(error));
  }

  /** Leaves every agent at once. */
  close(): void {
    this.#closed = true;
    this.#stop.abort();
    this.#listening.close();
    for (const uid of [...this.#attached.keys()]) this.#detach(uid);
  }

  async #run(): Promise<void> {
    const { cluster, target, session } = this.#options;
    await this.#listening.start();
    for await (const event of watchPods(cluster, target, session, this.#stop.signal)) this.#podEvent(event);
  }

  #podEvent(event: PodEvent): void {
    if (event.type === 'running') {
      this.#attach(event.uid, event.pod).catch((error: unknown) => this.#attachFailed(event.uid, event.pod, error));
    } else if (event.type === 'gone') {
      this.#detach(event.uid);
      this.#stillOurs().catch((error: unknown) => this.#end(error));
    } else {
      const error = new LpkError(event.code, event.message);
      if (event.fatal && this.#attached.size === 0) this.#end(error);
      else this.emit('trouble', error);
    }
  }

  async #attach(uid: string, pod: string): Promise<void> {
    for (const transport of [...this.#transports]) {
      const entry: Attached = { pod, tunnel: this.#tunnel(pod, transport), session: undefined };
      this.#attached.set(uid, entry);
      const { tunnel } = entry;
      tunnel.on('session', (session) => {
        entry.session = session;
        this.#serve(session);
      });
      const more = this.#transports.indexOf(transport) + 1 < this.#transports.length;
      try {
        await tunnel.start(more ? TRY_MS : FIRST_ANSWER_MS);
      } catch (error) {
        if (more && error instanceof LpkError && OF_THE_TRANSPORT.has(error.code) && !this.#closed) continue;
        throw error;
      }
      if (this.#closed || this.#attached.get(uid) !== entry) return tunnel.close();
      this.#transports = [transport, ...this.#transports.filter((other) => other !== transport)];
      tunnel.on('down', ({ reason, holdMs }) => {
        if (holdMs > 0) this.emit('linkDown', { pod, reason, holdMs }); // else the agent said goodbye: its pod is ending
      });
      tunnel.on('up', () => this.emit('linkUp', { pod }));
      tunnel.on('end', (error) => this.#attachFailed(uid, pod, error));
      this.#options.route.add(tunnel);
      this.emit('attached', { pod, transport, rttMs: tunnel.session.link.rttMs });
      this.#first.resolve(tunnel.session);
      return;
    }
  }

  #tunnel(pod: string, transport: Transport): Tunnel {
    const { cluster, target, key, agentPort } = this.#options;
    const through = transport === 'proxy' ? throughProxy : throughPortForward;
    return new Tunnel({
      key,
      connect: through(cluster, target.namespace, pod, agentPort),
      explain: (error) => reachError(error, cluster.server),
    });
  }

  #attachFailed(uid: string, pod: string, error: unknown): void {
    // A pod that is no longer there is the watch's to tell.
    if (this.#closed || !this.#attached.has(uid)) return;
    this.#detach(uid);
    const cause = error instanceof LpkError ? error : new LpkError('internal', String(error), { cause: error });
    const told = new LpkError(cause.code, `pod ${pod}: ${cause.message}`, { cause });
    if (this.#attached.size === 0 && cause.code !== 'not-found') this.#end(told);
    else this.emit('trouble', told);
  }

  #detach(uid: string): void {
    const entry = this.#attached.get(uid);
    if (!entry) return;
    this.#attached.delete(uid);
    this.#options.route.remove(entry.tunnel);
    entry.tunnel.close();
    if (!this.#closed && entry.session) this.emit('detached', { pod: entry.pod });
  }

  /** An agent's pod went: because somebody took the workload back? */
  async #stillOurs(): Promise<void> {
    const { cluster, target, session } = this.#options;
    const name = workloadName(target);
    let holder: ReturnType<typeof sessionOf>;
    try {
      holder = sessionOf(await readWorkload(cluster, target));
    } catch (error) {
      if (!(error instanceof LpkError) || error.code !== 'not-found') return; // can't tell now; the next event asks again
      throw new LpkError('session-ended', `${name} was deleted`, { cause: error });
    }
    if (this.#closed || holder?.id === session) return;
    const by = holder ? `; now ${holder.owner} on ${holder.host} has it` : '';
    throw new LpkError('session-ended', `${name} was put back by somebody else${by}`);
  }

  /** A new session: deliver what it accepts, and have the agent listen where the laptop does. */
  #serve(session: Session): void {
    const { ports } = this.#options;
    deliverInbound(
      session,
      (podPort) => ports.get(podPort),
      (laptopPort) => this.#listening.refused(laptopPort),
    );
    session.once('up', () => {
      for (const [podPort, laptopPort] of ports)
        if (this.#listening.isListening(laptopPort)) this.#listen(session, podPort, true);
    });
  }

  #listeningChanged(port: number): void {
    const listening = this.#listening.isListening(port);
    for (const { session } of this.#attached.values()) {
      if (!session || session.ended) continue;
      for (const [podPort, laptopPort] of this.#options.ports)
        if (laptopPort === port) this.#listen(session, podPort, listening);
    }
  }

  #listen(session: Session, port: number, listening: boolean): void {
    session.request(listening ? 'listen' : 'unlisten', { port }).catch((error: LpkError) => {
      if (!session.ended && !this.#closed) this.emit('trouble', error);
    });
  }

  #end(error: unknown): void {
    if (this.#closed) return;
    this.#first.reject(error);
    this.#over.reject(error);
  }
}
