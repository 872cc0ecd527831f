import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import type { Json } from '../../agent/deploy/kube.ts';
import { kubectl } from '../cluster/cluster.ts';
import { endAll, Lpk } from './lpk.ts';
import { eventually, Shop, workload } from './shop.ts';

/** `--volumes rw`: what a program on the laptop does to the pod's volumes, and what the pod does meanwhile. */

const dir = mkdtempSync(path.join(tmpdir(), 'lpk-volumes-rw-'));
const DATA = '/lpk-e2e-rw/data';

let shop: Shop;

before(async () => {
  // To give a folder to nobody but root, takes root.
  shop = await Shop.open('volumes-rw', { root: true });
  await shop.create({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'settings' }, data: { a: 'one' } });
  await shop.deploy(data());
});

after(async () => {
  endAll();
  await shop?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** An emptyDir that two containers write to, one that the app's user may not write to, and a ConfigMap within the first. */
function data(): Json {
  const mounts = [
    { name: 'data', mountPath: DATA },
    { name: 'roots', mountPath: '/lpk-e2e-rw/roots' },
  ];
  const fill = `cd ${DATA} && chmod 777 . && echo one > f && mkdir -p sub/deep && echo x > sub/deep/x && echo old > old && chmod -R a+rwX .;
    cd ../roots && echo theirs > f && chmod 755 .`;
  return workload('Deployment', 'data', {
    container: {
      securityContext: { runAsUser: 1000 },
      volumeMounts: [...mounts, { name: 'config', mountPath: `${DATA}/config` }],
    },
    sidecar: { name: 'side', image: 'busybox:1', command: ['sleep', '100000'], volumeMounts: mounts },
    pod: {
      initContainers: [{ name: 'fill', image: 'busybox:1', command: ['/bin/sh', '-c', fill], volumeMounts: mounts }],
      volumes: [
        { name: 'data', emptyDir: {} },
        { name: 'roots', emptyDir: {} },
        { name: 'config', configMap: { name: 'settings' } },
      ],
    },
  });
}

function connect(script: string, ...more: string[]): Lpk {
  const args = ['deployment/data', '--container', 'app', '--volumes', 'rw', ...more, '--', '/bin/sh', '-c', script];
  return new Lpk(shop.args('connect', ...args), { env: { XDG_STATE_HOME: dir } });
}

/** By the other container of the agent's pod; the pod before is there too while nothing listens on the laptop. */
async function inPodOf(lpk: Lpk): Promise<(script: string) => Promise<string>> {
  const { pod } = await lpk.event('attached');
  return (script) => kubectl(['exec', '-n', shop.namespace, pod, '-c', 'side', '--', '/bin/sh', '-c', script]);
}

test('what the command does to an emptyDir is done in the pod, by the agent’s user; the rest stays read-only', async () => {
  const script = `exec 2>&1; cd ${DATA} && echo two > f && chmod 640 f && mkdir -p new/er && echo made > new/er/file && ln -s er/file new/link &&
    mv sub/deep/x moved && rm -r sub old && dd if=/dev/zero of=big bs=100000 count=30 2>/dev/null && echo done
    echo no > config/a; echo no > ../roots/f; echo begun; read -r line`;
  const lpk = connect(script);
  const inPod = await inPodOf(lpk);
  const told = await lpk.event('volumes', ({ state }) => state === 'done');
  assert.deepEqual(told.written, [DATA, '/lpk-e2e-rw/roots']);
  assert.match(told.text, /written back to pod data-/);
  await lpk.line(/^begun$/);
  assert.match(lpk.lines.join(), /config\/a: Read-only file system/);
  await eventually('the changes in the pod', async () =>
    (await inPod(`cd ${DATA}; [ -s big ] && [ ! -e sub ] && [ ! -e old ] && cat f moved new/link; true`)).includes(
      'made',
    ),
  );
  assert.equal(
    await inPod(`cd ${DATA}; cat f moved new/link; stat -c '%a %u' f; stat -c %s big; ls -A`),
    [...['two', 'x', 'made', '640 1000', '3000000', 'big', 'config', 'f', 'moved', 'new', '']].join('\n'),
  );
  const refused = await lpk.event('volume-refused');
  assert.match(refused.text, /roots\/f \(the agent’s user may not write it\)/);
  lpk.type('\n');
  assert.equal((await lpk.exit()).code, 0, String(lpk));
  const left = lpk.events.find(({ event }) => event === 'volumes-unwritten');
  assert.deepEqual(Object.keys(left?.left), ['/lpk-e2e-rw/roots/f']);
  assert.equal(readFileSync(`${left?.folder}/lpk-e2e-rw/roots/f`, 'utf8'), 'no\n');
  assert.equal(existsSync(told.folder), false);
});

test('what both changed is the pod’s, the command’s is beside it; killed, lpk keeps that and leaves no copy', async () => {
  const lpk = connect(`cd ${DATA}; echo begun; read -r line; echo mine > f; sleep 1000`);
  const inPod = await inPodOf(lpk);
  const { folder } = await lpk.event('volumes', ({ state }) => state === 'done');
  const here = (name: string) => path.join(folder, DATA, name);
  await lpk.line(/^begun$/);
  await inPod(`echo fresh > ${DATA}/sub/fresh`);
  await eventually('the pod’s own change', async () => existsSync(here('sub/fresh')));
  // While lpk sees neither.
  process.kill(lpk.pid, 'SIGSTOP');
  lpk.type('\n');
  await eventually('the command’s change', async () => readFileSync(here('f'), 'utf8') === 'mine\n');
  await inPod(`echo theirs > ${DATA}/f`);
  process.kill(lpk.pid, 'SIGCONT');
  const conflict = await lpk.event('volume-conflict');
  assert.match(conflict.text, /data\/f: changed here and in the pod; your version is beside it as f\.lpk-conflict/);
  assert.equal(readFileSync(here('f'), 'utf8'), 'theirs\n');
  assert.equal(await inPod(`cd ${DATA}; cat f; ls`), 'theirs\nconfig\nf\nold\nsub\n');
  process.kill(-lpk.pid, 'SIGKILL');
  await lpk.exit();
  await eventually('the copies are gone', async () => !existsSync(path.dirname(folder)));
  const kept = path.join(dir, 'lpk/unwritten', `${shop.namespace}-${path.basename(path.dirname(folder))}`, DATA);
  assert.equal(readFileSync(path.join(kept, 'f.lpk-conflict'), 'utf8'), 'mine\n');
  assert.equal(existsSync(path.join(kept, 'config/a')), false); // a ConfigMap, or a Secret, is not kept
});
