import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type Layer, writeArchive } from '../cluster/oci.ts';
import { run } from '../cluster/run.ts';

const CTR = [path.join(import.meta.dirname, '../cluster/main.ts'), 'ctr', 'images'];

/** Gives the cluster an image of busybox with variables of its own, under this name with the tag 1. Returns the image. */
export async function importImage(name: string, env: Record<string, string>): Promise<string> {
  const folder = mkdtempSync(path.join(tmpdir(), 'lpk-image-'));
  try {
    const applets = (await run('/bin/busybox', ['--list'])).trim().split('\n');
    const layer: Layer = { 'bin/busybox': { kind: 'file', mode: 0o755, data: readFileSync('/bin/busybox') } };
    for (const applet of applets) if (applet !== 'busybox') layer[`bin/${applet}`] = { kind: 'link', to: 'busybox' };
    layer.tmp = { kind: 'folder', mode: 0o1777 };
    const variables = Object.entries({ PATH: '/bin', ...env }).map((each) => each.join('='));
    const image = `lpk.test/${name}:1`;
    const archive = path.join(folder, 'image.tar');
    writeArchive(archive, [{ name: image, layers: [layer], env: variables, cmd: ['sh'] }]);
    await run(process.execPath, [...CTR, 'import', '-'], { stdin: openSync(archive, 'r') });
    return image;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export async function removeImage(image: string): Promise<void> {
  await run(process.execPath, [...CTR, 'rm', image]);
}
