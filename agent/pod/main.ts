import { runAgent } from './agent.ts';
import { runRestorer } from './restorer.ts';

/** One file, two programs: `agent.mjs [FOLDER]` is a workload's agent, `agent.mjs restorer` watches over its session. */
await (process.argv[2] === 'restorer' ? runRestorer() : runAgent(process.argv[2] ?? '/.lpk'));
