import { writeFileSync } from 'node:fs';
import { systemCode } from '../wire/errors.ts';

/** Where the kubelet reads why a container ended, unless the pod says otherwise; it makes the file. */
const TERMINATION_LOG = '/dev/termination-log';

/** Leaves an error that ends the agent where `kubectl describe`, and lpk, show it. */
export function leaveLastWords(error: unknown, path: string = TERMINATION_LOG): void {
  const message = error instanceof Error ? error.message : String(error);
  const { port } = error as { port?: number };
  // In the node's network another program may have it; the next session takes another.
  const words = systemCode(error) === 'EADDRINUSE' ? `port ${port}, which the agent is to use, is taken` : message;
  try {
    writeFileSync(path, `${words}\n`, { flag: 'r+' });
  } catch {
    // Not there, or not to be written: then the log has to do.
  }
}
