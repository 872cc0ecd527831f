import v8 from 'node:v8';
import { expectCapture, runCommand } from './command.ts';
import { assertCommand } from './launch.ts';
import { untilLeaving } from './leave.ts';
import type { Output } from './output.ts';
import type { RunOptions } from './run-options.ts';
import { Undo } from './undo.ts';
import { findWay } from './way.ts';

/** `lpk run`, whole. Returns the command's exit code; throws LpkError after everything was put back. */
export async function run(options: RunOptions, output: Output): Promise<number> {
  v8.setFlagsFromString('--semi-space-growth-factor=1'); // as in connect.ts
  const undo = new Undo((failure, remedy) =>
    output.warn(remedy ? `${failure}; run: ${remedy}` : failure, 'undo-failed'),
  );
  return untilLeaving(
    {
      undo,
      say: (line) => output.say(line),
      crashed: (error) => output.fail(error),
      remedy: () => 'lpk restore --all',
    },
    async (leave) => {
      output.sayLog();
      assertCommand(options.command.program);
      expectCapture(options.capture);
      const way = await findWay(options, undo, output);
      const { command, capture, routes, noRoutes } = options;
      return await runCommand(command, { way, capture, routes, noRoutes, pod: {}, leave, undo, output });
    },
  );
}
