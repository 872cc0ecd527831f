import { closeSync, constants, existsSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { LineCounter, parseDocument } from 'yaml';
import { LpkError, systemCode } from '../agent/wire/errors.ts';
import { tokenFault } from './env-tokens.ts';
import schema from './lpk.schema.json' with { type: 'json' };
import { splitWords } from './words.ts';
import { faultsOf, type Schema } from './yaml-schema.ts';

export const PROFILE_FILE = 'lpk.yaml';
const MAX_BYTES = 1024 * 1024;

/** One way to connect, as lpk.schema.json describes it. */
export type Profile = {
  target: string;
  context?: string;
  namespace?: string;
  kubeconfig?: string;
  container?: string;
  replicas?: string;
  ports?: (string | number)[];
  freePorts?: boolean;
  command?: string | string[];
  env?: Record<string, string | number | boolean>;
  envFiles?: string[];
  envInclude?: string[];
  envExclude?: string[];
  volumes?: string;
  volumeLimitMiB?: number;
  capture?: string;
  transport?: string;
  readiness?: string;
  agentImage?: string;
  proxyPort?: number;
  holdSeconds?: number;
  restoreAfterSeconds?: number;
  restorer?: boolean;
  whenHeld?: string;
  waitRestored?: boolean;
  dnsInclude?: string[];
  selfTest?: boolean;
  routes?: string[];
  noRoutes?: string[];
};

export type ProfileFile = {
  path: string;
  /** Of `default`. */
  default?: string;
  profiles: Record<string, Profile>;
};

/**
 * The lpk.yaml of `folder` or of the nearest folder above it. LpkError `profile-invalid`: the first fault, with line and column; or
 * one above that is another user's, as it names a command to run, and anybody may put a file into /tmp.
 */
export function findProfiles(folder: string): ProfileFile | undefined {
  const start = resolve(folder);
  for (let at = start; ; at = dirname(at)) {
    const found = readProfiles(at, at !== start);
    if (found || dirname(at) === at) return found;
  }
}

/** The lpk.yaml of this folder; `above`: of the one that is meant. LpkError as {@link findProfiles}. */
export function readProfiles(folder: string, above = false): ProfileFile | undefined {
  const path = join(folder, PROFILE_FILE);
  return existsSync(path) ? parseProfiles(path, readText(path, above)) : undefined;
}

function readText(path: string, above: boolean): string {
  let file: number | undefined;
  try {
    // A link of another user's may lead to a file of this one's, whose command would run in that other's folder.
    file = openSync(path, above ? constants.O_RDONLY | constants.O_NOFOLLOW : constants.O_RDONLY);
    if (above && !isTrusted(fstatSync(file).uid)) {
      throw new LpkError('profile-invalid', `${path} is another user’s: it is used in its own folder only`);
    }
    const bytes = readFileSync(file);
    if (bytes.length > MAX_BYTES) throw new LpkError('profile-invalid', `${path} has more than ${MAX_BYTES} bytes`);
    return bytes.toString('utf8');
  } catch (cause) {
    if (cause instanceof LpkError) throw cause;
    if (systemCode(cause) === 'ELOOP') {
      throw new LpkError('profile-invalid', `${path} is a symbolic link: it is used in its own folder only`, { cause });
    }
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new LpkError('profile-invalid', `${path} can’t be read: ${why}`, { cause });
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

function isTrusted(uid: number): boolean {
  const own = process.getuid?.();
  return own === undefined || [own, 0, Number(process.env.SUDO_UID ?? -1)].includes(uid); // undefined: Windows
}

/** LpkError `profile-invalid`: `FILE:LINE:COLUMN: what is wrong`, and how many more faults there are. */
export function parseProfiles(path: string, text: string): ProfileFile {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, version: '1.2' });
  const [fault, ...more] = faultsOf(document, lines, schema as Schema);
  if (fault) {
    const others = more.length > 0 ? ` (and ${more.length} more)` : '';
    throw new LpkError('profile-invalid', `${path}:${fault.line}:${fault.column}: ${fault.message}${others}`);
  }
  const read = document.toJS({ maxAliasCount: -1 }) as Omit<ProfileFile, 'path'>;
  const place = (...keys: string[]) => {
    const node = document.getIn(keys, true) as { range?: [number, number, number] } | undefined;
    const { line, col } = lines.linePos(node?.range?.[0] ?? 0);
    return `${path}:${line}:${col}`;
  };
  if (read.default !== undefined && !Object.hasOwn(read.profiles, read.default)) {
    const names = Object.keys(read.profiles).join(', ');
    throw new LpkError(
      'profile-invalid',
      `${place('default')}: there is no profile "${read.default}"; there is ${names}`,
    );
  }
  for (const [name, { command, env = {} }] of Object.entries(read.profiles)) {
    for (const [variable, value] of Object.entries(env)) {
      const wrong = tokenFault(String(value));
      if (!wrong) continue;
      const where = place('profiles', name, 'env', variable);
      throw new LpkError('profile-invalid', `${where}: profiles.${name}.env.${variable}: ${wrong}`);
    }
    if (typeof command === 'string' && !splitWords(command)?.length) {
      const where = place('profiles', name, 'command');
      throw new LpkError(
        'profile-invalid',
        `${where}: profiles.${name}.command: a quote is not closed, or it has no word`,
      );
    }
  }
  return { path, ...read };
}

/** The profile of that name, else the file's default, else its only one; undefined: several, and none is named. LpkError `usage`. */
export function chooseProfile(file: ProfileFile, asked: string | undefined): string | undefined {
  const names = Object.keys(file.profiles);
  if (asked === undefined) return file.default ?? (names.length === 1 ? names[0] : undefined);
  if (names.includes(asked)) return asked;
  throw new LpkError('usage', `${file.path} has no profile "${asked}"; it has ${names.join(', ')}`);
}
