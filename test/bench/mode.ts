import type { Goal, Metric, Summary } from './report.ts';

/** What a run of the bench measures. */
export type Mode = {
  /** Lines above the table. */
  notes: string[];
  metrics: Metric[];
  /** `name`: for --only. */
  subjects: { name: string; open(): Promise<Measured> }[];
  goals(summary: Summary): Goal[];
  /** Measured once, after all rounds; by name, for the JSON, and as lines below the table. */
  finish?(): Promise<{ lines: string[]; goals: Goal[]; values: Record<string, unknown> }>;
};

/** One of the programs side by side, running. */
export type Measured = {
  name: string;
  /** A round's values, by the metrics' keys. */
  measure(): Promise<Record<string, number | undefined>>;
  close(): Promise<void>;
};

export type Setting = {
  /** For files; it goes with the bench. */
  folder: string;
  interrupted: AbortSignal;
  /** For progress. */
  say(line: string): void;
  /** Run at the bench's end, last first. */
  closing: (() => Promise<void> | void)[];
};
