import assert from 'node:assert/strict';
import { test } from 'node:test';
import { START_SCRIPT, sessionOfPod } from '../../../agent/deploy/agent-container.ts';
import { assignedUser, planSwap } from '../../../agent/deploy/swap.ts';
import { planRestore } from '../../../agent/restore/plan.ts';
import { SESSION_ANNOTATION, sessionOf } from '../../../agent/restore/record.ts';
import { applyPatch, madeUpWorkload, random } from './workloads.ts';

// biome-ignore lint/suspicious/noExplicitAny: Kubernetes objects, untyped as in the code under test.
type Json = any;

const SHAPES = 400;
const AGENT = { session: 'abcdefghij', image: 'node:24-alpine', probePort: 47602, servedPorts: [80, 8080], one: false };
const HOLDER = { id: 'abcdefghij', owner: 'alice', host: 'laptop', since: '2026-11-24T15:33:00.000Z' };

function swapped(workload: Json, container = 'web', agent = AGENT): Json {
  const { ops } = planSwap(workload, container, agent, HOLDER);
  return applyPatch(workload, ops);
}

function restored(workload: Json): Json {
  return applyPatch(workload, planRestore(workload).ops);
}

/** One container pod, as the API server gives it. */
function simple(container: object = {}, pod: object = {}): Json {
  return {
    kind: 'Deployment',
    metadata: { name: 'web', resourceVersion: '7', annotations: { note: 'x' } },
    spec: {
      replicas: 1,
      template: {
        spec: { containers: [{ name: 'web', image: 'shop/web:1', imagePullPolicy: 'Always', ...container }], ...pod },
      },
    },
  };
}

const podOf = (workload: Json) => workload.spec.template.spec;
const webOf = (workload: Json) => podOf(workload).containers.find((each: Json) => each.name === 'web');

test('swap and restore give back the same JSON, whatever the workload looks like', () => {
  for (let seed = 1; seed <= SHAPES; seed++) {
    const workload = madeUpWorkload(seed);
    const held = swapped(workload);
    assert.notDeepEqual(podOf(held), podOf(workload), `seed ${seed}: nothing swapped`);
    assert.deepEqual(restored(held), workload, `seed ${seed}`);
  }
});

test('of one pod alone too', () => {
  for (let seed = 1; seed <= SHAPES; seed++) {
    const workload = madeUpWorkload(seed);
    const held = swapped(workload, 'web', { ...AGENT, one: true });
    assert.equal(sessionOf(held)?.one, true);
    assert.deepEqual(restored(held), workload, `seed ${seed}`);
  }
});

test('of one pod alone: a StatefulSet’s last by its partition, a DaemonSet’s by OnDelete', () => {
  const strategyOf = (kind: string, spec: object) => {
    const workload = { ...simple(), kind };
    Object.assign(workload.spec, spec);
    return swapped(workload, 'web', { ...AGENT, one: true }).spec.updateStrategy;
  };
  const rolling = (rollingUpdate: object) => ({ type: 'RollingUpdate', rollingUpdate });
  const sts = (partition: number) => strategyOf('StatefulSet', { replicas: 3, updateStrategy: rolling({ partition }) });
  assert.deepEqual([sts(0), sts(1)], [rolling({ partition: 2 }), rolling({ partition: 2 })]);
  assert.deepEqual(strategyOf('DaemonSet', { updateStrategy: rolling({ maxUnavailable: 1 }) }), { type: 'OnDelete' });
  for (const kind of ['DaemonSet', 'StatefulSet'])
    assert.deepEqual(strategyOf(kind, { replicas: 3, updateStrategy: { type: 'OnDelete' } }), { type: 'OnDelete' });
  assert.equal(strategyOf('ReplicaSet', { replicas: 3 }), undefined);
});

test('a plan leaves the workload it reads as it is', () => {
  const workload = madeUpWorkload(5);
  const before = structuredClone(workload);
  const held = swapped(workload);
  const heldBefore = structuredClone(held);
  restored(held);
  assert.deepEqual(workload, before);
  assert.deepEqual(held, heldBefore);
});

/** What other people do to a workload while it is held. Each must do the same to a workload that isn't. */
const EDITS: Record<string, (workload: Json) => void> = {
  replicas: (w) => {
    w.spec.replicas = 9;
  },
  'a label': (w) => {
    w.metadata.labels = { ...w.metadata.labels, team: 'blue' };
  },
  'an annotation': (w) => {
    w.metadata.annotations = { ...w.metadata.annotations, 'their.dev/note': 'hi' };
  },
  'a pod label': (w) => {
    w.spec.template.metadata.labels.version = '2';
  },
  'the image of another container': (w) => {
    podOf(w).containers.push({ name: 'late', image: 'a:1' });
    podOf(w).containers.at(-1).image = 'a:2';
  },
  'a container before ours': (w) => podOf(w).containers.unshift({ name: 'first', image: 'first:1' }),
  'our container’s image': (w) => {
    webOf(w).image = 'shop/web:2';
  },
  'our container’s command': (w) => {
    webOf(w).command = ['/other'];
  },
  'our container’s args': (w) => {
    webOf(w).args = ['--other'];
  },
  'our container’s readiness': (w) => {
    webOf(w).readinessProbe = { tcpSocket: { port: 1 } };
  },
  'our container’s env': (w) => {
    webOf(w).env = [...(webOf(w).env ?? []), { name: 'NEW', value: '1' }];
  },
  'our container’s resources': (w) => {
    webOf(w).resources = { limits: { memory: '1Gi' } };
  },
  'a volume and its mount': (w) => {
    podOf(w).volumes = [...(podOf(w).volumes ?? []), { name: 'theirs', emptyDir: {} }];
    webOf(w).volumeMounts = [...(webOf(w).volumeMounts ?? []), { name: 'theirs', mountPath: '/t' }];
  },
  'a security setting of the pod': (w) => {
    podOf(w).securityContext = { ...podOf(w).securityContext, fsGroup: 77 };
  },
  'the service account': (w) => {
    podOf(w).serviceAccountName = 'other';
  },
};

test('what other people change meanwhile survives the restore, and nothing else is different', () => {
  for (const [what, edit] of Object.entries(EDITS)) {
    for (let seed = 1; seed <= 60; seed++) {
      const workload = madeUpWorkload(seed);
      const held = swapped(workload);
      edit(held);
      edit(workload);
      assert.deepEqual(restored(held), workload, `${what}, seed ${seed}`);
    }
  }
});

test('several changes at once survive too', () => {
  const all = Object.values(EDITS);
  for (let seed = 1; seed <= SHAPES; seed++) {
    const { pick } = random(seed + 10_000);
    const edits = new Set([pick(all), pick(all), pick(all)]);
    const workload = madeUpWorkload(seed);
    const held = swapped(workload);
    for (const edit of edits) {
      edit(held);
      edit(workload);
    }
    assert.deepEqual(restored(held), workload, `seed ${seed}`);
  }
});

test('the restore says which of the swapped fields stay somebody else’s', () => {
  const held = swapped(simple({ args: ['--mine'] }));
  assert.deepEqual(planRestore(held).kept, []);
  webOf(held).image = 'shop/web:2';
  webOf(held).args = ['--theirs'];
  assert.deepEqual(planRestore(held).kept, ['image', 'args']);
});

test('fields that somebody put back by hand are no conflict', () => {
  const workload = simple({ args: ['--mine'] });
  const held = swapped(workload);
  webOf(held).image = 'shop/web:1';
  webOf(held).args = ['--mine'];
  webOf(held).volumeMounts = undefined;
  podOf(held).volumes = [];
  const { kept, session } = planRestore(JSON.parse(JSON.stringify(held)));
  assert.deepEqual(kept, []);
  assert.equal(session?.id, HOLDER.id);
});

test('what the API server fills in beside our values does not keep them from being taken out', () => {
  const workload = simple({ livenessProbe: { exec: { command: ['true'] } } });
  const held = swapped(workload);
  webOf(held).livenessProbe.terminationGracePeriodSeconds = 30;
  podOf(held).volumes[0].projected.future = 1;
  webOf(held).volumeMounts[0].recursiveReadOnly = 'Disabled';
  assert.deepEqual(restored(held), workload);
});

test('a container that is gone or renamed meanwhile', () => {
  const workload = simple({}, { volumes: [{ name: 'data', emptyDir: {} }] });
  const gone = swapped(workload);
  podOf(gone).containers = [{ name: 'new', image: 'new:1' }];
  const after = restored(gone);
  assert.deepEqual(podOf(after), {
    containers: [{ name: 'new', image: 'new:1' }],
    volumes: [{ name: 'data', emptyDir: {} }],
  });
  const renamed = swapped(workload);
  webOf(renamed).name = 'renamed';
  const expected = structuredClone(podOf(workload));
  expected.containers[0].name = 'renamed';
  assert.deepEqual(podOf(restored(renamed)), expected);
});

test('the container becomes the agent and keeps what it is to keep', () => {
  const keeps = {
    env: [{ name: 'A', value: '1' }],
    ports: [{ containerPort: 8080, protocol: 'TCP' }],
    resources: { limits: { memory: '64Mi' } },
    volumeMounts: [{ name: 'data', mountPath: '/data' }],
  };
  const workload = simple(
    {
      ...keeps,
      command: ['/app'],
      args: ['x'],
      workingDir: '/srv',
      lifecycle: { preStop: { exec: { command: ['true'] } } },
      livenessProbe: { exec: { command: ['true'] } },
      readinessProbe: { exec: { command: ['true'] } },
    },
    { serviceAccountName: 'shop', initContainers: [{ name: 'init', image: 'i' }] },
  );
  const held = swapped(workload, 'web', { ...AGENT, servedPorts: [8080] });
  const web = webOf(held);
  assert.equal(web.image, 'node:24-alpine');
  assert.equal(web.imagePullPolicy, 'IfNotPresent');
  assert.deepEqual(web.command, ['/bin/sh', '-c', START_SCRIPT]);
  for (const gone of ['args', 'workingDir', 'lifecycle', 'startupProbe', 'securityContext'])
    assert.ok(!(gone in web), gone);
  assert.deepEqual(web.livenessProbe.httpGet, { path: '/live', port: 47602, scheme: 'HTTP' });
  assert.deepEqual(web.readinessProbe.httpGet, { path: '/ready', port: 47602, scheme: 'HTTP' });
  assert.equal(web.readinessProbe.periodSeconds, 1);
  const { volumeMounts, ...kept } = keeps;
  assert.deepEqual({ env: web.env, ports: web.ports, resources: web.resources }, kept);
  assert.deepEqual(web.volumeMounts, [...volumeMounts, { name: 'lpk-agent', readOnly: true, mountPath: '/.lpk' }]);
  const pod = podOf(held);
  assert.equal(pod.serviceAccountName, 'shop');
  assert.deepEqual(pod.initContainers, podOf(workload).initContainers);
  assert.equal(pod.securityContext, undefined, 'no sysctl without a privileged port');
  assert.equal(sessionOfPod(pod), 'abcdefghij');
  assert.equal(sessionOfPod(podOf(workload)), undefined);
});

test('a port under 1024 gets the sysctl, except in the node’s network', () => {
  const sysctls = (workload: Json, servedPorts: number[]) =>
    podOf(swapped(workload, 'web', { ...AGENT, servedPorts })).securityContext?.sysctls;
  const ours = { name: 'net.ipv4.ip_unprivileged_port_start', value: '0' };
  assert.deepEqual(sysctls(simple(), [80]), [ours]);
  assert.equal(sysctls(simple(), [1024, 8080]), undefined);
  assert.equal(sysctls(simple({}, { hostNetwork: true }), [80]), undefined);
  const other = { name: 'kernel.shm_rmid_forced', value: '1' };
  const theirs = { name: ours.name, value: '1000' };
  assert.deepEqual(sysctls(simple({}, { securityContext: { sysctls: [theirs, other] } }), [80]), [ours, other]);
});

test('the agent gets a user only where root is not allowed and none is given', () => {
  const user = (container: object, pod: object) => webOf(swapped(simple(container, pod))).securityContext?.runAsUser;
  assert.equal(user({}, {}), undefined);
  assert.equal(user({}, { securityContext: { runAsNonRoot: true } }), 1000);
  assert.equal(user({ securityContext: { runAsNonRoot: true } }, {}), 1000);
  assert.equal(
    user({ securityContext: { runAsNonRoot: false } }, { securityContext: { runAsNonRoot: true } }),
    undefined,
  );
  assert.equal(user({}, { securityContext: { runAsNonRoot: true, runAsUser: 33 } }), undefined);
  assert.equal(user({ securityContext: { runAsUser: 34 } }, { securityContext: { runAsNonRoot: true } }), 34);
});

test('a held workload says by whom, and is not swapped again', () => {
  const held = swapped(simple());
  const record = sessionOf(held);
  assert.deepEqual({ ...record, changed: 0 }, { v: 1, ...HOLDER, container: 'web', changed: 0 });
  assert.throws(() => planSwap(held, 'web', AGENT, { ...HOLDER, id: 'other' }), {
    code: 'already-held',
    message: 'deployment/web is already held by alice on laptop since 2026-11-24 15:33:00 UTC (container web)',
  });
  assert.equal(sessionOf(simple()), undefined);
});

test('every plan is for the version it was made from, and only for that', () => {
  const first = { op: 'replace', path: '/metadata/resourceVersion', value: '7' };
  assert.deepEqual(planSwap(simple(), 'web', AGENT, HOLDER).ops[0], first);
  assert.deepEqual(planRestore(swapped(simple())).ops[0], first);
});

test('a workload that isn’t held needs no restore', () => {
  assert.deepEqual(planRestore(simple()), { ops: [], session: undefined, kept: [] });
});

test('a record that can’t be read is never acted upon', () => {
  const withRecord = (text: string) => {
    const workload = simple();
    workload.metadata.annotations[SESSION_ANNOTATION] = text;
    return workload;
  };
  for (const text of ['', 'x', 'null', '[]', '{}', '{"v":1}', '{"v":1,"id":"a","changed":{}}']) {
    assert.throws(() => planRestore(withRecord(text)), { code: 'conflict' }, text);
    assert.throws(() => planSwap(withRecord(text), 'web', AGENT, HOLDER), { code: 'conflict' }, text);
  }
  assert.throws(() => planRestore(withRecord('{"v":2,"id":"a","changed":[]}')), { code: 'version-mismatch' });
});

test('an agent whose record somebody removed is not taken for the workload’s own', () => {
  const held = swapped(simple());
  delete held.metadata.annotations[SESSION_ANNOTATION];
  assert.throws(() => planSwap(held, 'web', AGENT, HOLDER), { code: 'conflict', message: /record .* is gone/ });
});

test('a container that is not there any more', () => {
  assert.throws(() => planSwap(simple(), 'api', AGENT, HOLDER), { code: 'not-found', message: /"api"/ });
});

test('limits that are too small for the agent are raised, also those that a LimitRange fills in; the restore puts them back', () => {
  const limitsOf = (workload: Json) => [webOf(workload).resources?.limits, podOf(workload).resources?.limits];
  const admitted = (limits: object) => ({
    ...AGENT,
    admitted: { containers: [{ name: 'web', resources: { limits } }] },
  });
  const rows: [workload: Json, agent: object, limits: Json[]][] = [
    [simple(), AGENT, [undefined, undefined]],
    [simple({ resources: { limits: { memory: '1Gi', cpu: 1 } } }), AGENT, [{ memory: '1Gi', cpu: 1 }, undefined]],
    [simple({ resources: { limits: { memory: '16Mi' } } }), AGENT, [{ memory: '64Mi' }, undefined]],
    [simple({}, { resources: { limits: { cpu: '10m' } } }), AGENT, [undefined, { cpu: '200m' }]],
    [simple(), admitted({ memory: '32Mi', cpu: '2' }), [{ memory: '64Mi' }, undefined]],
    [simple({ resources: { limits: { memory: '2Gi' } } }), admitted({ memory: '2Gi' }), [{ memory: '2Gi' }, undefined]],
  ];
  for (const [workload, agent, limits] of rows) {
    const held = swapped(workload, 'web', agent as typeof AGENT);
    assert.deepEqual(limitsOf(held), limits);
    assert.deepEqual(restored(held), workload);
  }
});

test('where root is not allowed the agent is the image’s own user, unless admission assigns one', () => {
  const workload = simple({ securityContext: { runAsNonRoot: true } });
  const userOf = (admitted: object | undefined, of = workload) =>
    webOf(swapped(of, 'web', { ...AGENT, admitted } as typeof AGENT)).securityContext.runAsUser;
  assert.equal(userOf(undefined), 1000);
  assert.equal(userOf({ containers: [{ name: 'web' }] }), 1000);
  assert.equal(userOf({ containers: [{ name: 'web', securityContext: { runAsUser: 1_000_650_000 } }] }), undefined);
  assert.equal(userOf({ containers: [{ name: 'web' }], securityContext: { runAsUser: 7 } }), undefined);
  assert.equal(assignedUser(workload, 'web', { containers: [], securityContext: { runAsUser: 7 } }), 7);
  const own = simple({ securityContext: { runAsNonRoot: true, runAsUser: 9 } });
  assert.equal(assignedUser(own, 'web', { containers: [], securityContext: { runAsUser: 9 } }), undefined);
});
