import path from 'node:path';
import { settingsFile } from './credentials.ts';
import { PAUSE_IMAGE } from './images.ts';
import { inside } from './node.ts';
import { cgroup, network, writePrivate } from './place.ts';

/*
 * What runs on the node, with its settings. Limits on requests per second, which protect large clusters, are lifted, so
 * that pods start and stop fast.
 */

const settings = (name: string) => path.join(inside.settings, name);
const pki = (name: string) => path.join(inside.pki, name);
const flags = (values: Record<string, string | number | boolean>) =>
  Object.entries(values).map(([name, value]) => `--${name}=${value}`);

const etcdUrl = 'http://127.0.0.1:2379';
const etcdPeerUrl = 'http://127.0.0.1:2380';
const queries = { 'kube-api-qps': 500, 'kube-api-burst': 1000 };

/** The command of each piece, by its name, in the node. */
export const pieces: Record<string, string[]> = {
  containerd: ['containerd', '--config', settings('containerd.toml')],

  etcd: kube('etcd', {
    'data-dir': '/var/lib/etcd',
    'listen-client-urls': etcdUrl,
    'advertise-client-urls': etcdUrl,
    'listen-peer-urls': etcdPeerUrl,
    'unsafe-no-fsync': true, // the data ends with the cluster
    'log-level': 'warn',
  }),

  'kube-apiserver': kube('kube-apiserver', {
    'etcd-servers': etcdUrl,
    'secure-port': 6443,
    'advertise-address': network.node,
    'tls-cert-file': pki('apiserver.crt'),
    'tls-private-key-file': pki('apiserver.key'),
    'client-ca-file': pki('ca.crt'),
    'service-account-key-file': pki('sa.key'),
    'service-account-signing-key-file': pki('sa.key'),
    'service-account-issuer': `https://kubernetes.default.svc.${network.domain}`,
    'service-cluster-ip-range': network.services,
    'authorization-mode': 'Node,RBAC',
    'enable-admission-plugins': 'NodeRestriction',
    'allow-privileged': true,
    'kubelet-client-certificate': pki('apiserver-kubelet.crt'),
    'kubelet-client-key': pki('apiserver-kubelet.key'),
    'kubelet-certificate-authority': pki('ca.crt'),
    'kubelet-preferred-address-types': 'InternalIP',
  }),

  'kube-controller-manager': kube('kube-controller-manager', {
    kubeconfig: settings('controller-manager.kubeconfig'),
    'service-account-private-key-file': pki('sa.key'),
    'root-ca-file': pki('ca.crt'),
    'use-service-account-credentials': true,
    'cluster-signing-cert-file': pki('ca.crt'),
    'cluster-signing-key-file': pki('ca.key'),
    'leader-elect': false,
    ...queries,
  }),

  'kube-scheduler': kube('kube-scheduler', {
    kubeconfig: settings('scheduler.kubeconfig'),
    'leader-elect': false,
    ...queries,
  }),

  kubelet: kube('kubelet', {
    config: settings('kubelet.json'),
    kubeconfig: settings('kubelet.kubeconfig'),
    'hostname-override': 'node1',
    'node-ip': network.node,
  }),

  'kube-proxy': kube('kube-proxy', { config: settings('proxy.json'), 'hostname-override': 'node1' }),
};

function kube(piece: string, values: Record<string, string | number | boolean>): string[] {
  return [inside.kube, piece, ...flags(values)];
}

/** Writes the files that the pieces read. */
export function writeSettings(): void {
  writePrivate(settingsFile('containerd.toml'), CONTAINERD);
  const files = { 'kubelet.json': KUBELET, 'proxy.json': PROXY, 'cni/10-lpk.conflist': CNI };
  for (const [name, content] of Object.entries(files))
    writePrivate(settingsFile(name), JSON.stringify(content, null, 2));
}

const CONTAINERD = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "${PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE runc can't lower a score.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "${settings('cni')}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
`;

/** Each pod has its own link: between ports of one bridge, replies would get round the Services' translation. */
const CNI = {
  cniVersion: '0.4.0',
  name: 'lpk',
  plugins: [
    {
      type: 'ptp',
      ipam: { type: 'host-local', ranges: [[{ subnet: network.nodePods }]], routes: [{ dst: '0.0.0.0/0' }] },
    },
    { type: 'portmap', capabilities: { portMappings: true } },
  ],
};

const KUBELET = {
  apiVersion: 'kubelet.config.k8s.io/v1beta1',
  kind: 'KubeletConfiguration',
  authentication: { anonymous: { enabled: false }, webhook: { enabled: true }, x509: { clientCAFile: pki('ca.crt') } },
  authorization: { mode: 'Webhook' },
  tlsCertFile: pki('kubelet.crt'),
  tlsPrivateKeyFile: pki('kubelet.key'),
  clusterDNS: [network.dns],
  clusterDomain: network.domain,
  resolvConf: '', // the host's nameserver can't be reached from pods
  containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
  volumePluginDir: '/var/lib/kubelet/volume-plugins',
  cgroupDriver: 'cgroupfs',
  cgroupRoot: `/${cgroup}`,
  failCgroupV1: false,
  failSwapOn: false,
  enforceNodeAllocatable: ['pods'],
  oomScoreAdj: 0, // lowering it needs CAP_SYS_RESOURCE
  makeIPTablesUtilChains: false,
  evictionHard: { 'memory.available': '100Mi', 'nodefs.available': '50Mi', 'imagefs.available': '50Mi' },
  imageGCHighThresholdPercent: 100, // a removed image couldn't be pulled again
  serializeImagePulls: false,
  configMapAndSecretChangeDetectionStrategy: 'Watch',
  syncFrequency: '1s', // how soon a pod's files follow their ConfigMap
  kubeAPIQPS: 500,
  kubeAPIBurst: 1000,
  eventRecordQPS: 0,
};

const PROXY = {
  apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
  kind: 'KubeProxyConfiguration',
  clientConnection: { kubeconfig: settings('proxy.kubeconfig') },
  mode: 'nftables',
  clusterCIDR: network.pods,
  nftables: { minSyncPeriod: '100ms' },
  conntrack: { maxPerCore: 0 }, // the limit is the host's
  oomScoreAdj: 0,
};
