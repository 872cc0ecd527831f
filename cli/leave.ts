import { constants } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { LpkError } from '../agent/wire/errors.ts';
import type { Ended, Running } from './launch.ts';
import type { Undo } from './undo.ts';

/** Signals that end a session, unless a command runs that may think otherwise. */
const LEAVE = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;
/** Signals that mean nothing to lpk but may to the command. */
const PASS_ON = ['SIGUSR1', 'SIGUSR2', 'SIGCONT'] as const;

const NOTICE_MS = 5_000;

/** What the work of a session sees of its end. */
export type Leave = {
  /** Aborted when it is time to go; its reason is an LpkError `cancelled`. Everything that waits takes it. */
  readonly signal: AbortSignal;
  /** Waits until it is time to go: for a session without a command. */
  asked(): Promise<void>;
  /**
   * Waits for the command. Meanwhile signals are the command's, and what they mean is its own business. Only a second
   * SIGTERM leaves without it, as it did not end on the first; it is never killed.
   *
   * @throws LpkError `cancelled` when leaving without it.
   */
  whileRunning(command: Running): Promise<Ended>;
};

/**
 * Runs a session's work and, whatever ends it, puts everything back exactly once: its own end, an error, a signal, an error
 * nobody caught. The first signal starts the leaving, the second says what is still to be put back, the third gives up.
 *
 * @returns the exit code: the work's own; 128 + the signal's number when one ended it; 1 when something could not be undone.
 * @throws what the work threw, after everything was put back.
 */
export async function untilLeaving(
  session: {
    undo: Undo;
    /** Shows one line at once. */
    say: (line: string) => void;
    /** Shows an error that nobody caught. */
    crashed: (error: unknown) => void;
    /** The command that puts back what giving up leaves behind. */
    remedy: () => string;
    /** How long the work may take to notice that it is time to go, before things are put back all the same, ms. */
    noticeMs?: number;
  },
  work: (leave: Leave) => Promise<number>,
): Promise<number> {
  const { undo } = session;
  const leaving = new AbortController();
  let command: Running | undefined;
  let endedBy: number | undefined; // the exit code of the signal
  let crashed = false;
  let undoing = false;
  let warned = false;
  let stops = 0;

  const leaveNow = (exitCode: number, why: string) => {
    endedBy ??= exitCode;
    leaving.abort(new LpkError('cancelled', why));
  };
  const onSignal = (signal: NodeJS.Signals) => {
    const exitCode = 128 + constants.signals[signal];
    if (command && !leaving.signal.aborted) {
      command.signal(signal);
      if (signal !== 'SIGTERM' || ++stops === 1) return;
      session.say('the command is still running; leaving without it');
      return leaveNow(exitCode, `stopped by ${signal}`);
    }
    if (!undoing && !leaving.signal.aborted) return leaveNow(exitCode, `stopped by ${signal}`);
    if (!warned) {
      warned = true;
      const rest = undo.pending.join(', ') || 'the last step';
      return session.say(`still to do: ${rest}. Once more gives up; \`${session.remedy()}\` then puts it back`);
    }
    process.exit(exitCode);
  };
  const onPassOn = (signal: NodeJS.Signals) => command?.signal(signal);
  const onCrash = (error: unknown) => {
    crashed = true;
    session.crashed(error);
    leaveNow(1, 'an error in lpk');
  };

  for (const signal of LEAVE) process.on(signal, onSignal);
  process.on('uncaughtException', onCrash);
  try {
    const view: Leave = {
      signal: leaving.signal,
      asked: () => aborted(leaving.signal),
      async whileRunning(running) {
        command = running;
        for (const signal of PASS_ON) process.on(signal, onPassOn);
        try {
          const ended = await Promise.race([running.exited, aborted(leaving.signal)]);
          if (!ended) throw leaving.signal.reason;
          return ended;
        } finally {
          command = undefined;
          for (const signal of PASS_ON) process.off(signal, onPassOn);
        }
      },
    };
    const worked = settled((async () => work(view))());
    const result = await Promise.race([
      worked,
      aborted(leaving.signal).then(() => noticed(worked, session.noticeMs ?? NOTICE_MS)),
    ]);
    undoing = true;
    await undo.run();
    const code = outcome(result, endedBy);
    return code === 0 && (crashed || undo.failed.length > 0) ? 1 : code;
  } finally {
    for (const signal of LEAVE) process.off(signal, onSignal);
    process.off('uncaughtException', onCrash);
  }
}

type Result = { code: number } | { error: unknown } | undefined;

async function settled(work: Promise<number>): Promise<Result> {
  return work.then(
    (code) => ({ code }),
    (error: unknown) => ({ error }),
  );
}

async function noticed(worked: Promise<Result>, noticeMs: number): Promise<Result> {
  const timer = new AbortController();
  const late = delay(noticeMs, undefined, { signal: timer.signal }).catch(() => undefined);
  const result = await Promise.race([worked, late]);
  timer.abort();
  return result;
}

/** What fails once it is time to go fails because of that, unless it is a bug. */
function outcome(result: Result, endedBy: number | undefined): number {
  if (result && 'code' in result) return result.code;
  if (result && (endedBy === undefined || !isConsequence(result.error))) throw result.error;
  return endedBy ?? 0;
}

function isConsequence(error: unknown): boolean {
  return error instanceof LpkError || (error instanceof Error && error.name === 'AbortError');
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
