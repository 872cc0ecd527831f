import { mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';

/** Where lpk keeps what outlives a process: `$XDG_STATE_HOME/lpk`, by default `~/.local/state/lpk` (XDG Base Directory Specification). */
export function stateFolderName(): string {
  const { XDG_STATE_HOME: base } = process.env;
  return path.join(base && path.isAbsolute(base) ? base : path.join(homedir(), '.local', 'state'), 'lpk');
}

/** A folder in there; made when missing, for this user only. */
export function stateFolder(...parts: string[]): string {
  const folder = path.join(stateFolderName(), ...parts);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return folder;
}
