import { peakMemoryMiB } from './lpk-process.ts';
import { connectSocks, Scene } from './scene.ts';
import { meet } from './transfers.ts';

const scene = await Scene.open('mem');
try {
  for (const transport of process.argv[2]!.split(',')) {
    const lpk = await scene.connect(['--transport', transport]);
    const agent = await scene.processOf(lpk.pod);
    for (let i = 0; i < Number(process.argv[3]); i++) {
      const t0 = performance.now();
      const jobs = [];
      for (const act of ['up', 'down'] as const) {
        const socket = await connectSocks(lpk.proxyPort, 'peer', 7000);
        scene.transfers.begin(socket, { id: `${transport}${i}${act}`, act, bytes: 1024 ** 3 });
        jobs.push(scene.transfers.result(`${transport}${i}${act}`));
      }
      await scene.transfers.reached(`${transport}${i}down`, { bytes: 5e7 });
      await Promise.all([
        scene.gatherInbound(`${transport}in${i}`, 200),
        ...Array.from({ length: 200 }, async () =>
          meet(await connectSocks(lpk.proxyPort, 'peer', 7000), `${transport}out${i}`, 200),
        ),
      ]);
      await Promise.all(jobs);
      console.log(
        transport,
        i,
        peakMemoryMiB(lpk.lpk.pid),
        peakMemoryMiB(agent),
        ((performance.now() - t0) / 1000).toFixed(1),
        cpu(lpk.lpk.pid),
      );
    }
    await lpk.lpk.leave();
  }
} finally {
  await scene.close();
}

import { readFileSync } from 'node:fs';

function cpu(pid: number) {
  const f = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return (Number(f[11]) + Number(f[12])) / 100;
}
