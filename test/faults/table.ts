import { Lane, type LaneKind } from './lane.ts';
import { OneFault } from './one-fault.ts';

/** The fault table: what is done to a session, how often, and what came of it. */

/** What a run found to be so; what it says nothing of doesn't apply to it. */
export type Found = { restored?: true; resumed?: true; nothingLeft?: true };

export type Row = {
  name: string;
  /** The fault is the whole cluster's: its runs share one, and nothing else runs meanwhile. */
  alone?: true;
  /** Of the workload; a Deployment unless told otherwise. */
  kind?: LaneKind;
  /** How many runs it has in so many rounds; one each unless told otherwise. */
  cases?: (rounds: number) => number;
  /** Throws what was not as it should be. `nth`, from 0, tells the runs apart; `one` is theirs in a row that is `alone`. */
  run: (lane: Lane, nth: number, rounds: number, one: OneFault) => Promise<Found>;
};

export type Outcome = { row: string; nth: number; found?: Found; failure?: string; tookMs: number };

export type TableOptions = {
  rounds: number;
  /** How many runs take place side by side. */
  lanes: number;
  /** Hears every outcome as it comes, and how many are still to come. */
  onOutcome?: (outcome: Outcome, left: number) => void;
};

/** Runs all rows: those of single sessions side by side, then those of the whole cluster. */
export async function runTable(rows: Row[], { rounds, lanes, onOutcome }: TableOptions): Promise<Outcome[]> {
  const runs = rows.flatMap((row) => Array.from({ length: row.cases?.(rounds) ?? rounds }, (_, nth) => ({ row, nth })));
  const outcomes: Outcome[] = [];
  /** One run after the other in one lane, as long as nothing fails there. */
  const work = async (queue: typeof runs, one: OneFault) => {
    let lane: Lane | undefined;
    for (let next = queue.shift(); next; next = queue.shift()) {
      const { row, nth } = next;
      const begun = performance.now();
      let result: Pick<Outcome, 'found' | 'failure'>;
      try {
        const { kind = 'deployment' } = row;
        if (lane && lane.kind !== kind) {
          await lane.close();
          lane = undefined;
        }
        lane ??= await Lane.open(kind);
        result = { found: await row.run(lane, nth, rounds, one) };
      } catch (error) {
        one.without();
        result = { failure: `${error instanceof Error ? error.message : error}; ${lane?.said}` };
        await lane?.close().catch(() => {}); // what it was used for has failed, which is told
        lane = undefined;
      }
      const outcome = { row: row.name, nth, ...result, tookMs: performance.now() - begun };
      outcomes.push(outcome);
      onOutcome?.(outcome, runs.length - outcomes.length);
    }
    await lane?.close();
  };
  const others = runs.filter(({ row }) => !row.alone);
  await Promise.all(Array.from({ length: Math.min(lanes, others.length) }, () => work(others, new OneFault(1))));
  for (const row of rows.filter(({ alone }) => alone)) {
    const together = runs.filter((run) => run.row === row);
    const one = new OneFault(together.length);
    await Promise.all(together.map((run) => work([run], one)));
  }
  return outcomes;
}

/** One line, as it came. */
export function tell({ row, nth, failure, tookMs }: Outcome, left: number): string {
  const took = `${(tookMs / 1_000).toFixed(1)} s`;
  return `faults: ${left} to go: ${row}, run ${nth + 1}: ${failure ?? 'as it should be'} (${took})`;
}

export type Line = {
  row: string;
  runs: number;
  restored: number;
  resumed: number;
  nothingLeft: number;
  failures: number;
};

export function summarize(rows: Row[], outcomes: Outcome[]): Line[] {
  return rows.map(({ name }) => {
    const of = outcomes.filter(({ row }) => row === name);
    const count = (what: keyof Found) => of.filter(({ found }) => found?.[what]).length;
    return {
      row: name,
      runs: of.length,
      restored: count('restored'),
      resumed: count('resumed'),
      nothingLeft: count('nothingLeft'),
      failures: of.filter(({ failure }) => failure !== undefined).length,
    };
  });
}

/** As Markdown: it goes into documents as it is. */
export function format(lines: Line[]): string {
  const head = ['fault', 'runs', 'same spec again', 'streams went on', 'nothing left', 'failures'];
  const all = lines.map((line) => [
    line.row,
    line.runs,
    line.restored,
    line.resumed || '–',
    line.nothingLeft,
    line.failures,
  ]);
  const cells = [head, ...all].map((row) => row.map(String));
  const widths = head.map((_, column) => Math.max(...cells.map((row) => (row[column] as string).length)));
  const text = (row: string[]) =>
    `| ${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] as number) : cell.padStart(widths[i] as number))).join(' | ')} |`;
  const rule = `| ${widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)).join(' | ')} |`;
  return [text(cells[0] as string[]), rule, ...cells.slice(1).map(text)].join('\n');
}
