/** Made-up workloads of many shapes for the swap's tests, and a JSON Patch of the tests' own to apply its plans. */

// biome-ignore lint/suspicious/noExplicitAny: Kubernetes objects, untyped as in the code under test.
type Json = any;

/** Mulberry32: the same numbers for the same seed. */
export function random(seed: number) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const int = (below: number) => Math.floor(next() * below);
  const pick = <T>(list: readonly T[]): T => list[int(list.length)] as T;
  /** The fields, or (by chance) nothing. */
  const maybe = <T extends object>(fields: T): Partial<T> => (next() < 0.5 ? fields : {});
  return { int, pick, maybe };
}

type Random = ReturnType<typeof random>;

function probe({ pick, maybe }: Random): Json {
  const how = pick([
    { httpGet: { path: '/health', port: 8080, scheme: 'HTTP' } },
    { tcpSocket: { port: 'http' } },
    { exec: { command: ['true'] } },
    { grpc: { port: 9000, service: '' } },
  ]);
  return { ...how, periodSeconds: 10, failureThreshold: 3, ...maybe({ 'future-field': { a: [1] } }) };
}

function container(name: string, r: Random): Json {
  const { int, pick, maybe } = r;
  return {
    name,
    image: `registry.test/${name}:${int(9)}`,
    imagePullPolicy: pick(['Always', 'IfNotPresent', 'Never']),
    ...maybe({ command: ['/app', '--flag'] }),
    ...maybe({ args: ['a', 'b c'] }),
    ...maybe({ workingDir: '/srv' }),
    ...maybe({
      env: [
        { name: 'A', value: '1' },
        { name: 'B', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
      ],
    }),
    ...maybe({ envFrom: [{ secretRef: { name: 's' } }] }),
    ...maybe({ ports: [{ containerPort: pick([80, 443, 8080]), protocol: 'TCP' }] }),
    ...maybe({ lifecycle: { preStop: { sleep: { seconds: 3 } } } }),
    ...maybe({ livenessProbe: probe(r) }),
    ...maybe({ readinessProbe: probe(r) }),
    ...maybe({ startupProbe: probe(r) }),
    ...maybe({
      resources: pick([
        {},
        { limits: { memory: '64Mi' } },
        { limits: { memory: '16Mi', cpu: '10m' }, requests: { cpu: '10m' } },
      ]),
    }),
    ...maybe({ volumeMounts: pick([[], [{ name: 'data', mountPath: '/data' }]]) }),
    ...maybe({
      securityContext: pick([
        {},
        { runAsNonRoot: true },
        { runAsNonRoot: true, runAsUser: 10 },
        { readOnlyRootFilesystem: true },
      ]),
    }),
    ...maybe({ 'future-field': { nested: [{ deep: null }] } }),
    terminationMessagePath: '/dev/termination-log',
  };
}

/** A workload as the API server gives it; every optional part is there or not by the seed. */
export function madeUpWorkload(seed: number): Json {
  const r = random(seed);
  const { int, pick, maybe } = r;
  const names = ['web', 'proxy', 'log', 'x'].slice(0, 1 + int(4));
  return {
    apiVersion: 'apps/v1',
    kind: pick(['Deployment', 'StatefulSet', 'DaemonSet']),
    metadata: {
      name: `w${seed}`,
      namespace: 'shop',
      resourceVersion: String(int(100000)),
      ...maybe({ annotations: pick([{ 'deployment.kubernetes.io/revision': '3' }, { 'a/b~c': '~1' }, {}]) }),
      ...maybe({ labels: { app: 'web' } }),
    },
    spec: {
      replicas: int(4),
      selector: { matchLabels: { app: 'web' } },
      ...maybe({ 'future-field': [1, 2] }),
      template: {
        metadata: { labels: { app: 'web' } },
        spec: {
          containers: names.map((name) => container(name, r)),
          ...maybe({ initContainers: [container('init', r)] }),
          ...maybe({
            volumes: pick([
              [],
              [
                { name: 'data', emptyDir: {} },
                { name: 'new', 'future-volume': { x: 1 } },
              ],
            ]),
          }),
          ...maybe({
            securityContext: pick([
              {},
              { runAsNonRoot: true },
              { runAsNonRoot: true, runAsUser: 7 },
              { sysctls: [] },
              { sysctls: [{ name: 'net.ipv4.ip_unprivileged_port_start', value: '1000' }] },
              { sysctls: [{ name: 'kernel.shm_rmid_forced', value: '1' }], fsGroup: 5 },
            ]),
          }),
          ...maybe({ hostNetwork: true }),
          ...maybe({ 'future-field': 'x' }),
        },
      },
    },
  };
}

/** RFC 6902, by the RFC's words and apart from the code under test: add, replace, remove. */
export function applyPatch(document: Json, ops: { op: string; path: string; value?: unknown }[]): Json {
  const root = structuredClone(document);
  for (const { op, path, value } of ops) {
    const parts = path
      .split('/')
      .slice(1)
      .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
    const last = parts.pop() as string;
    const parent = parts.reduce((at, part) => at[part], root);
    if (parent === undefined) throw new Error(`${op} ${path}: no parent`);
    if (Array.isArray(parent)) {
      const index = last === '-' ? parent.length : Number(last);
      if (!Number.isInteger(index) || index > parent.length) throw new Error(`${op} ${path}: no such index`);
      if (op === 'add') parent.splice(index, 0, structuredClone(value));
      else if (index >= parent.length) throw new Error(`${op} ${path}: no such item`);
      else if (op === 'remove') parent.splice(index, 1);
      else if (op === 'replace') parent[index] = structuredClone(value);
      else throw new Error(`unexpected ${op}`);
    } else {
      if (op !== 'add' && !Object.hasOwn(parent, last)) throw new Error(`${op} ${path}: no such field`);
      if (op === 'remove') delete parent[last];
      else if (op === 'add' || op === 'replace') parent[last] = structuredClone(value);
      else throw new Error(`unexpected ${op}`);
    }
  }
  return root;
}

/** RFC 7396. */
export function mergePatch(document: Json, patch: Json): Json {
  if (patch === null || typeof patch !== 'object' || Array.isArray(patch)) return structuredClone(patch);
  const merged = { ...(typeof document === 'object' && !Array.isArray(document) ? document : {}) };
  for (const [field, value] of Object.entries(patch)) {
    if (value === null) delete merged[field];
    else merged[field] = mergePatch(merged[field], value);
  }
  return merged;
}
