import { dirname, resolve } from 'node:path';
import { LpkError } from '../agent/wire/errors.ts';
import { canAsk, openAsk } from './ask.ts';
import { BRIDGE_FILE, bridgeDifferences, readBridgeConfig } from './bridge-config.ts';
import { envWords } from './env-tokens.ts';
import { readInitOptions } from './init-options.ts';
import type { Output } from './output.ts';
import { chooseProfile, findProfiles, PROFILE_FILE, type Profile, type ProfileFile } from './profile.ts';
import { type Line, mergeLines, profileLine } from './profile-words.ts';
import { readText } from './verb.ts';

/** The whole of what `lpk connect` is to do; `folder`: where its command runs, when it is not the working folder. */
export type WholeLine = Line & { folder?: string };

/**
 * Completes the line of `lpk connect`: without a target by a profile of lpk.yaml, and where there is none by asking; beside a
 * target by the working folder's KubernetesLocalProcessConfig.yaml. Without any of them, the line as it is. LpkError `usage`,
 * `profile-invalid`, `cancelled`.
 */
export async function completeLine(line: Line, output: Output): Promise<WholeLine> {
  const asked = readText(line.words, 'profile');
  if (readText(line.words, 'target') !== undefined && asked === undefined) return withBridge(line, output);
  const file = findProfiles(process.cwd());
  if (!file && asked !== undefined) {
    throw new LpkError('usage', `there is no ${PROFILE_FILE} in this folder or above it; \`lpk init\` writes one`);
  }
  if (file) return withProfile(line, file, await nameOf(file, asked, output), output);
  if (!canAsk(output)) return line;
  return await withAnswers(line, output);
}

async function nameOf(file: ProfileFile, asked: string | undefined, output: Output): Promise<string> {
  const name = chooseProfile(file, asked);
  if (name !== undefined) return name;
  const names = Object.keys(file.profiles);
  if (!canAsk(output)) {
    throw new LpkError('usage', `${file.path} has several profiles: ${names.join(', ')}; name one with --profile`);
  }
  const options = names.map((value) => ({ value, hint: file.profiles[value]?.target as string }));
  return await (await openAsk()).choose('Profile', options);
}

function withProfile(line: Line, file: ProfileFile, name: string, output: Output): WholeLine {
  output.say(`profile ${name} of ${file.path}`, 'profile', { path: file.path, profile: name });
  const merged = mergeLines(line, profileLine(file.profiles[name] as Profile, file.path));
  if (line.command || !merged.command) return merged;
  return { ...merged, folder: dirname(file.path) };
}

async function withAnswers(line: Line, output: Output): Promise<Line> {
  const ask = await openAsk();
  const [{ questions }, { askName }, { saveProfile }] = await Promise.all([
    import('./init-verb.ts'),
    import('./init.ts'),
    import('./profile-write.ts'),
  ]);
  const options = readInitOptions(line.words, line.command);
  const profile = await questions(options, ask, output);
  const path = resolve(PROFILE_FILE);
  if (await ask.confirm(`Save this in ${PROFILE_FILE}, for \`lpk connect\`?`, true)) {
    const name = await askName(ask, profile);
    await saveProfile(path, name, profile);
    output.say(`profile ${name} is in ${path}`, 'saved', { path, profile: name });
  }
  return mergeLines(line, profileLine(profile, path));
}

function withBridge(line: Line, output: Output): Line {
  const config = readBridgeConfig(process.cwd());
  if (!config) return line;
  const { env, names, routes } = envWords(config.env);
  output.say(`${BRIDGE_FILE}: ${config.env.map(([name]) => name).join(', ') || 'no variables'}`, 'bridge-config');
  for (const difference of bridgeDifferences(config)) output.warn(difference);
  const below = { env, 'dns-include': names, route: routes };
  return mergeLines(line, { words: below, command: undefined });
}
