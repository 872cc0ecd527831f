import { parseArgs } from 'node:util';
import { elapsed } from '../cluster/progress.ts';
import { closeLanes } from './lane.ts';
import { rowsOf } from './rows.ts';
import { format, runTable, summarize, tell } from './table.ts';
import { PROMISED } from './times.ts';

const all = rowsOf(PROMISED);

const HELP = `scripts/faults [--rounds N] [--row WORD]… [--lanes N] [-o json]
  What becomes of sessions and of the workloads they hold when things break: on the test cluster (LPK_CLUSTER, which nobody
  else may use meanwhile: its pieces and its node are killed), with real lpk processes. Exit code 1 when anything fails.

  --rounds N   how often each row is run (default 5)
  --row WORD   only rows whose name has the word, may be repeated
  --lanes N    how many runs side by side (default 8)
  -o json      one JSON object on stdout: the lines of the table, and every run

Rows:
${all.map(({ name }) => `  ${name}`).join('\n')}`;

function readOptions(): { rounds: number; lanes: number; rows: typeof all; json: boolean } | undefined {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '5' },
      row: { type: 'string', multiple: true, default: [] },
      lanes: { type: 'string', default: '8' },
      output: { type: 'string', short: 'o' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  const [rounds, lanes] = [Number(values.rounds), Number(values.lanes)];
  const rows = all.filter(({ name }) => values.row.length === 0 || values.row.some((word) => name.includes(word)));
  if (!(rounds >= 1 && lanes >= 1)) throw new Error('--rounds and --lanes are numbers from 1');
  if (rows.length === 0) throw new Error(`no row has ${values.row.join(' or ')} in its name`);
  if (values.output && values.output !== 'json') throw new Error(`-o is json, not ${values.output}`);
  return { rounds, lanes, rows, json: values.output === 'json' };
}

async function main(): Promise<number> {
  const options = readOptions();
  if (!options) {
    console.log(HELP);
    return 0;
  }
  const { rows, rounds, lanes, json } = options;
  const begun = Date.now();
  const outcomes = await runTable(rows, {
    rounds,
    lanes,
    onOutcome: (outcome, left) => console.error(tell(outcome, left)),
  });
  const lines = summarize(rows, outcomes);
  if (json) console.log(JSON.stringify({ rounds, tookMs: Date.now() - begun, lines, outcomes }, undefined, 2));
  else {
    console.log(format(lines));
    console.error(`faults: ${outcomes.length} runs in ${elapsed(begun)}`);
  }
  return lines.some(({ failures }) => failures > 0) ? 1 : 0;
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, async () => {
    await closeLanes();
    process.exit(130);
  });
}
try {
  // At once: a fault may have left a connection half open, which would keep this process.
  process.exit(await main());
} catch (error) {
  console.error(`scripts/faults: ${(error as Error).message}`);
  process.exit(2);
}
