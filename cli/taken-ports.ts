import type { Ask } from './ask.ts';
import { type Listener, listenersOf, stopListeners } from './free-port.ts';
import type { Output } from './output.ts';
import { printable } from './printable.ts';

/**
 * Says who already listens on the ports that are wanted, and stops them when told to: by `free` at once, else by the person, if
 * there is one to `ask`. A process of another user is never
 * stopped, nor one that lpk was started by.
 */
export async function freePorts(
  ports: Iterable<number>,
  given: {
    free: boolean;
    ask: (() => Promise<Pick<Ask, 'confirm'>>) | undefined;
    output: Pick<Output, 'say' | 'warn'>;
  },
): Promise<void> {
  const { free, ask, output } = given;
  for (const port of new Set(ports)) {
    const listeners = await listenersOf(port);
    if (listeners.length === 0) continue;
    const who = listeners.map(describe).join(' and ');
    const taken = `port ${port} is taken by ${who}`;
    const fields = { port, pids: listeners.flatMap(({ pid }) => pid ?? []) };
    if (!listeners.every(({ isOwn }) => isOwn)) {
      output.warn(`${taken}, which is left alone: it is not yours, or what lpk was started by`, 'port-taken', fields);
      continue;
    }
    if (!free) {
      output.warn(ask ? taken : `${taken}; --free-ports stops it`, 'port-taken', fields);
      if (!ask || !(await (await ask()).confirm(`Stop ${who}?`, false))) continue;
    }
    if (await stopListeners(listeners)) output.say(`stopped ${who}: port ${port} is free`, 'port-freed', fields);
    else output.warn(`${who} does not end: port ${port} is still taken`, 'port-taken', fields);
  }
}

function describe({ pid, name }: Listener): string {
  return pid === undefined ? 'a process' : `${printable(name || 'a process')} (pid ${pid})`;
}
