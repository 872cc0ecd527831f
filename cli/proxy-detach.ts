import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { ERROR_CODES, type ErrorCode, LpkError } from '../agent/wire/errors.ts';
import { DETACHED } from './detached.ts';
import type { Output } from './output.ts';
import { stateFolder } from './state-folder.ts';

/** The child's `-o json` events, as far as they are told on. */
type Event = { event: string; state?: string; text?: string; code?: string; message?: string } & Record<
  string,
  unknown
>;

/**
 * Starts this same command again in the background, in a process session of its own, tells what it says until it is ready,
 * and leaves it. Returns exit code 0; throws the LpkError that it failed with.
 */
export async function detach(output: Output): Promise<number> {
  const logFile = path.join(stateFolder('proxies'), 'detached.log');
  const log = openSync(logFile, 'w', 0o600); // what lpk says is in its log: here is only how Node itself ends
  const child = spawn(process.execPath, [...process.execArgv, ...forAProgram(process.argv.slice(1))], {
    detached: true,
    stdio: ['ignore', 'pipe', log],
    env: { ...process.env, ...DETACHED },
  });
  const said = child.stdout as Readable;
  closeSync(log);
  const interrupt = () => child.kill('SIGINT'); // not its terminal's any more
  process.on('SIGINT', interrupt);
  try {
    for await (const line of createInterface({ input: said })) {
      const { event, state, text, code, message, ...fields } = JSON.parse(line) as Event;
      if (event === 'error') throw new LpkError(knownCode(code), message ?? 'it failed');
      if (event === 'ready') {
        output.say(text ?? 'ready', 'ready', { ...fields, pid: child.pid });
        output.say(`it goes on in the background (process ${child.pid}); lpk proxy down ends it`);
        return 0;
      }
      if (text && state !== 'started' && state !== 'progress') output.say(text, event, fields);
    }
    throw new LpkError('internal', `the proxy ended before it was ready; ${logFile} may say why`);
  } finally {
    process.off('SIGINT', interrupt);
    said.destroy();
    child.unref();
  }
}

/** The same command line, for a program to read. */
function forAProgram(args: string[]): string[] {
  const kept = args.filter(
    (arg, i) => !/^(-o|--output)(=|$)/.test(arg) && args[i - 1] !== '-o' && args[i - 1] !== '--output',
  );
  return [...kept, '-o', 'json'];
}

function knownCode(code: string | undefined): ErrorCode {
  return ERROR_CODES.find((each) => each === code) ?? 'internal';
}
