import { LpkError } from '../agent/wire/errors.ts';
import type { CaptureChoice } from './capture-choice.ts';
import { childEnvironment } from './environment.ts';
import type { EnvironmentChoice } from './environment-options.ts';
import { launch, type Running } from './launch.ts';
import type { Leave } from './leave.ts';
import type { Output } from './output.ts';
import { shellVariables } from './proxy-env.ts';
import type { Undo } from './undo.ts';
import type { Wrap } from './volume-mounts.ts';
import type { Way } from './way.ts';

export type CommandOptions = {
  way: Way;
  capture: CaptureChoice;
  /** CIDRs to catch besides the way's, and those not to. */
  routes: string[];
  noRoutes: string[];
  /** The pod's variables, and what is made of them. */
  pod: Record<string, string>;
  environment?: EnvironmentChoice;
  /** Gives it the pod's volumes. */
  wrap?: Wrap | undefined;
  leave: Leave;
  undo: Undo;
  output: Output;
  /** Rejects when there is no sense in going on; the command is then asked to end. */
  over?: Promise<never>;
};

/**
 * Runs the command with its traffic caught as `capture` says, and gives its exit code. LpkError as `launch`; `no-capture` when
 * `seccomp` was asked for and can't be had; what `over` rejects with.
 */
export async function runCommand(
  { program, args }: { program: string; args: string[] },
  options: CommandOptions,
): Promise<number> {
  const { leave, output, over } = options;
  const start = await prepare(options);
  leave.signal.throwIfAborted();
  output.yieldTerminal();
  try {
    const running = await start(program, args);
    let lost: unknown;
    over?.catch((error: unknown) => {
      lost = error;
      output.warn(`${error instanceof Error ? error.message : error}; ending ${program}`, 'ending');
      running.signal('SIGTERM');
    });
    const { exitCode } = await leave.whileRunning(running);
    if (lost) throw lost;
    return exitCode;
  } finally {
    output.takeTerminal();
  }
}

/** Loads what capture needs while the cluster is waited for, so that the command starts sooner. */
export function expectCapture(capture: CaptureChoice): void {
  if (capture === 'auto' || capture === 'seccomp') void import('../proxy/capture/capture.ts').catch(() => {});
}

type Start = (command: string, args: string[]) => Promise<Running>;

async function prepare({
  way,
  capture,
  routes,
  noRoutes,
  pod,
  environment,
  wrap = (command, args) => ({ command, args }),
  undo,
  output,
}: CommandOptions): Promise<Start> {
  // Only now: it loads a library, and `lpk connect` without a command needs none of it.
  const { captureSupport, startCapture } = await import('../proxy/capture/capture.ts');
  const support = capture === 'auto' || capture === 'seccomp' ? captureSupport() : undefined;
  if (support && !support.ok) {
    if (capture === 'seccomp') throw new LpkError('no-capture', `the program can't be captured here: ${support.why}`);
    output.say(`proxy variables, as the program can't be captured here: ${support.why}`, 'capture', { capture: 'env' });
  }
  // A shell that uses a proxy of lpk's by its variables must not lead the program there as well.
  const laptop = { ...process.env, ...shellVariables(process.env, undefined) };
  if (support?.ok) {
    const clusters = new WeakSet<Buffer>();
    const caught = await startCapture({
      dial: way.dial,
      askDns: async (question) => {
        const { message, cluster } = await way.askDns(question);
        if (cluster) clusters.add(message);
        return message;
      },
      isClusters: (answer) => clusters.has(answer),
      ranges: [...way.ranges, ...routes],
      noRanges: noRoutes,
    });
    undo.add('stop the capture', () => caught.close());
    const { env } = childEnvironment({ laptop, pod, choice: environment });
    output.say(`captured: its connections and names go by ${way.name}`, 'capture', { capture: 'seccomp' });
    if (caught.missing)
      output.warn(`but not names asked for over unconnected sockets (musl, c-ares): ${caught.missing}`, 'capture-part');
    return (command, args) => launch({ ...wrap(command, args, env.PATH), env, spawn: caught.spawn });
  }
  const proxy = capture === 'none' ? undefined : await way.proxy();
  const { env } = childEnvironment({ laptop, pod, proxy, choice: environment });
  return (command, args) => launch({ ...wrap(command, args, env.PATH), env });
}
