import type { ErrorCode } from '../agent/wire/errors.ts';

/** What to do next, one line for each way lpk can fail; printed under the error. A code without one is a type error. */
export const HINTS: Record<ErrorCode, string> = {
  // a stream or flow
  refused: 'nothing listens on that port in the cluster; check the port and that the service has ready pods',
  unreachable: 'the pod has no route there; check the address and the NetworkPolicies of its namespace',
  'timed-out': 'no answer in time; check that it runs and that no NetworkPolicy drops the traffic',
  'not-allowed': 'the agent does not serve that; use a TCP or UDP port of the cluster or of the outside world',
  'name-not-found': 'the pod can not resolve that name; check its spelling and namespace (NAME.NAMESPACE)',
  'connection-reset': 'the other end closed the connection; see its logs',
  cancelled: 'nothing to do: it was stopped on request',
  'too-many-streams': 'close connections that are no longer used, or run fewer at once',
  'address-in-use': 'another process in the pod listens on that port; name another with -p LOCAL:CONTAINER',
  internal: '`lpk diagnose` writes a bundle without secrets; report it with what you did',
  // the link
  protocol: 'something between here and the agent changes the traffic; try --transport port-forward',
  'limit-exceeded': 'one side sent more than the protocol allows; report it with the bundle that `lpk diagnose` writes',
  'link-lost': 'check the network and the VPN, then connect again; `lpk restore` puts the workload back',
  'session-unknown': 'the agent was restarted or gave the session up; connect again',
  'version-mismatch': 'the pod runs the agent of another lpk; `lpk restore` the workload, then connect again',
  'key-mismatch': 'the pod belongs to another session; `lpk restore` the workload, then connect again',
  // the cluster
  'kubeconfig-invalid':
    'check KUBECONFIG, --kubeconfig and --context; `kubectl config get-contexts` lists what there is',
  'cluster-unreachable': 'check the network, the VPN and the context; `kubectl version` must answer',
  unauthorized: 'log in to the cluster again; `kubectl auth whoami` must answer',
  forbidden: 'ask an administrator of the cluster for that right; README, “Rights it needs”, lists them all',
  'not-found': 'check the name and the namespace (-n); `kubectl get services,deployments,statefulsets -A` lists them',
  'no-selector': 'name the workload instead of the Service: deployment/NAME, statefulset/NAME, daemonset/NAME',
  'no-workload':
    'name the workload instead: deployment/NAME, statefulset/NAME, daemonset/NAME, replicaset/NAME, rollout/NAME or pod/NAME',
  'ambiguous-workload': 'name the one you mean: deployment/NAME, statefulset/NAME or daemonset/NAME',
  'ambiguous-container': 'name the one you mean with --container',
  'unsupported-workload':
    'name a workload that runs on; a program that only calls others needs no place: `lpk run -- COMMAND`',
  'no-replicas': 'scale it to at least one replica, then connect again',
  'already-held':
    'ask its owner; --wait waits until it is free, --take-over takes it from them, and their lpk says who did',
  'session-alive': 'ask its owner; `lpk release TARGET`, or restore with --yes, ends it, and their lpk says who did',
  conflict: 'somebody or something keeps changing the workload (an autoscaler, GitOps?); pause that and try again',
  'image-pull': 'name an image with Node that the cluster can pull: --agent-image REGISTRY/node:24-alpine',
  'rollout-failed': '`kubectl describe` the pod for the reason; the workload was put back as it was',
  'rollout-timed-out':
    '`kubectl get pods` and `kubectl describe` the pod for the reason; the workload was put back as it was',
  'session-ended': 'the workload was restored or changed by somebody else; connect again',
  'agent-unreachable': 'see the pod with `kubectl logs`; try --transport port-forward',
  'agent-not-listening': 'it may still be starting on a busy node: see the pod with `kubectl logs`, then connect again',
  // the laptop
  usage: 'see `lpk --help`; a command to run comes after --',
  'profile-invalid': 'correct it there; README, “lpk.yaml”, shows what it may hold, and `lpk init` writes one',
  'port-taken': 'stop what listens there, or name another port',
  'already-running': '`lpk proxy status` shows it, `lpk proxy down` ends it',
  'not-running': 'start one: `lpk proxy up`; `lpk proxy status` lists those of this user',
  'no-capture': '--capture env uses proxy variables; `lpk doctor` says what is missing',
  'command-not-found': 'check its spelling and your PATH; the pod’s PATH is not used',
  'command-not-executable': 'make it executable (chmod +x), or name its interpreter: -- node app.js',
  'needs-root': 'run the same command with sudo -E (Windows: as administrator), or without --tun and --system-dns',
  'route-overlap':
    'leave it out with --no-route, or give the cluster addresses of its own: --fake-ip, --fake-ip-range FREE_RANGE',
  'no-tun2socks': 'build it with scripts/tun2socks of the checkout, or name one with LPK_TUN2SOCKS',
  'laptop-setup': 'what was changed is undone; `lpk proxy up` without --tun and --system-dns changes nothing here',
};
