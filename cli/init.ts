import { existsSync } from 'node:fs';
import { basename, isAbsolute, join, relative, resolve } from 'node:path';
import { isOurs } from '../agent/deploy/agent-container.ts';
import { findTarget, findWorkload, parseTarget, type TargetRef } from '../agent/deploy/find.ts';
import type { Cluster, Json } from '../agent/deploy/kube.ts';
import { listPath, readWorkload, WORKLOAD_KINDS } from '../agent/deploy/workload.ts';
import { LpkError } from '../agent/wire/errors.ts';
import type { Ask, Option } from './ask.ts';
import { type BridgeConfig, bridgeDifferences } from './bridge-config.ts';
import { parsePortMapping } from './connect-options.ts';
import type { InitOptions } from './init-options.ts';
import { findLaunchCommands } from './launch-commands.ts';
import type { Output } from './output.ts';
import { servedPorts } from './ports.ts';
import type { Profile } from './profile.ts';
import { joinWords, splitWords } from './words.ts';

/** What the questions are answered from. */
export type Setting = {
  folder: string;
  ask: Ask;
  output: Pick<Output, 'say' | 'warn'>;
  contexts: { current: string; contexts: { name: string; cluster: string; namespace: string }[] };
  open(where: { context: string; namespace?: string }): Promise<Cluster>;
  /** The folder's KubernetesLocalProcessConfig.yaml. */
  bridge: BridgeConfig | undefined;
};

const OTHER = '\0other';
const NONE = '\0none';

/** Asks for everything that the line does not name, and makes a profile of it. LpkError `cancelled`, and what requests throw. */
export async function askProfile(given: InitOptions, setting: Setting): Promise<Profile> {
  const { ask, output, folder, bridge } = setting;
  const context = given.context ?? (await askContext(setting));
  const named = setting.contexts.contexts.find(({ name }) => name === context);
  const anywhere = await setting.open({ context, ...(given.namespace ? { namespace: given.namespace } : {}) });
  let cluster = anywhere;
  try {
    const namespace = given.namespace ?? (await askNamespace(ask, anywhere, named?.namespace ?? 'default'));
    if (namespace !== anywhere.namespace) cluster = await setting.open({ context, namespace });
    const target = given.target ?? (await askTarget(ask, cluster));
    const ref = parseTarget(target);
    const container = given.container ?? (await askContainer(ask, cluster, ref));
    const found = await findTarget(cluster, ref, container === undefined ? {} : { container });
    const ports = given.ports.length > 0 ? given.ports : await askPorts(ask, servedPorts(found));
    const command = given.command ?? (await askCommand(ask, folder));
    const profile: Profile = { target, context, namespace };
    if (given.kubeconfig) profile.kubeconfig = fileFrom(folder, given.kubeconfig);
    if (container !== undefined) profile.container = container;
    if (ports.length > 0) profile.ports = ports;
    if (command) profile.command = command;
    if (bridge && bridge.env.length > 0) {
      profile.env = Object.fromEntries(bridge.env);
      output.say(`taken over from ${basename(bridge.path)}: ${Object.keys(profile.env).join(', ')}`);
    }
    if (bridge) for (const line of bridgeDifferences(bridge)) output.warn(line);
    return profile;
  } finally {
    anywhere.close();
    if (cluster !== anywhere) cluster.close();
  }
}

async function askContext({ ask, output, contexts: { current, contexts } }: Setting): Promise<string> {
  const [only, ...others] = contexts;
  if (only && others.length === 0) {
    output.say(`context ${only.name}, the only one`);
    return only.name;
  }
  const options = contexts.map(({ name, cluster }) => ({
    value: name,
    ...(cluster !== name ? { hint: cluster } : {}),
  }));
  return await ask.choose('Context', options, current || undefined);
}

async function askNamespace(ask: Ask, cluster: Cluster, initial: string): Promise<string> {
  const list = await allowed(cluster.request('GET', '/api/v1/namespaces'));
  const names = (list?.items ?? []).map(({ metadata }: Json) => metadata.name as string) as string[];
  if (names.length === 0) return await ask.text('Namespace', initial);
  return await ask.choose(
    'Namespace',
    names.map((value) => ({ value })),
    names.includes(initial) ? initial : names[0],
  );
}

async function askTarget(ask: Ask, cluster: Cluster): Promise<string> {
  const options: Option[] = [];
  const services = await allowed(cluster.request('GET', `/api/v1/namespaces/${cluster.namespace}/services`));
  for (const { metadata, spec } of theirs(services)) {
    if (spec.type === 'ExternalName' || Object.keys(spec.selector ?? {}).length === 0) continue;
    const ports = ((spec.ports ?? []) as Json[]).map(({ port }) => port).join(', ');
    options.push({ value: metadata.name, hint: `Service, ${ports ? `port ${ports}` : 'no port'}` });
  }
  for (const kind of WORKLOAD_KINDS) {
    const list = await allowed(cluster.request('GET', listPath(kind, cluster.namespace)));
    for (const { metadata } of theirs(list)) options.push({ value: `${kind}/${metadata.name}` });
  }
  if (options.length > 0) return await ask.choose('Service or workload', options);
  return await ask.text('Service or workload', '', (text) => faultOf(() => parseTarget(text)));
}

/** What is in a list, but for what lpk's own sessions have put there. */
function theirs(list: Json | undefined): Json[] {
  return ((list?.items ?? []) as Json[]).filter((each) => !isOurs(each));
}

/** Undefined: the pod has one only. */
async function askContainer(ask: Ask, cluster: Cluster, ref: TargetRef): Promise<string | undefined> {
  const workload = await readWorkload(cluster, await findWorkload(cluster, ref));
  const containers = workload.spec.template.spec.containers as Json[];
  if (containers.length < 2) return undefined;
  // The one that a Service leads to, when that is one only.
  const serving = await findTarget(cluster, ref).catch((error: unknown) => {
    if (!(error instanceof LpkError) || error.code !== 'ambiguous-container') throw error;
  });
  const options = containers.map(({ name, image }) => ({ value: name as string, hint: image as string }));
  return await ask.choose('Container', options, serving?.container);
}

/** Ports below 1024 need root on most systems: those get a number that has the same ending. */
export function proposedPort(port: number): number {
  return port < 1024 ? 8000 + port : port;
}

async function askPorts(ask: Ask, served: number[]): Promise<string[]> {
  const proposed = served.map((port) => (proposedPort(port) === port ? `${port}` : `${proposedPort(port)}:${port}`));
  const answer = await ask.text('Ports, LOCAL:CONTAINER', proposed.join(', '), (text) =>
    faultOf(() => portsOf(text).forEach(parsePortMapping)),
  );
  return portsOf(answer);
}

function portsOf(text: string): string[] {
  return text.split(/[\s,]+/).filter(Boolean);
}

/** Undefined: none, the person starts the program. */
async function askCommand(ask: Ask, folder: string): Promise<string[] | undefined> {
  const found = findLaunchCommands(folder);
  const options: Option[] = found.map(({ command, from }, i) => ({
    value: `${i}`,
    label: joinWords(command),
    hint: from,
  }));
  options.push({ value: OTHER, label: 'another command' }, { value: NONE, label: 'none', hint: 'I start it myself' });
  const choice = await ask.choose('Launch command', options, found.length > 0 ? '0' : NONE);
  if (choice === NONE) return undefined;
  if (choice !== OTHER) return found[Number(choice)]?.command;
  const fault = (text: string) => (splitWords(text)?.length ? undefined : 'a command, its quotes closed');
  return splitWords(await ask.text('Command', '', fault));
}

export function askName(ask: Ask, profile: Profile): Promise<string> {
  const initial = profile.target.split('/').at(-1) as string;
  return ask.text('Name of the profile', initial, (text) => (text.trim() === '' ? 'a name' : undefined));
}

/** Undefined when it may not be read. */
async function allowed(request: Promise<Json>): Promise<Json | undefined> {
  return await request.catch((error: unknown) => {
    if (!(error instanceof LpkError) || error.code !== 'forbidden') throw error;
  });
}

function faultOf(check: () => unknown): string | undefined {
  try {
    check();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** As lpk.yaml names a file: from its folder when it is within, so that the folder may move. */
function fileFrom(folder: string, file: string): string {
  const path = relative(folder, resolve(file));
  return path.startsWith('..') || isAbsolute(path) || !existsSync(join(folder, path)) ? resolve(file) : path;
}
