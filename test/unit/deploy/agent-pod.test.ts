import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type AgentPodSpec, ensureAgentPod } from '../../../agent/deploy/agent-pod.ts';
import type { Cluster, Json, RequestOptions } from '../../../agent/deploy/kube.ts';
import { type ErrorCode, LpkError } from '../../../agent/wire/errors.ts';

/** A proxy's pod, as admission lets it be, and made anew with no other rights than at first. */

const SPEC: AgentPodSpec = {
  ...{ session: 'abcdefghij', listen: 'pod', port: 47_601, probePort: 47_602, holdMs: 60_000 },
  ...{ key: 'k', bundle: 'b', owner: 'ann', host: 'box' },
};

/** A cluster that takes what `judge` has nothing against. */
function clusterWith(judge: (what: string, body: Json) => ErrorCode | undefined) {
  const asked: string[] = [];
  const pods: Json[] = [];
  const cluster = {
    namespace: 'shop',
    request: async (method: string, path: string, { body }: RequestOptions) => {
      const what = `${method} ${path.split('/').at(-1)}`;
      asked.push(what);
      const code = judge(what, body);
      if (code) throw new LpkError(code, `${what}: ${code}`);
      if (what === 'POST pods') pods.push(body);
      return { metadata: { uid: `uid of ${what}` } };
    },
  } as unknown as Cluster;
  return { cluster, asked, pods };
}

const settings = ({ spec }: Json) => [spec.containers[0].resources.limits.cpu, spec.securityContext.runAsUser];

test('the pod has what admission insists on, and no more', async () => {
  const limited = (pod: Json) => settings(pod)[0] !== undefined;
  const assigned = (pod: Json) => settings(pod)[1] === undefined;
  const rows: [fits: (pod: Json) => boolean, settings: unknown[]][] = [
    [() => true, [undefined, 65_532]],
    [limited, ['1', 65_532]],
    [assigned, [undefined, undefined]],
    [(pod) => limited(pod) && assigned(pod), ['1', undefined]],
  ];
  for (const [fits, expected] of rows) {
    const { cluster, pods } = clusterWith((what, body) =>
      what === 'POST pods' && !fits(body) ? 'forbidden' : undefined,
    );
    await ensureAgentPod(cluster, SPEC);
    assert.deepEqual(pods.map(settings), [expected]);
  }
});

test('where nothing helps, the first refusal is told', async () => {
  let tries = 0;
  const { cluster } = clusterWith((what) => {
    if (what === 'POST pods') throw new LpkError('forbidden', `refusal ${++tries}`);
    return undefined;
  });
  await assert.rejects(ensureAgentPod(cluster, SPEC), { code: 'forbidden', message: 'refusal 1' });
});

test('a pod that was lost is made anew without reading anything', async () => {
  const first = clusterWith(() => undefined);
  const made = await ensureAgentPod(first.cluster, SPEC);
  assert.equal(made.uid, 'uid of POST configmaps');
  const { cluster, asked, pods } = clusterWith((what) => (what === 'POST pods' ? undefined : 'conflict'));
  assert.deepEqual(await ensureAgentPod(cluster, SPEC, made), made);
  assert.deepEqual(asked, ['POST configmaps', 'POST secrets', 'POST pods']);
  assert.equal(pods[0].metadata.ownerReferences[0].uid, made.uid);
});
