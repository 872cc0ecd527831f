import { LpkError } from '../agent/wire/errors.ts';
import type { Output } from './output.ts';

export type Option = { value: string; label?: string; hint?: string };

/** Questions to a person. Each rejects with LpkError `cancelled` on Ctrl-C or Esc. */
export type Ask = {
  /** One of a list: arrow keys, or letters to search. `initial`: where the cursor stands. */
  choose(question: string, options: Option[], initial?: string): Promise<string>;
  /** A line of text; `fault` says what is wrong with it. */
  text(question: string, initial: string, fault?: (text: string) => string | undefined): Promise<string>;
  confirm(question: string, initial: boolean): Promise<boolean>;
};

/** Whether there is a person to ask: both ends of the conversation are a terminal, and no program reads along. */
export function canAsk(output: Pick<Output, 'format'>): boolean {
  const { stdin, stderr, env } = process;
  return output.format === 'text' && stdin.isTTY === true && stderr.isTTY === true && env.TERM !== 'dumb';
}

/** Asks on the terminal, by stderr: stdout stays clean. */
export async function openAsk(): Promise<Ask> {
  const prompts = await import('@clack/prompts');
  const output = process.stderr;
  const answered = <T>(answer: T | typeof prompts.CANCEL_SYMBOL): T => {
    if (prompts.isCancel(answer)) throw new LpkError('cancelled', 'stopped; nothing was changed');
    return answer as T;
  };
  return {
    async choose(message, options, initialValue) {
      const maxItems = Math.max(4, Math.min(12, (output.rows ?? 24) - 8));
      const list = options.map(({ value, label = value, hint }) => ({ value, label, ...(hint ? { hint } : {}) }));
      return answered(await prompts.autocomplete({ message, options: list, initialValue, maxItems, output }));
    },
    async text(message, initialValue, fault) {
      const validate = (text: string | undefined) => fault?.(text ?? '');
      return answered(await prompts.text({ message, initialValue, validate, output })) ?? '';
    },
    async confirm(message, initialValue) {
      return answered(await prompts.confirm({ message, initialValue, output }));
    },
  };
}

/** Without a person: what is proposed is taken, and what nothing is proposed for is an error. LpkError `usage`. */
export const withoutAsking: Ask = {
  async choose(question, _options, initial) {
    if (initial === undefined) throw new LpkError('usage', `there is no terminal to ask: ${question}`);
    return initial;
  },
  async text(question, initial, fault) {
    const wrong = fault?.(initial);
    if (wrong) throw new LpkError('usage', `there is no terminal to ask: ${question} (${wrong})`);
    return initial;
  },
  confirm: async (_question, initial) => initial,
};
