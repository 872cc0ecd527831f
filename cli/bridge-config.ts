import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { LineCounter, parseDocument } from 'yaml';
import { LpkError } from '../agent/wire/errors.ts';
import { tokenFault } from './env-tokens.ts';
import { faultsOf, type Schema } from './yaml-schema.ts';

export const BRIDGE_FILE = 'KubernetesLocalProcessConfig.yaml';
const MAX_BYTES = 1024 * 1024;

/** What a KubernetesLocalProcessConfig.yaml of Bridge to Kubernetes says. */
export type BridgeConfig = {
  path: string;
  /** Names and values, the tokens still in them (env-tokens.ts). */
  env: [string, string][];
  /** Where Bridge would have put volumes' files. */
  localPaths: { name: string; localPath: string }[];
  enableFeatures: string[];
};

const text: Schema = { type: 'string', minLength: 1 };
const SCHEMA: Schema = {
  type: 'object',
  required: ['version'],
  properties: {
    version: { type: ['number', 'string'] },
    env: {
      type: ['array', 'null'],
      items: {
        type: 'object',
        required: ['name', 'value'],
        properties: { name: text, value: { type: ['string', 'number', 'integer', 'boolean', 'null'] } },
      },
    },
    volumeMounts: {
      type: ['array', 'null'],
      items: {
        type: 'object',
        required: ['name'],
        properties: { name: text, localPath: { type: ['string', 'null'] } },
      },
    },
    enableFeatures: { type: ['array', 'null'], items: text },
  },
  additionalProperties: false,
};

/** Features of Bridge's whose work is done here without being asked for: the agent answers the pod's probes. */
const NEEDLESS = ['Probes'];

/** The folder's KubernetesLocalProcessConfig.yaml. LpkError `profile-invalid`: its first fault, with line and column. */
export function readBridgeConfig(folder: string): BridgeConfig | undefined {
  const path = join(folder, BRIDGE_FILE);
  if (!existsSync(path)) return undefined;
  const bytes = readFileSync(path);
  if (bytes.length > MAX_BYTES) throw new LpkError('profile-invalid', `${path} has more than ${MAX_BYTES} bytes`);
  return parseBridgeConfig(path, bytes.toString('utf8'));
}

/** LpkError `profile-invalid`. */
export function parseBridgeConfig(path: string, content: string): BridgeConfig {
  const lines = new LineCounter();
  // Bridge's own reader let a key stand twice, and the last one counted.
  const document = parseDocument(content, { lineCounter: lines, version: '1.2', uniqueKeys: false });
  const invalid = (line: number, column: number, message: string) =>
    new LpkError('profile-invalid', `${path}:${line}:${column}: ${message}`);
  const [fault] = faultsOf(document, lines, SCHEMA);
  if (fault) throw invalid(fault.line, fault.column, fault.message);
  const read = document.toJS({ maxAliasCount: -1 }) as {
    version: number | string;
    env?: { name: string; value: string | number | boolean | null }[] | null;
    volumeMounts?: { name: string; localPath?: string | null }[] | null;
    enableFeatures?: string[] | null;
  };
  const failAt = (keys: (string | number)[], message: string) => {
    const node = document.getIn(keys, true) as { range?: [number, number, number] } | undefined;
    const { line, col } = lines.linePos(node?.range?.[0] ?? 0);
    return invalid(line, col, `${keys.join('.')}: ${message}`);
  };
  if (!/^0\.\d+$/.test(String(read.version))) {
    throw failAt(['version'], `unsupported version ${read.version}; Bridge to Kubernetes had 0.1`);
  }
  const env = (read.env ?? []).map(({ name, value }, i): [string, string] => {
    const given = String(value ?? '');
    const wrong = tokenFault(given) ?? (name.includes('=') ? 'a name has no =' : undefined);
    if (wrong) throw failAt(['env', i, 'value'], wrong);
    return [name, given];
  });
  const localPaths = (read.volumeMounts ?? []).flatMap(({ name, localPath }) =>
    localPath ? [{ name, localPath }] : [],
  );
  return { path, env, localPaths, enableFeatures: read.enableFeatures ?? [] };
}

/** What lpk does otherwise than Bridge did with this file, a line each. */
export function bridgeDifferences({ localPaths, enableFeatures }: BridgeConfig): string[] {
  const features = enableFeatures.filter((feature) => !NEEDLESS.includes(feature));
  return [
    ...features.map((feature) => `${BRIDGE_FILE}: enableFeatures: lpk has no ${feature}`),
    ...localPaths.map(
      ({ name, localPath }) => `${BRIDGE_FILE}: ${name} is not put at ${localPath}: it is where the pod has it`,
    ),
  ];
}
