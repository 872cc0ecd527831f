import { undoLeftovers } from './laptop-changes.ts';
import { isRunning } from './process-id.ts';

/** What `laptop-guard.ts` runs when an lpk seems to be gone: FOLDER PID START, of its journal and of itself. */

const GONE_MS = 10_000;

const [folder = '', pid = '', startedAt = ''] = process.argv.slice(2);
// The pipe that told it ends a little before the process does.
const until = Date.now() + GONE_MS;
while (isRunning({ pid: Number(pid), startedAt }) && Date.now() < until) {
  await new Promise((resolve) => setTimeout(resolve, 10));
}
await undoLeftovers([folder], () => {});
