import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** lpk's own. The package.json beside this room when run from the checkout, one folder further up in the published package. */
export function version(): string {
  const file = ['../package.json', '../../package.json']
    .map((path) => join(import.meta.dirname, path))
    .find((path) => existsSync(path)) as string;
  return JSON.parse(readFileSync(file, 'utf8')).version;
}
