import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { isRunning, type ProcessId, processId } from './process-id.ts';
import { removeSessionSocket } from './session-control.ts';
import { stateFolder, stateFolderName } from './state-folder.ts';

/**
 * Which sessions of `lpk connect` live on this laptop: a file each, named by the session, with the process that has it. The
 * cluster can't tell a session without a Lease from one whose laptop died; this can.
 */

/** Notes that this process has the session; where nothing can be written, it does without. @returns takes the note back. */
export function noteSession(session: string, folder = () => stateFolder('sessions')): () => void {
  try {
    const file = path.join(folder(), `${session}.json`);
    writeFileSync(file, JSON.stringify(processId()), { mode: 0o600 });
    return () => rmSync(file, { force: true });
  } catch {
    return () => {};
  }
}

/** Session → process id. Notes of processes that are gone are removed. */
export function sessionsHere(folder = path.join(stateFolderName(), 'sessions')): Map<string, number> {
  const here = new Map<string, number>();
  if (!existsSync(folder)) return here;
  for (const name of readdirSync(folder).filter((each) => each.endsWith('.json'))) {
    const file = path.join(folder, name);
    const process = read(file);
    if (process && isRunning(process)) here.set(name.slice(0, -'.json'.length), process.pid);
    else {
      rmSync(file, { force: true });
      removeSessionSocket(name.slice(0, -'.json'.length), folder);
    }
  }
  return here;
}

function read(file: string): ProcessId | undefined {
  try {
    const { pid, startedAt } = JSON.parse(readFileSync(file, 'utf8'));
    return typeof pid === 'number' && typeof startedAt === 'string' ? { pid, startedAt } : undefined;
  } catch {
    return undefined; // half written by a process that died, or taken back just now
  }
}
