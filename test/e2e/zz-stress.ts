import { Scene, connectSocks } from './scene.ts';
import { kubectl } from '../cluster/cluster.ts';
import { spawn } from 'node:child_process';
const scene = await Scene.open('stress');
const lpk = await scene.connect(['--transport', 'proxy']);
const GIB = 1024 ** 3;
const w = spawn('/work/main/scripts/cluster', ['kubectl', 'get', 'pods,endpoints', '-n', scene.namespace, '-w', '-o', 'custom-columns=K:.kind,N:.metadata.name,R:.status.conditions[?(@.type=="Ready")].status,A:.subsets[*].addresses[*].ip']);
w.stdout.on('data', (d) => console.log(new Date().toISOString(), String(d).trim()));
w.stderr.on('data', (d) => console.log(String(d).trim()));
try {
  for (let i = 0; i < 8; i++) {
    const jobs = [];
    for (const act of ['up', 'down'] as const) {
      const socket = await connectSocks(lpk.proxyPort, 'peer', 7000);
      scene.transfers.begin(socket, { id: `${i}${act}`, act, bytes: GIB / 4 });
      jobs.push(scene.transfers.result(`${i}${act}`));
    }
    await scene.transfers.reached(`${i}down`, { bytes: 1e7 });
    console.log(new Date().toISOString(), i, await scene.gatherInbound(`in${i}`, 200));
    console.log((await Promise.all(jobs)).map((r) => r.error ?? 'ok'));
  }
} catch (e) {
  console.log(new Date().toISOString(), e);
  console.log(await kubectl(['get', 'events', '-n', scene.namespace]));
} finally {
  w.kill();
  await scene.close();
}
