import { printable } from './printable.ts';

/** Words about volumes, fit for a terminal: names in them are a pod's. */

export function shown(name: string): string {
  return /^[\w./@%+=:,-]+$/.test(name) ? name : printable(JSON.stringify(name));
}

export function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`;
}

export function size(bytes: number): string {
  if (bytes < 1_024) return `${bytes} bytes`;
  return bytes < 1_048_576 ? `${(bytes / 1_024).toFixed(1)} KiB` : `${(bytes / 1_048_576).toFixed(1)} MiB`;
}
