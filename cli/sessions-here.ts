import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { isRunning, type ProcessId, processId } from './process-id.ts';
import { removeSessionSocket } from './session-control.ts';
import { stateFolder, stateFolderName } from './state-folder.ts';

/**
 * Which sessions of `lpk connect` live on this laptop: a file each, named by the session, with the process that has it. The
 * cluster can't tell a session without a Lease from one whose laptop died; this can.
 */

/** One that can't be read and is younger may still be written by another lpk. */
const HALF_WRITTEN_MS = 60_000;

/** `what` holds whom it is for: `deployment/web`, `lpk run`. */
export type SessionNote = { what: string; namespace: string; context: string };

/** Notes that this process has the session; where nothing can be written, it does without. @returns takes the note back. */
export function noteSession(session: string, note: SessionNote, folder = () => stateFolder('sessions')): () => void {
  try {
    const file = path.join(folder(), `${session}.json`);
    const { what, namespace, context } = note;
    const draft = `${file}.tmp`; // whoever finds the note finds all of it
    writeFileSync(draft, JSON.stringify({ ...processId(), what, namespace, context }), { mode: 0o600 });
    renameSync(draft, file);
    return () => rmSync(file, { force: true });
  } catch {
    return () => {};
  }
}

/** Session → process id. Notes of processes that are gone are removed. */
export function sessionsHere(folder?: string): Map<string, number> {
  return new Map([...notesHere(folder)].map(([session, { pid }]) => [session, pid]));
}

/** Session → what was noted of it. Notes of processes that are gone are removed. */
export function notesHere(
  folder = path.join(stateFolderName(), 'sessions'),
): Map<string, ProcessId & Partial<SessionNote>> {
  const here = new Map<string, ProcessId & Partial<SessionNote>>();
  if (!existsSync(folder)) return here;
  for (const name of readdirSync(folder).filter((each) => each.endsWith('.json'))) {
    const session = name.slice(0, -'.json'.length);
    const file = path.join(folder, name);
    const note = read(file);
    if (note && isRunning(note)) here.set(session, note);
    else if (note || isOld(file)) {
      rmSync(file, { force: true });
      removeSessionSocket(session, folder);
    }
  }
  return here;
}

function read(file: string): (ProcessId & Partial<SessionNote>) | undefined {
  try {
    const note = JSON.parse(readFileSync(file, 'utf8'));
    return typeof note.pid === 'number' && typeof note.startedAt === 'string' ? note : undefined;
  } catch {
    return undefined; // half written, or taken back just now
  }
}

function isOld(file: string): boolean {
  const { mtimeMs = 0 } = statSync(file, { throwIfNoEntry: false }) ?? {};
  return Date.now() - mtimeMs > HALF_WRITTEN_MS;
}
