import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { LineCounter, parseDocument } from 'yaml';
import { LpkError } from '../agent/wire/errors.ts';
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
  for (let at = resolve(folder); ; at = dirname(at)) {
    const path = join(at, PROFILE_FILE);
    if (existsSync(path)) {
      if (at !== resolve(folder) && !isTrusted(path)) {
        throw new LpkError('profile-invalid', `${path} is another user’s: it is used in its own folder only`);
      }
      return parseProfiles(path, readText(path));
    }
    if (dirname(at) === at) return undefined;
  }
}

function isTrusted(path: string): boolean {
  const uid = process.getuid?.();
  if (uid === undefined) return true; // Windows
  return [uid, 0, Number(process.env.SUDO_UID ?? -1)].includes(statSync(path).uid);
}

function readText(path: string): string {
  try {
    const bytes = readFileSync(path);
    if (bytes.length > MAX_BYTES) throw new LpkError('profile-invalid', `${path} has more than ${MAX_BYTES} bytes`);
    return bytes.toString('utf8');
  } catch (cause) {
    if (cause instanceof LpkError) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new LpkError('profile-invalid', `${path} can’t be read: ${why}`, { cause });
  }
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
