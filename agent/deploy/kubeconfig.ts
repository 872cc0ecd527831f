import { readFile } from 'node:fs/promises';
import type { Agent } from 'node:http';
import { homedir } from 'node:os';
import path from 'node:path';
import type { Cluster as ClusterEntry, Context, User } from '@kubernetes/client-node/dist/config_types.js';
import { newClusters, newContexts, newUsers } from '@kubernetes/client-node/dist/config_types.js';
import { ExecAuth } from '@kubernetes/client-node/dist/exec_auth.js';
import { FileAuth } from '@kubernetes/client-node/dist/file_auth.js';
import { load as parseYaml } from 'js-yaml';
import { LpkError, systemCode } from '../wire/errors.ts';
import { oneLine } from './status.ts';

/**
 * The kubeconfig: which cluster, as whom. Parsing and credentials are `@kubernetes/client-node`'s own modules, imported one
 * by one: the package as a whole brings its generated API classes with it, which cost 0.8 s and 85 MiB at every start.
 * Only what needs the whole `KubeConfig` class (a `proxy-url`, the oidc, gcp and azure providers) loads it, on first use.
 *
 * Two things differ from the class, both as in kubectl: in a `KUBECONFIG` list the first file to set a value wins and
 * absent files are passed over, and a credential plugin is told the cluster (`KUBERNETES_EXEC_INFO`).
 */

/** Options of `https.request` (and `ws`) that make a connection to the API server and say who we are. */
export type Credentials = {
  headers: Record<string, string | string[]>;
  ca?: Buffer;
  cert?: Buffer | string;
  key?: Buffer | string;
  rejectUnauthorized?: boolean;
  servername?: string;
  /** Only with a `proxy-url`. */
  agent?: Agent;
};

export type Login = {
  context: string;
  /** As in the kubeconfig: scheme, host, and a path where a gateway (Rancher, Teleport) has one. */
  server: string;
  namespace: string;
  /** The kubeconfig's name of the user; what the API server makes of it is its business. */
  user: string;
  /**
   * Fresh credentials; runs the credential plugin when its last answer has expired, or `anew` (after a 401).
   * LpkError: `kubeconfig-invalid` (a file or plugin is missing), `unauthorized` (the plugin failed).
   */
  credentials(anew?: boolean): Promise<Credentials>;
};

export type LoginOptions = { kubeconfig?: string; context?: string; namespace?: string };

type Files = { clusters: ClusterEntry[]; users: User[]; contexts: Context[]; current: string; origin: string };

/** Reads the kubeconfig and picks a context. LpkError `kubeconfig-invalid` names the file and what is wrong with it. */
export async function readLogin({ kubeconfig, context: wanted, namespace }: LoginOptions): Promise<Login> {
  const files = await readFiles(kubeconfig);
  const invalid = (what: string) => new LpkError('kubeconfig-invalid', `kubeconfig ${files.origin}: ${what}`);
  const name = wanted || files.current;
  if (!name) throw invalid(`no current context is set${listed('it has', files.contexts)}`);
  const context = files.contexts.find((entry) => entry.name === name);
  if (!context) throw invalid(`there is no context "${name}"${listed('it has', files.contexts)}`);
  const cluster = files.clusters.find((entry) => entry.name === context.cluster);
  if (!cluster) throw invalid(`context "${name}" names the cluster "${context.cluster}", which is not there`);
  const user = files.users.find((entry) => entry.name === context.user) ?? ({ name: context.user ?? '' } as User);
  if (context.user && !files.users.includes(user)) {
    throw invalid(`context "${name}" names the user "${context.user}", which is not there`);
  }
  if (!URL.canParse(cluster.server) || !/^https?:$/.test(new URL(cluster.server).protocol)) {
    throw invalid(`the server of cluster "${cluster.name}" is no http(s) address: ${cluster.server}`);
  }
  return {
    context: name,
    server: cluster.server,
    namespace: namespace || context.namespace || 'default',
    user: user.name,
    credentials: credentialsOf(files, cluster, user, name),
  };
}

/** What contexts there are, to choose from; `current` is '' when none is set. LpkError `kubeconfig-invalid`. */
export async function listContexts(
  kubeconfig?: string,
): Promise<{ current: string; contexts: { name: string; cluster: string; namespace: string }[] }> {
  const { current, contexts } = await readFiles(kubeconfig);
  const of = ({ name, cluster, namespace }: Context) => ({ name, cluster, namespace: namespace || 'default' });
  return { current, contexts: contexts.map(of) };
}

function listed(verb: string, entries: { name: string }[]): string {
  if (entries.length === 0) return '';
  const names = entries.slice(0, 5).map((entry) => entry.name);
  return ` (${verb}: ${names.join(', ')}${entries.length > 5 ? ', …' : ''})`;
}

async function readFiles(kubeconfig: string | undefined): Promise<Files> {
  const fromEnvironment = (process.env.KUBECONFIG ?? '').split(path.delimiter).filter(Boolean);
  const fallback = fromEnvironment.length > 0 ? fromEnvironment : [path.join(homedir(), '.kube', 'config')];
  const candidates = kubeconfig ? [kubeconfig] : fallback;
  const all: Files = { clusters: [], users: [], contexts: [], current: '', origin: candidates.join(path.delimiter) };
  let found = 0;
  for (const file of candidates) {
    const read = await readOne(file);
    if (!read) continue;
    found += 1;
    all.current ||= read.current;
    for (const list of ['clusters', 'users', 'contexts'] as const) {
      const into = all[list] as { name: string }[];
      into.push(...read[list].filter((entry) => !into.some((earlier) => earlier.name === entry.name)));
    }
  }
  if (found === 0) {
    const other = kubeconfig || fromEnvironment.length > 0 ? '' : ' and KUBECONFIG is not set';
    throw new LpkError('kubeconfig-invalid', `there is no kubeconfig at ${all.origin}${other}`);
  }
  return all;
}

/** One file, its relative paths made absolute; undefined when it does not exist. */
async function readOne(file: string): Promise<Files | undefined> {
  const invalid = (what: string, cause?: unknown) =>
    new LpkError('kubeconfig-invalid', `kubeconfig ${file} ${what}`, { cause });
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw invalid(`can't be read: ${oneLine(error)}`, error);
  }
  let raw: Record<string, unknown>;
  try {
    raw = parseYaml(text) as Record<string, unknown>;
  } catch (error) {
    throw invalid(`is not valid YAML: ${oneLine(error)}`, error);
  }
  if (!raw || typeof raw !== 'object' || Array.isArray(raw)) throw invalid('is not a kubeconfig: it has no fields');
  const absolute = <T extends string | undefined>(to: T) => (to ? path.resolve(path.dirname(file), to) : to);
  try {
    const clusters = newClusters(raw.clusters).map((entry) => ({ ...entry, caFile: absolute(entry.caFile) }));
    const users = newUsers(raw.users).map((entry, i) => {
      const given = (raw.users as { user?: Record<string, unknown> }[])[i]?.user ?? {};
      return {
        ...entry,
        certFile: absolute(entry.certFile),
        keyFile: absolute(entry.keyFile),
        exec: entry.exec && { ...entry.exec, command: pluginPath(entry.exec.command, absolute) },
        // `client-node` does not read these two fields of the kubeconfig (v1 `AuthInfo`).
        authProvider:
          entry.authProvider ??
          (given.tokenFile
            ? { name: 'tokenFile', config: { tokenFile: absolute(String(given.tokenFile)) } }
            : undefined),
        impersonateGroups: given['as-groups'],
      };
    });
    const contexts = newContexts(raw.contexts);
    return { clusters, users, contexts, current: String(raw['current-context'] ?? ''), origin: file };
  } catch (error) {
    throw invalid(`is not usable: ${oneLine(error)}`, error);
  }
}

/** A plugin given by a relative path (not a bare name) is beside the kubeconfig. */
function pluginPath(command: unknown, absolute: (to: string) => string): unknown {
  return typeof command === 'string' && /[\\/]/.test(command) ? absolute(command) : command;
}

function credentialsOf(files: Files, cluster: ClusterEntry, user: User, context: string): Login['credentials'] {
  const exec = user.exec ? withClusterInfo(user, cluster) : undefined;
  const needsAll = cluster.proxyUrl || (user.authProvider && !user.authProvider.config?.tokenFile);
  const make = exec || !needsAll ? () => directly(cluster, exec ?? user) : () => byKubeConfig(files, context);
  let login = make();
  let running: Promise<Credentials> | undefined;
  return (anew = false) => {
    if (anew) {
      login = make();
      running = undefined;
    }
    running ??= login()
      .catch((error: unknown) => Promise.reject(credentialError(error, files, user)))
      .finally(() => {
        running = undefined;
      });
    return running;
  };
}

/** client certificates, tokens, token files, basic auth and credential plugins. */
function directly(cluster: ClusterEntry, user: User): () => Promise<Credentials> {
  const plugin = new ExecAuth();
  const tokenFile = new FileAuth();
  const fileOrData = async (file: string | undefined, data: string | undefined) =>
    file ? await readFile(file) : data ? Buffer.from(data, 'base64') : undefined;
  return async () => {
    const made: Credentials = { headers: {} };
    const ca = await fileOrData(cluster.caFile, cluster.caData);
    const cert = await fileOrData(user.certFile, user.certData);
    const key = await fileOrData(user.keyFile, user.keyData);
    if (ca) made.ca = ca;
    if (cert) made.cert = cert;
    if (key) made.key = key;
    if (cluster.skipTLSVerify) made.rejectUnauthorized = false;
    if (cluster.tlsServerName) made.servername = cluster.tlsServerName;
    if (user.exec) await plugin.applyAuthentication(user, made);
    else if (user.authProvider) await tokenFile.applyAuthentication(user, made);
    if (user.token) made.headers.Authorization = `Bearer ${user.token}`;
    else if (user.username) {
      const pair = Buffer.from(`${user.username}:${user.password ?? ''}`).toString('base64');
      made.headers.Authorization = `Basic ${pair}`;
    }
    if (user.impersonateUser) made.headers['Impersonate-User'] = user.impersonateUser;
    const groups = (user as { impersonateGroups?: unknown }).impersonateGroups;
    if (Array.isArray(groups)) made.headers['Impersonate-Group'] = groups.map(String);
    for (const [name, value] of Object.entries(made.headers)) {
      if (typeof value === 'string') made.headers[name] = value.trim();
    }
    return made;
  };
}

/** What only the whole class can do. */
function byKubeConfig(files: Files, context: string): () => Promise<Credentials> {
  let whole: Promise<{ applyToHTTPSOptions(options: object): Promise<void> }> | undefined;
  const load = async () => {
    const { KubeConfig } = await import('@kubernetes/client-node/dist/config.js');
    const config = new KubeConfig();
    const { clusters, users, contexts } = files;
    config.loadFromOptions({ clusters, users, contexts, currentContext: context });
    return config;
  };
  return async () => {
    whole ??= load();
    const { headers, auth, ...made } = await applied(await whole);
    if (auth) headers.Authorization = `Basic ${Buffer.from(auth).toString('base64')}`;
    return { ...made, headers };
  };
}

async function applied(config: { applyToHTTPSOptions(options: object): Promise<void> }) {
  const options = { headers: {} } as Credentials & { auth?: string };
  await config.applyToHTTPSOptions(options);
  return options;
}

/** client-go always tells a credential plugin which API version it speaks; some plugins refuse to run without. */
function withClusterInfo(user: User, cluster: ClusterEntry): User {
  const exec = user.exec as {
    apiVersion?: string;
    env?: { name: string; value: string }[];
    provideClusterInfo?: boolean;
  };
  const info = {
    apiVersion: exec.apiVersion,
    kind: 'ExecCredential',
    spec: {
      interactive: false,
      ...(exec.provideClusterInfo
        ? { cluster: { server: cluster.server, 'certificate-authority-data': cluster.caData } }
        : {}),
    },
  };
  const env = [{ name: 'KUBERNETES_EXEC_INFO', value: JSON.stringify(info) }, ...(exec.env ?? [])];
  return { ...user, exec: { ...exec, env } };
}

function credentialError(error: unknown, files: Files, user: User): LpkError {
  if (error instanceof LpkError) return error;
  const command = (user.exec as { command?: string } | undefined)?.command;
  const missing = systemCode(error) === 'ENOENT';
  if (command && missing) {
    const message = `kubeconfig ${files.origin}: the credential plugin "${command}" of user "${user.name}" is not installed`;
    return new LpkError('kubeconfig-invalid', message, { cause: error });
  }
  if (command) {
    const message = `the credential plugin "${command}" of user "${user.name}" failed: ${oneLine(error)}`;
    return new LpkError('unauthorized', message, { cause: error });
  }
  const message = `kubeconfig ${files.origin}: the credentials of user "${user.name}" can't be used: ${oneLine(error)}`;
  return new LpkError('kubeconfig-invalid', message, { cause: error });
}
