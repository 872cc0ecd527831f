import { accessSync, constants, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { LpkError, systemCode } from '../agent/wire/errors.ts';
import { encodeTarHeader, tarPadding } from '../agent/wire/tar.ts';

/** What the archive ends with: two empty blocks (IEEE 1003.1-2017, pax). */
const END_BYTES = 1_024;
const MODE = 0o600;

/** By path within the bundle. */
export type BundleFiles = Map<string, string>;

/** Writes the texts as a .tar.gz of mode 0600. LpkError `usage` when `file` is there already, or can't be written. @returns its path. */
export function writeBundle(texts: BundleFiles, file: string | undefined, now = new Date()): string {
  const name = `lpk-diagnose-${now.toISOString().replaceAll(/[-:]|\.\d+/g, '')}`;
  const at = path.resolve(file ?? path.join(writableFolder(), `${name}.tar.gz`));
  try {
    writeFileSync(at, gzipSync(archive(texts, name, now.getTime())), { mode: MODE, flag: 'wx' });
  } catch (cause) {
    const why =
      systemCode(cause) === 'EEXIST' ? 'is there already' : `can't be written (${systemCode(cause) ?? cause})`;
    throw new LpkError('usage', `${at} ${why}: name another with --file`, { cause });
  }
  return at;
}

function archive(texts: BundleFiles, folder: string, modifiedMs: number): Buffer {
  const entries = [...texts].map(([name, text]) => {
    const content = Buffer.from(text);
    const entry = { path: `${folder}/${name}`, target: '', mode: MODE, modifiedMs, bytes: content.length };
    return Buffer.concat([encodeTarHeader({ type: 'file', ...entry }), content, tarPadding(content.length)]);
  });
  return Buffer.concat([...entries, Buffer.alloc(END_BYTES)]);
}

/** The working folder, where people look for it; else the temporary one. */
function writableFolder(): string {
  try {
    accessSync('.', constants.W_OK);
    return '.';
  } catch {
    return tmpdir();
  }
}
