import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { isRunning } from './process-id.ts';

/** The files of the logs: whose folder, how many, how big. */

/** Of one file; a process has two at most, the one it writes and the one before. */
const MAX_FILE_BYTES = 1024 * 1024;
const MAX_FILES_PER_VERB = 10;
const MAX_TOTAL_BYTES = 20 * 1024 * 1024;
const MAX_AGE_MS = 14 * 24 * 3_600_000;
/** Of lines that wait to be written. */
const MAX_WAITING_CHARS = 256 * 1024;
const WRITE_EVERY_MS = 200;
/** `VERB-TIME-PID.log`, and `.1.log` for what was before: nothing else in the folder is ours. */
const NAME = /^([a-z-]+)-\d{8}T\d{6}Z-(\d+)(\.1)?\.log$/;

/** The folders that may hold this user's logs, the one to use first. Another user of the computer may have the first. */
export function logFolders(temporary = tmpdir()): string[] {
  const folder = path.join(temporary, 'lpk');
  const uid = process.getuid?.();
  return uid === undefined ? [folder] : [folder, `${folder}-${uid}`];
}

/** A folder of this user's own, which nobody else may write into: made, or found so. Throws a system error, or says why not. */
function ownFolder(folders: string[]): string {
  let why: unknown;
  for (const folder of folders) {
    try {
      fs.mkdirSync(folder, { mode: 0o700 });
    } catch {
      // There is one already, or none can be made: what is there decides.
    }
    try {
      assertOwn(folder);
      return folder;
    } catch (error) {
      why = error;
    }
  }
  throw why;
}

function assertOwn(folder: string): void {
  const found = fs.lstatSync(folder);
  const mayOthersWrite = process.getuid !== undefined && (found.mode & 0o022) !== 0;
  if (found.isDirectory() && isMine(found) && !mayOthersWrite) return;
  throw new Error(`${folder} is not this user's own folder`);
}

function isMine({ uid }: fs.Stats): boolean {
  return process.getuid === undefined || uid === process.getuid();
}

/** One process's log: buffered, written beside the work, whole at its end. What can't be written is lost, and is no error. */
export class LogFile {
  readonly path: string;
  #fd: number | undefined;
  #bytes = 0;
  #waiting: string[] = [];
  #waitingChars = 0;
  #lost = 0;
  #writing: { data: Buffer; lines: number } | undefined;
  #timer: NodeJS.Timeout | undefined;
  #maxBytes: number;
  #atExit = () => this.flush();

  /** Makes room and opens a new file, mode 0600. Throws a system error, or an Error that names the folder that is not ours. */
  constructor(verb: string, { folders = logFolders(), maxBytes = MAX_FILE_BYTES, now = new Date() } = {}) {
    const folder = ownFolder(folders);
    removeOld(folder, verb, now.getTime());
    const time = now.toISOString().replaceAll(/[-:]|\.\d+/g, '');
    this.path = path.join(folder, `${verb}-${time}-${process.pid}.log`);
    this.#maxBytes = maxBytes;
    this.#fd = fs.openSync(this.path, 'wx', 0o600); // a link that somebody put there is not followed
    process.on('exit', this.#atExit);
  }

  /** @param line without its end. */
  write(line: string): void {
    if (this.#waitingChars + line.length > MAX_WAITING_CHARS) {
      this.#lost++;
      return;
    }
    if (this.#lost > 0) this.#waiting.push(`… ${this.#lost} lines are missing here\n`);
    this.#lost = 0;
    this.#waiting.push(`${line}\n`);
    this.#waitingChars += line.length + 1;
    this.#timer ??= setTimeout(() => this.#next(), WRITE_EVERY_MS).unref();
  }

  /** Everything is in the file when this returns. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    // Bytes that are being written are written again to the same place: it is not known how far that got.
    for (const waiting of [this.#writing, this.#take()]) {
      if (!waiting || this.#fd === undefined) continue;
      try {
        for (let done = 0; done < waiting.data.length; ) {
          done += fs.writeSync(this.#fd, waiting.data, done, waiting.data.length - done, this.#bytes + done);
        }
        this.#bytes += waiting.data.length;
      } catch {
        this.#lost += waiting.lines;
      }
    }
    this.#writing = undefined;
  }

  close(): void {
    const isBusy = this.#writing !== undefined; // then its number must not become another file's
    this.flush();
    process.off('exit', this.#atExit);
    if (this.#fd !== undefined && !isBusy) fs.closeSync(this.#fd);
    this.#fd = undefined;
  }

  #next(): void {
    this.#timer = undefined;
    if (this.#bytes >= this.#maxBytes && !this.#writing) this.#turn();
    if (this.#writing) return; // its end begins the next
    this.#writing = this.#take();
    if (this.#writing) this.#write(this.#writing, 0);
  }

  #write(piece: { data: Buffer; lines: number }, from: number): void {
    if (this.#fd === undefined) return;
    fs.write(this.#fd, piece.data, from, piece.data.length - from, this.#bytes + from, (error, written) => {
      if (this.#writing !== piece) return; // flushed meanwhile
      if (!error && from + written < piece.data.length) return this.#write(piece, from + written);
      if (error) this.#lost += piece.lines;
      else this.#bytes += piece.data.length;
      this.#writing = undefined;
      if (this.#waiting.length > 0) this.#timer ??= setTimeout(() => this.#next(), WRITE_EVERY_MS).unref();
    });
  }

  #take(): { data: Buffer; lines: number } | undefined {
    if (this.#waiting.length === 0) return undefined;
    const taken = { data: Buffer.from(this.#waiting.join('')), lines: this.#waiting.length };
    this.#waiting = [];
    this.#waitingChars = 0;
    return taken;
  }

  /** What is full becomes the one before. */
  #turn(): void {
    const full = this.#fd;
    this.#fd = undefined;
    try {
      if (full !== undefined) fs.closeSync(full);
      fs.renameSync(this.path, this.path.replace(/\.log$/, '.1.log'));
      this.#fd = fs.openSync(this.path, 'wx', 0o600);
      this.#bytes = 0;
    } catch {
      // then the log ends here
    }
  }
}

/** A log that was kept, newest first. */
export type KeptLog = { path: string; name: string; verb: string; pid: number; bytes: number; changedMs: number };

/** Of this user, in all folders that may hold some. */
export function keptLogs(folders = logFolders()): KeptLog[] {
  return folders.flatMap(logsIn).sort((a, b) => b.changedMs - a.changedMs);
}

/** Folders there that are another user's: what lpk kept there for them, for root perhaps, is not to be seen. */
export function strangeFolders(folders = logFolders()): string[] {
  return folders.filter((folder) => {
    const found = fs.lstatSync(folder, { throwIfNoEntry: false });
    return found !== undefined && !isMine(found);
  });
}

function logsIn(folder: string): KeptLog[] {
  try {
    assertOwn(folder);
    return fs.readdirSync(folder).flatMap((name) => {
      const [, verb, pid] = NAME.exec(name) ?? [];
      const at = path.join(folder, name);
      const found = fs.lstatSync(at, { throwIfNoEntry: false });
      if (!verb || !found?.isFile() || !isMine(found)) return [];
      return [{ path: at, name, verb, pid: Number(pid), bytes: found.size, changedMs: found.mtimeMs }];
    });
  } catch {
    return []; // nobody has kept any there
  }
}

/** Leaves the logs of running processes, and of the others the newest of each verb. */
function removeOld(folder: string, verb: string, nowMs: number): void {
  let total = 0;
  let sameVerb = 0;
  for (const log of logsIn(folder).sort((a, b) => b.changedMs - a.changedMs)) {
    total += log.bytes;
    const isTooMany = log.verb === verb && ++sameVerb >= MAX_FILES_PER_VERB;
    const wanted = !isTooMany && total <= MAX_TOTAL_BYTES && nowMs - log.changedMs < MAX_AGE_MS;
    if (wanted || isRunning({ pid: log.pid, startedAt: '' })) continue;
    fs.rmSync(log.path, { force: true });
    total -= log.bytes;
  }
}
