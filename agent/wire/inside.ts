/** What may be named within a mount: either end asks this of what the other one sends. */

/** Of UTF-8; a name in it has no more than NAME_MAX. */
export const MAX_PATH_BYTES = 1_024;
const MAX_NAME_BYTES = 255;

/** Why this path is none within a mount; undefined when it is one. The mount itself is `.`. */
export function pathObjection(path: string): string | undefined {
  const parts = path.split('/');
  if (path !== '.' && parts.some((part) => part === '' || part === '.' || part === '..')) return 'its path leads out';
  if (path.includes('\0')) return 'its path has a zero byte';
  if (Buffer.byteLength(path) > MAX_PATH_BYTES || parts.some((part) => Buffer.byteLength(part) > MAX_NAME_BYTES))
    return 'its path is too long';
  return undefined;
}

/** Why a link at `path` is none that stays within the mount; undefined when it is one. */
export function linkObjection(path: string, target: string): string | undefined {
  if (target.includes('\0')) return 'its target has a zero byte';
  return staysWithin(target, path.split('/').length - 1) ? undefined : `it links out of the volume, to ${target}`;
}

/**
 * Whether a link that is `depth` folders deep stays within its mount. `..` only at the beginning: from a folder that is one, and
 * not a link, so many levels up lead to one that is one as well; after a name, which may be a link's, they could lead anywhere.
 */
function staysWithin(target: string, depth: number): boolean {
  if (target === '' || target.startsWith('/') || Buffer.byteLength(target) > MAX_PATH_BYTES) return false;
  const parts = target.split('/');
  const up = parts.findIndex((part) => part !== '..');
  const ups = up < 0 ? parts.length : up;
  return ups <= depth && !parts.slice(ups).includes('..');
}
