import fs from 'node:fs';
import path from 'node:path';
import { network, pki, state, writePrivate } from './place.ts';
import { run } from './run.ts';

/** A certificate and its key, as files. */
export type Credentials = { cert: string; key: string };

// ECDSA keys take milliseconds to make.
const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '3650'];

const SETTINGS = `[req]
distinguished_name = name
prompt = no
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign, digitalSignature
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
authorityKeyIdentifier = keyid
`;

const inPki = (file: string) => path.join(pki, file);
const settings = inPki('openssl.cnf');

/** Makes the cluster's CA, the API server's certificates, and a kubeconfig for the admin and for each component. */
export async function makeCredentials(): Promise<void> {
  writePrivate(settings, SETTINGS);
  const ca = ['-subj', '/CN=lpk-cluster', '-keyout', inPki('ca.key'), '-out', inPki('ca.crt'), '-extensions', 'ca'];
  const hint = `look at ${settings}`;
  await Promise.all([
    run('openssl', ['req', '-x509', '-config', settings, ...KEY, ...ca], { hint }),
    run('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', inPki('sa.key')], { hint }),
  ]);
  const inCluster = ['kubernetes', 'kubernetes.default', 'kubernetes.default.svc'];
  const apiNames = [...inCluster, `kubernetes.default.svc.${network.domain}`, 'localhost'].map((name) => `DNS:${name}`);
  const apiAddresses = [network.node, network.apiService, '127.0.0.1'].map((address) => `IP:${address}`);
  const user = async (file: string, name: string, groups: string[]) =>
    writeKubeconfig(file, name, await sign(path.basename(file, '.kubeconfig'), name, groups));
  const component = (name: string) => user(settingsFile(`${name}.kubeconfig`), `system:kube-${name}`, []);
  await Promise.all([
    sign('apiserver', 'kube-apiserver', [], [...apiNames, ...apiAddresses]),
    sign('apiserver-kubelet', 'kube-apiserver', ['system:masters']),
    sign('kubelet', 'system:node:node1', ['system:nodes'], [`IP:${network.node}`, 'DNS:node1']).then((kubelet) =>
      writeKubeconfig(settingsFile('kubelet.kubeconfig'), 'kubelet', kubelet),
    ),
    component('controller-manager'),
    component('scheduler'),
    component('proxy'),
    user(path.join(state, 'kubeconfig'), 'admin', ['system:masters']),
  ]);
}

/** Where a component's settings are. */
export function settingsFile(name: string): string {
  return path.join(state, 'settings', name);
}

/** A certificate of the cluster's CA: Kubernetes reads the user's name and groups from its subject. */
export async function sign(
  file: string,
  name: string,
  groups: string[],
  alternativeNames: string[] = [],
): Promise<Credentials> {
  const credentials = { cert: inPki(`${file}.crt`), key: inPki(`${file}.key`) };
  const escaped = (value: string) => value.replace(/[/+=\\]/g, '\\$&');
  const subject = `/${[...groups.map((group) => `O=${escaped(group)}`), `CN=${escaped(name)}`].join('/')}`;
  const signer = ['-CA', inPki('ca.crt'), '-CAkey', inPki('ca.key'), '-extensions', 'leaf'];
  const names = alternativeNames.length > 0 ? ['-addext', `subjectAltName=${alternativeNames.join(',')}`] : [];
  const out = ['-subj', subject, '-keyout', credentials.key, '-out', credentials.cert];
  await run('openssl', ['req', '-x509', '-config', settings, ...KEY, ...signer, ...names, ...out]);
  return credentials;
}

/** Writes a kubeconfig that needs no other file. */
export function writeKubeconfig(file: string, user: string, { cert, key }: Credentials): void {
  const data = (source: string) => fs.readFileSync(source).toString('base64');
  const cluster = { server: `https://${network.node}:6443`, 'certificate-authority-data': data(inPki('ca.crt')) };
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'lpk-cluster', cluster }],
    users: [{ name: user, user: { 'client-certificate-data': data(cert), 'client-key-data': data(key) } }],
    contexts: [{ name: 'lpk-cluster', context: { cluster: 'lpk-cluster', user } }],
    'current-context': 'lpk-cluster',
  };
  writePrivate(file, `${JSON.stringify(config, null, 2)}\n`); // YAML, too
}
