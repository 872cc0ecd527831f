import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';

/** What stands at a path of an image. `owner` is a uid and gid; root's unless it says otherwise. */
export type Entry = { mode?: number; owner?: number } & (
  | { kind: 'file'; data: Buffer | string }
  | { kind: 'link'; to: string }
  | { kind: 'folder' }
);

/** A layer: entries by path, without the leading slash. Folders that only lead to an entry need not be named. */
export type Layer = Record<string, Entry>;

export type Image = { name: string; layers: Layer[]; env: string[]; entrypoint?: string[]; cmd: string[] };

const FILE_TYPES = { file: '0', link: '2', folder: '5' };
const DEFAULT_MODES = { file: 0o644, link: 0o777, folder: 0o755 };
const BLOCK_BYTES = 512;

/**
 * Writes images into one OCI archive (image-spec 1.1, image layout), which `ctr images import` takes. The layers are
 * not compressed: they never leave the machine.
 */
export function writeArchive(file: string, images: Image[]): void {
  const blobs = new Map<string, Buffer>();
  const layers = new Map<Layer, Descriptor>(); // a layer in two images is packed once
  const add = (data: Buffer, type: string): Descriptor => {
    const digest = createHash('sha256').update(data).digest('hex');
    blobs.set(digest, data);
    return { mediaType: `application/vnd.oci.image.${type}`, digest: `sha256:${digest}`, size: data.length };
  };
  const addJson = (value: object, type: string) => add(Buffer.from(JSON.stringify(value)), type);

  const manifests = images.map(({ name, layers: own, env, entrypoint, cmd }) => {
    const packed = own.map((layer) => {
      const known = layers.get(layer) ?? add(Buffer.concat(tar(layer)), 'layer.v1.tar');
      layers.set(layer, known);
      return known;
    });
    const config = addJson(
      {
        architecture: os.arch() === 'x64' ? 'amd64' : os.arch(),
        os: 'linux',
        config: { Env: env, Entrypoint: entrypoint, Cmd: cmd },
        rootfs: { type: 'layers', diff_ids: packed.map(({ digest }) => digest) },
      },
      'config.v1+json',
    );
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    const manifest = addJson({ schemaVersion: 2, mediaType, config, layers: packed }, 'manifest.v1+json');
    return { ...manifest, annotations: { 'io.containerd.image.name': name } };
  });

  const archive: Layer = {
    'oci-layout': { kind: 'file', data: JSON.stringify({ imageLayoutVersion: '1.0.0' }) },
    'index.json': { kind: 'file', data: JSON.stringify({ schemaVersion: 2, manifests }) },
  };
  for (const [digest, data] of blobs) archive[`blobs/sha256/${digest}`] = { kind: 'file', data };
  const target = fs.openSync(file, 'w');
  try {
    for (const chunk of tar(archive)) fs.writeFileSync(target, chunk);
  } finally {
    fs.closeSync(target);
  }
}

type Descriptor = { mediaType: string; digest: string; size: number };

/** A tar stream in ustar form (POSIX.1-1988), with every path's folders before it. */
function tar(layer: Layer): Buffer[] {
  const chunks: Buffer[] = [];
  const folders = new Set<string>();
  for (const [name, entry] of Object.entries(layer)) {
    const parents = name.split('/').slice(0, -1);
    for (let depth = 1; depth <= parents.length; depth++) put(parents.slice(0, depth).join('/'), { kind: 'folder' });
    put(name, entry);
  }
  chunks.push(Buffer.alloc(2 * BLOCK_BYTES));
  return chunks;

  function put(name: string, entry: Entry): void {
    if (entry.kind === 'folder') {
      if (folders.has(name)) return;
      folders.add(name);
    }
    const data = entry.kind === 'file' ? Buffer.from(entry.data as string) : Buffer.alloc(0);
    chunks.push(header(name, entry, data.length), data);
    chunks.push(Buffer.alloc((BLOCK_BYTES - (data.length % BLOCK_BYTES)) % BLOCK_BYTES));
  }
}

function header(name: string, entry: Entry, size: number): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  const text = (offset: number, length: number, value: string) => {
    if (Buffer.byteLength(value) > length) throw new RangeError(`too long for a tar header: ${value}`);
    block.write(value, offset);
  };
  const octal = (offset: number, length: number, value: number) =>
    text(offset, length, value.toString(8).padStart(length - 1, '0'));
  text(0, 100, name);
  octal(100, 8, entry.mode ?? DEFAULT_MODES[entry.kind]);
  octal(108, 8, entry.owner ?? 0);
  octal(116, 8, entry.owner ?? 0);
  octal(124, 12, size);
  octal(136, 12, 0); // the time is fixed: the same content makes the same digest
  block.fill(' ', 148, 156);
  text(156, 1, FILE_TYPES[entry.kind]);
  text(157, 100, entry.kind === 'link' ? entry.to : '');
  text(257, 8, 'ustar\x0000');
  octal(
    148,
    7,
    block.reduce((sum, byte) => sum + byte, 0),
  );
  return block;
}
