import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Output } from './output.ts';
import type { Profile } from './profile.ts';
import { replaceFile } from './profile-write.ts';
import { debugging } from './vscode-debug.ts';
import { connectTasks, launchConfiguration, leaveInput, withEntries } from './vscode-files.ts';
import { joinWords, splitWords } from './words.ts';

/**
 * Adds to `folder`/.vscode the tasks that connect and leave, and for a command that lpk can debug the configuration with which F5
 * does both. LpkError `profile-invalid` before anything is written when a file there is not what VS Code reads.
 */
export async function addToVsCode(
  folder: string,
  { name, profile }: { name: string; profile: Profile },
  output: Pick<Output, 'say'>,
): Promise<void> {
  const command = typeof profile.command === 'string' ? splitWords(profile.command) : profile.command;
  const debug = command && debugging(command);
  const made: [string, string][] = [];
  const add = (file: string, version: string, lists: Parameters<typeof withEntries>[3]) => {
    const path = join(folder, '.vscode', file);
    const text = existsSync(path) ? readFileSync(path, 'utf8') : undefined;
    made.push([path, withEntries(path, text, version, lists)]);
  };
  add('tasks.json', '2.0.0', [
    { name: 'tasks', by: 'label', entries: connectTasks(name, command, debug) },
    { name: 'inputs', by: 'id', entries: [leaveInput(name)] },
  ]);
  if (debug) {
    add('launch.json', '0.2.0', [{ name: 'configurations', by: 'name', entries: [launchConfiguration(name, debug)] }]);
  }
  mkdirSync(join(folder, '.vscode'), { recursive: true });
  for (const [path, text] of made) await replaceFile(path, text);
  if (debug) output.say(`VS Code: F5 with "lpk: ${name}" connects, debugs, and puts everything back when it stops`);
  else {
    const what = command ? `how to debug ${joinWords(command)}` : 'what to debug';
    output.say(`VS Code: the task "lpk: ${name}" connects; lpk does not know ${what}, so launch.json is left as it is`);
  }
}
