import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';

/**
 * `start-up.ts ROOT plain|captured`: prints how long it takes until a program has run that does nothing, ms. ROOT: lpk as it is
 * built for its package, as types cost time at each start. Once in a process: the second time is cheaper.
 */

const NOTHING = '/bin/true';

async function plain(): Promise<number> {
  const started = performance.now();
  await once(spawn(NOTHING, { stdio: 'inherit' }), 'exit');
  return performance.now() - started;
}

/** Loads capture as well, which lpk does only then. */
async function captured(root: string): Promise<number> {
  const started = performance.now();
  const { startCapture }: typeof import('../../proxy/capture/capture.ts') = await import(
    path.join(root, 'proxy/capture/capture.js')
  );
  const capture = await startCapture({
    dial: () => {
      throw new Error('it connects to nothing');
    },
    askDns: () => Promise.reject(new Error('it asks for nothing')),
    ranges: ['10.96.0.0/12'],
  });
  await once(capture.spawn(NOTHING, [], { env: process.env }), 'exit');
  const ms = performance.now() - started;
  await capture.close();
  return ms;
}

if (process.argv[1] === import.meta.filename) {
  const [, , root = '', way] = process.argv;
  await import(path.join(root, 'cli/command.js')); // what lpk has loaded before
  console.log(await (way === 'captured' ? captured(root) : plain()));
}
