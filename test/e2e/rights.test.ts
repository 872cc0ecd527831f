import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PassThrough } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { findTarget, parseTarget } from '../../agent/deploy/find.ts';
import { helpsToRestore, helpsToServe, missingHelp } from '../../agent/deploy/helpful-rights.ts';
import { type Cluster, type Json, openCluster } from '../../agent/deploy/kube.ts';
import { preflight, preflightVariables, type Right } from '../../agent/deploy/preflight.ts';
import type { LpkError } from '../../agent/wire/errors.ts';
import { agentPodSpec } from '../../cli/agent-spec.ts';
import { HINTS } from '../../cli/hints.ts';
import { Output } from '../../cli/output.ts';
import { restoreSessions } from '../../cli/restore.ts';
import { services } from '../../cli/services.ts';
import { planGuard } from '../../cli/session-guard.ts';
import { status } from '../../cli/status.ts';
import { kubectl } from '../cluster/cluster.ts';
import { inWords, type RoleRight, readRoles, rulesOf } from '../rbac.ts';
import { inForce } from './in-force.ts';
import { endAll, Lpk, localProcess } from './lpk.ts';
import { eventually, freePort, Shop, service, workload } from './shop.ts';

/** docs/rbac.yaml on the real cluster: with a verb's Role it works, and each right that is taken away is named. */

const RBAC = path.join(import.meta.dirname, '../../docs/rbac.yaml');
const roles = readRoles(readFileSync(RBAC, 'utf8'));
const KINDS = ['Deployment', 'StatefulSet', 'DaemonSet'] as const;

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-rights-'));
process.env.XDG_STATE_HOME = path.join(dir, 'state'); // other people's proxies play no part

let shop: Shop;

before(async () => {
  shop = await Shop.open('rights');
  await kubectl(['apply', '-n', shop.namespace, '-f', RBAC]);
  const names = ['web', 'left', 'held', 'contested'];
  const held = { id: 'fake000000', owner: 'bob', host: 'mill', since: '2026-11-24T10:00:00.000Z', container: 'app' };
  const annotations = { 'lpk.dev/session': JSON.stringify({ v: 1, ...held, changed: [] }) };
  await shop.deploy(
    ...names.map((name) => workload('Deployment', name)),
    workload('StatefulSet', 'db'),
    service('web', [8080]),
    service('db', [8080], { clusterIP: 'None' }),
    ...KINDS.map((kind) => workload(kind, `idle-${kind.toLowerCase()}`)),
    ...KINDS.map((kind) => service(`idle-${kind.toLowerCase()}`, [8080])),
  );
  // Held by a session that changed nothing.
  await Promise.all(
    KINDS.map((kind) => {
      const object = workload(kind, `taken-${kind.toLowerCase()}`);
      return shop.create({ ...object, metadata: { ...object.metadata, annotations } });
    }),
  );
});

after(async () => {
  endAll();
  rmSync(dir, { recursive: true });
  await shop?.close();
});

/** A kubeconfig of a new ServiceAccount that may do what this Role says, or what these rights say. */
async function userWith(name: string, role: string | Right[]): Promise<string> {
  const rbac = { apiVersion: 'rbac.authorization.k8s.io/v1', metadata: { name } };
  const roleName = typeof role === 'string' ? role : name;
  await shop.create(
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name } },
    ...(typeof role === 'string' ? [] : [{ ...rbac, kind: 'Role', rules: rulesOf(role) }]),
    {
      ...{ ...rbac, kind: 'RoleBinding' },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: roleName },
      subjects: [{ kind: 'ServiceAccount', name, namespace: shop.namespace }],
    },
  );
  // As `kubectl create token` does.
  const account = `/api/v1/namespaces/${shop.namespace}/serviceaccounts/${name}/token`;
  const { status: made } = await shop.cluster.request('POST', account, {
    body: { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: 3_600 } },
  });
  const config = JSON.parse(readFileSync(shop.kubeconfig, 'utf8'));
  Object.assign(config.users[0], { name, user: { token: made.token } });
  Object.assign(config.contexts[0].context, { user: name });
  const file = path.join(dir, name);
  writeFileSync(file, JSON.stringify(config));
  // With one of its rights all of a Role's are in force.
  await inForce(file, shop.namespace, (typeof role === 'string' ? (roles.get(role) as Right[]) : role).slice(-1));
  return file;
}

describe('with the Role of docs/rbac.yaml', { concurrency: 4 }, () => {
  /** By Role; made once, as tests run side by side. */
  const users = new Map<string, Promise<string>>();

  /** The kubeconfig of a user with this Role alone. */
  function user(role: string): Promise<string> {
    const made = users.get(role) ?? userWith(`has-${role}`, role);
    users.set(role, made);
    return made;
  }

  /** lpk as that user. */
  async function as(role: string, verb: string, ...args: string[]): Promise<Lpk> {
    return shop.lpk(verb, '--kubeconfig', await user(role), ...args);
  }

  async function ends(lpk: Lpk, code = 0): Promise<void> {
    assert.deepEqual(await lpk.exit(), { code, signal: null }, `${lpk}`);
    const lacking = lpk.events.filter(({ event }) => ['no-restorer', 'goes-without', 'undo-failed'].includes(event));
    assert.deepEqual(lacking, [], `${lpk}`);
  }

  test('connect, with a restorer and a COMMAND', async () => {
    const port = await freePort();
    const lpk = await as('lpk-connect', 'connect', 'web', '-p', `${port}:8080`, ...localProcess(port));
    await lpk.line(/^listens$/);
    const [lease] = (await shop.objectsOf('deployment/web')).filter((each) => each.startsWith('deployments/lpk-'));
    assert.ok(lease, `there is a restorer; ${lpk}`);
    await fetch(`http://127.0.0.1:${port}/`, { headers: { 'x-exit': '0' } });
    await ends(lpk);
    assert.deepEqual(await shop.leftOf('deployment/web'), [], `${lpk}`);
  });

  test('connect --take-over; and when its laptop dies, its restorer puts it back', async () => {
    const spec = await shop.specOf('deployment/contested');
    const theirs = shop.lpk('connect', 'deployment/contested');
    await theirs.event('ready');
    const lpk = await as('lpk-connect', 'connect', 'deployment/contested', '--take-over', '--restore-after', '15');
    await lpk.event('ready');
    assert.deepEqual(await theirs.exit(), { code: 1, signal: null }, `${theirs}`);
    const { session } = await lpk.event('swap', ({ state }) => state === 'done');
    const lease = `/apis/coordination.k8s.io/v1/namespaces/${shop.namespace}/leases/lpk-${session}`;
    await eventually('the restorer watches', async () => {
      const { annotations = {} } = (await shop.cluster.request('GET', lease)).metadata;
      return annotations['lpk.dev/watching-since'] !== undefined && annotations['lpk.dev/revisions'] !== undefined;
    });
    lpk.signal('SIGKILL');
    await lpk.exit();
    await eventually('it is put back', async () => {
      const objects = await shop.objectsOf('deployment/contested');
      return objects.length === 0 && (await shop.specOf('deployment/contested')) === spec;
    });
    // The revision of the session that was taken over is none of the restorer's.
    await ends(await as('lpk-restore', 'restore', 'deployment/contested'));
    assert.deepEqual(await shop.leftOf('deployment/contested'), []);
  });

  test('connect --no-restorer, a StatefulSet by one of its pods', async () => {
    const lpk = await as('lpk-connect-no-restorer', 'connect', 'pod/db-0', '--no-restorer');
    await lpk.event('ready');
    lpk.signal('SIGINT');
    await ends(lpk);
    assert.deepEqual(await shop.leftOf('statefulset/db'), [], `${lpk}`);
  });

  test('run, and then proxy up, status, env and down', async () => {
    const fetches = `fetch('http://idle-deployment:8080/').then((each) => each.text()).then(console.log)`;
    const run = await as('lpk-proxy', 'run', '--capture', 'env', '--', process.execPath, '-e', fetches);
    await run.line(/^idle-deployment in pod /);
    await ends(run);
    const up = await as('lpk-proxy', 'proxy', 'up', '-d');
    await ends(up);
    for (const verb of ['status', 'env', 'down']) {
      const lpk = new Lpk(['proxy', verb]);
      await ends(lpk);
    }
    const objects = await Promise.all(['pods', 'configmaps', 'secrets'].map((each) => shop.get(each)));
    const left = objects
      .flatMap(({ items }) => items as Json[])
      .filter(({ metadata }) => metadata.annotations?.['lpk.dev/proxy']);
    assert.deepEqual(left, []);
  });

  test('env, services, status, doctor and init', async () => {
    const env = await as('lpk-env', 'env', 'idle-deployment');
    assert.equal((await env.event('env')).variables.ROLE, 'idle-deployment', `${env}`);
    await ends(env);
    const seen = await as('lpk-services', 'services');
    assert.ok((await seen.event('service', ({ name }) => name === 'idle-deployment')).endpoints, `${seen}`);
    await ends(seen);
    const sessions = await as('lpk-status', 'status');
    await sessions.event('session', ({ workload: name }) => name === 'deployment/taken-deployment');
    await ends(sessions);
    const doctor = await as('lpk-connect', 'doctor');
    const rights = await doctor.event('finding', ({ name }) => name === 'rights for lpk connect to a Deployment');
    assert.equal(rights.text, 'all there', `${doctor}`);
    await ends(doctor);
    const folder = path.join(dir, 'project');
    mkdirSync(folder);
    const words = shop.args('init', 'idle-deployment', '--kubeconfig', await user('lpk-env'));
    const init = new Lpk(words, { around: (command) => ['env', '-C', folder, ...command] });
    await ends(init);
    assert.match(readFileSync(path.join(folder, 'lpk.yaml'), 'utf8'), /target: idle-deployment/);
  });

  test('restore what a laptop left that died', async () => {
    const spec = await shop.specOf('deployment/left');
    const dead = shop.lpk('connect', 'deployment/left', '--no-restorer');
    await dead.event('swap', ({ state }) => state === 'done');
    dead.signal('SIGKILL');
    await dead.exit();
    const lpk = await as('lpk-restore', 'restore', 'deployment/left');
    await ends(lpk);
    assert.equal(await shop.specOf('deployment/left'), spec, `${lpk}`);
    assert.deepEqual(await shop.leftOf('deployment/left'), [], `${lpk}`);
  });

  test('release a colleague’s session, who hears of it', async () => {
    const theirs = shop.lpk('connect', 'deployment/held');
    await theirs.event('ready');
    const lpk = await as('lpk-restore', 'release', 'deployment/held', '--yes');
    await ends(lpk);
    assert.deepEqual(await theirs.exit(), { code: 1, signal: null }, `${theirs}`);
    assert.match((await theirs.event('error')).message, /^deployment\/held was taken back by /, `${theirs}`);
    assert.deepEqual(await shop.objectsOf('deployment/held'), [], `${theirs}`);
  });
});

/** What a verb asks for before it changes anything, and, of what is optional, what it says it goes on without. */
type Check = (cluster: Cluster, kubeconfig: string, right: RoleRight) => Promise<string[]>;

/** The kind of workload that a right is about; all else a StatefulSet takes too. */
function kindOf({ resource, optional }: RoleRight): (typeof KINDS)[number] {
  const kind = KINDS.find((each) => resource === `${each.toLowerCase()}s`);
  return resource === 'replicasets' || (optional && kind) ? 'Deployment' : (kind ?? 'StatefulSet');
}

/** By its Service for what is needed; by itself, or by its pod, where that takes rights of its own. */
async function targetOf(right: RoleRight, byPod: boolean): Promise<string> {
  const name = `idle-${kindOf(right).toLowerCase()}`;
  const workloadName = `${kindOf(right).toLowerCase()}/${name}`;
  const bare = right.verb === 'get' && right.group === 'apps'; // behind a Service they are listed
  if (!right.optional) return bare ? workloadName : name;
  if (right.verb !== 'get' || !byPod || !['pods', 'replicasets'].includes(right.resource) || right.subresource)
    return workloadName;
  return `pod/${(await shop.pods(workloadName))[0]?.metadata.name}`;
}

function connecting(restorer: boolean): Check {
  return async (cluster, _, right) => {
    const byPod = right.resource === 'replicasets' || !restorer;
    const target = await findTarget(cluster, parseTarget(await targetOf(right, byPod)));
    await preflight(cluster, target, 'auto');
    const { missing } = await planGuard(cluster, target, { restorer, restoreAfterMs: 45_000 });
    const less = await missingHelp(cluster, helpsToServe(target, { command: true, restorer }));
    return missing ? [missing, ...less] : less;
  };
}

/** What is said in the events of that name. */
async function saying(run: (output: Output) => Promise<unknown>): Promise<string[]> {
  const stdout = new PassThrough();
  await run(new Output({ format: 'json', stdout, stderr: new PassThrough() }));
  const events = String(stdout.read() ?? '').split('\n');
  return events.filter((line) => line.startsWith('{"event":"goes-without"'));
}

const checks: Record<string, Check> = {
  'lpk-connect': connecting(true),
  'lpk-connect-no-restorer': connecting(false),
  'lpk-proxy': (cluster) => {
    const options = { transport: 'auto', like: undefined, holdMs: 60_000, agentImage: undefined } as const;
    return saying((output) => agentPodSpec(options, cluster, output));
  },
  'lpk-env': async (cluster, _, right) => {
    const target = await findTarget(cluster, parseTarget(await targetOf(right, true)));
    await preflightVariables(cluster, target);
    return [];
  },
  'lpk-services': (cluster, kubeconfig) => {
    const { namespace } = cluster;
    return saying((output) => services({ kubeconfig, context: undefined, namespace, allNamespaces: false }, output));
  },
  'lpk-status': (cluster, kubeconfig) => {
    const { namespace } = cluster;
    return saying((output) => status({ kubeconfig, context: undefined, namespace, allNamespaces: false }, output));
  },
  'lpk-restore': async (cluster, kubeconfig, right) => {
    const kind = kindOf(right).toLowerCase() as Lowercase<(typeof KINDS)[number]>;
    if (right.optional && right.verb === 'get' && ['pods', 'replicasets'].includes(right.resource))
      await findTarget(cluster, parseTarget(await targetOf(right, true)));
    if (right.optional) return await missingHelp(cluster, helpsToRestore(kind));
    const target = right.resource === 'services' ? `idle-${kind}` : `${kind}/taken-${kind}`;
    const { namespace } = cluster;
    const all = {
      kubeconfig,
      context: undefined,
      namespace,
      target,
      allNamespaces: false,
      everyone: false,
      yes: false,
      wait: true,
    };
    const me = { owner: 'ann', host: 'box' };
    return await saying((output) => restoreSessions(cluster, all, { output, me }));
  },
};

/** What may not change: every workload's spec and annotations, and all objects of lpk's. */
async function scene(): Promise<object> {
  const objects = await Promise.all(['configmaps', 'secrets'].map((each) => shop.get(each)));
  const lists = await Promise.all(
    KINDS.map((kind) =>
      shop.cluster.request('GET', `/apis/apps/v1/namespaces/${shop.namespace}/${kind.toLowerCase()}s`),
    ),
  );
  const workloads = lists
    .flatMap(({ items }) => items as Json[])
    .map(({ metadata, spec }) => ({
      ...{ name: metadata.name, generation: metadata.generation, annotations: metadata.annotations, spec },
    }));
  return { names: objects.flatMap(({ items }) => items as Json[]).map(({ metadata }) => metadata.name), workloads };
}

describe('without one right of a Role', () => {
  let before: object;
  test('(what there is beforehand)', async () => {
    before = await scene();
  });

  for (const [role, rights] of roles) {
    describe(role, { concurrency: 8 }, () => {
      for (const [i, right] of rights.entries()) {
        test(`${inWords(right)}${right.optional ? ', which is optional' : ''}`, async () => {
          const rest = rights.toSpliced(i, 1);
          const kubeconfig = await userWith(`${role}-${i}`, rest);
          const cluster = await openCluster({ kubeconfig, namespace: shop.namespace });
          try {
            const checking = (checks[role] as Check)(cluster, kubeconfig, right);
            const said = await checking.catch((error: LpkError) => error);
            if (Array.isArray(said)) {
              assert.ok(right.optional, `it went on, and said ${said}`);
              assert.equal(said.length, 1, `said ${said}`);
              assert.match(said[0] as string, new RegExp(`may not ${inWords(right)}\\b`));
            } else {
              assertNames(said, right);
            }
          } finally {
            cluster.close();
          }
        });
      }
    });
  }

  test('nothing has changed', async () => {
    assert.deepEqual(await scene(), before);
  });

  test('lpk itself says it in one line, with what to do, and exits with 1', async () => {
    for (const [role, missing, args] of [
      ['lpk-connect', 'delete secrets', ['connect', 'idle-statefulset']],
      ['lpk-proxy', 'create pods', ['proxy', 'up']],
      ['lpk-restore', 'patch statefulsets.apps', ['release', 'statefulset/taken-statefulset', '--yes']],
    ] as const) {
      const rest = (roles.get(role) ?? []).filter((right) => inWords(right) !== missing);
      const kubeconfig = await userWith(`cli-${role}`, rest);
      const lpk = shop.lpk(args[0], ...args.slice(1), '--kubeconfig', kubeconfig);
      assert.deepEqual(await lpk.exit(), { code: 1, signal: null }, `${lpk}`);
      const { code, message, hint } = await lpk.event('error');
      assert.deepEqual([code, hint], ['forbidden', HINTS.forbidden], `${lpk}`);
      assert.match(
        message,
        new RegExp(`^user "cli-${role}" lacks rights in namespace \\S+ to .*: ${missing}( "\\S+")?$`),
      );
      assert.equal(lpk.stderr.split('\n').filter((line) => line.startsWith('lpk: ')).length, 1, `${lpk}`);
    }
    assert.deepEqual(await scene(), before);
  });
});

/** That one and no other: by lpk's own check, or, of what is read to find the target, by the API server. */
function assertNames(error: LpkError, right: Right): void {
  const { verb, group = '', resource } = right;
  assert.equal(error.code, 'forbidden', `${error.stack}`);
  const own = `lacks rights in namespace ${shop.namespace} to .*: ${inWords(right)}( "\\S+")?`;
  const byServer = `is forbidden: User "\\S+" cannot ${verb} resource "${resource}" in API group "${group}" in the namespace "${shop.namespace}"`;
  assert.match(error.message, new RegExp(`(${own}|${byServer})$`));
  assert.doesNotMatch(error.message, /\n/);
}
