import { runAgent } from './agent.ts';
import { leaveLastWords } from './last-words.ts';
import { runRestorer } from './restorer.ts';

/** One file, two programs: `agent.mjs [FOLDER]` is a workload's agent, `agent.mjs restorer` watches over its session. */
process.on('uncaughtExceptionMonitor', (error) => leaveLastWords(error));
await (process.argv[2] === 'restorer' ? runRestorer() : runAgent(process.argv[2] ?? '/.lpk'));
