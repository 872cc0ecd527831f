import type { Target } from '../agent/deploy/find.ts';
import type { Cluster } from '../agent/deploy/kube.ts';
import { waitRollout } from '../agent/deploy/rollout.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import { LpkError } from '../agent/wire/errors.ts';
import type { Session } from '../agent/wire/session.ts';
import type { Attachment } from './attachment.ts';
import { failing, type Output } from './output.ts';
import type { Undo } from './undo.ts';

export type RolloutOptions = {
  cluster: Cluster;
  target: Target;
  attachment: Attachment;
  output: Output;
  undo: Undo;
  signal: AbortSignal;
  /** Ports of the laptop of which one has to be listened at before a pod is ready; none: a pod is ready without. */
  awaitedPorts: number[];
  /** The container's own readiness probe is carried out here. */
  isProbed: boolean;
};

/** Probes carried out by an agent, and why the last one failed. */
type Carried = { probes: number; why?: string };

const ASK_MS = 2_000;

/**
 * The rollout of the agent. A session begins with the first pod; the others may wait for the command (a pod is ready when
 * something listens here), so from then on it goes on beside the session.
 */
export class RolloutBeside {
  #options: RolloutOptions;
  #all: Promise<void>;
  #hasBegun = false;
  #ready = { done: 0, total: 0 };
  #changed: (text: string) => void;
  #why: string | undefined;
  #earlierProbes: number | undefined;

  /** Begins to follow it; `begun` and `tell` say the rest. */
  constructor(options: RolloutOptions) {
    this.#options = options;
    const { cluster, target, attachment, output, undo, signal } = options;
    const stop = new AbortController();
    undo.add('stop following the rollout', async () => stop.abort());
    this.#changed = () => {};
    this.#all = waitRollout(cluster, target, {
      signal: AbortSignal.any([signal, stop.signal]),
      isPatient: () => this.#hasBegun,
      makeRoom: () => attachment.makeRoom(),
      onRefused: (error) => output.warn(error.message, 'trouble', { code: error.code }),
      onProgress: (done, total, text) => {
        this.#ready = { done, total };
        this.#changed(text);
      },
    });
    this.#all.catch(() => {}); // `begun` and `tell` hear of it
  }

  /** All of the pods lead here. Rejects as `waitRollout` does. */
  get done(): Promise<void> {
    return this.#all;
  }

  /** The first agent's session. Rejects as `attachment.over` and `waitRollout` do. */
  async begun(): Promise<Session> {
    const { target, attachment, output } = this.#options;
    const name = workloadName(target);
    const step = output.step(`rolling out the agent in ${name}`, 'rollout');
    this.#changed = (text) => step.update(`rolling out the agent in ${name}: ${text}`, this.#ready);
    const { first, over } = attachment;
    const session = await Promise.race([over, first, this.#all.then(() => first)]).catch(failing(step));
    this.#hasBegun = true;
    this.#changed = () => {};
    step.done(`the agent runs in ${name}`);
    return session;
  }

  /** Says from now on how many of the pods lead here, until all do. */
  tell(): void {
    const { attachment, output } = this.#options;
    const step = output.step(this.#text(), 'serving', this.#ready);
    const update = () => {
      // Beside a command, or in a log, each change would be a line of its own.
      if (output.isLive || output.format === 'json') step.update(this.#text(), this.#ready);
    };
    this.#changed = update;
    attachment.on('listening', update);
    const asking = setInterval(() => void this.#askWhy(), ASK_MS);
    this.#all
      .then(
        () => step.done(this.#allText(), { pods: attachment.pods }),
        (error: unknown) => {
          step.drop();
          this.#failed(error);
        },
      )
      .finally(() => {
        clearInterval(asking);
        attachment.off('listening', update);
      });
  }

  /** Of a probe that is carried out here, only the agent knows why it fails; each reason is said once in a row. */
  async #askWhy(): Promise<void> {
    const { target, attachment, output, isProbed } = this.#options;
    if (!isProbed) return;
    if (!this.#isAnyListening) this.#earlierProbes = undefined;
    const answer = await attachment.session?.request<Carried>('readiness').catch(() => undefined);
    if (!answer || !this.#isAnyListening) return;
    this.#earlierProbes ??= answer.probes; // while nothing listened here
    if (answer.probes === this.#earlierProbes || answer.why === this.#why) return;
    this.#why = answer.why;
    if (answer.why) output.warn(`${workloadName(target)} is not ready: ${answer.why}`, 'unready', { why: answer.why });
  }

  get #isAnyListening(): boolean {
    const { attachment, awaitedPorts } = this.#options;
    return awaitedPorts.some((port) => attachment.isListening(port));
  }

  #text(): string {
    const { target, attachment, awaitedPorts } = this.#options;
    const name = workloadName(target);
    if (awaitedPorts.length > 0 && !this.#isAnyListening) {
      return `${name}: calls come here once something listens at 127.0.0.1:${awaitedPorts.join(' or ')}`;
    }
    const { done, total } = this.#ready;
    return `${name}: ${Math.min(done, attachment.pods.length)} of ${total} pods lead here`;
  }

  #allText(): string {
    const name = workloadName(this.#options.target);
    const { total } = this.#ready;
    const here = this.#options.attachment.pods.length;
    if (here < total) return `${here} of ${total} pods of ${name} ${here === 1 ? 'leads' : 'lead'} here`; // no more were to
    return total === 1 ? `the pod of ${name} leads here` : `all ${total} pods of ${name} lead here`;
  }

  #failed(error: unknown): void {
    const { attachment, output } = this.#options;
    if (!(error instanceof LpkError)) throw error;
    if (error.code === 'not-found') void attachment.check();
    else if (error.code !== 'cancelled') output.warn(error.message, 'trouble', { code: error.code });
  }
}
