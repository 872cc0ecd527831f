import type { EventEmitter } from 'node:events';
import type { Transport } from '../agent/deploy/preflight.ts';
import type { ErrorCode, LpkError } from '../agent/wire/errors.ts';
import type { Flow } from '../proxy/flow.ts';
import type { Output } from './output.ts';

/** What every tie to agents tells of its links. */
export type LinkEvents = {
  attached: [{ pod: string; transport: Transport; rttMs: number }];
  linkDown: [{ pod: string; reason: string; holdMs: number }];
  linkUp: [{ pod: string }];
  /** The pod is gone, or is no longer asked. */
  detached: [{ pod: string }];
  /** So many of programs' connections through this pod are lost. */
  cut: [{ pod: string; connections: number; reason: string }];
  /** An attempt to reach the pod's agent failed, and others follow. */
  retrying: [{ pod: string; error: LpkError }];
  /** Something that may mend itself, or that only part of the work suffers from. */
  trouble: [LpkError];
};

/**
 * Tells people, programs and the log how the links are. On a terminal a lost link has a line that counts down what is left of
 * the time its connections are kept for.
 */
export function tellLinks(links: Pick<EventEmitter<LinkEvents>, 'on'>, output: Output): void {
  links.on('attached', ({ pod, transport, rttMs }) =>
    output.say(`connected to pod ${pod} by ${transport}, ${rttMs.toFixed(1)} ms away`, 'attached', {
      pod,
      transport,
      rttMs,
    }),
  );
  const waiting = new Map<string, () => void>();
  const waitingIsOver = (pod: string) => {
    waiting.get(pod)?.();
    waiting.delete(pod);
  };
  links.on('linkDown', ({ pod, reason, holdMs }) => {
    output.warn(
      `link to pod ${pod} lost (${reason}); its connections are kept for ${Math.round(holdMs / 1_000)} s`,
      'link-down',
      { pod, holdMs },
    );
    const until = performance.now() + holdMs;
    waitingIsOver(pod);
    waiting.set(
      pod,
      output.live(() => {
        const leftS = Math.ceil((until - performance.now()) / 1_000);
        return `reconnecting to pod ${pod}${leftS > 0 ? `; its connections are kept for ${leftS} s more` : ''}`;
      }),
    );
  });
  links.on('linkUp', ({ pod }) => {
    waitingIsOver(pod);
    output.say(`link to pod ${pod} is back`, 'link-up', { pod });
  });
  links.on('cut', ({ pod, connections, reason }) => {
    const what = connections === 1 ? '1 connection' : `${connections} connections`;
    output.warn(`${what} through pod ${pod} cut: ${reason}`, 'cut', { pod, connections, reason });
  });
  links.on('detached', ({ pod }) => waitingIsOver(pod));
  links.on('retrying', ({ pod, error: { code, message } }) => {
    output.count('retrying', `pod ${pod}: ${message} (${code})`);
  });
  links.on('trouble', (error) => {
    output.warn(error.message, 'trouble', { code: error.code });
  });
}

/** For the log: which connections into the cluster failed, and how. */
export function countFailures(output: Output): (code: ErrorCode, flow: Flow) => void {
  return (code, { protocol, host, port }) => output.count('failed', `${protocol} ${host}:${port} ${code}`);
}
