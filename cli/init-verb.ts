import { join } from 'node:path';
import { listContexts } from '../agent/deploy/kubeconfig.ts';
import { type Ask, canAsk, openAsk, withoutAsking } from './ask.ts';
import { readBridgeConfig } from './bridge-config.ts';
import { openCluster } from './cluster.ts';
import { askName, askProfile } from './init.ts';
import type { InitOptions } from './init-options.ts';
import type { Output } from './output.ts';
import { chooseProfile, PROFILE_FILE, type Profile, readProfiles } from './profile.ts';
import { saveProfile } from './profile-write.ts';
import { addToVsCode } from './vscode.ts';

/** `lpk init`: asks, and writes lpk.yaml into the working folder. Without a terminal what the line leaves open is as proposed. */
export async function init(options: InitOptions, output: Output): Promise<number> {
  const folder = process.cwd();
  const path = join(folder, PROFILE_FILE);
  const here = readProfiles(folder); // a broken one is told before anything is asked
  const made =
    options.vscode && options.target === undefined && here ? chooseProfile(here, options.profile) : undefined;
  if (here && made !== undefined) {
    await addToVsCode(folder, { name: made, profile: here.profiles[made] as Profile }, output);
    return 0;
  }
  const ask = canAsk(output) ? await openAsk() : withoutAsking;
  const profile = await questions(options, ask, output);
  const name = options.profile ?? (await askName(ask, profile));
  const replaces = here !== undefined && Object.hasOwn(here.profiles, name);
  if (replaces && !options.profile && !(await ask.confirm(`Replace the profile ${name}?`, false))) {
    output.say('nothing was written');
    return 1;
  }
  await saveProfile(path, name, profile);
  const others = Object.keys(here?.profiles ?? {}).some((each) => each !== name);
  output.say(`profile ${name} is in ${path}`, 'saved', { path, profile: name });
  if (options.vscode) await addToVsCode(folder, { name, profile }, output);
  output.say(`next: lpk connect${others ? ` --profile ${name}` : ''}`);
  return 0;
}

/** The questions of `lpk init`, with the real kubeconfig and cluster. */
export async function questions(options: InitOptions, ask: Ask, output: Output): Promise<Profile> {
  const folder = process.cwd();
  const { kubeconfig } = options;
  return await askProfile(options, {
    folder,
    ask,
    output,
    contexts: await listContexts(kubeconfig),
    open: (where) => openCluster({ ...(kubeconfig ? { kubeconfig } : {}), ...where }, output),
    bridge: readBridgeConfig(folder),
  });
}
