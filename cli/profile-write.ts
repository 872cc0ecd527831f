import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { chmod, chown, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Document, isMap, parseDocument } from 'yaml';
import { LpkError } from '../agent/wire/errors.ts';
import { type Profile, parseProfiles } from './profile.ts';

const HEAD = ' lpk connect (without a target) uses this; lpk connect --profile NAME another one.';

/** The text of lpk.yaml with this profile in it, new or in place of one of its name; all else, comments too, stays. LpkError `profile-invalid`. */
export function withProfile(path: string, text: string | undefined, name: string, profile: Profile): string {
  if (text?.trim()) parseProfiles(path, text);
  const document = text?.trim() ? parseDocument(text, { version: '1.2' }) : new Document({ profiles: {} });
  if (!text?.trim()) document.commentBefore = HEAD;
  const node = document.createNode(profile);
  // Which of several is meant without a name must be said, and the first one was meant until now.
  const profiles = document.get('profiles');
  const [first, ...others] = isMap(profiles) ? profiles.items.map(({ key }) => String(key)) : [];
  if (first !== undefined && first !== name && others.length === 0 && !document.has('default')) {
    document.set('default', first);
  }
  document.setIn(['profiles', name], node);
  return document.toString({ lineWidth: 120 });
}

/** Writes it as one change: whoever reads meanwhile sees the old file or the new one. A new one with variables is its owner's alone. */
export async function saveProfile(path: string, name: string, profile: Profile): Promise<void> {
  const text = existsSync(path) ? readFileSync(path, 'utf8') : undefined;
  await replaceFile(path, withProfile(path, text, name, profile), profile.env ? 0o600 : 0o666);
}

/**
 * Replaces a file's whole content at once, and nothing else of it; of a symbolic link, the file it leads to. `mode`: of a new one, less the
 * umask. LpkError `profile-invalid`: it can't be written.
 */
export async function replaceFile(named: string, text: string, mode = 0o666): Promise<void> {
  const path = existsSync(named) ? realpathSync(named) : named;
  const old = existsSync(path) ? statSync(path) : undefined;
  const failed = (cause: Error) => {
    throw new LpkError('profile-invalid', `${path} can’t be written: ${cause.message}`, { cause });
  };
  const beside = await mkdtemp(join(dirname(path), `.${basename(path)}-`)).catch(failed);
  try {
    const fresh = join(beside, 'new'); // nobody else gets into its folder
    await writeFile(fresh, text, { mode });
    if (old) {
      await chown(fresh, old.uid, old.gid).catch(() => {}); // another's stays another's when root writes it
      await chmod(fresh, old.mode & 0o7777);
    }
    await rename(fresh, path);
  } finally {
    await rm(beside, { recursive: true, force: true });
  }
}
