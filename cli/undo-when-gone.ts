import { undoLeftovers } from './laptop-changes.ts';
import { untilGone } from './process-id.ts';

/** What `laptop-guard.ts` runs when an lpk seems to be gone: FOLDER PID START, of its journal and of itself. */

const [folder = '', pid = '', startedAt = ''] = process.argv.slice(2);
await untilGone({ pid: Number(pid), startedAt });
await undoLeftovers([folder], () => {});
