import { COREDNS_IMAGE } from './images.ts';
import { network } from './place.ts';

const namespace = 'kube-system';
const labels = { 'k8s-app': 'kube-dns' };

/** Kubeadm's, but nothing is forwarded. Tests change it at will: a change counts within seconds. */
const COREFILE = `.:53 {
    errors
    health {
        lameduck 0s
    }
    ready
    kubernetes ${network.domain} in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }
    file /etc/coredns/root.zone .
    cache 5
    reload 2s
}
`;

/** The world outside the cluster has no names: an answer at once, not a timeout. */
const ROOT_ZONE = `. 30 IN SOA nowhere. nobody. 1 3600 600 86400 30
. 30 IN NS nowhere.
`;

/** The cluster's DNS as kubeadm sets it up, but for its size: each object with the collection it is created in. */
export const corednsObjects: { path: string; object: object }[] = [
  {
    path: `/api/v1/namespaces/${namespace}/serviceaccounts`,
    object: { metadata: { name: 'coredns' } },
  },
  {
    path: '/apis/rbac.authorization.k8s.io/v1/clusterroles',
    object: {
      metadata: { name: 'system:coredns' },
      rules: [
        { apiGroups: [''], resources: ['endpoints', 'services', 'pods', 'namespaces'], verbs: ['list', 'watch'] },
        { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
      ],
    },
  },
  {
    path: '/apis/rbac.authorization.k8s.io/v1/clusterrolebindings',
    object: {
      metadata: { name: 'system:coredns' },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'system:coredns' },
      subjects: [{ kind: 'ServiceAccount', name: 'coredns', namespace }],
    },
  },
  {
    path: `/api/v1/namespaces/${namespace}/configmaps`,
    object: { metadata: { name: 'coredns' }, data: { Corefile: COREFILE, 'root.zone': ROOT_ZONE } },
  },
  {
    path: `/apis/apps/v1/namespaces/${namespace}/deployments`,
    object: {
      metadata: { name: 'coredns', labels },
      spec: {
        selector: { matchLabels: labels },
        template: {
          metadata: { labels },
          spec: {
            serviceAccountName: 'coredns',
            priorityClassName: 'system-cluster-critical',
            dnsPolicy: 'Default',
            terminationGracePeriodSeconds: 1,
            volumes: [{ name: 'config', configMap: { name: 'coredns' } }],
            containers: [
              {
                name: 'coredns',
                image: COREDNS_IMAGE,
                args: ['-conf', '/etc/coredns/Corefile'],
                volumeMounts: [{ name: 'config', mountPath: '/etc/coredns', readOnly: true }],
                readinessProbe: { httpGet: { path: '/ready', port: 8181 }, periodSeconds: 1 },
              },
            ],
          },
        },
      },
    },
  },
  {
    path: `/api/v1/namespaces/${namespace}/services`,
    object: {
      metadata: { name: 'kube-dns', labels: { ...labels, 'kubernetes.io/name': 'CoreDNS' } },
      spec: {
        clusterIP: network.dns,
        selector: labels,
        ports: [
          { name: 'dns', port: 53, protocol: 'UDP' },
          { name: 'dns-tcp', port: 53, protocol: 'TCP' },
        ],
      },
    },
  },
];
