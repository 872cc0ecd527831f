import { EventEmitter } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import {
  type AgentPodSpec,
  ensureAgentPod,
  removeAgentPod,
  removePod,
  watchAgentPod,
} from '../agent/deploy/agent-pod.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import type { Transport } from '../agent/deploy/preflight.ts';
import type { Owner } from '../agent/deploy/restorer.ts';
import type { PodEvent } from '../agent/deploy/rollout.ts';
import { LpkError } from '../agent/wire/errors.ts';
import type { Session } from '../agent/wire/session.ts';
import type { Route } from '../proxy/route.ts';
import type { Tunnel } from '../proxy/tunnel.ts';
import { AgentDialer } from './agent-dialer.ts';
import type { LinkEvents } from './link-events.ts';

const RETRY_MS = 1_000;
const MAX_RETRY_MS = 30_000;

export type ProxyLinkOptions = {
  cluster: Cluster;
  spec: AgentPodSpec;
  key: Buffer;
  transports: Transport[];
  route: Route;
};

type Current = { uid: string; pod: string; tunnel: Tunnel | undefined };

/**
 * Keeps one pod with an agent in the cluster and the laptop tied to it, for as long as it is wanted: a pod that is evicted,
 * drained or deleted is made anew, whenever the cluster can be reached again.
 */
export class ProxyLink extends EventEmitter<LinkEvents> {
  #options: ProxyLinkOptions;
  #dialer: AgentDialer;
  #stop = new AbortController();
  #made: Owner | undefined;
  #current: Current | undefined;
  #session: Session | undefined;
  #wasUp = false;
  #before = { in: 0, out: 0, reconnects: 0 };
  #first = Promise.withResolvers<Session>();
  #remaking: Promise<void> | undefined;

  constructor(options: ProxyLinkOptions) {
    super();
    this.#options = options;
    const { cluster, key, spec, transports } = options;
    this.#dialer = new AgentDialer({ cluster, namespace: cluster.namespace, key, agentPort: spec.port, transports });
    this.#first.promise.catch(() => {});
  }

  /** The session in use; undefined between two pods. */
  get session(): Session | undefined {
    return this.#session?.ended ? undefined : this.#session;
  }

  get isUp(): boolean {
    return this.session?.isUp === true;
  }

  get pod(): string | undefined {
    return this.#current?.pod;
  }

  get transport(): Transport {
    return this.#dialer.transport;
  }

  /** Since the start: stream bytes, and how often the link came back. */
  get counts(): { in: number; out: number; reconnects: number } {
    const { in: received = 0, out: sent = 0 } = this.#session?.bytes ?? {};
    return {
      in: this.#before.in + received,
      out: this.#before.out + sent,
      reconnects: this.#before.reconnects + (this.#current?.tunnel?.reconnects ?? 0),
    };
  }

  /** Makes the pod and resolves when its agent answers. LpkError: what hinders it; then `close` is still to be called. */
  async start(): Promise<Session> {
    const { cluster, spec } = this.#options;
    this.#made = await ensureAgentPod(cluster, spec);
    this.#run().catch((error: unknown) => this.#first.reject(error));
    return await this.#first.promise;
  }

  /** Ends the link and removes what was made in the cluster. LpkError: what requests throw. */
  async close(): Promise<void> {
    this.#stop.abort();
    this.#detach();
    await this.#remaking;
    const { cluster, spec } = this.#options;
    await removeAgentPod(cluster, cluster.namespace, spec.session);
  }

  async #run(): Promise<void> {
    const { cluster, spec } = this.#options;
    const { signal } = this.#stop;
    const refused = (error: LpkError) => this.#trouble(error);
    while (!signal.aborted) {
      try {
        for await (const event of watchAgentPod(cluster, spec.session, signal, refused)) this.#podEvent(event);
      } catch (error) {
        // What may be watched at first may be refused later, by an API server that is just starting.
        if (!this.#session && !this.#wasUp) throw error;
        this.#trouble(error);
        await pause(RETRY_MS, undefined, { signal }).catch(() => {});
      }
    }
  }

  #podEvent(event: PodEvent): void {
    if (event.type === 'running') {
      this.#attach(event.uid, event.pod).catch((error: unknown) => this.#attachFailed(event.uid, error));
    } else if (event.type === 'gone') {
      if (this.#current && this.#current.uid !== event.uid) return;
      this.#detach('the pod is gone');
      this.emit('detached', { pod: event.pod });
      this.#remakeOnce(event.uid);
    } else {
      const error = new LpkError(event.code, event.message);
      if (event.fatal) this.#first.reject(error);
      this.#trouble(error);
    }
  }

  async #attach(uid: string, pod: string): Promise<void> {
    const { route } = this.#options;
    const current: Current = { uid, pod, tunnel: undefined };
    this.#detach();
    this.#current = current;
    const wanted = () => !this.#stop.signal.aborted && this.#current === current;
    const tunnel = await this.#dialer.open(pod, (made) => {
      current.tunnel = made;
      made.on('session', (session) => this.#use(session));
      made.on('retry', (error) => this.emit('retrying', { pod, error }));
      return wanted;
    });
    if (!tunnel) return;
    tunnel.on('down', ({ reason, holdMs }) => {
      if (holdMs > 0) this.emit('linkDown', { pod, reason, holdMs });
    });
    tunnel.on('up', () => this.emit('linkUp', { pod }));
    tunnel.on('cut', (lost) => {
      if (!this.#stop.signal.aborted) this.emit('cut', { pod, ...lost });
    });
    tunnel.on('end', (error) => this.#attachFailed(uid, error));
    route.add(tunnel);
    this.emit('attached', { pod, transport: this.transport, rttMs: tunnel.session.link.rttMs });
    this.#first.resolve(tunnel.session);
  }

  #use(session: Session): void {
    this.#keepCounts();
    this.#session = session;
  }

  #keepCounts(): void {
    const { in: received = 0, out: sent = 0 } = this.#session?.bytes ?? {};
    this.#wasUp ||= this.#session !== undefined;
    this.#before.in += received;
    this.#before.out += sent;
    this.#session = undefined;
  }

  #attachFailed(uid: string, cause: unknown): void {
    if (this.#stop.signal.aborted || this.#current?.uid !== uid) return;
    this.#first.reject(cause);
    this.#trouble(cause);
    this.#detach();
    this.#remakeOnce(uid); // an agent that won't have us is of no use
  }

  #detach(reason?: string): void {
    const current = this.#current;
    this.#current = undefined;
    if (!current?.tunnel) return;
    this.#options.route.remove(current.tunnel);
    current.tunnel.close(reason);
    this.#before.reconnects += current.tunnel.reconnects + 1;
    this.#keepCounts();
  }

  #remakeOnce(uid: string): void {
    if (!this.#session && !this.#wasUp) return; // the start has failed, and says so
    this.#remaking ??= this.#remake(uid).finally(() => {
      this.#remaking = undefined;
    });
  }

  /** Until there is a new pod, however long the cluster can't be reached. */
  async #remake(uid: string): Promise<void> {
    const { cluster, spec } = this.#options;
    const { signal } = this.#stop;
    for (let retryMs = RETRY_MS; !signal.aborted; retryMs = Math.min(2 * retryMs, MAX_RETRY_MS)) {
      try {
        await removePod(cluster, spec.session, uid);
        this.#made = await ensureAgentPod(cluster, spec, this.#made);
        return;
      } catch (error) {
        this.#trouble(error);
        await pause(retryMs, undefined, { signal }).catch(() => {});
      }
    }
  }

  #trouble(cause: unknown): void {
    const error = cause instanceof LpkError ? cause : new LpkError('internal', String(cause), { cause });
    if (!this.#stop.signal.aborted) this.emit('trouble', error);
  }
}
