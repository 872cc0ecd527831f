import { untilGone } from './process-id.ts';
import { endLeftVolumes } from './volume-leftovers.ts';

/** What the guard of a session's volumes runs when lpk seems to be gone: NOTES PID START, the folder of notes and of lpk itself. */

const [notes = '', pid = '', startedAt = ''] = process.argv.slice(2);
await untilGone({ pid: Number(pid), startedAt });
endLeftVolumes(notes, () => {});
